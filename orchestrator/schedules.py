"""Does what schedules ask for when their time has come.

The timekeeper finds what is due, by the store's clock; here each due time becomes a run, once, whoever else acts on
it at the same time (`orchestrator.core.schedules` says why).

Specification: docs/protocol.md, section "Schedules".
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from orchestrator.core import runs
from orchestrator.core.queues import Queue
from orchestrator.core.schedules import LISTED_FIELDS, Place, Schedule, advance, due_run, on_due, put_off
from orchestrator.line import Line
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome
from orchestrator.writing import new_run_id
from protocol.ids import LogKind, LogName

__all__ = ["Schedules"]

CAUGHT_UP_AT_ONCE_MAX = 32
"""Due times of one schedule that are done in a row, before others have their turn."""
KEPT_LEAST_MS = 3_600_000
"""A due time's run is known by its key while it is kept: longer than a hub sleeps between reading and submitting."""
UNREADABLE_PUT_OFF_MS = 10_000
"""When a schedule is looked at again that this hub cannot read: another hub may know its time zone."""

log_ = structlog.get_logger()


class Schedules:
    """The schedules of a deployment, as this hub acts on them.

    Args:
        line: where commits go.
        look: told of every queue that gets a run (`Dispatch.look`).
        keep_ms: how long a run is kept after its end; None for ever.
    """

    def __init__(self, line: Line, look: Callable[[Queue], None], keep_ms: int | None = None) -> None:
        self._line = line
        self._store = line.store
        self._look = look
        self._keep_ms = keep_ms

    async def read(self, place: Place) -> Schedule | None:
        """Return a schedule whole; None where there is none of that name.

        Raises:
            ValueError: what is stored of it cannot be read.
        """
        fields = await self._store.hash_all(place.key)
        return Schedule.parse(place, fields) if fields else None

    async def read_listed(self, place: Place) -> Schedule | None:
        """Return a schedule without its input; None where there is none of that name."""
        found = await self._store.hash_get(place.key, *LISTED_FIELDS)
        fields = {name: value for name, value in zip(LISTED_FIELDS, found, strict=True) if value is not None}
        return Schedule.parse(place, fields) if fields else None

    async def fire(self, namespace: str, name: str) -> None:
        """Make the runs of the due times of a schedule that have come.

        Raises:
            StoreUnavailable: the store did not answer; what was not done is due still.
        """
        place = Place(namespace, name)
        try:
            await self._catch_up(place)
        except ValueError as fault:  # its time zone, or its record, is of a newer release than this hub
            log_.error("schedule_unreadable", schedule=name, namespace=namespace, reason=str(fault))
            next_ms = (await self._store.hash_get(place.key, "next"))[0]
            until_ms = await self._store.now_ms() + UNREADABLE_PUT_OFF_MS
            await settle(self._line, put_off(self._ids(self._line.src), place, next_ms, until_ms))

    async def _catch_up(self, place: Place) -> None:
        for _ in range(CAUGHT_UP_AT_ONCE_MAX):
            schedule = await self.read(place)
            now_ms = await self._store.now_ms()
            if schedule is None or schedule.next_ms is None or schedule.next_ms > now_ms:
                return
            if not await self._act(schedule, now_ms):
                return

    async def _act(self, schedule: Schedule, now_ms: int) -> bool:
        """Do a due time. Returns whether the next one may have come as well."""
        due = on_due(schedule, now_ms)
        run = await self._submit(schedule, now_ms) if due.fires else None
        result = await settle(self._line, advance(self._ids(self._line.src), schedule, due.next_ms, run))
        if isinstance(result, Outcome):
            facts = {"schedule": schedule.place.name, "due_ms": schedule.next_ms, "late_ms": now_ms - _due(schedule)}
            log_.info("schedule_fired" if due.fires else "schedule_skipped", run=run, next_ms=due.next_ms, **facts)
        return due.next_ms is not None and due.next_ms <= now_ms

    async def _submit(self, schedule: Schedule, now_ms: int) -> str:
        """Submit the run of a due time, and return it; where it was submitted before, it is that one."""
        asked = due_run(schedule)
        namespace = schedule.place.namespace
        queue = Queue(namespace, asked.queue)
        log = LogName(namespace, LogKind.RUN, new_run_id(self._line, queue))
        keeping = runs.Keeping(self._keep_ms and max(self._keep_ms, KEPT_LEAST_MS))
        submit = runs.submit(self._ids(schedule.made_by), log, asked, now_ms, keeping=keeping)
        result = await settle(self._line, submit)
        self._look(queue)
        if isinstance(result, Outcome):
            return log.name
        assert result.actual is not None, result  # the only guard is that the key names no run yet
        return result.actual.partition(" ")[0]

    def _ids(self, src: str) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), src, self._line.new_epoch())


def _due(schedule: Schedule) -> int:
    assert schedule.next_ms is not None, schedule
    return schedule.next_ms
