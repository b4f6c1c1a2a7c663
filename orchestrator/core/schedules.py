"""What to do about a schedule: pure proposals of commits, from what was read of it.

All schedules of a namespace lie in one partition, so that a name is taken once and their number is bounded exactly. The
runs that they make lie with their queues, in other partitions. So a due time is two commits, in this order:

1. submit the run, under a key made of the schedule's id and the due time (`due_run`);
2. advance the schedule, guarded on the due time still being its next one (`advance`).

Whoever is killed before 1 or between the two leaves the due time as the next one: another hub does both again, and the
key makes the second submit the same run. What is decided here of a due time depends on nothing but that due time.

Specification: docs/protocol.md, section "Schedules"; docs/decisions/0013-schedules.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from zlib import crc32

from orchestrator.core.cron import Cron
from orchestrator.core.runs import Ids
from orchestrator.core.timers import timer
from orchestrator.store import keys
from orchestrator.store.commits import (
    ABSENT,
    Below,
    Commit,
    Guard,
    HashDelete,
    HashSet,
    Op,
)
from protocol.codec import pack_value, unpack_value
from protocol.ids import PARTITIONS
from protocol.requests import RunSubmit
from protocol.schedules import SCHEDULES_MAX, Missed, ScheduleAdd

__all__ = [
    "LATE_MS",
    "LISTED_FIELDS",
    "Due",
    "Place",
    "Schedule",
    "add",
    "advance",
    "due_run",
    "on_due",
    "put_off",
    "remove",
    "scheduled",
    "set_paused",
]

LATE_MS = 60_000
"""A due time that no hub came to for longer was missed; before, its run is late and nothing more."""

TIMER_PREFIX = "schedule/"
"""What a schedule's name follows in the timers, where runs' ids stand alone: no id holds a slash."""

_INPUT = "input"
LISTED_FIELDS = ("id", "made", "by", "asked", "next", "paused", "last_due", "last_run")
"""The fields of a schedule's record, but for the input, which may be large."""


@dataclass(frozen=True, slots=True)
class Place:
    """A schedule, by its names; `partition` is where all schedules of the namespace lie."""

    namespace: str
    name: str

    @property
    def partition(self) -> int:
        """The partition that holds the schedules of the namespace."""
        return crc32(f"{self.namespace}/schedules".encode()) % PARTITIONS

    @property
    def key(self) -> str:
        """The key of its record."""
        return keys.schedule(self.partition, self.namespace, self.name)

    @property
    def index(self) -> str:
        """The key of the names of all schedules of the namespace."""
        return keys.schedules(self.partition, self.namespace)

    def timer(self, due_ms: int | None) -> Op:
        """Have the timekeeper look at it at this time, or not at all."""
        return timer(self.partition, f"{self.namespace}/{TIMER_PREFIX}{self.name}", due_ms)


def scheduled(word: str) -> str | None:
    """Return the schedule that a timer is about, from what follows its namespace; None where it is about a run."""
    return word.removeprefix(TIMER_PREFIX) if word.startswith(TIMER_PREFIX) else None


@dataclass(frozen=True, slots=True)
class Schedule:
    """What is stored of a schedule.

    Attributes:
        id: random, so that a schedule that is made anew under an old name shares no key with it.
        asked: its terms; without the input where only `LISTED_FIELDS` were read.
        next_ms: the due time that is to be done next; None while it is paused, or where none is left.
        last_due_ms: the due time of the last run that it made, and
        last_run: that run.
    """

    place: Place
    id: str
    made_ms: int
    made_by: str
    asked: ScheduleAdd
    paused: bool
    next_ms: int | None
    last_due_ms: int | None = None
    last_run: str | None = None

    @classmethod
    def parse(cls, place: Place, fields: Mapping[str, bytes]) -> Schedule:
        """Read a record as `add` wrote it.

        Raises:
            ValueError: it is none.
        """
        asked = unpack_value(fields["asked"]) | {"schedule": place.name, "input": fields.get(_INPUT, b"")}
        return cls(
            place=place,
            id=fields["id"].decode(),
            made_ms=int(fields["made"]),
            made_by=fields["by"].decode(),
            asked=ScheduleAdd.model_validate(asked),
            paused="paused" in fields,
            next_ms=int(fields["next"]) if "next" in fields else None,
            last_due_ms=int(fields["last_due"]) if "last_due" in fields else None,
            last_run=fields["last_run"].decode() if "last_run" in fields else None,
        )

    @property
    def cron(self) -> Cron:
        """When it is due.

        Raises:
            InvalidCron: this machine does not know its time zone.
        """
        return Cron.parse(self.asked.cron, self.asked.timezone)

    def unchanged(self) -> tuple[Guard, ...]:
        """Return guards that hold while it is the schedule that was read, and is due next when it was then."""
        expected = ABSENT if self.next_ms is None else str(self.next_ms)
        return self.same(), Guard(self.place.key, "next", expected)

    def same(self) -> Guard:
        """Return a guard that holds while it is there, whatever it is due."""
        return Guard(self.place.key, "id", self.id)


