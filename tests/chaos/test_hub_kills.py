"""A run streams 100,000 entries while its hub is killed, drained, and its connection cut: each is in the log once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha1
from pathlib import Path

import redis

from agent.client import Client
from agent.runs import Run
from orchestrator.store import keys
from orchestrator.store.redis_scripts import COMMIT
from protocol.codec import pack_value
from protocol.control import Kind
from protocol.ids import LogName
from tests.chaos.amounts import rounds
from tests.chaos.histories import NOWHERE
from tests.chaos.watching import watched
from tests.support.checkers import assert_kept, check_delivered, check_sequence
from tests.support.fleet import AgentProcess, Fleet, HubProcess, dump_log
from tests.support.gate import StoreGate
from tests.support.proxy import FaultProxy
from tests.support.run_checkers import check_journal, check_run
from tests.support.timing import deadline, eventually, scaled

APP = "tests.chaos.apps:streamer"
ENTRIES = 100_000
KILLS = 20
COMMIT_DIGEST = sha1(COMMIT.source, usedforsecurity=False).hexdigest().encode()
STREAMS_WITHIN_S = 200.0


@asynccontextmanager
async def streaming(
    fleet: Fleet, hub: HubProcess, *, count: int = ENTRIES, url: str | None = None
) -> AsyncIterator[tuple[Client, Run, AgentProcess]]:
    """Have an agent stream lines."""
    agent = fleet.agent(APP, hub, agent_id="streamer", url=url)
    async with Client.connect(url or hub.url, token=hub.token, timeout=30) as client:
        await agent.connected(client)
        run = await client.submit("stream", {"lines": count})
        yield client, run, agent


def store_at(socket: Path) -> redis.Redis:
    """Connect to the store itself."""
    return redis.Redis(unix_socket_path=str(socket), decode_responses=True)


def meta_of(store: redis.Redis, run: Run) -> dict[str, str]:
    """Read what the store itself keeps of a run."""
    fields = store.hgetall(keys.meta(LogName.parse(run.log)))
    return {str(name): str(value) for name, value in fields.items()}


def head_of(store: redis.Redis, run: Run) -> int:
    """Read how many entries the store itself has of a run."""
    return int(store.hget(keys.meta(LogName.parse(run.log)), "head") or 0)


async def check_stream(
    fleet: Fleet, hub: HubProcess, client: Client, run: Run, *, count: int = ENTRIES, socket: Path | None = None
) -> None:
    """Wait for the end, and hold the run to everything that was promised.

    Args:
        fleet: for the command.
        hub: whose run it is.
        client: to read with.
        run: the run.
        count: how many lines it emits.
        socket: the store's own, where something stands in front of it.
    """
    assert await run.result(timeout=STREAMS_WITHIN_S) == count
    dump = await dump_log(client, run.log)
    info = await run.get()
    with store_at(socket or hub.store_socket) as store:
        meta = meta_of(store, run)
    lines = [pack_value(number) for number in range(count)]
    assert_kept(check_run(dump, info, meta), check_sequence(dump, "line", lines), check_journal(dump))
    assert info.attempt == 1
    verified = await fleet.command(hub, "log", "verify", run.log)
    assert verified.returncode == 0, verified


async def kill_with_a_commit_in_flight(hub: HubProcess, gate: StoreGate, run: Run, *, executed: bool) -> None:
    """SIGKILL the hub while it waits for the answer to a commit of this run.

    The gate has seen the beginning of the call (the commit script's digest, then the key of the run's
    producers) and lets no answer through from then on, so the hub is owed one when it dies. With `executed` the
    store does the commit first, as the log shows that grows although the hub is told nothing; else the
    commit never arrives there.
    """
    gate.arm(keys.producers(LogName.parse(run.log)).encode())
    async with deadline(30):
        await gate.caught.wait()
    assert COMMIT_DIGEST in gate.request, gate.request
    with store_at(gate.back) as store:
        before = head_of(store, run)
        if executed:
            gate.execute()
            await eventually(lambda: head_of(store, run) > before)
        await hub.kill()
    gate.open()


async def test_a_hub_killed_again_and_again_with_a_commit_in_flight_loses_and_repeats_nothing() -> None:
    kills = rounds(KILLS)
    async with Fleet() as fleet, FaultProxy(NOWHERE, patient=True) as proxy:
        hub = await fleet.hub()
        proxy.target = hub.address
        await hub.kill()
        async with StoreGate.interpose(hub.store_socket) as gate:
            await hub.start()
            async with (
                streaming(fleet, hub, url=proxy.url) as (client, run, _),
                watched(client, run.log) as story,
                asyncio.timeout(scaled(STREAMS_WITHIN_S)),
            ):
                with store_at(gate.back) as store:
                    for kill in range(kills):
                        target = (kill + 1) * ENTRIES // (kills + 2)
                        await eventually(lambda target=target: head_of(store, run) >= target, 60)  # type: ignore[misc]
                        await kill_with_a_commit_in_flight(hub, gate, run, executed=kill % 2 == 0)
                        assert head_of(store, run) < ENTRIES, "the run was over before the last kill"
                        await hub.start()
                await check_stream(fleet, hub, client, run, socket=gate.back)
                await eventually(lambda: story.upto == ENTRIES + 3)
                assert_kept(check_delivered(await dump_log(client, run.log), story.events))
        assert hub.starts == kills + 2


async def test_a_stream_over_a_line_that_is_cut_all_the_time_is_whole() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with FaultProxy(hub.address, seed=1) as proxy:
            proxy.throttle(3_000_000)
            proxy.cut_every(200, 500)
            async with (
                streaming(fleet, hub, url=proxy.url) as (client, run, _),
                watched(client, run.log) as story,
            ):
                await eventually(lambda: proxy.cuts >= rounds(10), 120)
                info = await run.get()
                assert info.state == "running", info
                proxy.throttle(None)
                await check_stream(fleet, hub, client, run)
                await eventually(lambda: story.upto == ENTRIES + 3, 60)
                assert_kept(check_delivered(await dump_log(client, run.log), story.events))


async def test_a_reader_of_one_kind_gets_through_a_long_log_over_a_line_that_is_cut_all_the_time() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with (
            FaultProxy(hub.address, seed=2) as proxy,
            streaming(fleet, hub) as (_, run, _),
            Client.connect(proxy.url, token=hub.token) as reader,
        ):
            await run.result(timeout=STREAMS_WITHIN_S)
            proxy.cut_every(60, 120)
            async with reader.subscribe(run.log, kinds=[Kind.SUCCEEDED]) as entries, asyncio.timeout(scaled(60)):
                assert (await anext(entries)).offset == ENTRIES + 3
            assert proxy.cuts >= 2


async def test_a_hub_that_drains_sends_everybody_away_and_nobody_loses_anything() -> None:
    count, drains = 30_000, rounds(3)
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with (
            FaultProxy(hub.address, patient=True) as proxy,
            streaming(fleet, hub, count=count, url=proxy.url) as (client, run, agent),
            watched(client, run.log) as story,
        ):
            for drain in range(drains):
                target = (drain + 1) * count // (drains + 2)
                await eventually(lambda target=target: story.upto >= target, 60)  # type: ignore[misc]
                assert await hub.terminate() == 0
                await hub.start()
                await agent.connected(client)
            await check_stream(fleet, hub, client, run, count=count)
            await eventually(lambda: story.upto == count + 3)
            assert_kept(check_delivered(await dump_log(client, run.log), story.events))
            assert sum("4000: the hub is stopping" in line for line in agent.output().splitlines()) == drains
