"""A session whose token runs out: warned, given time, ended; or given a newer token, and never cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.client import Client
from agent.context import RunContext
from agent.worker import Agent
from protocol.codes import CloseCode
from protocol.frames import Heartbeat, Refresh, Refreshed
from tests.support.hub_peer import identify
from tests.support.hub_world import World
from tests.support.timing import eventually


async def test_a_session_whose_token_ran_out_is_warned_once_and_then_ends(world: World) -> None:
    await world.start(token_grace_ms=1_500, heartbeat_ms=5_000)
    async with world.peer(world.issue("operator", ttl_s=2)) as peer:
        await peer.identify(identify())
        warning = await peer.expect(Heartbeat, lambda beat: beat.refresh_ms is not None)
        assert warning.refresh_ms is not None
        assert 0 < warning.refresh_ms <= 1_500
        assert not (await peer.request("agent.list")).error
        code, message = await peer.told()
        assert (code, "no newer one came in time" in message) == (CloseCode.TOKEN_EXPIRED, True)
        assert [beat for beat in peer.frames if isinstance(beat, Heartbeat) and beat.refresh_ms is not None] == []


async def test_a_newer_token_within_the_time_of_grace_keeps_the_session(world: World) -> None:
    await world.start(token_grace_ms=60_000, heartbeat_ms=5_000)
    async with world.peer(world.issue("operator", name="ann", ttl_s=2)) as peer:
        await peer.identify(identify())
        await peer.expect(Heartbeat, lambda beat: beat.refresh_ms is not None)
        await peer.send(Refresh(token=world.issue("operator", name="ann", ttl_s=2)))
        await peer.expect(Refreshed)
        await peer.expect(Heartbeat, lambda beat: beat.refresh_ms is not None)  # that one runs out in turn
        await peer.send(Refresh(token=world.issue("operator", name="ann", ttl_s=-1)))
        assert (await peer.told())[0] == CloseCode.UNAUTHENTICATED


@pytest.mark.parametrize("source", ["file", "function"])
async def test_clients_and_agents_refresh_their_tokens_by_themselves(world: World, tmp_path: Path, source: str) -> None:
    await world.start(token_grace_ms=0)
    counters = world.hub.services.counters

    def issue() -> str:
        return world.issue("operator", "agent", name="ann", agents=("a1",), ttl_s=3)

    file = tmp_path / "token"
    current = [issue()]
    file.write_text(current[0])
    token: Callable[[], str] | None = (lambda: current[0]) if source == "function" else None
    token_file = file if source == "file" else None
    agent = Agent("a1")

    @agent.handler("echo")
    async def echo(ctx: RunContext, n: int) -> int:
        return n

    ready = asyncio.Event()
    serving = asyncio.create_task(agent.serve(world.hub.url, token=token, token_file=token_file, on_ready=ready.set))
    try:
        async with Client.connect(world.hub.url, token=token, token_file=token_file) as client:
            await ready.wait()
            began = {connection: connection.expires_s for connection in world.hub.services.connections}
            current[0] = world.issue("operator", "agent", name="ann", agents=("a1",), ttl_s=600)
            file.write_text(current[0])
            await eventually(lambda: all(c.expires_s != ended for c, ended in began.items()), 5)
            assert await (await client.submit("echo", {"n": 7})).result(timeout=5) == 7
            assert world.hub.services.connections >= began.keys()
            assert counters.sessions == len(began)
    finally:
        agent.stop(0.0)
        with contextlib.suppress(asyncio.CancelledError):
            await serving
