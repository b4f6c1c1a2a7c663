"""Agents that are killed, frozen, superseded or busy: nothing of a run is lost, and nobody writes who may not."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent.client import Client
from agent.runs import Run
from protocol.codec import pack_value
from protocol.control import Kind
from tests.chaos.amounts import LONG, rounds
from tests.chaos.histories import away
from tests.support.checkers import Dump, assert_kept, check_absent, check_sequence
from tests.support.fleet import Fleet, HubProcess, dump_log
from tests.support.proxy import FaultProxy
from tests.support.run_checkers import check_journal, check_run
from tests.support.timing import eventually, eventually_sync

APPS = "tests.chaos.apps"
LEASE_S = 5.0 if LONG else 2.0
BLOCKED_S = 60.0 if LONG else 8.0
LOCKED_S = 20.0 if LONG else 8.0
SETTINGS = {"FLEETLINE_LEASE_MS": str(int(LEASE_S * 1000))}


async def head_of(client: Client, run: Run) -> int:
    return (await run.get()).head


async def grown(client: Client, run: Run, by: int) -> None:
    """Wait until a run has so many more entries."""
    target = await head_of(client, run) + by

    async def reached() -> bool:
        return await head_of(client, run) >= target

    await eventually(reached, 60)


async def dump_of(client: Client, run: Run) -> Dump:
    """Read a run's log, and hold it to what is promised of every run that is over."""
    dump = await dump_log(client, run.log)
    assert_kept(check_run(dump, await run.get()))
    return dump


def kinds(dump: Dump) -> list[str]:
    return [record.kind for _, record in dump.records()]


def of_attempt(dump: Dump, attempt: int, kind: str) -> list[bytes]:
    return [record.body for _, record in dump.records() if record.attempt == attempt and record.kind == kind]


# Agents that die


async def test_agents_killed_in_the_middle_of_a_journalled_run_lose_and_repeat_nothing() -> None:
    count, kills = 1000, rounds(3)
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        agents = [fleet.agent(f"{APPS}:streamer", hub, agent_id=f"streamer-{number}") for number in range(kills + 1)]
        async with Client.connect(hub.url, token=hub.token) as client:
            for agent in agents:
                await agent.connected(client)
            run = await client.submit("paced", {"lines": count, "pause_ms": 4})
            for kill in range(kills):
                await grown(client, run, count // (kills + 2))
                holder = (await run.get()).agent
                await next(agent for agent in agents if agent.agent_id == holder).kill()

                async def claimed_again(attempt: int = kill + 2) -> bool:
                    return (await run.get()).attempt == attempt

                await eventually(claimed_again, 30)
            assert await run.result(timeout=90) == count
            dump = await dump_of(client, run)
            lines = [pack_value(number) for number in range(count)]
            assert_kept(check_sequence(dump, "line", lines), check_journal(dump))
            assert kinds(dump).count(Kind.CLAIMED) == kills + 1
            assert kinds(dump).count(Kind.LOST) == kills


async def test_an_agent_frozen_for_longer_than_its_lease_is_refused_and_stops(tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        frozen = fleet.agent(f"{APPS}:chatter", hub, agent_id="frozen")
        async with Client.connect(hub.url, token=hub.token) as client:
            await frozen.connected(client)
            run = await client.submit("chat", {"ledger": str(tmp_path / "ledger"), "until": str(until)})
            await grown(client, run, 50)
            frozen.pause()
            fleet.agent(f"{APPS}:chatter", hub, agent_id="other")

            async def taken_over() -> bool:
                return (await run.get()).agent == "other"

            await eventually(taken_over, 30)
            frozen.resume()
            await eventually(lambda: "attempt_stopped" in frozen.output(), 30)
            await grown(client, run, 50)
            until.touch()
            assert await run.result(timeout=30) == "done"
            dump = await dump_of(client, run)
            assert frozen.running
            check_zombie(dump, tmp_path / "ledger", frozen.pid)
            await frozen.connected(client)


def check_zombie(dump: Dump, ledger: Path, pid: int) -> None:
    """Hold a process to it that what it tried after its end is not in the log; it must have tried something."""
    tried = [line for line in ledger.read_text().splitlines() if line.startswith(f"{pid} 1 ")]
    there = of_attempt(dump, 1, "said")
    late = [pack_value(line) for line in tried[len(there) :]]
    assert there == [pack_value(line) for line in tried[: len(there)]]
    assert late, "it tried nothing after its end"
    assert_kept(check_absent(dump, [("said", body) for body in late]))


# Two processes with one id


async def test_the_older_of_two_processes_with_one_id_is_told_and_stops(tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        older = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="older")
        async with Client.connect(hub.url, token=hub.token) as client:
            await older.connected(client)
            run = await client.submit("chat", {"ledger": str(tmp_path / "ledger"), "until": str(until)})
            await grown(client, run, 50)
            newer = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="newer")
            code = await older.ended(30)
            assert code not in (0, None), older.tail()
            assert "4508: a newer session of the same agent id took over" in older.output()
            assert "this process stops" in older.output()
            await again(run, 2)
            await grown(client, run, 50)
            assert newer.running
            until.touch()
            assert await run.result(timeout=30) == "done"
            dump = await dump_of(client, run)
            said = of_attempt(dump, 1, "said") + of_attempt(dump, 2, "said")
            assert said == dump.bodies("said")
            story = await dump_log(client, "agent/twin")
            assert kinds(story).count(Kind.SUPERSEDED) == 1
            assert kinds(story).count(Kind.CONNECTED) == 2


async def test_what_a_superseded_process_still_tries_to_publish_is_not_in_the_log(tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        older = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="older")
        async with Client.connect(hub.url, token=hub.token) as client:
            await older.connected(client)
            run = await client.submit("chat", {"ledger": str(tmp_path / "ledger"), "until": str(until)})
            await grown(client, run, 50)
            older.pause()
            newer = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="newer")
            await again(run, 2)
            older.resume()
            assert await older.ended(30) != 0
            await grown(client, run, 50)
            until.touch()
            assert await run.result(timeout=30) == "done"
            assert newer.running
            check_zombie(await dump_of(client, run), tmp_path / "ledger", older.pid)