@dataclass(frozen=True, slots=True)
class Due:
    """What a due time comes to: whether a run is made for it, and when the schedule is due next."""

    fires: bool
    next_ms: int | None


def add(ids: Ids, schedule: Schedule, answer: HashSet) -> Commit:
    """Propose a new schedule. `answer` stores the request's result with what it changes.

    The guard fails where the name is taken, what is `below` where there are too many.
    """
    place, asked = schedule.place, schedule.asked
    fields: dict[str, str | bytes] = {
        "id": schedule.id,
        "made": str(schedule.made_ms),
        "by": schedule.made_by,
        "asked": pack_value(asked.model_dump(mode="json", exclude={"schedule", "input"}, exclude_none=True)),
        _INPUT: asked.input,
        "next": str(schedule.next_ms),
    }
    return Commit(
        id=ids.commit,
        partition=place.partition,
        guards=(Guard(place.index, place.name, ABSENT),),
        below=(Below(place.index, SCHEDULES_MAX),),
        ops=(
            HashSet(place.index, {place.name: schedule.id}),
            HashSet(place.key, fields),
            place.timer(schedule.next_ms),
            answer,
        ),
    )


def set_paused(ids: Ids, schedule: Schedule, after: Schedule, answer: HashSet) -> Commit:
    """Propose that a schedule is paused, or goes on: that it is as `after` has it."""
    kept = {"paused": "1"} if after.paused else {}
    if after.next_ms is not None:
        kept["next"] = str(after.next_ms)
    gone = tuple(name for name in ("paused", "next") if name not in kept)
    key = schedule.place.key
    return Commit(
        id=ids.commit,
        partition=schedule.place.partition,
        guards=schedule.unchanged(),
        ops=(
            *((HashSet(key, kept),) if kept else ()),
            *((HashDelete(key, gone),) if gone else ()),
            schedule.place.timer(after.next_ms),
            answer,
        ),
    )


def remove(ids: Ids, schedule: Schedule, answer: HashSet) -> Commit:
    """Propose that a schedule is there no more."""
    place = schedule.place
    return Commit(
        id=ids.commit,
        partition=place.partition,
        guards=(schedule.same(),),
        ops=(
            HashDelete(place.index, (place.name,)),
            HashDelete(place.key, (*LISTED_FIELDS, _INPUT)),
            place.timer(None),
            answer,
        ),
    )


def on_due(schedule: Schedule, now_ms: int) -> Due:
    """Decide what a due time that has come comes to.

    Of a row of missed times the first is the one that stands for all of them: it is the stored one, so whoever
    decides again, however much later, decides about the same run.

    Raises:
        InvalidCron: this machine does not know its time zone.
    """
    assert schedule.next_ms is not None, schedule
    assert schedule.next_ms <= now_ms, schedule
    missed = now_ms - schedule.next_ms > LATE_MS
    fires = not missed or schedule.asked.missed is Missed.ONCE
    return Due(fires, schedule.cron.after(now_ms if missed else schedule.next_ms))


def due_run(schedule: Schedule) -> RunSubmit:
    """Return what submits the run of the schedule's next due time: the same one, however often it is submitted."""
    asked = schedule.asked
    return RunSubmit(
        queue=asked.queue,
        handler=asked.handler,
        input=asked.input,
        key=f"schedule/{schedule.place.name}/{schedule.id}/{schedule.next_ms}",
        retries=asked.retries,
        priority=asked.priority,
        where=asked.where,
        deadline_ms=asked.deadline_ms,
        timeout_ms=asked.timeout_ms,
        backoff_ms=asked.backoff_ms,
        backoff_max_ms=asked.backoff_max_ms,
    )


def advance(ids: Ids, schedule: Schedule, next_ms: int | None, run: str | None) -> Commit:
    """Propose that a due time is done, with the run that was made for it, if one was."""
    key = schedule.place.key
    fields = {} if next_ms is None else {"next": str(next_ms)}
    if run is not None:
        fields |= {"last_due": str(schedule.next_ms), "last_run": run}
    return Commit(
        id=ids.commit,
        partition=schedule.place.partition,
        guards=schedule.unchanged(),
        ops=(
            *((HashSet(key, fields),) if fields else ()),
            *((HashDelete(key, ("next",)),) if next_ms is None else ()),
            schedule.place.timer(next_ms),
        ),
    )


def put_off(ids: Ids, place: Place, next_ms: bytes | None, until_ms: int) -> Commit:
    """Propose to look at a schedule that this hub cannot read later, and not all the time."""
    return Commit(
        id=ids.commit,
        partition=place.partition,
        guards=(Guard(place.key, "next", next_ms.decode() if next_ms else ABSENT),),
        ops=(place.timer(until_ms),),
    )
