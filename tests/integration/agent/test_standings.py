"""An agent that is drained while it serves, and the blocking twins of what is said of agents."""

from __future__ import annotations

import asyncio

from agent.client import Client
from agent.sync_client import SyncClient
from orchestrator.hub import Hub
from tests.support.agent_handlers import make_agent
from tests.support.timing import deadline, eventually


async def test_serving_returns_once_the_agent_was_drained(hub: Hub) -> None:
    agent = make_agent()
    ready = asyncio.Event()
    async with deadline(40), Client.connect(hub.url, directory=hub.settings.data) as client:
        task = asyncio.create_task(agent.serve(hub.url, directory=hub.settings.data, on_ready=ready.set))
        await ready.wait()
        run = await client.submit("add", {"a": 2})
        assert await run.result() == 3
        standing = await client.drain(agent.name)
        assert (standing.cordoned, standing.draining) == (False, True)
        await task

        async def away() -> bool:
            return not (await client.agent(agent.name)).connected

        await eventually(away)


async def test_the_blocking_client_says_the_same(hub: Hub) -> None:
    agent = make_agent()
    ready = asyncio.Event()
    data = hub.settings.data

    def say() -> list[tuple[bool, bool]]:
        with SyncClient.connect(hub.url, directory=data) as client:
            said = [client.cordon(agent.name), client.uncordon(agent.name), client.drain(agent.name, grace=5)]
        return [(each.cordoned, each.draining) for each in said]

    async with deadline(40):
        task = asyncio.create_task(agent.serve(hub.url, directory=data, on_ready=ready.set))
        await ready.wait()
        assert await asyncio.to_thread(say) == [(True, False), (False, False), (False, True)]
        await task
