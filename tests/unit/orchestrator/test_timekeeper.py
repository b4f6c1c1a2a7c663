"""Which of what is due a hub acts on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.families import Families
from orchestrator.line import Line, monotonic_ms
from orchestrator.registry import Registry
from orchestrator.schedules import Schedules
from orchestrator.store import keys
from orchestrator.store.base import StoreError, StoreUnavailable
from orchestrator.store.commits import Commit, SortedAdd, SortedRemove
from orchestrator.store.memory import MemoryServer
from orchestrator.timekeeper import BUSY_PERIOD_S, DUE_AT_ONCE_MAX, PERIOD_S, Timekeeper, partitions_of
from orchestrator.work import Work
from protocol.ids import PARTITIONS, LogName
from tests.unit.orchestrator.parts import NOW_MS, line_to, settled


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


HUBS = frozenset({"hub-1", "hub-2"})


def test_every_partition_is_looked_after_by_one_of_the_live_hubs() -> None:
    shares = [partitions_of(hub, HUBS) for hub in HUBS]
    assert sorted(shares[0] + shares[1]) == list(range(PARTITIONS))
    assert all(shares)
    assert partitions_of("hub-1", frozenset({"hub-1"})) == tuple(range(PARTITIONS))


async def test_what_other_hubs_have_yet_to_do_does_not_hide_what_is_due_here() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    (mine, *_), (others, *_) = partitions_of("hub-1", HUBS), partitions_of("hub-2", HUBS)
    for partition, count, since_ms in ((others, DUE_AT_ONCE_MAX, 5_000), (mine, 1, 10)):
        for key in (keys.leases(partition), keys.timers(partition)):
            adds = tuple(SortedAdd(key, f"default/{partition}-{n}", NOW_MS - since_ms) for n in range(count))
            await line.commit(Commit(line.new_commit_id(), partition, ops=adds))
    done: list[tuple[str, str]] = []

    async def expire(log: LogName) -> None:
        done.append(("expire", log.name))

    async def wake(log: LogName) -> None:
        done.append(("wake", log.name))

    work = cast(Work, SimpleNamespace(expire=expire, wake=wake))
    registry = cast(Registry, SimpleNamespace(live_hubs=lambda: HUBS))
    schedules = Schedules(line, lambda _: None)
    families = Families(line, lambda _: None)
    keeper = Timekeeper(line, work, schedules, families, registry, 0, lambda: 0, lambda work: work.close())
    async with asyncio.TaskGroup() as tasks:
        acting = tasks.create_task(keeper.run())
        await settled(lambda: len(done) == 2)
        acting.cancel()
    assert done == [("expire", f"{mine}-0"), ("wake", f"{mine}-0")]


async def test_while_more_is_due_than_is_looked_at_at_once_it_says_so_and_soon_looks_again() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    due = 2 * DUE_AT_ONCE_MAX
    adds = tuple(SortedAdd(keys.timers(0), f"default/00-{n}", NOW_MS - 1) for n in range(due))
    await line.commit(Commit(line.new_commit_id(), 0, ops=adds))
    done: set[str] = set()

    async def wake(log: LogName) -> None:
        done.add(log.name)
        ops = (SortedRemove(keys.timers(0), f"default/{log.name}"),)
        await line.commit(Commit(line.new_commit_id(), 0, ops=ops))

    work = cast(Work, SimpleNamespace(expire=wake, wake=wake))
    registry = cast(Registry, SimpleNamespace(live_hubs=lambda: frozenset({"hub-1"})))
    families = Families(line, lambda _: None)
    schedules = Schedules(line, lambda _: None)
    keeper = Timekeeper(line, work, schedules, families, registry, 0, lambda: 0, lambda work: work.close())
    assert [await keeper._act() for _ in range(3)] == [True, True, False]
    assert len(done) == due
    assert BUSY_PERIOD_S < PERIOD_S / 10


@pytest.mark.parametrize("fault", [KeyError("state"), ValueError("newer"), StoreError("no such entry")])
async def test_what_cannot_be_read_keeps_nothing_else_waiting(fault: Exception) -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    for key, names in ((keys.leases(0), ("00-lease",)), (keys.timers(0), ("00-1", "00-2"))):
        adds = tuple(SortedAdd(key, f"default/{name}", NOW_MS - 1) for name in names)
        await line.commit(Commit(line.new_commit_id(), 0, ops=adds))
    done: list[str] = []

    async def act(log: LogName) -> None:
        if log.name != "00-2":
            raise fault
        done.append(log.name)

    work = cast(Work, SimpleNamespace(expire=act, wake=act))
    registry = cast(Registry, SimpleNamespace(live_hubs=lambda: frozenset({"hub-1"})))
    families = Families(line, lambda _: None)
    schedules = Schedules(line, lambda _: None)
    keeper = Timekeeper(line, work, schedules, families, registry, 0, lambda: 0, lambda work: work.close())
    assert not await keeper._act()
    assert done == ["00-2"]


Wake = Callable[[LogName], Awaitable[None]]
SOON_MS = 60


@asynccontextmanager
async def keeping(line: Line, wake: Wake) -> AsyncIterator[Timekeeper]:
    """Give a timekeeper that hears of the timers which this line sets, and never looks by itself."""
    async with asyncio.TaskGroup() as tasks:
        work = cast(Work, SimpleNamespace(expire=wake, wake=wake))
        registry = cast(Registry, SimpleNamespace(live_hubs=lambda: frozenset({"hub-1"})))
        families, schedules = Families(line, lambda _: None), Schedules(line, lambda _: None)
        keeper = Timekeeper(line, work, schedules, families, registry, 0, monotonic_ms, tasks.create_task)
        line.on_timer = keeper.note
        yield keeper


async def test_a_timer_is_acted_on_at_its_time_by_the_hub_that_set_it_or_moved_it() -> None:
    line = await line_to(MemoryServer(wall_ms))
    woken: dict[str, float] = {}
    three = asyncio.Event()

    async def wake(log: LogName) -> None:
        assert log.name not in woken, "each once"
        woken[log.name] = wall_ms()
        await line.commit(Commit(line.new_commit_id(), 0, ops=(SortedRemove(keys.timers(0), f"default/{log.name}"),)))
        if len(woken) == 3:
            three.set()

    async def put(name: str, due_ms: int) -> None:
        await line.commit(Commit(line.new_commit_id(), 0, ops=(SortedAdd(keys.timers(0), f"default/{name}", due_ms),)))

    async with keeping(line, wake), asyncio.timeout(5):
        began = wall_ms()
        due = {"00-1": began + SOON_MS, "00-2": began + 2 * SOON_MS, "00-3": began + SOON_MS // 2}
        await put("00-1", due["00-1"])
        await put("00-2", began + SOON_MS // 2)
        await put("00-2", due["00-2"])
        await put("00-3", began + 3 * SOON_MS)
        await put("00-3", due["00-3"])
        await put("00-4", began + SOON_MS // 2)
        await line.commit(Commit(line.new_commit_id(), 0, ops=(SortedRemove(keys.timers(0), "default/00-4"),)))
        await three.wait()
    assert list(woken) == sorted(due, key=lambda name: due[name]), "and what was taken away is left alone"
    assert all(woken[name] >= due[name] for name in due)


async def test_what_is_soon_due_is_found_before_its_time_and_acted_on_then() -> None:
    line = await line_to(MemoryServer(wall_ms))
    due_ms, woken_ms = wall_ms() + SOON_MS, asyncio.get_running_loop().create_future()
    await line.commit(Commit(line.new_commit_id(), 0, ops=(SortedAdd(keys.timers(0), "default/00-1", due_ms),)))

    async def wake(_: LogName) -> None:
        woken_ms.set_result(wall_ms())

    async with keeping(line, wake) as keeper, asyncio.timeout(5):
        assert not await keeper._act()
        assert not woken_ms.done()
        assert await woken_ms >= due_ms


async def test_a_store_that_does_not_answer_leaves_a_timer_to_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    line = await line_to(MemoryServer(wall_ms))
    asked = asyncio.Event()

    async def silent(_key: str, _member: str) -> int | None:
        asked.set()
        raise StoreUnavailable("the store does not answer")

    async def wake(log: LogName) -> None:
        raise AssertionError(log)

    monkeypatch.setattr(line.store, "sorted_score", silent)
    async with keeping(line, wake) as keeper, asyncio.timeout(5):
        keeper.note(0, "default/00-1", 1)
        await asked.wait()
    assert not keeper._noted
