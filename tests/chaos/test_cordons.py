"""Agents taken out of work from the command line, while hubs are killed and runs are under way."""

from __future__ import annotations

import json

from agent.client import Client
from protocol.control import Kind
from tests.support.checkers import assert_kept
from tests.support.fleet import Fleet, dump_log
from tests.support.run_checkers import check_run
from tests.support.timing import eventually

APPS = "tests.chaos.apps"
PACED = {"lines": 60, "pause_ms": 50}


async def begun(client: Client, run: str) -> bool:
    return (await client.run(run).get()).head > 5


async def test_a_cordon_survives_a_kill_of_the_hub_and_of_the_agent() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(f"{APPS}:streamer", hub, agent_id="a1")
        async with Client.connect(hub.url, token=hub.token) as client:
            await agent.connected(client)
            said = await fleet.command(hub, "agent", "cordon", "a1", "--json")
            assert json.loads(said.stdout) == {"agent": "a1", "cordoned": True, "draining": False}
            await hub.restart()
            await agent.connected(client)
            run = await client.submit("stream", 3)
            await agent.kill()
            agent.spawn()
            other = fleet.agent(f"{APPS}:streamer", hub, agent_id="a2", options=("--queue", "elsewhere"))
            await agent.connected(client)
            await other.connected(client)
            elsewhere = await client.submit("stream", 3, queue="elsewhere")
            assert await elsewhere.result(timeout=30) == 3  # what may be given is given meanwhile
            assert (await run.get()).state == "queued"
            shown = await fleet.command(hub, "agent", "ls")
            assert "connected,cordoned" in shown.stdout
            said = await fleet.command(hub, "agent", "uncordon", "a1")
            assert said.stdout == "may be given work\n"
            assert await run.result(timeout=30) == 3
            assert (await run.get()).attempt == 1


async def test_a_busy_agent_that_is_drained_ends_with_0_once_its_run_is_done_and_nothing_is_lost() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(f"{APPS}:streamer", hub, agent_id="a1")
        async with Client.connect(hub.url, token=hub.token) as client:
            await agent.connected(client)
            busy = await client.submit("paced", PACED)
            await eventually(lambda: begun(client, busy.id))
            waiting = await client.submit("stream", 3)
            assert (await fleet.command(hub, "agent", "drain", "a1")).stdout == "draining\n"
            assert (await client.agent("a1")).draining
            assert await agent.ended() == 0
            assert await busy.result(timeout=10) == PACED["lines"]
            assert ((await busy.get()).attempt, (await waiting.get()).state) == (1, "queued")
            dump = await dump_log(client, busy.log)
            assert_kept(check_run(dump, await busy.get()))
            log = await dump_log(client, "agent/a1")
            assert [record.kind for _, record in log.records()][-2:] == [Kind.DISCONNECTED, Kind.DRAINED]
            agent.spawn()  # the next process is given work again
            assert await waiting.result(timeout=30) == 3


async def test_an_agent_that_is_drained_hands_back_what_is_not_done_in_its_time() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(f"{APPS}:streamer", hub, agent_id="a1")
        async with Client.connect(hub.url, token=hub.token) as client:
            await agent.connected(client)
            run = await client.submit("paced", PACED)
            await eventually(lambda: begun(client, run.id))
            await client.drain("a1", grace=0.2)
            assert await agent.ended() == 0
            other = fleet.agent(f"{APPS}:streamer", hub, agent_id="a2")
            assert await run.result(timeout=30) == PACED["lines"]
            assert (await run.get()).attempt == 2
            assert_kept(check_run(await dump_log(client, run.log), await run.get()))
            assert other.running
