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
    from protocol.requests import QueueInfo

__all__ = ["app"]

app = typer.Typer(help="List queues, look at them, pause, resume, limit and purge them.")

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
    rows = ((q.queue, _state(q), q.waiting, q.later, q.active, q.limit) for q in queues)
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
    runs: Annotated[str, typer.Argument(metavar="N", help="Runs at once over all agents, 1 to 999999999, or `none`.")],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Limit how many runs of a queue are worked on at once."""
    if runs != "none" and not LIMIT.fullmatch(runs):
        raise CliError(
            f"N: {runs[:160]!r} is neither a whole number from 1 to 999999999 nor `none`, for any number of runs; "
            "to let nothing run, pause the queue"
        )
    _ask(queue, as_json, hub, token_file, limit=0 if runs == "none" else int(runs))


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
        out.json({**_object(info), "buckets": [bucket.model_dump() for bucket in info.buckets]})
        return
    shown: dict[str, Any] = {
        "queue": info.queue,
        "state": _state(info),
        "waiting": info.waiting,
        "later": info.later,
        "active": info.active,
        "limit": "none" if info.limit is None else info.limit,
    }
    for bucket in info.buckets:
        wanted = f"{bucket.handler} for {bucket.where}" if bucket.where else bucket.handler
        shown[wanted] = f"{bucket.waiting} waiting" + (f": {bucket.reason}" if bucket.reason else "")
    out.pairs(shown)


def _object(info: QueueInfo) -> dict[str, Any]:
    return info.model_dump(exclude={"buckets"})


def _state(info: QueueInfo) -> str:
    return "paused" if info.paused else "open"
