"""What a due time comes to: one run, whoever acts on it and whatever breaks on the way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest

from orchestrator.core.queues import Queue
from orchestrator.core.runs import Ids
from orchestrator.core.schedules import LATE_MS, Place, Schedule, add, on_due, remove, set_paused
from orchestrator.line import Line
from orchestrator.schedules import CAUGHT_UP_AT_ONCE_MAX, KEPT_LEAST_MS, UNREADABLE_PUT_OFF_MS, Schedules
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from orchestrator.store.memory import Fault, MemoryServer, MemoryStore
from protocol.ids import LogKind, LogName, queue_partition
from protocol.schedules import Missed, ScheduleAdd
from tests.unit.orchestrator.parts import line_to

MINUTE_MS = 60_000
START_MS = 1_764_000_000_000 // MINUTE_MS * MINUTE_MS
PLACE = Place("default", "nightly")
KEPT = HashSet(keys.ops(PLACE.partition, "default", 1), {"op": "answer"}, ttl_ms=1)


@dataclass
class Clock:
    """The store's clock, which a test sets."""

    ms: int = START_MS
    hinted: list[Queue] = field(default_factory=list)

    def __call__(self) -> int:
        return self.ms


def schedule_of(missed: Missed = Missed.SKIP, cron: str = "* * * * *") -> Schedule:
    """Return a schedule that is due at the end of the first minute, and each after it."""
    asked = ScheduleAdd(schedule="nightly", cron=cron, handler="h", input=b"\x07", queue="q", missed=missed, priority=3)
    next_ms = Schedule(PLACE, "i", START_MS, "client:ann", asked, False, None).cron.after(START_MS)
    return Schedule(PLACE, "i1", START_MS, "client:ann", asked, False, next_ms)


async def begin(schedule: Schedule, hubs: int = 1) -> tuple[Clock, list[tuple[Line, Schedules]]]:
    """Add a schedule to a new store; return its clock, and hubs on it."""
    clock = Clock()
    server = MemoryServer(clock)
    lines = [await line_to(server, f"hub-{number}") for number in range(hubs)]
    commit = add(Ids(lines[0].new_commit_id(), "client:ann"), schedule, KEPT)
    assert isinstance(await lines[0].commit(commit), Outcome)
    return clock, [(line, Schedules(line, clock.hinted.append)) for line in lines]


async def runs_of(line: Line) -> list[int]:
    """Return the due times of the runs that were made, in ms after the start, in the order of time."""
    metas = await line.store.log_names("default", LogKind.RUN, 1000)
    made = await line.store.hash_all(keys.idempotency(queue_partition("default", "q"), "default", "q"))
    assert len(made) == len(metas), "a run without a key of its own"
    return sorted(int(each.rsplit("/", 1)[1]) - START_MS for each in made)


async def read(schedules: Schedules) -> Schedule:
    found = await schedules.read(PLACE)
    assert found is not None
    return found


async def due_now(line: Line) -> list[tuple[int, str]]:
    return [each[1:] for each in (await line.store.due(await line.store.now_ms(), 10, range(64)))[1]]


async def test_a_due_time_is_a_run_with_what_was_asked_for_and_the_next_one_is_waited_for() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    assert await due_now(line) == []
    clock.ms = START_MS + MINUTE_MS
    assert await due_now(line) == [(PLACE.partition, "default/schedule/nightly")]
    await schedules.fire("default", "nightly")
    after = await read(schedules)
    assert (after.next_ms, after.last_due_ms) == (START_MS + 2 * MINUTE_MS, START_MS + MINUTE_MS)
    assert await due_now(line) == []
    assert await runs_of(line) == [MINUTE_MS]
    assert clock.hinted == [Queue("default", "q")]
    [(run, _)] = await line.store.log_names("default", LogKind.RUN, 2)
    assert run == after.last_run


@pytest.mark.parametrize(
    ("keep_ms", "kept_ms"), [(None, None), (1, KEPT_LEAST_MS), (KEPT_LEAST_MS + 1, KEPT_LEAST_MS + 1)]
)
async def test_a_run_is_kept_for_longer_than_a_hub_may_sleep_that_would_submit_it_again(
    keep_ms: int | None, kept_ms: int | None
) -> None:
    clock, [(line, _)] = await begin(schedule_of())
    clock.ms += MINUTE_MS
    await Schedules(line, clock.hinted.append, keep_ms).fire("default", "nightly")
    ((name, _),) = await line.store.log_names("default", LogKind.RUN, 10)
    fields = await line.store.meta(LogName("default", LogKind.RUN, name))
    assert fields is not None
    assert fields.get("keep") == (None if kept_ms is None else str(kept_ms))


