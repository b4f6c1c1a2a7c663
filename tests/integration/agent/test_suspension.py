"""Handlers that are put away while they wait, against the real hub: others have the slot, and they go on later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client
from agent.context import RunContext
from agent.plain_context import PlainRunContext
from agent.runs import Run
from agent.worker import Agent
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.requests import RunInfo
from tests.support.agent_sleepers import wait_for_all, wait_for_all_plain
from tests.support.timing import deadline, eventually

AFTER_S = 0.05


@asynccontextmanager
async def serving(hub: Hub, *agents: Agent) -> AsyncIterator[Client]:
    """Serve agents; yield a client."""
    directory = hub.settings.data
    tasks = [asyncio.create_task(agent.serve(directory=directory)) for agent in agents]
    try:
        async with deadline(60), Client.connect(directory=directory) as client:
            yield client
    finally:
        for agent in agents:
            agent.stop(0.0)
        await asyncio.gather(*tasks)


async def put_away(run: Run, why: str) -> RunInfo:
    """Wait until a run is put away for a reason."""

    async def look() -> RunInfo | None:
        info = await run.get()
        return info if info.suspended and why in (info.reason or "") else None

    info = await eventually(look)
    assert info is not None
    return info


async def kinds(client: Client, run: Run) -> list[str]:
    return [entry.kind async for entry in client.read(run.log)]


def waiter(name: str = "waiter") -> Agent:
    """Return an agent with one slot, and handlers of every kind that wait."""
    agent = Agent(name)
    for kind in ("inline", "thread", "process"):
        agent.handler(f"wait-{kind}", recover="journal", isolation=kind, suspend_after=AFTER_S)(wait_for_all)
        if kind != "inline":
            plain = agent.handler(f"wait-plain-{kind}", recover="journal", isolation=kind, suspend_after=AFTER_S)
            plain(wait_for_all_plain)

    @agent.handler("quick")
    async def quick(ctx: RunContext) -> str:
        return "done"

    return agent


@pytest.mark.parametrize("kind", ["inline", "thread", "process", "plain-thread", "plain-process"])
async def test_a_handler_that_waits_leaves_its_slot_to_others_and_goes_on_where_it_was(hub: Hub, kind: str) -> None:
    async with serving(hub, waiter()) as client:
        run = await client.submit(f"wait-{kind}")
        info = await put_away(run, "the answer to question 3")
        assert (info.state, info.asking) == ("queued", 1)
        assert await (await client.submit("quick")).result() == "done"
        await run.answer("ada")
        await put_away(run, "a message")
        await run.steer("go")
        assert await run.result() == ["ada", "go", 4]
        found = await kinds(client, run)
        assert found.count("$suspended") == 3
        assert (found.count("began"), found.count("$asked"), found.count("$marker")) == (1, 1, 1)
        final = await run.get()
        assert (final.suspended, final.not_before_ms) == (False, None)


async def test_a_run_that_was_put_away_comes_back_to_another_agent_through_another_hub(tmp_path: Path) -> None:
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    settings = Settings(data=tmp_path, listen="127.0.0.1:0", durability=Durability.MEMORY)
    async with Hub(settings, MemoryStore(server, "one")) as hub, serving(hub, waiter("one")) as client:
        run = await client.submit("wait-inline")
        await put_away(run, "the answer to question 3")
    async with Hub(settings, MemoryStore(server, "two")) as hub, serving(hub, waiter("two")) as client:
        again = client.run(run.id)
        await again.answer("ada")
        await again.steer("go")
        name, said, _ = await again.result()
        assert (name, said) == ("ada", "go")
        assert (await again.get()).agent == "two"


async def test_what_is_gathered_is_waited_for_whole(hub: Hub) -> None:
    agent = Agent("gatherer")

    @agent.handler("both", recover="journal", suspend_after=AFTER_S)
    async def both(ctx: RunContext) -> list[Any]:
        return await ctx.gather(ctx.ask("one"), ctx.approve("two", timeout=0.6))

    async with serving(hub, agent) as client:
        run = await client.submit("both")
        await put_away(run, "answers to 1, 2")
        await run.answer("first", 1)
        await put_away(run, "the answer to question 2")
        assert await run.result() == ["first", False]
        assert (await kinds(client, run)).count("$suspended") == 1


@pytest.mark.parametrize("kind", ["inline", "plain-thread"])
async def test_a_parent_leaves_its_only_slot_to_its_children(hub: Hub, kind: str) -> None:
    agent = Agent("family")

    @agent.handler("double")
    async def double(ctx: RunContext, number: int) -> int:
        return number * 2

    @agent.handler("sum-inline", recover="journal", suspend_after=AFTER_S)
    async def add(ctx: RunContext) -> int:
        children = await ctx.gather(*[ctx.submit("double", number) for number in (1, 2, 3)])
        return sum(await ctx.gather(*[child.result() for child in children]))

    @agent.handler("sum-plain-thread", recover="journal", suspend_after=AFTER_S)
    def add_plain(ctx: PlainRunContext) -> int:
        children = [ctx.submit("double", number) for number in (1, 2, 3)]
        return sum(child.result() for child in children)

    async with serving(hub, agent) as client:
        run = await client.submit(f"sum-{kind}")
        assert await run.result() == 12
        found = await kinds(client, run)
        assert found.count("$suspended") >= 1
        assert found.count("$spawn") == 3


async def test_an_approval_that_nobody_gives_is_denied_though_its_handler_is_away(hub: Hub) -> None:
    agent = Agent("approver")

    @agent.handler("push", recover="journal", suspend_after=0)
    async def push(ctx: RunContext) -> list[Any]:
        return [await ctx.approve("push", timeout=0.3), ctx.attempt]

    async with serving(hub, agent) as client:
        run = await client.submit("push")
        assert await run.result() == [False, 2]


async def test_a_run_whose_handler_is_away_is_cancelled_at_once(hub: Hub) -> None:
    async with serving(hub, waiter()) as client:
        run = await client.submit("wait-inline")
        await put_away(run, "question 3")
        assert await run.cancel(wait=True) == "cancelled"
        assert (await kinds(client, run))[-2:] == ["$cancel", "$cancelled"]
