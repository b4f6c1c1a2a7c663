"""`fleetline token`: tokens that let agents and clients in, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import columns, granting, options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from orchestrator.auth.tokens import Tokens

__all__ = ["app", "hub_directory"]

app = typer.Typer(help="Issue, inspect and revoke the tokens that let agents and clients in.")

DEFAULT_EXPIRES = "30d"
JOIN_EXPIRES = "15m"


@app.callback()
def _group() -> None:
    """Issue, inspect and revoke the tokens that let agents and clients in."""


@app.command("issue")
def issue(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for: a person, a program, a machine.")],
    scope: Annotated[
        list[str] | None,
        typer.Option("--scope", metavar="S", help="agent, operator, viewer or admin; several times for several."),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", metavar="ID", help="Agent id it may identify as, * for any; implies --scope agent."),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", metavar="NS", help="Where it is good for.")] = "default",
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="TIME", help="How long it is good: 90s, 15m, 12h, 2w. Without 30d, with --join 15m."
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="A join token: it enrols keys, see `fleetline key`, and does nothing else.")
    ] = False,
    uses: Annotated[
        int | None, typer.Option("--uses", min=1, max=10_000, metavar="N", help="For how many keys; 1 without.")
    ] = None,
    read: granting.Read = None,
    publish: granting.Publish = None,
    submit: granting.Submit = None,
    serve: granting.Serve = None,
    control: granting.Control = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write it there, for this user alone to read (mode 0600)."),
    ] = None,
    data: options.Data = None,
    as_json: options.Json = False,
) -> None:
    """Print a token, signed with the key in the hub's data directory. Needs no running hub.

    Without --scope and --agent it is an operator's. With --join, scopes and agents are those of whoever enrols with it;
    --agent may then end in * for all ids that begin so. The options from --read on limit it to names, which may
    have * in them; say them several times for several. As soon as one is given, it may do nothing else with any name.
    """
    import secrets
    import time

    from orchestrator.auth.principal import ANY_AGENT, Grant
    from orchestrator.cli.inputs import parse_duration_s, parse_name
    from orchestrator.settings import load

    agents = frozenset(agent or ())
    for one in agents - {ANY_AGENT}:
        parse_name(one.removesuffix(ANY_AGENT) if join else one, "--agent")
    if uses is not None and not join:
        raise CliError("--uses: only a join token is counted; add --join")
    scopes = granting.scopes_of(scope, agents)
    lasts = expires or (JOIN_EXPIRES if join else DEFAULT_EXPIRES)
    ttl_s = parse_duration_s(lasts, "--expires")
    keys = (uses or 1) if join else 0
    may = granting.patterns_of(read=read, publish=publish, submit=submit, serve=serve, control=control)
    grant = Grant(parse_name(name, "NAME"), parse_name(namespace, "--namespace"), scopes, agents, keys, may)
    tokens = _tokens(load({"data": data}).settings.data)
    now_s = int(time.time())
    token = tokens.issue(grant, now_s=now_s, ttl_s=ttl_s, token_id=secrets.token_hex(8))
    if output is not None:
        granting.write(output, str(token))
    granting.show(Output(as_json), str(token), grant, (now_s + ttl_s) * 1000, lasts, output)


@app.command("inspect")
def inspect(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="File that holds the token; standard input without.")
    ] = None,
    data: options.Data = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    as_json: options.Json = False,
) -> int:
    """Say what a token permits, whether it is good, and, where a hub is reached, whether it was revoked.

    The signature is checked where the data directory has the key. Exit code 4: it is not good.
    """
    from orchestrator.cli.exits import Exit
    from orchestrator.cli.inspecting import ask_hub, inspect_token, read_token, show
    from orchestrator.settings import load

    found = inspect_token(read_token(file), load({"data": data}).settings.data)
    standing = ask_hub(found, hub, token_file)
    show(Output(as_json), found, standing)
    return Exit.DONE if found.good and not standing.revoked else Exit.FORBIDDEN


@app.command("revoke")
def revoke(
    token_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Id of the token, as `token inspect` shows it.")
    ] = None,
    principal: Annotated[
        str | None, typer.Option("--principal", metavar="NAME", help="All tokens issued to NAME until now.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="The token in this file; - is standard input.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires", metavar="TIME", help="How long it would be good: 12h, 30d. It is kept in mind for as long."
        ),
    ] = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Take a token back: it opens no session any more, and those that are open end within a second.

    Without --file and --expires that is kept in mind until `token unrevoke`, for nobody knows how long the token lasts.
    """
    import time

    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_duration_s, parse_name
    from orchestrator.cli.inspecting import of_file, parse_token_id
    from orchestrator.cli.text import clock

    if file is not None and expires is not None:
        raise CliError("--expires: the token in the file says itself when it expires")
    if sum(each is not None for each in (token_id, principal, file)) != 1:
        raise CliError("say what to revoke: the ID of a token, --file FILE that holds it, or --principal NAME")
    given, expires_ms = of_file(file) if file is not None else (token_id, None)
    if expires is not None:
        expires_ms = (int(time.time()) + parse_duration_s(expires, "--expires")) * 1000
    if principal is not None:
        name = parse_name(principal, "--principal")
        revoked = with_client(hub, token_file, lambda client: client.revoke_tokens_of(name, expires_ms))
    else:
        one = parse_token_id(given or "")
        revoked = with_client(hub, token_file, lambda client: client.revoke_token(one, expires_ms))
    out = Output(as_json)
    if as_json:
        what = {"token": given, "principal": principal}
        out.json({**what, "since_ms": revoked.since_ms, "until_ms": revoked.until_ms})
    else:
        said = f"token {given}" if principal is None else f"all tokens of {principal} issued until now"
        out.line(f"{said}: revoked at {clock(revoked.since_ms)}")