async def test_a_due_time_that_has_not_come_is_left_alone() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    clock.ms = START_MS + MINUTE_MS - 1
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == []


async def test_hubs_that_act_at_once_make_one_run() -> None:
    clock, hubs = await begin(schedule_of(), hubs=3)
    for minute in range(1, 6):
        clock.ms = START_MS + minute * MINUTE_MS
        await asyncio.gather(*(schedules.fire("default", "nightly") for _, schedules in hubs))
    assert await runs_of(hubs[0][0]) == [minute * MINUTE_MS for minute in range(1, 6)]


async def test_due_times_that_came_while_hubs_changed_are_a_run_each() -> None:
    clock, [(line, schedules)] = await begin(schedule_of(cron="* * * * * *"))
    clock.ms = START_MS + 12_000
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [second * 1000 for second in range(1, 13)]


async def test_a_long_row_of_due_times_lets_others_have_their_turn() -> None:
    clock, [(line, schedules)] = await begin(schedule_of(cron="* * * * * *"))
    clock.ms = START_MS + LATE_MS
    await schedules.fire("default", "nightly")
    assert len(await runs_of(line)) == CAUGHT_UP_AT_ONCE_MAX
    assert await due_now(line)
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [second * 1000 for second in range(1, LATE_MS // 1000 + 1)]


class Dying(MemoryStore):
    """A store whose hub is killed just before, or just after, one of its commits."""

    def __init__(self, server: MemoryServer, dies_at: int, after: bool) -> None:
        super().__init__(server, "dying")
        self._left = dies_at
        self._after = after

    async def commit(self, commit: Commit) -> Outcome | Refused:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise asyncio.CancelledError
        result = await super().commit(commit)
        if self._left == 0:
            raise asyncio.CancelledError
        return result


@pytest.mark.parametrize("missed", Missed)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("dies_at", "after"), [(1, False), (1, True), (2, False), (2, True)])
async def test_a_hub_that_is_killed_at_any_commit_leaves_the_run_to_the_next_or_made(
    missed: Missed, late: bool, dies_at: int, after: bool
) -> None:
    clock, [(line, schedules)] = await begin(schedule_of(missed))
    clock.ms = START_MS + MINUTE_MS
    store = line.store
    assert isinstance(store, MemoryStore)
    dying = Dying(store.server, dies_at, after)
    await dying.open()
    line.store = dying
    doomed = Schedules(line, lambda _: None)
    with pytest.raises(asyncio.CancelledError):
        await doomed.fire("default", "nightly")
    line.store = store
    clock.ms += 10 * MINUTE_MS if late else 100
    await schedules.fire("default", "nightly")
    never_begun = (dies_at, after) == (1, False)
    skipped = never_begun and late and missed is Missed.SKIP
    first = [] if skipped else [MINUTE_MS]
    advanced = (dies_at, after) == (2, True)
    second = [2 * MINUTE_MS] if advanced and late and missed is Missed.ONCE else []
    assert await runs_of(line) == first + second
    assert (await read(schedules)).next_ms == clock.ms // MINUTE_MS * MINUTE_MS + MINUTE_MS


@pytest.mark.parametrize("fault", [Fault.LOST_BEFORE, Fault.LOST_AFTER, Fault.DOWN])
@pytest.mark.parametrize("spared", [0, 1])
async def test_replies_that_are_lost_make_no_second_run(
    fault: Fault, spared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.settle.WAIT_S", 0.0)
    clock, [(line, schedules)] = await begin(schedule_of())
    clock.ms = START_MS + MINUTE_MS
    store, commit = line.store, line.store.commit
    assert isinstance(store, MemoryStore)
    seen = 0

    async def commit_after_faults(asked: Commit) -> object:
        nonlocal seen
        if seen == spared:
            store.fail_next(fault, 2)
        seen += 1
        return await commit(asked)

    monkeypatch.setattr(store, "commit", commit_after_faults)
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [MINUTE_MS]
    assert (await read(schedules)).next_ms == START_MS + 2 * MINUTE_MS


async def test_a_store_that_takes_nothing_leaves_the_due_time_for_later() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    clock.ms = START_MS + MINUTE_MS
    assert isinstance(line.store, MemoryStore)
    line.store.fail_next(Fault.FULL)
    with pytest.raises(StoreUnavailable):
        await schedules.fire("default", "nightly")
    assert await due_now(line)
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [MINUTE_MS]


@pytest.mark.parametrize(("missed", "made"), [(Missed.SKIP, []), (Missed.ONCE, [MINUTE_MS])])
async def test_what_was_missed_comes_to_nothing_or_to_one_run(missed: Missed, made: list[int]) -> None:
    clock, [(line, schedules)] = await begin(schedule_of(missed))
    clock.ms = START_MS + 60 * MINUTE_MS + 30_000
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == made
    assert (await read(schedules)).next_ms == START_MS + 61 * MINUTE_MS
    clock.ms = START_MS + 61 * MINUTE_MS
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [*made, 61 * MINUTE_MS]


def test_late_is_not_missed() -> None:
    schedule = schedule_of()
    assert schedule.next_ms is not None
    on_time, late = on_due(schedule, schedule.next_ms + LATE_MS), on_due(schedule, schedule.next_ms + LATE_MS + 1)
    assert (on_time.fires, on_time.next_ms) == (True, schedule.next_ms + MINUTE_MS)
    assert (late.fires, late.next_ms) == (False, schedule.next_ms + 2 * MINUTE_MS)


async def test_a_clock_that_goes_back_makes_no_run_again() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    for ms in (MINUTE_MS, 10_000, MINUTE_MS, 2 * MINUTE_MS):
        clock.ms = START_MS + ms
        await schedules.fire("default", "nightly")
    assert await runs_of(line) == [MINUTE_MS, 2 * MINUTE_MS]


async def test_a_schedule_that_is_paused_makes_no_runs_and_one_that_is_removed_neither() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    before = await read(schedules)
    paused = replace(before, paused=True, next_ms=None)
    assert isinstance(await line.commit(set_paused(Ids("c1", "x"), before, paused, KEPT)), Outcome)
    clock.ms = START_MS + 5 * MINUTE_MS
    assert await due_now(line) == []
    await schedules.fire("default", "nightly")
    assert (await runs_of(line), await read(schedules)) == ([], paused)
    assert isinstance(await line.commit(remove(Ids("c2", "x"), paused, KEPT)), Outcome)
    await schedules.fire("default", "nightly")
    assert await schedules.read(PLACE) is None


@pytest.mark.parametrize("removed", [False, True])
async def test_a_pause_or_a_removal_in_the_midst_of_a_due_time_is_not_undone(
    removed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, [(line, schedules), (other, _)] = await begin(schedule_of(), hubs=2)
    before = await read(schedules)
    paused = replace(before, paused=True, next_ms=None)
    meant = remove(Ids("c1", "x"), before, KEPT) if removed else set_paused(Ids("c1", "x"), before, paused, KEPT)
    commit = line.store.commit

    async def commit_and_be_overtaken(asked: Commit) -> Outcome | Refused:
        result = await commit(asked)
        if asked.appends:
            assert isinstance(await other.commit(meant), Outcome)
        return result

    monkeypatch.setattr(line.store, "commit", commit_and_be_overtaken)
    clock.ms = START_MS + MINUTE_MS
    await schedules.fire("default", "nightly")
    assert await runs_of(line) == [MINUTE_MS]
    clock.ms = START_MS + 5 * MINUTE_MS
    assert await schedules.read(PLACE) == (None if removed else paused)
    assert await due_now(line) == []


async def test_a_schedule_that_this_hub_cannot_read_is_put_off_and_told() -> None:
    clock, [(line, schedules)] = await begin(schedule_of())
    elsewhere = ScheduleAdd(
        schedule="nightly", cron="* * * * *", timezone="Mars/Base", handler="h", input=b"", queue="q"
    )
    other = Schedule(PLACE, "i2", START_MS, "client:ann", elsewhere, False, START_MS + MINUTE_MS)
    await line.commit(remove(Ids("c1", "x"), await read(schedules), KEPT))
    assert isinstance(await line.commit(add(Ids("c2", "x"), other, KEPT)), Outcome)
    clock.ms = START_MS + MINUTE_MS
    await schedules.fire("default", "nightly")
    assert await due_now(line) == []
    clock.ms += UNREADABLE_PUT_OFF_MS
    assert await due_now(line)
    assert (await read(schedules)).next_ms == START_MS + MINUTE_MS
