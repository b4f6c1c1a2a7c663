"""Runs that were kept for long enough, on every kind of store: all of one goes, and nothing of another."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from orchestrator.core import keeping
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import family_timer
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Commit, Guard, HashDelete, HashSet, SortedAdd, SortedRemove
from orchestrator.store.redis import RedisStore
from protocol.ids import LogKind, LogName
from tests.integration.store.conftest import World
from tests.support.ended import PARTITION, forgetting, line_to, over, submitted
from tests.support.stores import StoreServer
from tests.support.timing import eventually


async def left(store: Store, log: LogName) -> list[str]:
    """Return the names of what is stored of a run."""
    mapping = await store.hash_all(keys.idempotency(PARTITION, "default", "q"))
    stored = {
        "log": await store.read(log, 0, 1),
        "meta": await store.meta(log),
        "producers": await store.hash_all(keys.producers(log)),
        "acks": await store.hash_all(keys.acks(log)),
        "key": [name for name, value in mapping.items() if value.decode().startswith(log.name)],
        "listed": [name for name, _ in await store.log_names("default", LogKind.RUN, 100) if name == log.name],
        "ended": await store.sorted_score(keys.ended(PARTITION), f"default/{log.name}"),
    }
    return [name for name, value in stored.items() if value]


ALL = ["log", "meta", "producers", "acks", "key", "listed", "ended"]


async def test_of_a_run_that_can_go_nothing_is_left_and_others_stay(store: Store) -> None:
    line = line_to(store)
    gone, stays, ever = await over(line, 1), await over(line, 2, keep_ms=60_000), await over(line, 3, keep_ms=None)
    waits = await submitted(line, 4)
    assert waits is not None
    assert await left(store, gone) == ALL

    async def is_gone() -> bool:
        await forgetting(line)._round()
        return await left(store, gone) == []

    await eventually(is_gone)
    assert await left(store, stays) == ALL
    assert await left(store, ever) == ALL[:-1], "it is kept for ever"
    assert await left(store, waits) == ["log", "meta", "key", "listed"]
    assert await submitted(line, 5, key="k2") is None
    assert await submitted(line, 6, key="k1") is not None, "its key is free again"


async def test_many_runs_go_though_two_hubs_delete_them_at_once(world: World) -> None:
    stores = [await world.store(name) for name in ("hub-a", "hub-b")]
    lines = [line_to(store, f"hub-{number}") for number, store in enumerate(stores)]
    logs = await asyncio.gather(*(over(lines[0], number) for number in range(1, 41)))

    async def all_gone() -> bool:
        await asyncio.gather(*(forgetting(line)._round() for line in lines))
        return not any([await left(stores[0], log) for log in logs])

    await eventually(all_gone)


async def test_a_run_that_is_not_as_it_was_read_stays_whole(store: Store) -> None:
    log = await over(line_to(store), 1)
    also = (SortedRemove(keys.ended(PARTITION), f"default/{log.name}"),)
    mapping = HashDelete(keys.idempotency(PARTITION, "default", "q"), ("k1",))
    for value in ("queued", ""):
        assert not await store.delete(log, (Guard(keys.meta(log), "state", value),), (*also, mapping))
    assert await left(store, log) == ALL
    meta = RunMeta.parse(log, await store.meta(log) or {})
    assert await store.delete(log, keeping.unchanged(meta), keeping.forgotten(meta, "k1"))
    assert not await store.delete(log, keeping.unchanged(meta), keeping.forgotten(meta, "k1"))
    assert await left(store, log) == []


async def test_a_run_stays_until_its_family_is_told(store: Store) -> None:
    line = line_to(store)
    log = await over(line, 1)
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=(family_timer(log, due=True),)))

    async def is_put_off() -> bool:
        await forgetting(line)._round()
        later_ms = await store.sorted_score(keys.ended(PARTITION), f"default/{log.name}")
        assert await left(store, log) == ALL
        return later_ms is not None and later_ms > await store.now_ms()

    await eventually(is_put_off)
    again = SortedAdd(keys.ended(PARTITION), f"default/{log.name}", 1)
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=(family_timer(log, due=False), again)))
    await forgetting(line)._round()
    assert await left(store, log) == []


async def test_of_a_row_of_runs_the_first_stays_as_long_as_the_last(store: Store) -> None:
    line = line_to(store)
    row = [await over(line, 1), await over(line, 2), await over(line, 3), await over(line, 4, keep_ms=None)]
    links = [HashSet(keys.meta(one), {"continued_as": other.name}) for one, other in pairwise(row)]
    links += [HashSet(keys.meta(other), {"continues": one.name}) for one, other in pairwise(row)]
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=tuple(links)))

    async def are_gone(*logs: LogName) -> bool:
        await forgetting(line)._round()
        return not any([await left(store, log) for log in logs])

    await eventually(lambda: are_gone(row[1], row[2]))
    first, last = await store.meta(row[0]), await store.meta(row[3])
    assert first is not None
    assert last is not None
    assert (first["continued_as"], last["continues"]) == (row[3].name, row[0].name)
    assert await submitted(line, 5, key="k1") is None, "its key names it"
    assert await store.delete(row[3])
    due = SortedAdd(keys.ended(PARTITION), f"default/{row[0].name}", 1)
    await line.commit(Commit(line.new_commit_id(), PARTITION, ops=(due,)))
    assert await are_gone(row[0])


async def test_runs_go_though_the_store_is_full(server: StoreServer, redis_store: RedisStore) -> None:
    line = line_to(redis_store)
    log = await over(line, 1)
    await server.command("CONFIG", "SET", "maxmemory", "1")

    async def is_gone() -> bool:
        await forgetting(line)._round()
        return await left(redis_store, log) == []

    await eventually(is_gone)
    await server.command("CONFIG", "SET", "maxmemory", "0")
