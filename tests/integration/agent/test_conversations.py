"""Runs that are talked to, against the real hub: messages, questions, who may answer, and what ends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.client import Client
from agent.context import RunContext
from agent.errors import RequestError, RunCancelled, RunFailed
from agent.plain_context import PlainRunContext
from agent.program import Program
from agent.runs import Run
from agent.sync_client import SyncClient
from agent.worker import Agent
from orchestrator.hub import Hub
from protocol.talk import Message, Talk
from tests.support.agent_talkers import decide, decide_plain, listen, listen_plain
from tests.support.programs import python
from tests.support.timing import deadline, eventually


@asynccontextmanager
async def serving(hub: Hub, agent: Agent) -> AsyncIterator[Client]:
    """Serve an agent; yield a client."""
    directory = hub.settings.data
    task = asyncio.create_task(agent.serve(directory=directory))
    try:
        async with deadline(60), Client.connect(directory=directory) as client:
            yield client
    finally:
        agent.stop(0.0)
        await task


async def waiting(run: Run, name: str) -> int:
    """Wait until a question waits; return its index."""
    found: list[int] = []

    async def look() -> bool:
        found[:] = [question.index for question in (await run.talk()).waiting if question.name == name]
        return bool(found)

    await eventually(look, 30)
    return found[0]


async def state(run: Run, message: Message) -> str:
    return (await run.talk()).messages[message.id].state


async def refused(call: Any) -> str:
    with pytest.raises(RequestError) as fault:
        await call
    return fault.value.code


ISOLATIONS = ("inline", "thread", "process")


def talkers() -> Agent:
    """Return an agent with a handler of every kind."""
    agent = Agent("talkers", slots=8)
    for isolation in ISOLATIONS:
        agent.handler(f"listen-{isolation}", isolation=isolation)(listen)
        agent.handler(f"decide-{isolation}", isolation=isolation)(decide)
        if isolation != "inline":
            agent.handler(f"listen-plain-{isolation}", isolation=isolation)(listen_plain)
            agent.handler(f"decide-plain-{isolation}", isolation=isolation)(decide_plain)
    return agent


KINDS = [*ISOLATIONS, "plain-thread", "plain-process"]


async def test_messages_reach_handlers_of_every_kind_in_the_order_of_the_log(hub: Hub) -> None:
    async with serving(hub, talkers()) as client:
        for kind in KINDS:
            run = await client.submit(f"listen-{kind}")
            first = await run.steer("first", wait=True)
            assert (first.state, first.value) == ("applied", b"\x01")
            assert (await run.steer("no", wait=True)).state == "rejected"
            await asyncio.gather(*(run.steer(number) for number in range(5)))
            last = await run.steer("stop", wait=True)
            heard = await run.result()
            assert last.state == "applied"
            assert (heard[:2], sorted(heard[2:-1]), heard[-1]) == (["first", "no"], list(range(5)), "stop")
            entries = [entry async for entry in client.read(run.log)]
            assert heard == [entry.body["body"] for entry in entries if entry.kind == "$steer"]


async def test_questions_of_handlers_of_every_kind_are_answered(hub: Hub) -> None:
    async with serving(hub, talkers()) as client:
        for kind in KINDS:
            run = await client.submit(f"decide-{kind}")
            index = await waiting(run, "push")
            assert (await run.get()).asking == 1
            assert await run.answer(True) == index
            await waiting(run, "name")
            await run.answer("ada")
            assert await run.result() == [True, "ada"]
            assert (await run.get()).asking == 0


async def test_of_two_answers_at_once_one_wins_and_the_other_is_told(hub: Hub) -> None:
    async with serving(hub, talkers()) as client, Client.connect(directory=hub.settings.data) as other:
        run = await client.submit("decide-inline")
        index = await waiting(run, "push")
        answers = [handle.answer(value, index) for handle in (run, other.run(run.id)) for value in (True, False)]
        made = await asyncio.gather(*answers, return_exceptions=True)
        assert made.count(index) == 1
        codes = [each.code for each in made if isinstance(each, RequestError)]
        assert codes == ["already_answered"] * 3
        await waiting(run, "name")
        await run.answer("x")
        allowed, _ = await run.result()
        assert allowed is [True, False, True, False][made.index(index)]


async def test_an_answer_that_does_not_fit_is_refused(hub: Hub) -> None:
    async with serving(hub, talkers()) as client:
        run = await client.submit("decide-inline")
        nobody = client.run(run.id[:-1] + ("1" if run.id.endswith("0") else "0"))
        assert await refused(nobody.answer(True)) == "not_found"
        await waiting(run, "push")
        assert await refused(run.answer("yes")) == "invalid_params"
        assert await refused(run.answer(True, 99)) == "not_found"
        await run.answer(False)
        await waiting(run, "name")
        await run.answer(None)
        assert await run.result() == [False, None]
        assert await refused(run.answer(True)) == "already_answered"
        assert await refused(run.steer("hello?")) == "run_finished"


async def test_a_question_among_several_has_to_be_named(hub: Hub) -> None:
    agent = Agent("several")

    @agent.handler("both", recover="journal")
    async def both(ctx: RunContext) -> list[Any]:
        return await ctx.gather(ctx.ask("one"), ctx.ask("two"))

    async with serving(hub, agent) as client:
        run = await client.submit("both")
        two = await waiting(run, "two")
        await waiting(run, "one")
        assert await refused(run.answer(1)) == "invalid_params"
        await run.answer("second", two)
        await run.answer("first")
        assert await run.result() == ["first", "second"]


async def test_what_nobody_answers_is_denied_or_raises_at_its_time(hub: Hub) -> None:
    agent = Agent("hasty")

    @agent.handler("hurry")
    async def hurry(ctx: RunContext) -> None:
        if not await ctx.approve("push", timeout=0.3):
            await ctx.ask("why", timeout=0.3)

    async with serving(hub, agent) as client:
        run = await client.submit("hurry")
        with pytest.raises(RunFailed, match="nobody answered the question 'why' in time"):
            await run.result()
        talk = await run.talk()
        assert [(each.state, each.by) for each in talk.questions.values()] == [("timed_out", "timeout")] * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_run_that_asks_is_cancelled_at_once(hub: Hub, kind: str) -> None:
    async with serving(hub, talkers()) as client:
        run = await client.submit(f"decide-{kind}")
        await waiting(run, "push")
        message = await run.steer("hello?")
        assert await run.cancel(wait=True) == "cancelled"
        with pytest.raises(RunCancelled):
            await run.result()
        (question,) = (await run.talk()).questions.values()
        assert (question.state, await state(run, message)) == ("expired", "expired")
        assert await refused(run.answer(True)) == "run_finished"


async def test_a_failed_attempt_starts_over_with_everything_it_was_told(hub: Hub) -> None:
    agent = Agent("again")

    @agent.handler("again", retries=1, backoff=0.01)
    async def again(ctx: RunContext) -> list[Any]:
        heard = [message.body async for message in ctx.steering(timeout=0)]
        allowed = await ctx.approve("push")
        if ctx.attempt == 1:
            raise ValueError("once")
        return [heard, allowed]

    async with Client.connect(directory=hub.settings.data) as early:
        run = await early.submit("again")
        message = await run.steer({"early": True})
        assert await state(run, message) == "issued"
        async with serving(hub, agent):
            await waiting(run, "push")
            assert await state(run, message) == "delivered"
            await run.answer(True)
            assert await run.result() == [[{"early": True}], True]


async def test_the_blocking_client_talks_too(hub: Hub) -> None:
    def use() -> tuple[Any, Talk]:
        with SyncClient.connect(directory=hub.settings.data) as client:
            run = client.submit("decide-plain-thread")
            run.steer("unheard")
            while not run.talk().waiting:
                pass
            run.answer(False)
            while not run.talk().waiting:
                pass
            run.answer("x")
            return run.result(), run.talk()

    async with serving(hub, talkers()):
        result, talk = await asyncio.to_thread(use)
    assert result == [False, "x"]
    assert [message.state for message in talk.messages.values()] == ["expired"]


# Programs


async def test_a_program_is_told_messages_and_gets_answers(hub: Hub) -> None:
    agent = Agent("programs")
    program = python(
        """
        say(type="ask", name="push", payload={"branch": "main"}, approve=True)
        say(type="ask", name="late", timeout=0.2)
        heard = []
        while len(heard) < 3:
            heard.append(hear())
            if heard[-1]["type"] == "steer":
                say(type="reply", id=heard[-1]["id"], value="done", rejected=heard[-1]["body"] != "go")
        say(type="result", result=sorted((each["type"], each.get("name"), each.get("body"), each.get("answer"),
                                           each.get("timed_out")) for each in heard))
        """
    )
    agent.program("it", Program(program))
    async with serving(hub, agent) as client:
        run = await client.submit("it")
        push = await waiting(run, "push")
        message = await run.steer("go", wait=True)
        assert (message.state, message.value) == ("applied", b"\xa4done")

        async def late_is_over() -> bool:
            return len((await run.talk()).waiting) == 1

        await eventually(late_is_over)
        await run.answer(True, push)
        assert await run.result() == [
            ["answer", "late", None, None, True],
            ["answer", "push", None, True, False],
            ["steer", None, "go", None, None],
        ]


async def test_a_program_that_ends_while_it_asks_leaves_nothing_waiting(hub: Hub) -> None:
    agent = Agent("programs")
    agent.program("it", Program(python('say(type="ask", name="push")\nsay(type="result", result=1)')))
    async with serving(hub, agent) as client:
        run = await client.submit("it")
        assert await run.result() == 1
        assert not (await run.talk()).waiting


async def test_a_program_that_asks_is_cancelled(hub: Hub) -> None:
    agent = Agent("programs")
    agent.program("it", Program(python('say(type="ask", name="push")\nassert hear()["type"] == "cancel"')))
    async with serving(hub, agent) as client:
        run = await client.submit("it")
        await waiting(run, "push")
        assert await run.cancel(wait=True) == "cancelled"


async def test_a_handler_reads_messages_beside_its_work(hub: Hub) -> None:
    agent = Agent("beside")

    @agent.handler("beside")
    def beside(ctx: PlainRunContext) -> Any:
        while True:
            for message in ctx.steering(timeout=0.02):
                return message.body
            ctx.emit("working")

    async with serving(hub, agent) as client:
        run = await client.submit("beside")
        await run.steer("enough")
        assert await run.result() == "enough"
