"""When a schedule is due: cron expressions in time zones, by the store's clock. Pure, but for reading time zones.

An expression has five fields, or six with seconds first. A time zone's clock skips an hour in spring and repeats one
in autumn; what becomes of times in there is the library's doing (`cronsim`), which does as Debian's cron does:

- five fields, of which neither the minute's nor the hour's begins with `*`: a time that is skipped comes due at the
  end of the gap, one that is repeated comes due the first time only;
- any other: it is due whenever the clock shows a time that fits, so never in the gap, and both times in the hour that
  is repeated.

Specification: docs/protocol.md, section "Schedules".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

__all__ = ["Cron", "InvalidCron"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_OF_THE_MACHINE = "localtime"
"""A file beside the time zones on many machines. It says another thing on each, and hubs must agree."""


class InvalidCron(ValueError):
    """A cron expression or a time zone that is none. The message says which, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. Make one with `parse`."""

    expression: str
    zone: ZoneInfo

    @classmethod
    def parse(cls, expression: str, timezone: str) -> Cron:
        """Read a cron expression and the name of a time zone.

        Raises:
            InvalidCron: one of them is none.
        """
        cron = cls(expression, _zone(timezone))
        try:
            CronSim(expression, _EPOCH)
        except CronSimError as fault:
            raise InvalidCron(f"{expression!r} is not a cron expression: {_what_is_wrong(expression, fault)}") from None
        return cron

    def after(self, ms: int) -> int | None:
        """Return the first due time after a time, both in ms; None where there is none in the next fifty years."""
        return next(self._from(ms), None)

    def upcoming(self, ms: int, count: int) -> tuple[int, ...]:
        """Return the next due times after a time."""
        return tuple(islice(self._from(ms), count))

    def _from(self, ms: int) -> Iterator[int]:
        """Yield the due times after a time, each later than the one before."""
        last_ms = ms
        for due in CronSim(self.expression, (_EPOCH + ms * _MS).astimezone(self.zone)):
            due_ms = (due - _EPOCH) // _MS
            if due_ms > last_ms:  # begun in an hour that is repeated, the library may name times of its first pass
                yield due_ms
                last_ms = due_ms


_FIELDS = "it has five fields (minute hour day-of-month month day-of-week), or six with seconds first"


def _what_is_wrong(expression: str, fault: CronSimError) -> str:
    wrong = str(fault)
    if not wrong.startswith("Bad "):
        return _FIELDS
    field = wrong.removeprefix("Bad ")
    if field == "day-of-month":
        *before, _month, weekday = expression.split()
        with contextlib.suppress(CronSimError):
            CronSim(" ".join((*before, "*", weekday)), _EPOCH)
            return "no such day ever comes in that month"
    return f"its {field} field is wrong"


def _zone(name: str) -> ZoneInfo:
    try:
        if name == _OF_THE_MACHINE:
            raise ValueError(name)
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # which of them depends on how the name is wrong
        raise InvalidCron(f"{name!r} is not a time zone; one looks like Europe/Berlin, or UTC") from None
