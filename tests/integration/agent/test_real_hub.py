"""The agent's side against the real hub: the whole line, in one process."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.client import Client
from agent.context import RunContext
from agent.disk_outbox import Row
from agent.errors import ExpectFailed, OutboxBusy, RequestError, RunCancelled, RunDead, RunFailed, SessionSuperseded
from agent.publisher import DiskPublisher
from agent.sync_client import SyncClient
from agent.worker import Agent
from orchestrator.hub import Hub
from tests.support.agent_handlers import make_agent
from tests.support.timing import deadline, eventually

CHECKOUT = Path(__file__).parents[3]


@asynccontextmanager
async def serving(hub: Hub, agent: Agent) -> AsyncIterator[None]:
    task = asyncio.create_task(agent.serve(directory=hub.settings.data))
    try:
        yield
    finally:
        agent.stop(0.0)
        await task


@pytest.fixture
async def client(hub: Hub) -> AsyncIterator[Client]:
    async with Client.connect(directory=hub.settings.data) as connected:
        yield connected


async def test_an_attempt_that_takes_too_long_is_stopped_in_the_agent_too(hub: Hub, client: Client) -> None:
    agent = Agent("punctual", labels={"tier": "a"})
    stopped: list[str | None] = []

    @agent.handler("endless", timeout=0.4)
    async def endless(ctx: RunContext) -> None:
        assert ctx.time_left is not None
        await ctx.emit("left", ctx.time_left)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(ctx.cancel_reason)

    async with deadline(40), serving(hub, agent):
        run = await client.submit("endless", where={"tier": "a"})
        with pytest.raises(RunFailed, match="longer than 400 ms"):
            await run.result()
        await eventually(lambda: stopped)
        assert "its time or its lease ran out" in str(stopped)
        [left] = [entry.body async for entry in client.read(run.log) if entry.kind == "left"]
        assert 0 < left <= 0.4
        again = await client.submit("endless", deadline=60, timeout=0.1, retries=1, backoff=0.001)
        with pytest.raises(RunDead, match="longer than 100 ms"):
            await again.result()
        with pytest.raises(ValueError, match="timeout is 0 s"):
            await client.submit("endless", timeout=0)


async def test_runs_of_every_kind_of_handler(hub: Hub, client: Client) -> None:
    async with deadline(40), serving(hub, make_agent()):
        assert await (await client.submit("add", {"a": 2, "b": 3})).result() == 5
        run = await client.submit("count", 3)
        entries = [entry async for entry in run.watch()]
        assert [entry.kind for entry in entries] == ["$submitted", "$claimed", "n", "n", "n", "$succeeded"]
        assert [entry.body for entry in entries[2:5]] == [0, 1, 2]
        assert [entry.tag async for entry in client.read(run.log)] == [entry.tag for entry in entries]
        assert await (await client.submit("where_apart")).result() != os.getpid()
        with pytest.raises(RunFailed, match="ValueError: as told") as failed:
            await (await client.submit("fail")).result()
        assert failed.value.offset == 5
        run = await client.submit("wait")
        async for entry in run.watch():
            if entry.kind == "waiting":
                assert await run.cancel(reason="enough") in ("running", "cancelled")
        for handle in (run, client.run(run.id)):  # told by its last entry, and where it was over before
            with pytest.raises(RunCancelled, match="enough"):
                await handle.result()


async def test_the_same_key_is_the_same_run_and_another_input_a_conflict(client: Client) -> None:
    first = await client.submit("add", {"a": 1}, key="k")
    again = await client.submit("add", {"a": 1}, key="k")
    assert (first.id, first.created, again.created) == (again.id, True, False)
    with pytest.raises(RequestError) as conflict:
        await client.submit("add", {"a": 2}, key="k")
    assert conflict.value.code == "key_conflict"


async def test_a_journalled_run_is_continued_by_another_agent_when_its_own_is_killed(hub: Hub, client: Client) -> None:
    program = (
        "from tests.support.agent_handlers import make_agent\n"
        "import sys\n"
        "make_agent('first').run(directory=sys.argv[1])"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, str(hub.settings.data)], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        async with deadline(60):
            run = await client.submit("steps", {"upto": 6, "stop_at": 3})
            reader = run.watch()
            seen = [await anext(reader)]
            while sum(entry.kind == "step" for entry in seen) < 3:
                seen.append(await anext(reader))
            first.send_signal(signal.SIGKILL)
            async with serving(hub, make_agent("second")):
                assert await run.result() == [2, 4, 6, 8, 10, 12]
            seen.extend([entry async for entry in reader])
    finally:
        first.kill()
        first.wait()
    done = [(entry.index, entry.kind) for entry in seen if entry.index is not None]
    assert done == [(index, "step" if index % 2 == 0 else "$call") for index in range(1, 13)]
    assert {entry.attempt for entry in seen if entry.kind == "step"} == {1, 2}


async def test_the_older_of_two_processes_with_one_id_is_stopped_and_its_entries_are_refused(
    hub: Hub, client: Client
) -> None:
    async with deadline(40):
        older, newer = make_agent("twin"), make_agent("twin")
        serving_older = asyncio.create_task(older.serve(directory=hub.settings.data))
        run = await client.submit("wait_plain")
        reader = run.watch()
        while (await anext(reader)).kind != "waiting":
            pass
        async with serving(hub, newer):
            with pytest.raises(SessionSuperseded, match="an id of its own"):
                await serving_older
            while (entry := await anext(reader)).attempt != 2:
                pass
            last_of_older = entry.offset
            await run.cancel(wait=True)
            async for entry in client.read(run.log, after=last_of_older):
                assert entry.attempt in (2, None)


async def test_retries_happen_as_the_handler_says(hub: Hub, client: Client) -> None:
    async with deadline(40), serving(hub, make_agent()):
        run = await client.submit("retried")
        kinds = [entry.kind async for entry in run.watch()]
        assert kinds.count("$errored") == 2
        assert kinds.count("$claimed") == 2


async def test_a_message_reaches_an_agent_that_was_away(hub: Hub, client: Client) -> None:
    got: list[object] = []
    agent = make_agent("away")
    agent.on_message("reload")(lambda message: got.append(message.body))
    async with deadline(40):
        async with serving(hub, agent):
            await client.send("away", "reload", 1)
            await eventually(lambda: got == [1])
        await client.send("away", "reload", 2)
        async with serving(hub, agent):
            await eventually(lambda: got[-1] == 2)
        assert got in ([1, 2], [1, 1, 2]), "a message whose agent left while it was handled comes again"
        assert (await client.agent("away")).agent == "away"


async def test_conditional_publishes_let_one_editor_through(client: Client) -> None:
    async with deadline(20):
        assert await client.publish("doc", "edit", "a", expect=0) == 1
        outcomes = await asyncio.gather(
            *(client.publish("doc", "edit", editor, expect=1) for editor in "bcd"), return_exceptions=True
        )
        assert sorted(str(type(outcome).__name__) for outcome in outcomes) == ["ExpectFailed", "ExpectFailed", "int"]
        assert all(outcome.head == 2 for outcome in outcomes if isinstance(outcome, ExpectFailed))


async def test_a_publisher_on_disk_sends_what_its_killed_predecessor_had_promised(
    hub: Hub, client: Client, tmp_path: Path
) -> None:
    state = tmp_path / "publisher"
    program = (
        "import asyncio, os, sys\n"
        "from agent.client import Client\n"
        "async def main():\n"
        "    async with Client.connect(directory=sys.argv[1]) as client:\n"
        "        publisher = await client.publisher('feed', sys.argv[2])\n"
        "        for number in range(500):\n"
        "            await publisher.publish('n', number, mark=f'line:{number}')\n"
        "            if number == 250: os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())"
    )
    async with deadline(60):
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(hub.settings.data), str(state), cwd=CHECKOUT,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert await killed.wait() == -signal.SIGKILL
        publisher = await client.publisher("feed", state)
        assert isinstance(publisher, DiskPublisher)
        assert publisher.last_mark == "line:250"
        with pytest.raises(OutboxBusy):
            await client.publisher("feed", state)
        rest = [
            Row("n", bytes([0xCD]) + number.to_bytes(2, "big"), None, f"line:{number}") for number in range(251, 500)
        ]
        receipts = await publisher.publish_many(rest)
        await receipts[-1].acknowledged()
        assert publisher.acknowledged == 500
        await publisher.aclose()
        assert [entry.body async for entry in client.read("topic/feed")] == list(range(500))


async def test_the_blocking_client_does_the_same(hub: Hub) -> None:
    def script() -> None:
        with SyncClient.connect(directory=hub.settings.data) as client:
            run = client.submit("add", {"a": 1})
            assert run.result(timeout=20) == 2
            assert [entry.kind for entry in run.watch()][-1] == "$succeeded"
            assert run.get().state == "succeeded"
            assert client.publish("room", "say", "hello") == 1
            with client.publisher("room") as publisher:
                for number in range(10):
                    publisher.publish("say", number)
            assert [entry.body for entry in client.read("topic/room", after=9)] == [8, 9]
            with client.subscribe("topic/room") as reader:
                assert next(reader).body == "hello"
            assert [found.run for found in client.runs()] == [run.id]
            assert client.agents()[0].agent == "worker"

    async with deadline(40), serving(hub, make_agent()):
        await asyncio.to_thread(script)


async def test_a_drained_agent_hands_back_its_run_for_another(hub: Hub, client: Client) -> None:
    async with deadline(40):
        first = make_agent("first")
        async with serving(hub, first):
            run = await client.submit("steps", {"upto": 4, "stop_at": 2})
            reader = run.watch()
            while (await anext(reader)).kind != "step":
                pass
        async with serving(hub, make_agent("second")):
            assert await run.result() == [2, 4, 6, 8]
        kinds = [entry.kind async for entry in client.read(run.log)]
        assert kinds.count("$released") >= 1
        assert "$lost" not in kinds
