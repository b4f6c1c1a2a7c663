"""Queries: what handlers of every kind are asked while they work, over one hub or two, and where nobody can answer."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client
from agent.context import RunContext
from agent.errors import RequestError
from agent.program import Program
from agent.runs import Run
from agent.sync_client import SyncClient
from agent.worker import Agent
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.memory import MemoryServer, MemoryStore
from tests.support.agent_talkers import asked, asked_plain
from tests.support.programs import python
from tests.support.stores import StoreServer, valkey
from tests.support.timing import deadline, eventually

PROGRAM = """
for line in sys.stdin:
    told = json.loads(line)
    if told["type"] == "query" and told["name"] == "mute":
        muted = told["id"]
    elif told["type"] == "query":
        known = told["name"] == "status"
        say(type="reply", id=told["id"], value={"of": told["args"]} if known else "unknown", rejected=not known)
    elif told["type"] == "steer":
        say(type="reply", id=muted, value="late")
        say(type="result", result="done")
        break
"""


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub that is patient: while a connection is replaced, a query that passes over it has no reply."""
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    settings = Settings(data=tmp_path, listen="127.0.0.1:0", durability=Durability.MEMORY)
    async with Hub(settings, MemoryStore(server, "hub")) as running:
        yield running


@asynccontextmanager
async def serving(agent: Agent, directory: Path, client_directory: Path | None = None) -> AsyncIterator[Client]:
    """Serve an agent; yield a client, perhaps of another hub."""
    task = asyncio.create_task(agent.serve(directory=directory))
    try:
        async with deadline(60), Client.connect(directory=client_directory or directory) as client:
            yield client
    finally:
        agent.stop(0.0)
        await task


async def answered(run: Run, name: str, args: Any = None) -> Any:
    """Return the reply, once the handler answers queries."""
    found: list[Any] = []

    async def look() -> bool:
        try:
            found[:] = [await run.query(name, args)]
        except RequestError as fault:
            if fault.code not in ("not_running", "no_such_query", "no_reply"):
                raise
        return bool(found)

    await eventually(look, 30)
    return found[0]


async def refused(call: Any) -> RequestError:
    with pytest.raises(RequestError) as fault:
        await call
    return fault.value


def agent_of_every_kind() -> Agent:
    agent = Agent("askable", slots=8, processes=0)
    for isolation in ("inline", "thread", "process"):
        agent.handler(f"asked-{isolation}", isolation=isolation)(asked)
        if isolation != "inline":
            agent.handler(f"asked-plain-{isolation}", isolation=isolation)(asked_plain)
    agent.program("asked-program", Program(python(PROGRAM)))
    agent.program("plain-program", Program(("sleep", "60"), plain=True))
    return agent


KINDS = ["asked-inline", "asked-thread", "asked-process", "asked-plain-thread", "asked-plain-process"]


async def test_handlers_of_every_kind_answer_while_they_work_and_nothing_of_it_is_recorded(hub: Hub) -> None:
    async with serving(agent_of_every_kind(), hub.settings.data) as client:
        runs = [await client.submit(kind) for kind in KINDS]
        for run in runs:
            assert await answered(run, "status", {"of": 1}) == {"args": {"of": 1}}
            assert await run.query("now") == "working"
            head = (await run.get()).head
            assert await asyncio.gather(*(run.query("status", n) for n in range(8))) == [{"args": n} for n in range(8)]
            unknown = await refused(run.query("nothing"))
            assert (unknown.code, "now, status" in unknown.message) == ("no_such_query", True)
            failed = await refused(run.query("status", "fail"))
            assert (failed.code, failed.message) == ("query_failed", "ValueError: as it was told")
            large = await refused(run.query("status", "large"))
            assert (large.code, "262144" in large.message) == ("query_failed", True)
            assert (await run.get()).head == head
            await run.steer("stop")
            assert await run.result() == "done"
            over = await refused(run.query("status"))
            assert (over.code, over.data) == ("not_running", {"state": "succeeded"})


