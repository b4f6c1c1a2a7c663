"""Which of what is due a hub acts on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.families import Families
from orchestrator.registry import Registry
from orchestrator.schedules import Schedules
from orchestrator.store import keys
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Commit, SortedAdd, SortedRemove
from orchestrator.store.memory import MemoryServer
from orchestrator.timekeeper import BUSY_PERIOD_S, DUE_AT_ONCE_MAX, PERIOD_S, Timekeeper, partitions_of
from orchestrator.work import Work
from protocol.ids import PARTITIONS, LogName
from tests.unit.orchestrator.parts import NOW_MS, line_to, settled

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
    families = Families(line, lambda _: None, lambda work: work.close())
    keeper = Timekeeper(line, work, schedules, families, registry, lease_ms=0, monotonic_ms=lambda: 0)
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
    families = Families(line, lambda _: None, lambda work: work.close())
    schedules = Schedules(line, lambda _: None)
    keeper = Timekeeper(line, work, schedules, families, registry, lease_ms=0, monotonic_ms=lambda: 0)
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
    families = Families(line, lambda _: None, lambda work: work.close())
    schedules = Schedules(line, lambda _: None)
    keeper = Timekeeper(line, work, schedules, families, registry, lease_ms=0, monotonic_ms=lambda: 0)
    assert not await keeper._act()
    assert done == ["00-2"]
