"""What the hub tells of itself: events on standard error, and counters for `/metrics`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import structlog

__all__ = ["Counters", "configure_logs", "exposition"]


def configure_logs(
    level: str = "info", *, as_json: bool | None = None, render: structlog.typing.Processor | None = None
) -> None:
    """Send events to standard error: key=value on a terminal, else one JSON object a line.

    Args:
        level: debug, info, warning or error.
        as_json: overrides what standard error is.
        render: makes a line of an event in another way.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    if render is None and as_json:
        render = structlog.processors.JSONRenderer()
    elif render is None:
        plain = structlog.dev.plain_traceback  # others show variables
        render = structlog.dev.ConsoleRenderer(exception_formatter=plain)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info if as_json else _keep,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # The libraries' own loggers: what they say about single connections we say ourselves.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)


def _keep(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return event


@dataclass(slots=True)
class Counters:
    """What happened since this hub started."""

    connections: int = 0
    refused: int = 0
    sessions: int = 0
    superseded: int = 0
    faults: int = 0
    refusals: int = 0
    commits: int = 0
    entries_in: int = 0
    nacks: int = 0
    frames_out: int = 0
    entries_out: int = 0
    requests: int = 0
    store_failures: int = 0


_HELP = {
    "connections": "connections accepted",
    "refused": "connections for which there was no room",
    "sessions": "sessions opened",
    "superseded": "sessions ended by a newer one of the same agent",
    "faults": "connections closed because of what the peer sent",
    "refusals": "things that peers asked for and were not permitted",
    "commits": "commits that happened",
    "entries_in": "entries that peers published and that were acknowledged",
    "nacks": "publishes refused",
    "frames_out": "frames sent",
    "entries_out": "entries sent on subscriptions",
    "requests": "requests answered",
    "store_failures": "commits that the store did not answer",
}


def exposition(
    counters: Counters, gauges: Mapping[str, Callable[[], int]], hub_id: str, labels: Mapping[str, str]
) -> str:
    """Return counters and gauges in Prometheus' text format, with these labels, and which hub they are of."""
    return "\n".join(_lines(counters, gauges, hub_id, labels)) + "\n"


def _lines(
    counters: Counters, gauges: Mapping[str, Callable[[], int]], hub_id: str, labels: Mapping[str, str]
) -> Iterator[str]:
    of = _labelled(labels)
    yield "# HELP fleetline_hub_info which hub answers"
    yield "# TYPE fleetline_hub_info gauge"
    yield f"fleetline_hub_info{_labelled({'hub': hub_id, **labels})} 1"
    for field in fields(counters):
        name = f"fleetline_{field.name}_total"
        yield f"# HELP {name} {_HELP[field.name]}"
        yield f"# TYPE {name} counter"
        yield f"{name}{of} {getattr(counters, field.name)}"
    for gauge, read in gauges.items():
        yield f"# TYPE fleetline_{gauge} gauge"
        yield f"fleetline_{gauge}{of} {read()}"


def _labelled(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}" if labels else ""
