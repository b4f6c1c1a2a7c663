"""Child processes against the real hub: there ahead, limited, dumped before they are killed, replaced when they die."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agent.client import Client
from agent.entry import Entry
from agent.errors import RunFailed
from agent.executors import process, stacks, thread
from agent.program import Program
from agent.runs import Run
from agent.worker import Agent
from orchestrator.hub import Hub
from tests.support import agent_isolated as handlers
from tests.support.agent_sleepers import ask_and_hang, ask_in_process
from tests.support.programs import group_is_gone, has_ended, python
from tests.support.timing import deadline, eventually

GRACE_S = 0.3
DEATHS = [
    ("exit", "ended with exit code 3 before it returned: something in the handler ended its process", False),
    ("SIGKILL", "was ended by SIGKILL before it returned: not by this agent: most often that is the kernel", False),
    ("SIGSEGV", "was ended by SIGSEGV before it returned: most often that is a crash in native code", True),
]
"""How a child may die, what is said of it, and whether there are stacks."""


def isolated() -> Agent:
    agent = Agent("isolated", slots=2, processes=1)
    for function in (handlers.which, handlers.hang, handlers.hold_lock, handlers.crash, handlers.keep):
        agent.handler(function.__name__, isolation="process")(function)
    agent.handler("hold", isolation="process", memory_mib=128)(handlers.hold)
    agent.handler("hold_shared", isolation="process", memory_mib=128)(handlers.hold_shared)
    agent.handler("hang_in_thread")(handlers.hang)
    agent.handler("hang_for_long", isolation="process", timeout=2.0)(handlers.hang)
    return agent


@asynccontextmanager
async def serving(hub: Hub, agent: Agent | None = None) -> AsyncIterator[Client]:
    """Serve an agent; yield a client."""
    agent, directory = agent or isolated(), hub.settings.data
    task = asyncio.create_task(agent.serve(directory=directory))
    try:
        async with deadline(60), Client.connect(directory=directory) as client:
            yield client
    finally:
        agent.stop(0.0)
        await task


@pytest.fixture
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    for defaults in (process.Children.__init__, thread.run_in_thread, stacks.Overdue.__init__):
        given = defaults.__defaults__ or ()
        monkeypatch.setattr(defaults, "__defaults__", (*given[:-1], GRACE_S))


async def entries(client: Client, run: Run) -> list[Entry]:
    return [entry async for entry in client.read(run.log)]


async def bodies(client: Client, run: Run, kind: str) -> list[Any]:
    return [entry.body for entry in await entries(client, run) if entry.kind == kind]


async def failed(run: Run) -> dict[str, Any]:
    with pytest.raises(RunFailed) as fault:
        await run.result()
    assert fault.value.error is not None
    return fault.value.error


async def said(run: Run, kind: str) -> Any:
    async for entry in run.watch():
        if entry.kind == kind:
            return entry.body
    raise AssertionError("the run is over")


async def test_children_are_used_again_and_replaced_when_they_are_gone(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.executors.pool.GROWTH_BYTES_MAX", 16 * 1024 * 1024)
    async with serving(hub) as client:
        pids = [await (await client.submit("which")).result() for _ in range(2)]
        assert pids[0] == pids[1] != os.getpid()
        os.kill(pids[0], signal.SIGKILL)  # while it is idle: that costs the next run nothing
        assert await (await client.submit("which")).result() != pids[0]
        for how, words, trace in DEATHS:
            run = await client.submit("crash", how)
            error = await failed(run)
            assert (error["type"], words in error["message"]) == ("ChildDied", True)
            assert ("in crash" in (error.get("trace") or "")) is trace
            assert await bodies(client, run, "before") == [how]
        grown = [await (await client.submit("keep")).result() for _ in range(3)]
        assert grown[0] == grown[1] != grown[2]


@pytest.mark.usefixtures("short_grace")
async def test_a_child_that_heeds_nothing_is_killed_with_its_stacks_and_the_rung_in_the_log(hub: Hub) -> None:
    async with serving(hub) as client:
        run = await client.submit("hang")
        pid = await said(run, "pid")
        assert await run.cancel(wait=True) == "cancelled"
        [found] = await bodies(client, run, "stacks")
        assert (found["why"], "_deeper_and_deeper" in found["stacks"]) == ("cancelled", True)
        assert await bodies(client, run, "stopped") == [{"why": "cancelled", "rung": "sigkill", "signal": "SIGKILL"}]
        kinds = [entry.kind for entry in await entries(client, run)]
        assert kinds[-3:] == ["stacks", "stopped", "$cancelled"]
        await eventually(lambda: has_ended(pid))

        run = await client.submit("hang_in_thread")  # which nothing can end
        await said(run, "pid")
        assert await run.cancel() == "running"
        found = await said(run, "stacks")
        assert (found["why"], "in _deeper_and_deeper" in found["stacks"]) == ("cancelled", True)


@pytest.mark.usefixtures("short_grace")
@pytest.mark.parametrize("function", [ask_and_hang, ask_in_process])
async def test_a_child_that_is_put_away_leaves_its_slot_whether_it_heeds_that_or_not(
    hub: Hub, function: Callable[..., Any]
) -> None:
    agent = Agent("isolated", slots=1, processes=1)
    agent.handler("ask", isolation="process", recover="journal", suspend_after=0.05)(function)
    agent.handler("which", isolation="process")(handlers.which)
    async with serving(hub, agent) as client:
        run = await client.submit("ask")
        pid = await said(run, "pid")
        other = await (await client.submit("which")).result()
        assert (other == pid) is (function is ask_in_process), "one that heeded it is used again"
        assert (await run.get()).suspended
        await run.answer("ada")
        assert await run.result() == "ada"
        kinds = [entry.kind for entry in await entries(client, run)]
        assert (kinds.count("$suspended"), kinds.count("$lost"), kinds[-1]) == (1, 0, "$succeeded")
        if function is ask_and_hang:
            await eventually(lambda: has_ended(pid))


async def test_the_stacks_are_in_the_log_when_time_runs_out(hub: Hub) -> None:
    async with serving(hub) as client:
        await (await client.submit("which")).result()  # a child is warm
        run = await client.submit("hang_for_long")
        assert (await failed(run))["type"] == "TimeoutError"
        [found] = await bodies(client, run, "stacks")
        assert (found["why"], "_deeper_and_deeper" in found["stacks"]) == ("timeout", True)


async def test_memory_past_the_limit_is_an_error_that_says_the_limit_and_the_use(hub: Hub) -> None:
    async with serving(hub) as client:
        assert await (await client.submit("hold", 16)).result() == 16 * 1024 * 1024
        error = await failed(await client.submit("hold", 512))
        assert error["type"] == "MemoryExceeded"
        assert "the limit of 128 MiB of its process, which held " in error["message"]
        shared = await client.submit("hold_shared", 256)
        error = await failed(shared)
        assert error["type"] == "MemoryExceeded"
        assert "its limit is 128 MiB, and it was killed" in error["message"]
        assert [found["why"] for found in await bodies(client, shared, "stacks")] == ["memory"]
        assert [found["why"] for found in await bodies(client, shared, "stopped")] == ["memory"]
        assert await (await client.submit("hold", 16)).result() == 16 * 1024 * 1024


async def test_a_program_whose_group_holds_too_much_is_ended_with_all_of_it(hub: Hub) -> None:
    agent, hold = Agent("programs"), "import time; held = bytearray(b'x') * (150 << 20); time.sleep(600)"
    command = python(f"grandchild({hold!r}); time.sleep(600)")
    agent.program("greedy", Program(command, memory_mib=100))
    async with serving(hub, agent) as client:
        run = await client.submit("greedy")
        error = await failed(run)
        assert error["type"] == "MemoryExceeded"
        assert re.search(r"and what it started held 1\d\d MiB of memory; their limit is 100 MiB", error["message"])
        assert await bodies(client, run, "stopped") == [{"why": "memory", "rung": "sigkill", "signal": "SIGKILL"}]
        [group] = await bodies(client, run, "group")
        assert group_is_gone(group)


async def test_a_child_that_holds_the_interpreter_delays_no_heartbeat_whatever_it_is_told(hub: Hub) -> None:
    async with serving(hub) as client:
        run = await client.submit("hold_lock", 2.3)
        await said(run, "holding")
        for _ in range(20):
            await run.steer("x" * 60_000)  # more than its pipe takes
        assert await run.result() == 1  # one attempt: its lease was renewed meanwhile


async def test_what_a_child_cannot_import_is_told(hub: Hub) -> None:
    agent = Agent("unfit", processes=0)
    agent.handler("unfit", isolation="process")(handlers.which)
    unfit = agent.handlers[0]
    object.__setattr__(unfit, "function", handlers.Unfit())
    async with serving(hub, agent) as client:
        error = await failed(await client.submit("unfit"))
        assert (error["type"], error["message"]) == ("_pickle.UnpicklingError", "made nowhere else")


async def test_a_program_that_cannot_be_imported_in_a_child_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.executors.pool.child_main", _end)
    async with serving(hub) as client:
        error = await failed(await client.submit("which"))
        assert error["type"] == "ChildDied"
        assert "ended with exit code 7 before it ran anything of it: the agent's standard error" in error["message"]


def _end(*_: object) -> None:
    os._exit(7)
