"""`fleetline log`: list logs, show and follow them, export and verify them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from agent.entry import Entry
    from protocol.requests import LogInfo

__all__ = ["app", "follow_log"]

app = typer.Typer(help="List logs, show and follow them, export and verify them.")

KINDS = ("agent", "run", "topic")
BODY_CHARACTERS_MAX = 1000
"""Shown of a body on a terminal; what is piped is whole."""

LOG = typer.Argument(metavar="LOG", help="run/ID, topic/NAME, agent/ID or artifact/ID; a run's id alone will do.")


@app.command("ls", epilog=columns.epilog(columns.LOGS))
def ls(
    kind: Annotated[str | None, typer.Option("--kind", metavar="K", help="agent, run or topic.")] = None,
    limit: options.Limit = 100,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List logs, newest first."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.objects import log_json
    from orchestrator.cli.text import clock

    if kind is not None and kind not in KINDS:
        raise CliError(f"--kind: {kind!r} is no kind of log; it is one of {', '.join(KINDS)}")
    out = Output(as_json)

    async def use(client: Client) -> tuple[LogInfo, ...]:
        return await client.logs(kind, limit)

    logs = with_client(hub, token_file, use)
    if as_json:
        for log in logs:
            out.json(log_json(log))
        return
    out.rows(tuple(columns.LOGS), ((x.log, x.head.offset, x.first, clock(x.ts_ms)) for x in logs))


@app.command("show")
def show(
    log: Annotated[str, LOG],
    after: Annotated[int, typer.Option("--after", min=0, metavar="OFFSET", help="Begin after this offset.")] = 0,
    limit: Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Print at most this many.")] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Print the entries of a log as it is now, read page by page."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_log

    path = parse_log(log)
    out = Output(as_json)

    async def use(client: Client) -> None:
        info = await client.log(path)
        begin = _kept(out, info, after)
        upto = info.head.offset if limit is None else min(info.head.offset, begin + limit)
        if begin >= upto:
            out.note(f"{path} has nothing after offset {begin}; its head is {info.head.offset}")
            return
        async for entry in client.read(path, begin, upto):
            print_entry(out, entry)

    with_client(hub, token_file, use)


def _kept(out: Output, info: LogInfo, after: int) -> int:
    """Return where reading can begin, and say what is not kept any more."""
    if info.first > after + 1:
        out.note(f"offsets {after + 1} to {info.first - 1} of {info.log} are not kept any more")
        return info.first - 1
    return after


def print_entry(out: Output, entry: Entry) -> None:
    """Print one entry by itself: its offset, time, attempt, who wrote it, kind and body."""
    from orchestrator.cli.text import clean, clock
    from orchestrator.replay.timeline import short_body

    shown = entry.to_json()
    if out.as_json:
        out.json(shown)
        return
    attempt = "" if entry.attempt is None else f"#{entry.attempt}"
    body = short_body(shown["body"], BODY_CHARACTERS_MAX if out.terminal else None)
    words = f"{entry.offset:>7} {clock(entry.ts_ms)} {attempt:>3} {clean(entry.src):<18} {clean(entry.kind):<12} {body}"
    out.line(words.rstrip())


@app.command("tail")
def tail(
    log: Annotated[str, LOG],
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, metavar="N", help="Begin with the last N.")] = 10,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Print a log's last entries, and then what comes, until interrupted."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_log

    path = parse_log(log)
    out = Output(as_json)

    async def use(client: Client) -> None:
        await client.log(path)  # an unknown log is refused, not waited for
        await follow_log(out, client, path, lines)

    with_client(hub, token_file, use, follows=True)


async def follow_log(out: Output, client: Client, log: str, lines: int) -> None:
    """Print the last `lines` entries and then what comes; a reset is shown where it happens."""
    from orchestrator.cli.follow import print_reset

    start = await _start(client, log, lines)
    async with client.subscribe(log, start, on_reset=lambda reset: print_reset(out, reset)) as entries:
        async for entry in entries:
            print_entry(out, entry)


async def _start(client: Client, log: str, lines: int) -> Entry | str:
    """Return where to begin so that `lines` entries are shown first."""
    from protocol.errors import RequestError

    try:
        info = await client.log(log)
    except RequestError as fault:
        if fault.code != "not_found":
            raise
        return "earliest"  # a topic that nobody has published to yet
    before = info.head.offset - lines
    if before < info.first:
        return "earliest"
    async for entry in client.read(log, before - 1, before):
        return entry
    return "latest"


@app.command("export")
def export(
    log: Annotated[str, LOG],
    output: Annotated[
        str | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, whole or not at all.")
    ] = None,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Write a log as lines of JSON, from which `log verify` and `replay` work without the hub."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.exporting import write_log
    from orchestrator.cli.inputs import parse_log

    path = parse_log(log)
    out = Output()

    async def use(client: Client) -> int:
        return await write_log(client, path, output)

    count = with_client(hub, token_file, use)
    out.note(f"{count} entries of {path}" + (f" written to {output}" if output is not None else ""))


@app.command("verify")
def verify(
    file_or_log: Annotated[str, typer.Argument(metavar="FILE_OR_LOG", help="An exported file, - or a log.")],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Recompute the chain of a log or an exported file. Exit code 6 names the first offset at fault.

    With --json that is an object too: what, offset, error.
    """
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.exporting import Verified, verify_file, verify_log
    from orchestrator.cli.source import faults_named, named

    source = named(file_or_log)
    out = Output(as_json)
    log = source.log

    async def use(client: Client) -> Verified:
        assert log is not None
        return await verify_log(client, log)

    with faults_named(source.title, out):
        found = verify_file(source) if log is None else with_client(hub, token_file, use)
    if as_json:
        out.json(found.to_json())
        return
    of = "" if log is not None else f"{found.log}, "
    kept = f"offsets {found.first} to {found.head.offset}" if found.count else "nothing kept"
    out.line(f"{source.title} verifies: {of}{found.count} entries, {kept}, tag {found.head.tag}")
