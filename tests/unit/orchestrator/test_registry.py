"""Who is there, and what becomes of that while the store is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from orchestrator.registry import Registry
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.memory import MemoryServer
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to

TURNS = 100


async def test_a_store_that_is_away_is_not_asked_again_at_once() -> None:
    server, looks = MemoryServer(lambda: NOW_MS), 0
    line = await line_to(server)
    ask = line.store.now_ms

    async def now_ms() -> int:
        nonlocal looks
        looks += 1
        assert looks == 1, "without a pause: nothing else on this loop gets a turn"
        return await ask()

    line.store.now_ms = now_ms  # type: ignore[method-assign]
    registry = Registry(line)
    server.down = True
    registry.connected(agent_peer(lambda _: None))
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(registry.run())
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert looks == 1
        running.cancel()
    server.down, looks = False, 0
    assert [(info.agent, info.connected) for info in await registry.agents("default")] == [("a", True)]


async def test_the_agents_of_a_hub_that_was_killed_count_as_gone_once_it_is_not_live_any_more() -> None:
    server = MemoryServer(lambda: NOW_MS)
    line = await line_to(server)
    line.hub_id = "survivor"
    killed, other = Registry(await line_to(server)), Registry(line)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(killed.run())
        killed.connected(agent_peer(lambda _: None))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        running.cancel()
    assert [info.connected for info in await other.agents("default")] == [True]
    await killed._line.store.sorted_put(keys.HUBS, killed._line.hub_id, 0)
    assert [info.connected for info in await other.agents("default")] == [False]
    info = await other.agent("default", "a")
    assert info is not None
    assert not info.connected


async def test_a_load_is_shown_of_the_session_that_is_shown_and_of_no_older_one() -> None:
    registry = Registry(await line_to(MemoryServer(lambda: NOW_MS)))
    older, newer = agent_peer(lambda _: None), agent_peer(lambda _: None, session="s2", fence=2)
    registry.connected(older)
    assert [info.load for info in await registry.agents("default")] == [None]
    older.load = 0.5
    registry.loaded(older)
    await registry._note_loads()
    assert [(info.session, info.load, info.since_ms) for info in await registry.agents("default")] == [
        ("s1", 0.5, older.since_ms)
    ]
    registry.connected(newer)
    await registry.agents("default")
    older.load = 0.75
    registry.loaded(older)
    await registry._note_loads()
    assert [(info.session, info.load) for info in await registry.agents("default")] == [("s2", None)]
    registry.disconnected(newer)
    assert [(info.connected, info.load) for info in await registry.agents("default")] == [(False, None)]


async def test_what_is_said_last_of_an_agent_is_what_is_known_of_it_after_an_outage() -> None:
    server = MemoryServer(lambda: NOW_MS)
    registry, peer = Registry(await line_to(server)), agent_peer(lambda _: None)
    store, said = registry._line.store, asyncio.Event()
    put = store.hash_put

    async def hash_put(key: str, fields: Mapping[str, str | bytes | None]) -> None:
        await said.wait()
        raise StoreUnavailable("the connection broke", unknown=True)

    store.hash_put = hash_put  # type: ignore[method-assign]
    registry.connected(peer)
    first = asyncio.create_task(registry.agents("default"))
    await asyncio.sleep(0)
    registry.disconnected(peer)
    second = asyncio.create_task(registry.agents("default"))
    await asyncio.sleep(0)
    said.set()
    failed = await asyncio.gather(first, second, return_exceptions=True)
    assert all(isinstance(fault, StoreUnavailable) for fault in failed)
    store.hash_put = put  # type: ignore[method-assign]
    assert [info.connected for info in await registry.agents("default")] == [False]


async def test_what_a_request_that_was_given_up_was_writing_is_written_later() -> None:
    server = MemoryServer(lambda: NOW_MS)
    registry = Registry(await line_to(server))
    registry.connected(agent_peer(lambda _: None))
    asking = asyncio.create_task(registry.agents("default"))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    assert [info.agent for info in await registry.agents("default")] == ["a"]


@pytest.mark.parametrize("turns", range(4))
async def test_it_stops_when_it_is_told_to_just_as_there_is_something_to_write(turns: int) -> None:
    registry = Registry(await line_to(MemoryServer(lambda: NOW_MS)))
    running = asyncio.create_task(registry.run())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    registry.connected(agent_peer(lambda _: None))
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    stopped = running.done()
    running.cancel()
    assert stopped
