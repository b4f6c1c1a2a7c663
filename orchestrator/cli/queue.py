"""`fleetline queue`: what waits and runs on queues, and how much of it may."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from agent.client import Client
    from protocol.requests import DeadLetters, QueueInfo, RunInfo

__all__ = ["app"]

app = typer.Typer(
    help="List queues, look at them, pause, resume, limit and purge them, and do again what died on them."
)

LIMIT = re.compile(r"[1-9][0-9]{0,8}")

QUEUE = typer.Argument(metavar="QUEUE", help="Name of a queue.")


@app.command("ls", epilog=columns.epilog(columns.QUEUES))
def ls(
    limit: options.Limit = 100,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List queues, by name."""
    from orchestrator.cli.connect import with_client

    out = Output(as_json)

    async def use(client: Client) -> tuple[QueueInfo, ...]:
        return await client.queues(limit)

    queues = with_client(hub, token_file, use)
    if as_json:
        for queue in queues:
            out.json(_object(queue))
        return
    rows = (
        (q.queue, _state(q), q.waiting, q.later, q.active, q.limit, q.key_limit, _rate(q), q.parked, q.dead)
        for q in queues
    )
    out.rows(tuple(columns.QUEUES), rows, cut=("QUEUE",))


@app.command("show")
def show(
    queue: Annotated[str, QUEUE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show one queue, and what its runs wait for."""
    _ask(queue, as_json, hub, token_file)


@app.command("pause")
def pause(
    queue: Annotated[str, QUEUE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let the runs of a queue wait; those that are worked on go on."""
    _ask(queue, as_json, hub, token_file, paused=True)


@app.command("resume")
def resume(
    queue: Annotated[str, QUEUE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let agents take runs of a queue again."""
    _ask(queue, as_json, hub, token_file, paused=False)


@app.command("limit", context_settings={"ignore_unknown_options": True})  # -1 is a number that will not do
def limit(
    queue: Annotated[str, QUEUE],
    runs: Annotated[
        str | None, typer.Argument(metavar="[N]", help="Runs at once over all agents, 1 to 999999999, or `none`.")
    ] = None,
    per_key: Annotated[
        str | None,
        typer.Option("--per-key", metavar="N", help="Runs at once with the same --concurrency-key, or `none`."),
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", metavar="R", help="Starts in a time: 10/s, 100/m, 1/5s, or `none`.")
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, max=10_000, metavar="N", help="With --rate, starts at once.")
    ] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Limit how many runs of a queue are worked on at once, in all and for each key, and how fast they start."""
    from agent.queueing import parse_rate

    if runs is None and per_key is None and rate is None:
        raise CliError("say what to limit: N, --per-key N or --rate R; `none` takes a limit away")
    if burst is not None and rate is None:
        raise CliError("--burst: it goes with --rate")
    said: dict[str, Any] = {"limit": _number(runs, "N"), "key_limit": _number(per_key, "--per-key")}
    if rate is not None:
        try:
            parse_rate(rate, burst or 1)
        except ValueError as fault:
            raise CliError(f"--rate: {fault}") from None
        said |= {"rate": rate, "burst": burst or 1}
    _ask(queue, as_json, hub, token_file, **said)


def _number(text: str | None, where: str) -> int | None:
    """Return a limit; 0 for none, None where nothing is said of it."""
    if text is None:
        return None
    if text != "none" and not LIMIT.fullmatch(text):
        raise CliError(
            f"{where}: {text[:160]!r} is neither a whole number from 1 to 999999999 nor `none`, for any number of "
            "runs; to let nothing run, pause the queue"
        )
    return 0 if text == "none" else int(text)


@app.command("dead", epilog=columns.epilog(columns.DEAD))
def dead(
    queue: Annotated[str, QUEUE],
    limit: options.Limit = 100,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List the dead letters of a queue: runs that failed or were lost too often. Oldest first."""
    from agent.runs import run_object
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name
    from orchestrator.cli.text import clock

    parse_name(queue, "QUEUE")
    out = Output(as_json)

    async def use(client: Client) -> DeadLetters:
        return await client.dead_letters(queue, limit)

    letters = with_client(hub, token_file, use)
    if as_json:
        for run in letters.runs:
            out.json({name: value for name, value in run_object(run).items() if name != "result"})
        return
    rows = ((r.run, r.handler, r.attempt, clock(r.finished_ms or 0), _error(r)) for r in letters.runs)
    out.rows(tuple(columns.DEAD), rows, cut=("HANDLER", "ERROR"))
    if letters.dead > len(letters.runs):
        out.note(f"{letters.dead - len(letters.runs)} more; --limit shows them")


@app.command("retry")
def retry(
    queue: Annotated[str, QUEUE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Submit the dead letters of a queue again, each once, and print how many there were."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name

    parse_name(queue, "QUEUE")
    out = Output(as_json)

    async def use(client: Client) -> int:
        return await client.retry_dead(queue)

    retried = with_client(hub, token_file, use)
    if as_json:
        out.json({"queue": queue, "retried": retried})
    else:
        out.line(str(retried))


@app.command("purge")
def purge(
    queue: Annotated[str, QUEUE],
    reason: Annotated[str | None, typer.Option("--reason", help="Kept in the logs of the runs.")] = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Cancel every run of a queue that waits, and print how many there were."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name

    parse_name(queue, "QUEUE")
    if reason is not None and len(reason) > 1024:
        raise CliError("--reason: at most 1024 characters")
    out = Output(as_json)

    async def use(client: Client) -> int:
        return await client.purge_queue(queue, reason)

    purged = with_client(hub, token_file, use)
    if as_json:
        out.json({"queue": queue, "purged": purged})
    else:
        out.line(str(purged))


def _ask(queue: str, as_json: bool, hub: str | None, token_file: Any, **said: Any) -> None:
    """Say something of a queue, where something is said, and show it."""
    from orchestrator.cli.connect import with_client
    from orchestrator.cli.inputs import parse_name

    parse_name(queue, "QUEUE")
    out = Output(as_json)

    async def use(client: Client) -> QueueInfo:
        return await (client.set_queue(queue, **said) if said else client.queue(queue))

    info = with_client(hub, token_file, use)
    if as_json:
        out.json(info.model_dump())
        return
    shown: dict[str, Any] = {
        "queue": info.queue,
        "state": _state(info),
        "waiting": info.waiting,
        "later": info.later,
        "active": info.active,
        "limit": "none" if info.limit is None else info.limit,
        "limit per key": "none" if info.key_limit is None else info.key_limit,
        "rate": _rate(info) or "none",
        "parked": info.parked,
        "dead": info.dead,
    }
    if info.reason is not None and not info.paused:
        shown["reason"] = info.reason
    for bucket in info.buckets:
        wanted = f"{bucket.handler} for {bucket.where}" if bucket.where else bucket.handler
        shown[wanted] = f"{bucket.waiting} waiting" + (f": {bucket.reason}" if bucket.reason else "")
    for key in info.keys:
        shown[f"key {key.key}"] = f"{key.parked} parked, {key.active} active"
    for share in info.shares:
        shown[f"from {share.by}"] = f"{share.waiting} waiting"
    out.pairs(shown)


def _object(info: QueueInfo) -> dict[str, Any]:
    return info.model_dump(exclude={"buckets", "shares", "keys"})


def _state(info: QueueInfo) -> str:
    return "paused" if info.paused else "open"


def _rate(info: QueueInfo) -> str | None:
    from agent.queueing import rate_text

    return None if info.rate is None else rate_text(info.rate)


def _error(run: RunInfo) -> str:
    error = run.error or {}
    return f"{error.get('type', '')}: {error.get('message', '')}"
