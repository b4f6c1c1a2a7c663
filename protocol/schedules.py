"""The methods `schedule.*`: what each takes and what it answers. `protocol.requests` has the table.

Specification: docs/protocol.md, sections "Requests" and "Schedules".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.frames import Name, Part, Span, UInt
from protocol.selector import SELECTOR_CHARS_MAX

__all__ = [
    "CRON_CHARS_MAX",
    "SCHEDULES_MAX",
    "TIMEZONE_CHARS_MAX",
    "UPCOMING_MAX",
    "Missed",
    "ScheduleAdd",
    "ScheduleGet",
    "ScheduleInfo",
    "ScheduleList",
    "ScheduleListed",
    "ScheduleRemove",
    "ScheduleRemoved",
    "ScheduleSet",
]

SCHEDULES_MAX = 1000
"""Schedules of one namespace."""

CRON_CHARS_MAX = 256
TIMEZONE_CHARS_MAX = 64
UPCOMING_MAX = 3
"""Due times that `schedule.get` tells in advance."""


class Missed(StrEnum):
    """What becomes of the times that came due while no hub was there."""

    SKIP = "skip"
    """Nothing: the next run is that of the next time to come."""
    ONCE = "once"
    """One run for all of them."""


WireMissed = Annotated[Missed, Field(strict=False)]


class ScheduleAdd(Part):
    """`schedule.add`: submit a run whenever its time comes. The same name with the same terms is the same schedule.

    What a run is submitted with is as in `run.submit`; `deadline_ms` counts from when it is submitted.

    Errors: `name_conflict` where the name is that of a schedule with other terms; `limit_reached`; `invalid_params`
    where `cron` or `timezone` is none.
    """

    schedule: Name
    cron: Annotated[str, Field(max_length=CRON_CHARS_MAX)]
    handler: Name
    input: bytes
    timezone: Annotated[str, Field(max_length=TIMEZONE_CHARS_MAX)] = "UTC"
    missed: WireMissed = Missed.SKIP
    queue: Name = "default"
    retries: UInt | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    where: Annotated[str, Field(max_length=SELECTOR_CHARS_MAX)] = ""
    deadline_ms: Span | None = None
    timeout_ms: Span | None = None
    backoff_ms: Span | None = None
    backoff_max_ms: Span | None = None


class ScheduleGet(Part):
    """`schedule.get`: one schedule. Errors: `not_found`."""

    schedule: Name


class ScheduleInfo(Part):
    """A schedule: its terms, when it is due next, and the last run that it made.

    `input` (a packed value), `upcoming` and the state of the last run are not told in a list.
    """

    schedule: Name
    cron: str
    timezone: str
    missed: WireMissed
    handler: str
    queue: str
    paused: bool = False
    next_ms: UInt | None = None
    upcoming: tuple[UInt, ...] = ()
    last_due_ms: UInt | None = None
    last_run: str | None = None
    last_state: str | None = None
    made_ms: UInt
    made_by: str
    input: bytes | None = None
    retries: UInt | None = None
    priority: UInt = 0
    where: str = ""
    deadline_ms: UInt | None = None
    timeout_ms: UInt | None = None
    backoff_ms: UInt | None = None
    backoff_max_ms: UInt | None = None


class ScheduleList(Part):
    """`schedule.list`: schedules, by name."""

    limit: Annotated[int, Field(ge=1, le=SCHEDULES_MAX)] = 100


class ScheduleListed(Part):
    """Schedules, by name."""

    schedules: tuple[ScheduleInfo, ...]


class ScheduleSet(Part):
    """`schedule.set`: pause a schedule, or let it go on with the next time to come. Errors: `not_found`."""

    schedule: Name
    paused: bool


class ScheduleRemove(Part):
    """`schedule.remove`: forget a schedule. The runs that it made stay. Errors: `not_found`."""

    schedule: Name


class ScheduleRemoved(Part):
    """The schedule that is there no more."""

    schedule: Name
