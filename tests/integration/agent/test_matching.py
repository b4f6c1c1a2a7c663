"""Agents that refuse runs, say how busy they are, and announce their version, at a real hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent import Agent, Client, Offer, RunContext
from orchestrator.hub import Hub
from protocol.codec import unpack_record, unpack_value
from tests.support.timing import deadline, eventually


def worker(name: str, slots: int = 1, version: str | None = None) -> Agent:
    agent = Agent(name, slots=slots, version=version)

    @agent.handler("who")
    async def who(ctx: RunContext, given: int = 0) -> str:
        return name

    return agent


@asynccontextmanager
async def serving(hub: Hub, *agents: Agent) -> AsyncIterator[Client]:
    data = hub.settings.data
    ready = [asyncio.Event() for _ in agents]
    async with deadline(60):
        tasks = [
            asyncio.create_task(agent.serve(hub.url, directory=data, on_ready=event.set))
            for agent, event in zip(agents, ready, strict=True)
        ]
        try:
            await asyncio.gather(*(event.wait() for event in ready))
            async with Client.connect(hub.url, directory=data) as client:
                yield client
        finally:
            for agent in agents:
                agent.stop(0.0)
            await asyncio.gather(*tasks)


async def told(client: Client, run: str) -> list[tuple[str, object]]:
    """Return kind and agent or reason of each entry by which a run's attempts begin and are handed back."""
    found = []
    async for entry in client.read(f"run/{run}"):
        record = unpack_record(entry.packed)
        if record.kind in ("$claimed", "$released"):
            body = unpack_value(record.body)
            found.append((record.kind, body.get("agent", body.get("reason"))))
    return found


async def test_a_run_that_one_agent_refuses_is_done_by_another_and_costs_no_retry(hub: Hub) -> None:
    picky, willing = worker("picky", slots=4), worker("willing")
    seen: list[Offer] = []

    @picky.accept
    def look(offer: Offer) -> bool:
        seen.append(offer)
        return bool(offer.input != 7)

    async with serving(hub, picky, willing) as client:
        run = await client.submit("who", 7)
        assert await run.result() == "willing"
        assert await told(client, run.id) == [
            ("$claimed", "picky"),
            ("$released", "refused"),
            ("$claimed", "willing"),
        ]
        assert [(offer.run, offer.handler, offer.queue, offer.attempt) for offer in seen] == [
            (run.id, "who", "default", 1)
        ]
        assert await (await client.submit("who", 8)).result() == "picky"


async def test_a_run_that_nobody_else_can_take_is_offered_again_and_again_but_ever_more_rarely(hub: Hub) -> None:
    agent = worker("moody")
    offered: list[float] = []

    @agent.accept
    async def look(offer: Offer) -> bool:
        if offer.input == 7:
            offered.append(asyncio.get_running_loop().time())
        return bool(offer.input != 7 or len(offered) > 2)

    async with serving(hub, agent) as client:
        refused = await client.submit("who", 7)
        others = [await client.submit("who", number) for number in range(3)]
        for run in others:
            assert await run.result() == "moody"  # what is refused is not in the way of what comes after it
        assert await refused.result() == "moody"
        assert len(offered) == 3
        assert offered[1] - offered[0] >= 0.9
        assert offered[2] - offered[1] >= 1.9
        assert (await refused.get()).attempt == 3


async def test_an_agent_that_is_full_by_its_own_word_is_given_nothing_until_it_is_not(hub: Hub) -> None:
    full, other = worker("full", slots=8), worker("other")
    load = [1.0]
    full.load(lambda: load[0])

    async with serving(hub, full, other) as client:
        for number in range(4):
            assert await (await client.submit("who", number)).result() == "other"
        assert [agent.load for agent in await client.agents()] == [1.0, None]
        load[0] = 0.25

        async def shown() -> bool:
            return (await client.agent("full")).load == 0.25

        await eventually(shown, 20)
        await client.cordon("other")
        assert await (await client.submit("who", 5)).result() == "full"


async def test_a_new_version_rolls_in_while_the_old_one_drains(hub: Hub) -> None:
    old, new = worker("coder-1", version="1"), worker("coder-2", version="2026.11.1")

    async with serving(hub, old, new) as client:
        labels = {agent.agent: agent.labels["version"] for agent in await client.agents()}
        assert labels == {"coder-1": "1", "coder-2": "2026.11.1"}
        for _ in range(3):
            assert await (await client.submit("who", where="version=2026.11.1")).result() == "coder-2"
            assert await (await client.submit("who", where="version!=2026.11.1")).result() == "coder-1"
        await client.drain("coder-1")
        for _ in range(3):
            assert await (await client.submit("who")).result() == "coder-2"
        left = await client.submit("who", where={"version": "1"})

        async def nobody() -> bool:
            return "has the labels version=1" in ((await left.get()).reason or "")

        await eventually(nobody)
