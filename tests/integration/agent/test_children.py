"""Parents and children against the real hub: submitted, waited for, found again, cancelled."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent import Agent, Client, PlainRunContext, Run, RunCancelled, RunContext, RunFailed
from agent.entry import Entry
from agent.program import Program
from orchestrator.core import keeping
from orchestrator.core.run_meta import RunMeta
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.control import Kind
from protocol.ids import LogKind, LogName
from protocol.requests import LogRead
from tests.support.agent_parents import KINDS, PARTS, parents, workers
from tests.support.checkers import Dump
from tests.support.programs import python
from tests.support.run_checkers import check_run
from tests.support.timing import deadline, eventually

CHECKOUT = Path(__file__).parents[3]
PROGRAM = "import sys; from tests.support.agent_parents import parents; parents('p').run(directory=sys.argv[1])"
RECOVERIES = ("restart", "checkpoint", "journal")


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


@asynccontextmanager
async def parents_elsewhere(hub: Hub) -> AsyncIterator[None]:
    """Start the agent of the parents in a process of its own, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.settings.data)], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def entries(run: Run, kind: str) -> list[Entry]:
    """Return the entries of a kind as they are now."""
    return [entry async for entry in run._client.read(run.log) if entry.kind == kind]


async def child_of(run: Run, count: int = 1) -> list[Run]:
    """Wait until a run has so many children; return them."""
    found: list[Run] = []

    async def look() -> bool:
        children = (await run.talk()).children.values()
        found[:] = [run._client.run(child.run) for child in children if child.run is not None]
        return len(found) >= count

    await eventually(look, 30)
    return found


async def check(run: Run) -> None:
    """A run that is over keeps to what is promised of runs."""
    page = await run._client.ask("log.read", LogRead(log=run.log))
    assert check_run(Dump.of(run.log, [page]), await run.get()) == []


async def test_handlers_of_every_kind_have_children(hub: Hub) -> None:
    async with serving(hub, parents(), workers()) as client:
        runs = {kind: await client.submit(f"total-{kind}", {"numbers": [1, 2, 3]}) for kind in KINDS}
        for kind, run in runs.items():
            assert await run.result() == 14, kind
            children = await client.runs(parent=run.id)
            assert sorted(info.state for info in children) == ["succeeded"] * 3, kind
            assert {info.parent for info in children} == {run.id}
        bad = await client.submit("total-thread", {"numbers": [1], "handler": "told"})
        (child,) = await child_of(bad)
        await child.steer("fail")
        with pytest.raises(RunFailed, match=f"agent.errors.RunFailed: run {child.id} failed: ValueError: 1 was told"):
            await bad.result()


async def test_a_new_attempt_finds_its_children_and_what_they_came_to_meanwhile(hub: Hub) -> None:
    async with serving(hub, workers()) as client:
        given = {"numbers": [1, 2], "handler": "told"}
        async with parents_elsewhere(hub):
            runs = {recover: await client.submit(f"total-{recover}", given) for recover in RECOVERIES}
            children = {recover: await child_of(run, 2) for recover, run in runs.items()}
        for first, _ in children.values():
            await first.steer(10)  # while nobody works on the parent

        async def is_told() -> bool:
            return all([len(await entries(run, Kind.CHILD_ENDED)) == 1 for run in runs.values()])

        await eventually(is_told, 30)
        async with parents_elsewhere(hub):
            for recover, run in runs.items():
                await eventually(partial(is_second, run), 30)
                await children[recover][1].steer(5)
                assert await run.result() == 15, recover
                assert len(await client.runs(parent=run.id)) == 2, recover
                for kind in (Kind.SPAWN, Kind.CHILD, Kind.CHILD_ENDED):
                    assert len(await entries(run, kind)) == 2, (recover, kind)
                assert (await run.get()).attempt == 2


async def is_second(run: Run) -> bool:
    return (await run.get()).attempt == 2