async def test_programs_reply_in_lines_and_late_replies_have_no_effect(hub: Hub) -> None:
    async with serving(agent_of_every_kind(), hub.settings.data) as client:
        run = await client.submit("asked-program")
        assert await answered(run, "status", [1]) == {"of": [1]}
        other = await refused(run.query("else"))
        assert (other.code, other.message) == ("query_failed", 'the program rejected it: "unknown"')
        mute = await refused(run.query("mute", timeout=0.2))
        assert (mute.code, mute.retry_ms) == ("no_reply", 1000)
        await run.steer("stop")
        assert await run.result() == "done"

        plain = await client.submit("plain-program")
        await eventually(lambda: _comes_to(plain.query("status"), "no_such_query"))
        await plain.cancel(wait=True)


async def _comes_to(call: Any, code: str) -> bool:
    return (await refused(call)).code == code


async def test_a_run_that_waits_has_no_handler_to_ask(hub: Hub) -> None:
    async with deadline(30), Client.connect(directory=hub.settings.data) as client:
        run = await client.submit("nobody-does-this")
        waits = await refused(run.query("status"))
        assert (waits.code, waits.data) == ("not_running", {"state": "queued"})
        assert (
            await refused(client.run(run.id[:-1] + ("1" if run.id.endswith("0") else "0")).query("status"))
        ).code == "not_found"
        assert (await refused(run.query("status", "x" * 70_000))).code == "invalid_params"


async def test_what_is_not_answered_in_time_costs_the_handler_nothing(hub: Hub) -> None:
    agent = Agent("slow")

    @agent.handler("slow")
    async def slow(ctx: RunContext) -> str:
        ctx.on_query("never", asyncio.Event().wait)
        ctx.on_query("there", lambda: True)
        async for _ in ctx.steering():
            break
        return "done"

    async with serving(agent, hub.settings.data) as client:
        run = await client.submit("slow")
        await answered(run, "there")
        late = await refused(run.query("never", timeout=0.2))
        assert (late.code, late.retry_ms) == ("no_reply", 1000)
        await run.steer("stop")
        assert await run.result() == "done"


async def test_sync_client_asks_too(hub: Hub) -> None:
    async with serving(agent_of_every_kind(), hub.settings.data) as client:
        run = await client.submit("asked-inline")
        await answered(run, "now")

        def ask() -> Any:
            with SyncClient.connect(directory=hub.settings.data) as sync:
                return sync.run(run.id).query("status", 3, timeout=5)

        assert await asyncio.to_thread(ask) == {"args": 3}
        await run.steer("stop")


@asynccontextmanager
async def two_hubs(tmp_path: Path, server: MemoryServer | StoreServer) -> AsyncIterator[tuple[Path, Path]]:
    """Run two hubs on one store; yield their data directories."""
    one, two = tmp_path / "one", tmp_path / "two"
    async with _hub(one, server):
        shutil.copytree(one / "keys", two / "keys")
        async with _hub(two, server):
            yield one, two


def _hub(data: Path, server: MemoryServer | StoreServer) -> Hub:
    settings = Settings(
        data=data, listen="127.0.0.1:0", durability=Durability.MEMORY, heartbeat_ms=500, lease_ms=2000, drain_ms=500
    )
    if isinstance(server, StoreServer):
        return Hub(settings.model_copy(update={"store": server.url}))
    store = MemoryStore(server, "")
    hub = Hub(settings, store)
    store.hub_id = hub.hub_id
    return hub


async def across(one: Path, two: Path) -> None:
    """The agent is connected to one hub, who asks to the other."""
    async with serving(agent_of_every_kind(), one, two) as client:
        run = await client.submit("asked-inline")
        assert await answered(run, "status", 5) == {"args": 5}
        replies = await asyncio.gather(*(run.query("status", n) for n in range(30)), return_exceptions=True)
        served = [reply for reply in replies if not isinstance(reply, BaseException)]
        assert len(served) >= 16  # of one attempt, at once
        assert {fault.code for fault in replies if isinstance(fault, RequestError)} <= {"no_reply"}
        assert (await refused(run.query("nothing"))).code == "no_such_query"
        await run.steer("stop")
        assert await run.result() == "done"


async def test_a_query_reaches_an_agent_of_another_hub_over_the_twin(tmp_path: Path) -> None:
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    async with two_hubs(tmp_path, server) as (one, two):
        await across(one, two)


async def test_a_query_reaches_an_agent_of_another_hub_over_a_real_server(tmp_path: Path) -> None:
    async with valkey(tmp_path) as server, two_hubs(tmp_path, server) as (one, two):
        await across(one, two)