@app.command("revoked", epilog=columns.epilog(columns.REVOKED))
def revoked(
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """List what is revoked, latest first."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.text import clock

    marks = with_client(hub, token_file, lambda client: client.revoked_tokens())
    out = Output(as_json)
    if as_json:
        for mark in marks:
            out.json(mark.model_dump())
        return
    rows = ((mark.subject, mark.id, clock(mark.since_ms), clock(mark.until_ms), mark.by) for mark in marks)
    out.rows(tuple(columns.REVOKED), rows)


@app.command("unrevoke")
def unrevoke(
    token_id: Annotated[
        str | None, typer.Argument(metavar="ID", help="Id of the token, as `token revoked` shows it.")
    ] = None,
    principal: Annotated[
        str | None, typer.Option("--principal", metavar="NAME", help="All tokens of NAME that were revoked as such.")
    ] = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
    as_json: options.Json = False,
) -> None:
    """Let a token be good again that was revoked, or forget that it was."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name
    from orchestrator.cli.inspecting import parse_token_id

    if (token_id is None) is (principal is None):
        raise CliError("say what is to be good again: the ID of a token, or --principal NAME")
    if principal is not None:
        name = parse_name(principal, "--principal")
        was_revoked = with_client(hub, token_file, lambda client: client.unrevoke_tokens_of(name))
    else:
        one = parse_token_id(token_id or "")
        was_revoked = with_client(hub, token_file, lambda client: client.unrevoke_token(one))
    out = Output(as_json)
    if as_json:
        out.json({"token": token_id, "principal": principal, "was_revoked": was_revoked})
    else:
        said = f"token {token_id}" if principal is None else f"tokens of {principal}"
        out.line(f"{said}: {'no longer revoked' if was_revoked else 'not revoked as such, nothing to lift'}")


def _tokens(data: Path) -> Tokens:
    from orchestrator.auth.keys import load_keys
    from orchestrator.auth.tokens import Tokens

    return Tokens(load_keys(hub_directory(data)))


def hub_directory(data: Path) -> Path:
    """Return a data directory that is there, and ours.

    Raises:
        CliError: it is not there.
        DataDirectoryError: it belongs to somebody else, or cannot be used.
    """
    from orchestrator.store.datadir import DataDirectory

    if not data.is_dir():
        raise CliError(
            f"there is no data directory {data}; start the hub first (it makes one), or name its directory with --data"
        )
    DataDirectory(data).prepare()
    return data