@pytest.mark.parametrize("recover", ["restart", "journal"])
async def test_a_retry_does_a_child_again_that_failed_and_no_other(hub: Hub, recover: str) -> None:
    agent = Agent("retries")

    @agent.handler("sum", retries=1, backoff=0.001, recover=recover)
    async def add_up(ctx: RunContext) -> int:
        children = await ctx.gather(*[ctx.submit("told", number, queue=PARTS) for number in range(3)])
        return sum(await ctx.gather(*[child.result() for child in children]))

    async with serving(hub, agent, workers()) as client:
        run = await client.submit("sum")
        first = await child_of(run, 3)
        for child, message in zip(first, (1, "fail", 3), strict=True):
            await child.steer(message)
        again = (await child_of(run, 4))[3]
        await again.steer(2)
        assert await run.result() == 6
        asked = await entries(run, Kind.SPAWN)
        assert [entry.body.get("again") for entry in asked] == [None, None, None, first[1].id]
        await check(run)


async def test_a_failure_that_the_handler_took_is_served_again_from_the_journal(hub: Hub) -> None:
    agent, tries = Agent("takes"), []

    @agent.handler("takes", retries=1, backoff=0.001, recover="journal")
    async def takes(ctx: RunContext) -> str:
        child = await ctx.submit("told", 1, queue=PARTS)
        said = ""
        try:
            await child.result()
        except RunFailed as failed:
            said = str(failed)
        await ctx.emit("took", said)
        tries.append(said)
        if len(tries) == 1:
            raise ValueError("for another reason")
        return said

    async with serving(hub, agent, workers()) as client:
        run = await client.submit("takes")
        (child,) = await child_of(run)
        await child.steer("fail")
        assert "was told to fail" in await run.result()
        assert len(await entries(run, Kind.SPAWN)) == 1


async def test_children_are_cancelled_with_their_parent_and_by_it(hub: Hub) -> None:
    agent = Agent("parents")

    @agent.handler("one", isolation="thread")
    def one(ctx: PlainRunContext) -> str:
        kept = ctx.submit("told", 1, queue=PARTS, abandon=True)
        dropped = ctx.submit("told", 2, queue=PARTS)
        dropped.cancel("not needed")
        try:
            dropped.result()
        except RunCancelled:
            ctx.emit("dropped", dropped.run_id)
        ctx.submit("told", 3, queue=PARTS).result()
        return kept.run_id

    async with serving(hub, agent, workers()) as client:
        run = await client.submit("one")
        kept, dropped, open_ = await child_of(run, 3)
        with pytest.raises(RunCancelled, match=f"its parent {run.id} cancelled it: not needed"):
            await dropped.result()
        assert await run.cancel(wait=True) == "cancelled"
        with pytest.raises(RunCancelled, match=f"its parent {run.id} "):
            await open_.result()
        await kept.steer("still here")
        assert await kept.result() == "still here"
        await check(run)


async def test_children_that_nobody_waited_for_are_cancelled_when_their_parent_is_done(hub: Hub) -> None:
    agent = Agent("parents")

    @agent.handler("leaves")
    async def leaves(ctx: RunContext) -> str:
        return (await ctx.submit("told", 1, queue=PARTS)).run_id

    async with serving(hub, agent, workers()) as client:
        run = await client.submit("leaves")
        child = client.run(await run.result())
        with pytest.raises(RunCancelled, match=f"its parent {run.id} ended without it"):
            await child.result()


async def test_a_hub_that_takes_over_in_the_middle_goes_on_with_families(hub: Hub) -> None:
    hub.services.line.on_timer = None  # as if it were killed before it acts; what is due stays so
    async with serving(hub, parents(), workers()) as client:
        run = await client.submit("total-restart", {"numbers": [1, 2]})
        assert await run.result() == 5, "the timekeeper comes to it"


async def test_a_hub_goes_and_another_comes_while_a_parent_waits(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, listen="127.0.0.1:0", durability=Durability.MEMORY)
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    async with AsyncExitStack() as stack:
        goes = AsyncExitStack()
        first = await goes.enter_async_context(Hub(settings, MemoryStore(server, "first")))
        serves = serving(first, parents(), workers())
        client = await serves.__aenter__()
        run = await client.submit("total-journal", {"numbers": [1, 2], "handler": "told"})
        children = await child_of(run, 2)
        await stack.enter_async_context(Hub(settings, MemoryStore(server, "second")))
        stack.push_async_exit(serves)
        await goes.aclose()
        for number, child in enumerate(children):
            await child.steer(number)
        assert await run.result() == 1
        for kind in (Kind.SPAWN, Kind.CHILD, Kind.CHILD_ENDED):
            assert len(await entries(run, kind)) == 2


# Runs that go on as others