async def test_a_process_that_was_away_when_its_id_was_taken_over_does_not_take_it_back(tmp_path: Path) -> None:
    until = tmp_path / "until"
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        async with (
            FaultProxy(hub.address, patient=True) as proxy,
            Client.connect(hub.url, token=hub.token) as client,
        ):
            older = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="older", url=proxy.url)
            await older.connected(client)
            run = await client.submit("chat", {"ledger": str(tmp_path / "ledger"), "until": str(until)})
            await grown(client, run, 50)
            async with away(proxy):
                newer = fleet.agent(f"{APPS}:chatter", hub, agent_id="twin", name="newer")
                await again(run, 2)
            assert await older.ended(30) != 0
            assert "4508" in older.output()
            await grown(client, run, 50)
            until.touch()
            assert await run.result(timeout=30) == "done"
            assert newer.running
            check_zombie(await dump_of(client, run), tmp_path / "ledger", older.pid)


async def again(run: Run, attempt: int) -> None:
    """Wait until a run is in an attempt."""

    async def look() -> bool:
        info = await run.get()
        return (info.attempt, info.state) == (attempt, "running")

    await eventually(look, 30)


# Handlers that are busy


async def keeps_its_lease(fleet: Fleet, hub: HubProcess, client: Client, handler: str, seconds: float) -> None:
    """Have an agent of its own run a handler that is busy for some seconds, in one attempt and without a word."""
    agent = fleet.agent(f"{APPS}:sleeper", hub, agent_id=handler, options=("--queue", handler))
    await agent.connected(client)
    run = await client.submit(handler, {"seconds": seconds}, queue=handler)
    began_s = asyncio.get_running_loop().time()
    assert await run.result(timeout=seconds * 4 + 30) == 1, "its attempt was not the first"
    assert asyncio.get_running_loop().time() - began_s >= seconds
    dump = await dump_of(client, run)
    assert kinds(dump) == [Kind.SUBMITTED, Kind.CLAIMED, Kind.SUCCEEDED]
    assert "interpreter_blocked" not in agent.output()


async def test_busy_handlers_keep_their_leases() -> None:
    """One blocks the thread that it runs in, the other holds the interpreter lock of the process that it runs in."""
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        async with Client.connect(hub.url, token=hub.token) as client, asyncio.TaskGroup() as both:
            both.create_task(keeps_its_lease(fleet, hub, client, "block", BLOCKED_S))
            both.create_task(keeps_its_lease(fleet, hub, client, "search", LOCKED_S))


async def test_a_handler_that_holds_the_interpreter_lock_inline_is_warned_of_with_the_remedy() -> None:
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(f"{APPS}:sleeper", hub, agent_id="sleeper")
        async with Client.connect(hub.url, token=hub.token) as client:
            await agent.connected(client)
            run = await client.submit("search-inline", {"seconds": 2.0})
            await eventually(lambda: "interpreter_blocked" in agent.output(), 60)
            assert 'isolation=\\"process\\"' in agent.output() or 'isolation="process"' in agent.output()
            assert run.id in agent.output()
            await run.cancel()
    assert eventually_sync(lambda: not agent.running)
