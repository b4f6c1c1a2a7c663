"""What is stored of schedules, on every kind of store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.runs import Ids
from orchestrator.core.schedules import LISTED_FIELDS, Place, Schedule, add, advance, put_off, remove, set_paused
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Commit, HashSet, Refusal, Refused
from protocol.ids import PARTITIONS
from protocol.schedules import SCHEDULES_MAX, Missed, ScheduleAdd
from tests.support.commits import done

PLACE = Place("default", "nightly")
NEXT_MS = 1_764_000_000_000
DUE = (PLACE.partition, "default/schedule/nightly")
ANSWER = HashSet(keys.ops(PLACE.partition, "default", 20_000), {"op": b"\x81\xff"}, ttl_ms=60_000)
ASKED = ScheduleAdd(
    schedule="nightly", cron="30 2 * * *", timezone="Europe/Berlin", missed=Missed.ONCE, handler="h", input=b"\x00\xff",
    queue="q", where="gpu=h200", priority=4, retries=2, timeout_ms=5,
)  # fmt: skip
SCHEDULE = Schedule(PLACE, "i1", 5, "client:ann", ASKED, False, NEXT_MS)
NUMBERS = iter(range(1, 1_000_000))


def ids() -> Ids:
    return Ids(f"test.{next(NUMBERS)}", "client:ann")


async def read(store: Store) -> Schedule | None:
    fields = await store.hash_all(PLACE.key)
    return Schedule.parse(PLACE, fields) if fields else None


async def timers(store: Store, now_ms: int = NEXT_MS) -> list[tuple[int, str]]:
    return [each[1:] for each in (await store.due(now_ms, 10, range(PARTITIONS)))[1]]


async def refused(store: Store, commit: Commit) -> Refused:
    result = await store.commit(commit)
    assert isinstance(result, Refused), result
    assert result.reason is Refusal.GUARD
    return result


async def test_a_schedule_is_read_as_it_was_added_and_is_due_at_its_time(store: Store) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    assert await read(store) == SCHEDULE
    assert (await timers(store, NEXT_MS - 1), await timers(store)) == ([], [DUE])
    listed = dict(zip(LISTED_FIELDS, await store.hash_get(PLACE.key, *LISTED_FIELDS), strict=True))
    parsed = Schedule.parse(PLACE, {name: value for name, value in listed.items() if value is not None})
    assert parsed == replace(SCHEDULE, asked=ASKED.model_copy(update={"input": b""}))


async def test_a_name_is_taken_once(store: Store) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    assert (await refused(store, add(ids(), replace(SCHEDULE, id="i2"), ANSWER))).guard == 0
    assert await read(store) == SCHEDULE


async def test_a_namespace_has_so_many_schedules_and_no_more(store: Store) -> None:
    full = HashSet(PLACE.index, {f"s{number}": "i" for number in range(SCHEDULES_MAX)})
    await done(store, Commit("test.full", PLACE.partition, ops=(full,)))
    assert (await refused(store, add(ids(), SCHEDULE, ANSWER))).guard == 1
    assert (await read(store), await timers(store)) == (None, [])


async def test_a_due_time_is_done_once(store: Store) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    after = NEXT_MS + 60_000
    await done(store, advance(ids(), SCHEDULE, after, "run-1"))
    expected = replace(SCHEDULE, next_ms=after, last_due_ms=NEXT_MS, last_run="run-1")
    await refused(store, advance(ids(), SCHEDULE, after + 60_000, "run-2"))
    assert (await read(store), await timers(store), await timers(store, after)) == (expected, [], [DUE])
    await done(store, advance(ids(), expected, None, None))
    assert (await read(store), await timers(store, after)) == (replace(expected, next_ms=None), [])


async def test_a_pause_takes_the_next_time_away_and_going_on_sets_another(store: Store) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    paused = replace(SCHEDULE, paused=True, next_ms=None)
    await done(store, set_paused(ids(), SCHEDULE, paused, ANSWER))
    assert (await read(store), await timers(store)) == (paused, [])
    await refused(store, advance(ids(), SCHEDULE, NEXT_MS + 1, "run-1"))
    going = replace(SCHEDULE, next_ms=NEXT_MS + 7)
    await refused(store, set_paused(ids(), SCHEDULE, going, ANSWER))
    await done(store, set_paused(ids(), paused, going, ANSWER))
    assert (await read(store), await timers(store), await timers(store, NEXT_MS + 7)) == (going, [], [DUE])


@pytest.mark.parametrize("paused", [False, True])
async def test_nothing_is_left_of_a_schedule_that_is_removed(store: Store, paused: bool) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    there = replace(SCHEDULE, paused=True, next_ms=None) if paused else SCHEDULE
    if paused:
        await done(store, set_paused(ids(), SCHEDULE, there, ANSWER))
    else:
        there = replace(SCHEDULE, next_ms=NEXT_MS + 1, last_due_ms=NEXT_MS, last_run="run-1")
        await done(store, advance(ids(), SCHEDULE, NEXT_MS + 1, "run-1"))
    await done(store, remove(ids(), there, ANSWER))
    assert (await store.hash_all(PLACE.key), await store.hash_all(PLACE.index)) == ({}, {})
    assert await timers(store, NEXT_MS * 2) == []
    await refused(store, remove(ids(), there, ANSWER))
    await done(store, add(ids(), replace(SCHEDULE, id="i2"), ANSWER))


async def test_what_cannot_be_read_is_put_off_unless_it_has_moved_on(store: Store) -> None:
    await done(store, add(ids(), SCHEDULE, ANSWER))
    await done(store, put_off(ids(), PLACE, str(NEXT_MS).encode(), NEXT_MS + 10))
    assert (await read(store), await timers(store), await timers(store, NEXT_MS + 10)) == (SCHEDULE, [], [DUE])
    await refused(store, put_off(ids(), PLACE, b"1", NEXT_MS + 20))
