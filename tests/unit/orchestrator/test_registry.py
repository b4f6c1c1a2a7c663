"""Who is there, and what becomes of that while the store is away."""

from __future__ import annotations

import asyncio

from orchestrator.registry import Registry
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
    server.down = False
    assert [(info.agent, info.connected) for info in await registry.agents("default")] == [("a", True)]
