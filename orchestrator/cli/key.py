"""`fleetline key`: the keys of agents and clients, this user's own, and the one that tokens are signed with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from protocol.requests import KeyListed, PeerKey

__all__ = ["app"]

app = typer.Typer(
    help="List the keys of agents and clients, decide about them, enrol your own; rotate the signing key."
)
DEFAULT_OVERLAP = "7d"
NAME = typer.Argument(metavar="NAME", help="agent/ID or client/NAME; ID alone is an agent's.")
Fingerprint = Annotated[
    str | None,
    typer.Option("--fingerprint", metavar="F", help="Only if it is still this key, as `key ls` showed it."),
]


@app.command("ls", epilog=columns.epilog(columns.KEYS))
def ls(
    state: Annotated[
        str | None, typer.Option("--state", metavar="S", help="pending, accepted, rejected or revoked.")
    ] = None,
    limit: options.Limit = 1000,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="NAME", help="From behind this one on, be it there or not."),
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List keys, by name."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.text import clock
    from protocol.requests import KeyList

    asked = KeyList(state=state, limit=limit, after=None if after is None else _place(after, "--after"))
    out = Output(as_json)

    async def use(client: Client) -> KeyListed:
        listed: KeyListed = await client.ask("key.list", asked)
        return listed

    keys = with_client(hub, token_file, use).keys
    if as_json:
        for key in keys:
            out.json(key.model_dump())
        return
    rows = (
        (
            key.name,
            key.state,
            key.fingerprint,
            ",".join(key.scopes),
            " ".join(f"{what}={','.join(names)}" for what, names in sorted(key.may.items())),
            clock(key.changed_ms),
            key.by,
            f"{key.refused.fingerprint} ({key.refused.count})" if key.refused else None,
        )
        for key in keys
    )
    out.rows(tuple(columns.KEYS), rows)


@app.command("accept")
def accept(
    name: Annotated[str, NAME],
    fingerprint: Fingerprint = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let the holder of a key in that waits, or was rejected."""
    _change("key.accept", name, fingerprint, as_json, hub, token_file)


@app.command("reject")
def reject(
    name: Annotated[str, NAME],
    fingerprint: Fingerprint = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Refuse a key that waits."""
    _change("key.reject", name, fingerprint, as_json, hub, token_file)


@app.command("revoke")
def revoke(
    name: Annotated[str, NAME],
    fingerprint: Fingerprint = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Take a key back for good; what it has open ends within a second."""
    _change("key.revoke", name, fingerprint, as_json, hub, token_file)


@app.command("enrol")
def enrol(
    join_token_file: options.JoinTokenFile = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
) -> None:
    """Make a key for this user's commands, and enrol it with a join token. They use it where no token is named."""
    from agent.identity import find_credentials
    from orchestrator.cli.connect import enrol as come
    from orchestrator.cli.errors import CliError
    from protocol.frames import Role

    out = Output(as_json)
    credentials = find_credentials(Role.CLIENT, join_token_file=join_token_file)
    if credentials is None:
        raise CliError("--join-token-file: name the file that holds a join token; an operator makes one with --join")
    state = come(hub, credentials)
    if as_json:
        out.json({"name": credentials.place, "state": state, "fingerprint": credentials.fingerprint})
        return
    out.line(f"{credentials.place} {state} {credentials.fingerprint}")
    if state == "pending":
        out.note(f"an operator lets it in with `fleetline key accept {credentials.place}`")


@app.command("rotate")
def rotate(
    overlap: Annotated[
        str,
        typer.Option(
            "--overlap", metavar="TIME", help="How long older tokens stay good: 12h, 7d, 2w; 0 ends all of them now."
        ),
    ] = DEFAULT_OVERLAP,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Sign tokens with a new key from now on. A hub that runs takes it up within a second or two."""
    import time

    from orchestrator.auth.keys import rotate_keys
    from orchestrator.cli.inputs import parse_duration_s
    from orchestrator.cli.text import clock
    from orchestrator.cli.token import hub_directory
    from orchestrator.settings import load

    overlap_s = 0 if overlap == "0" else parse_duration_s(overlap, "--overlap")
    now_s = int(time.time())
    keys = rotate_keys(hub_directory(load({"data": data}).settings.data), overlap_s, now_s)
    until_ms = (now_s + overlap_s) * 1000
    out = Output(as_json)
    if as_json:
        out.json({"key": keys.signer.id, "keys": len(keys.keys), "until_ms": until_ms if overlap_s else None})
        return
    out.line(f"tokens are signed with the key {keys.signer.id} from now on")
    if overlap_s:
        out.note(f"those signed before are good until {clock(until_ms)}, or until they expire; issue new ones by then")
    else:
        out.note("no token that was issued before is good any more")


def _change(
    method: str, name: str, fingerprint: str | None, as_json: bool, hub: str | None, token_file: Path | None
) -> None:
    """Decide about a key, and print what is so now."""
    from orchestrator.cli.connect import with_client
    from protocol.requests import KeyChange

    change = KeyChange(name=_place(name, "NAME"), fingerprint=fingerprint)
    out = Output(as_json)

    async def use(client: Client) -> PeerKey:
        changed: PeerKey = await client.ask(method, change)
        return changed

    key = with_client(hub, token_file, use)
    if as_json:
        out.json(key.model_dump())
    else:
        out.line(f"{key.name} {key.state} {key.fingerprint}")


def _place(name: str, option: str) -> str:
    """Read `agent/ID`, `client/NAME`, or the id of an agent."""
    from orchestrator.cli.inputs import parse_name

    place = name if "/" in name else f"agent/{name}"
    parse_name(place.partition("/")[2], option)
    return place
