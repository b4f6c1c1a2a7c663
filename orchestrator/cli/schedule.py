"""`fleetline schedule`: runs that are submitted whenever their time comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.cli import columns, options
from orchestrator.cli.errors import CliError
from orchestrator.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agent.client import Client
    from agent.scheduling import ScheduleOptions
    from protocol.schedules import ScheduleInfo

__all__ = ["app"]

app = typer.Typer(help="Have runs submitted whenever their time comes.")

SCHEDULE = typer.Argument(metavar="NAME", help="Name of a schedule.")
MISSED = ("skip", "once")


@app.command("add")
def add(
    name: Annotated[str, SCHEDULE],
    cron: Annotated[
        str,
        typer.Argument(
            metavar="CRON", help="Minute, hour, day of month, month, day of week; with six fields, seconds first."
        ),
    ],
    handler: Annotated[str, typer.Argument(metavar="HANDLER", help="Name of the handler.")],
    input_: Annotated[str | None, typer.Argument(metavar="INPUT", help="JSON, @FILE, or - for standard input.")] = None,
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="TZ", help="Whose clock CRON is about, such as Europe/Berlin.")
    ] = "UTC",
    missed: Annotated[
        str,
        typer.Option("--missed", metavar="skip|once", help="What to do about times while no hub was there."),
    ] = "skip",
    queue: options.Queue = "default",
    priority: options.Priority = 0,
    where: options.Where = None,
    deadline: options.Deadline = None,
    timeout: options.Timeout = None,
    retries: options.Retries = None,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Have a run submitted whenever its time comes, once each time. The same again changes nothing."""
    from orchestrator.cli.inputs import parse_input, parse_name, parse_span_s, parse_where

    parse_name(name, "NAME")
    parse_name(handler, "HANDLER")
    parse_name(queue, "--queue")
    _check_times(cron, timezone, missed)
    value = parse_input(input_)
    asked: ScheduleOptions = {
        "queue": queue,
        "priority": priority,
        "where": parse_where(where or [], "--where"),
        "deadline": parse_span_s(deadline, "--deadline"),
        "timeout": parse_span_s(timeout, "--timeout"),
        "retries": retries,
    }

    async def use(client: Client) -> ScheduleInfo:
        return await client.add_schedule(name, cron, handler, value, timezone=timezone, missed=missed, **asked)

    _show(use, as_json, hub, token_file)


@app.command("ls", epilog=columns.epilog(columns.SCHEDULES))
def ls(
    limit: options.Limit = 100,
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """List schedules, by name."""
    from orchestrator.cli.connect import with_client

    out = Output(as_json)

    async def use(client: Client) -> tuple[ScheduleInfo, ...]:
        return await client.schedules(limit)

    schedules = with_client(hub, token_file, use)
    if as_json:
        for schedule in schedules:
            out.json(schedule.model_dump(mode="json", exclude={"input", "upcoming", "last_state"}))
        return
    rows = (
        (s.schedule, s.cron, s.timezone, s.handler, _state(s), _time(s, s.next_ms), s.last_run or "") for s in schedules
    )
    out.rows(tuple(columns.SCHEDULES), rows, cut=("SCHEDULE", "CRON", "HANDLER"))


@app.command("show")
def show(
    name: Annotated[str, SCHEDULE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Show one schedule: its terms, when it is due next, its last run."""
    _named(name)
    _show(lambda client: client.schedule(name), as_json, hub, token_file)


@app.command("pause")
def pause(
    name: Annotated[str, SCHEDULE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let a schedule make no runs; what comes due meanwhile is not made up for."""
    _named(name)
    _show(lambda client: client.pause_schedule(name), as_json, hub, token_file)


@app.command("resume")
def resume(
    name: Annotated[str, SCHEDULE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Let a schedule go on, with the next time to come."""
    _named(name)
    _show(lambda client: client.resume_schedule(name), as_json, hub, token_file)


@app.command("rm")
def rm(
    name: Annotated[str, SCHEDULE],
    as_json: options.Json = False,
    hub: options.Hub = None,
    token_file: options.TokenFile = None,
) -> None:
    """Forget a schedule. The runs that it made stay."""
    from orchestrator.cli.connect import with_client

    _named(name)
    with_client(hub, token_file, lambda client: client.remove_schedule(name))
    out = Output(as_json)
    if as_json:
        out.json({"schedule": name, "removed": True})
    else:
        out.line(name)


def _named(name: str) -> None:
    from orchestrator.cli.inputs import parse_name

    parse_name(name, "NAME")


def _check_times(cron: str, timezone: str, missed: str) -> None:
    """Refuse what no hub would take; what the words mean, the hub knows."""
    from protocol.schedules import CRON_CHARS_MAX, TIMEZONE_CHARS_MAX

    if missed not in MISSED:
        raise CliError(f"--missed: {missed[:160]!r} is neither of {' and '.join(MISSED)}")
    for text, most, what in ((cron, CRON_CHARS_MAX, "CRON"), (timezone, TIMEZONE_CHARS_MAX, "--timezone")):
        if len(text) > most or not text.isprintable():
            raise CliError(f"{what}: at most {most} printable characters")


def _show(
    use: Callable[[Client], Awaitable[ScheduleInfo]], as_json: bool, hub: str | None, token_file: Path | None
) -> None:
    from orchestrator.cli.connect import with_client
    from protocol.readable import json_line

    info, out = with_client(hub, token_file, use), Output(as_json)
    if as_json:
        out.json(_object(info))
        return
    shown: dict[str, Any] = {
        "schedule": info.schedule,
        "cron": info.cron,
        "timezone": info.timezone,
        "missed": info.missed.value,
        "handler": info.handler,
        **({} if info.input is None else {"input": json_line(_object(info)["input"])}),
        "queue": info.queue,
        "priority": info.priority,
        **_asked(info),
        "state": _state(info),
        "next": ", ".join(_time(info, ms) for ms in info.upcoming),
        "last due": _time(info, info.last_due_ms),
        "last run": info.last_run,
        "last state": info.last_state,
    }
    out.pairs(shown)


def _object(info: ScheduleInfo) -> dict[str, Any]:
    """Return the object of a schedule; its input is decoded, where it was told."""
    from protocol.readable import readable

    shown = info.model_dump(mode="json", exclude={"input"})
    return shown if info.input is None else {**shown, "input": readable(info.input)}


def _asked(info: ScheduleInfo) -> dict[str, object]:
    """Return the terms of its runs that were given."""
    times = {"deadline": info.deadline_ms, "timeout": info.timeout_ms}
    spans = {name: f"{ms / 1000:g} s" for name, ms in times.items() if ms is not None}
    told = {"where": info.where or None, **spans, "retries": info.retries}
    return {name: value for name, value in told.items() if value is not None}


def _state(info: ScheduleInfo) -> str:
    return "paused" if info.paused else "open"


def _time(info: ScheduleInfo, ms: int | None) -> str:
    """Return a time as the schedule's own clock shows it; as UTC where this machine does not know that clock."""
    from datetime import UTC, datetime
    from zoneinfo import ZoneInfo

    if ms is None:
        return ""
    try:
        zone = ZoneInfo(info.timezone)
    except (LookupError, ValueError, OSError):
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "seconds")
    return datetime.fromtimestamp(ms / 1000, zone).isoformat(" ", "seconds")