async def test_handlers_of_every_kind_go_on_as_other_runs_and_whoever_waits_follows(hub: Hub) -> None:
    async with serving(hub, parents()) as client:
        for kind in KINDS:
            run = await client.submit(f"countdown-{kind}", 2, key=kind)
            assert await run.result() == "done", kind
            assert await client.run(run.id).result() == "done", "of one that is over, too"
            last = await run.last()
            assert ((await run.get()).state, (await run.get()).result) == ("succeeded", None)
            watched = [(entry.log, entry.kind) async for entry in run.watch()]
            assert [kind for _, kind in watched].count(Kind.CONTINUED) == 2
            assert watched[-1] == (last.log, Kind.SUCCEEDED)
            assert (await client.submit(f"countdown-{kind}", 2, key=kind)).id == run.id, "the key stays the first's"
            assert len([info for info in await client.runs() if info.handler == f"countdown-{kind}"]) == 3
            await check(run)


async def test_a_parent_waits_for_the_last_of_a_child_that_goes_on(hub: Hub) -> None:
    agent = Agent("waits")

    @agent.handler("waits")
    async def waits(ctx: RunContext) -> Any:
        child = await ctx.submit("countdown-inline", 3)
        return await child.result()

    async with serving(hub, agent, parents()) as client:
        run = await client.submit("waits")
        assert await run.result() == "done"
        (ended,) = await entries(run, Kind.CHILD_ENDED)
        (made,) = await entries(run, Kind.CHILD)
        assert ended.body["run"] != made.body["run"]
        assert {info.parent for info in await client.runs() if info.handler == "countdown-inline"} == {run.id}


async def test_a_cancel_of_the_first_reaches_the_run_that_goes_on(hub: Hub) -> None:
    agent = Agent("goes-on")

    @agent.handler("waits")
    async def waits(ctx: RunContext, left: int) -> None:
        if left:
            ctx.continue_as(left - 1)
        await ctx.sleep(600)

    async with serving(hub, agent) as client:
        run = await client.submit("waits", 2)

        async def is_last() -> bool:
            return (await (await run.last()).get()).state == "running"

        await eventually(is_last, 30)
        assert await run.cancel(wait=True) == "cancelled"
        with pytest.raises(RunCancelled):
            await run.result()


@pytest.mark.parametrize("how", ["last", "result"])
async def test_the_run_that_goes_on_is_found_though_one_before_it_is_deleted_meanwhile(
    hub: Hub, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, line = Agent("goes-on"), hub.services.line

    @agent.handler("counts")
    async def counts(ctx: RunContext, left: int) -> str:
        if left:
            ctx.continue_as(left - 1)
        return "done"

    async with serving(hub, agent) as client:
        run = await client.submit("counts", 2)
        assert await run.result() == "done"
        middle = LogName("default", LogKind.RUN, (await run.get()).continued_as or "")
        ask = client.ask

        async def late(method: str, params: Any) -> Any:
            answer = await ask(method, params)
            if method == "run.get" and answer.continued_as == middle.name:
                meta = RunMeta.parse(middle, await line.store.meta(middle) or {})
                assert isinstance(await line.commit(keeping.unlinked("unlinked", meta)), Outcome)
                assert await line.store.delete(middle)
            return answer

        monkeypatch.setattr(client, "ask", late)
        row = client.run(run.id)
        assert (await row.result() if how == "result" else await (await row.last()).result()) == "done"


# Programs


async def test_a_program_has_children_and_goes_on_as_another_run(hub: Hub) -> None:
    agent = Agent("programs")
    program = python(
        """
        if start["input"] == "last":
            say(type="result", result="done")
            sys.exit()
        say(type="submit", handler="square", input=7, queue="parts")
        say(type="submit", handler="told", input=8, queue="parts")
        heard = [hear() for _ in range(3)]
        say(type="cancel_child", child=2, reason="not needed")
        heard.append(hear())
        said = sorted((each["child"], each["type"], each.get("state"), each.get("result")) for each in heard)
        say(type="event", kind="heard", body=said)
        say(type="continue", input="last")
        """
    )
    agent.program("it", Program(program))
    async with serving(hub, agent, workers()) as client:
        run = await client.submit("it", "first")
        assert await run.result() == "done"
        (heard,) = await entries(run, "heard")
        assert heard.body == [
            [1, "child", None, None],
            [1, "child_ended", "succeeded", 49],
            [2, "child", None, None],
            [2, "child_ended", "cancelled", None],
        ]
