"""What a hub writes down where it runs, how it tells of itself, and how it stops."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import urllib.request
from pathlib import Path

import pytest

from orchestrator.core.sessions import agent_log
from orchestrator.hub import HUB_FILE, TOKEN_FILE
from orchestrator.server import CannotListen
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.web.health import HEALTH_LOG
from protocol.codes import CloseCode
from protocol.frames import Bye, Goaway, Puback, Role
from tests.support.hub_peer import identify, publish
from tests.support.hub_world import World, topic
from tests.support.timing import eventually


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


async def get(line: World, path: str) -> tuple[int, str]:
    return await asyncio.to_thread(fetch, line.hub.url.replace("ws://", "http://") + path)


async def test_a_hub_writes_down_where_it_is_and_a_token(world: World) -> None:
    hub = world.new_hub()
    async with hub:
        assert json.loads((world.data / HUB_FILE).read_text()) == {"url": hub.url, "pid": os.getpid()}
        for secret in (world.data / TOKEN_FILE, world.data / "keys" / "signing.pem"):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert not (world.data / HUB_FILE).exists()
    assert [path.name for path in world.data.iterdir() if path.name.startswith(".")] == []


async def test_a_token_from_before_a_restart_is_good_after_it(world: World) -> None:
    async with world.new_hub():
        before = world.token
    hub = world.new_hub()
    async with hub, world.peer(before, hub=hub) as peer:
        await peer.identify(identify())


async def test_peers_of_a_stopping_hub_are_told_to_come_back(world: World) -> None:
    hub = world.new_hub()
    async with hub, world.peer(hub=hub) as peer:
        await peer.identify(identify("a1", Role.AGENT))
        stopping = asyncio.create_task(hub._drain())
        assert (await peer.expect(Goaway)).reason == "the hub is stopping"
        assert await peer.closed() == CloseCode.GOING_AWAY
        assert any(isinstance(frame, Bye) for frame in peer.frames)
        await stopping
        assert await world.kinds(agent_log("default", "a1")) == ["$connected", "$disconnected"]


async def test_a_publish_under_way_is_acknowledged_before_a_hub_stops(world: World) -> None:
    hub = world.new_hub()
    async with hub, world.peer(hub=hub) as peer:
        await peer.identify(identify())
        fence = await peer.publisher("topic/a")
        held, release = asyncio.Event(), asyncio.Event()
        commit = world.store.commit

        async def slow(proposed: Commit) -> Outcome | Refused:
            held.set()
            await release.wait()
            return await commit(proposed)

        world.store.commit = slow  # type: ignore[method-assign, assignment]
        await peer.send(publish("topic/a", fence, 1, b"last words"))
        await held.wait()
        stopping = asyncio.create_task(hub._drain())
        await peer.expect(Goaway)
        release.set()
        assert (await peer.expect(Puback)).seq == 1
        await stopping
        assert await world.kinds(topic("a")) == ["note"]


async def test_a_hub_with_a_hung_store_still_stops(world: World) -> None:
    hub = world.new_hub(drain_ms=100)
    async with hub, world.peer(hub=hub) as peer:
        await peer.identify(identify())
        fence = await peer.publisher("topic/a")
        held = asyncio.Event()

        async def hang(_: Commit) -> Outcome | Refused:
            held.set()
            await asyncio.Event().wait()
            raise AssertionError

        world.store.commit = hang  # type: ignore[method-assign, assignment]
        await peer.send(publish("topic/a", fence, 1, b"x"))
        await held.wait()


async def test_a_port_that_is_taken_is_told(world: World) -> None:
    hub = await world.start()
    with pytest.raises(CannotListen, match=r"cannot listen on .*: another program does"):
        await world.start(listen=hub.url.removeprefix("ws://"))


async def test_the_health_check_sends_a_real_entry_through_the_store(line: World) -> None:
    status, text = await get(line, "/healthz")
    assert status == 200, text
    page = await line.store.read(HEALTH_LOG, 0, 10)
    assert page is not None
    assert page.head == 1
    assert await get(line, "/healthz") == (status, text), "what was found counts for a second"


async def test_the_health_check_fails_while_the_store_is_away(line: World) -> None:
    line.server.down = True
    assert await get(line, "/healthz") == (503, "the store does not answer\n")


async def test_metrics_count_what_happened(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify("a1", Role.AGENT))
        await peer.publish("topic/a", await peer.publisher("topic/a"), 1, b"x", b"y")
        _, text = await get(line, "/metrics")
        values = dict(each.split(" ") for each in text.splitlines() if not each.startswith("#"))
        assert values["fleetline_entries_in_total"] == "2"
        assert values["fleetline_agents"] == "1"
        assert values["fleetline_sessions_total"] == "1"


async def test_other_paths_are_not_found(line: World) -> None:
    assert (await get(line, "/etc/passwd"))[0] == 404


async def test_nothing_is_left_when_everybody_has_gone(line: World) -> None:
    for number in range(5):
        async with line.peer() as peer:
            await peer.identify(identify(f"a{number}", Role.AGENT))
            await peer.follow(f"agent/a{number}")
            await peer.follow("topic/a", kinds=("x",))
    services = line.hub.services
    await eventually(lambda: not services.connections and len(services.line.tails) == 0)
    assert len(services.peers) == 0
    assert services.agents == {}
    assert services.unidentified == 0
    await eventually(lambda: not line.hub._work)


async def test_the_data_directory_is_private(tmp_path: Path, world: World) -> None:
    world.data = tmp_path / "new"
    async with world.new_hub():
        assert stat.S_IMODE(world.data.stat().st_mode) == 0o700
