"""Many connections that never say who they are, and many sessions of one principal."""

from __future__ import annotations

import asyncio
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidHandshake

from orchestrator.store.commits import Commit, Outcome, Refused
from protocol.codes import CloseCode
from protocol.frames import Hello, Ready, Role
from tests.support.audited import refusals
from tests.support.certificates import Authority
from tests.support.flooder import WORDS
from tests.support.hub_peer import connected, identify
from tests.support.hub_world import World
from tests.support.timing import eventually, scaled

ATTACKER = "127.0.0.2"
FLOOD = 600
ADDRESS_MAX = 40
BYTES_EACH_MAX = 64 * 1024


@asynccontextmanager
async def flood(world: World, words: bytes = b"") -> AsyncIterator[None]:
    """Connect often from one address, and say no more than these words."""
    place = urlsplit(world.hub.url)
    where = str(place.hostname), place.port or 0

    def connect(stack: ExitStack) -> None:
        for _ in range(FLOOD):
            one = stack.enter_context(socket.create_connection(where, 10, (ATTACKER, 0)))
            with suppress(ConnectionError):  # it was cut off meanwhile
                one.sendall(words)

    with ExitStack() as stack:
        await asyncio.to_thread(connect, stack)
        yield


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
async def test_a_flood_that_never_says_who_it_is_keeps_nobody_out(world: World, words: bytes) -> None:
    await world.start(limits={"unidentified_per_address_max": ADDRESS_MAX, "handshake_ms": 60_000})
    token = world.issue("agent", agents=("a1", "a2"))
    tracemalloc.start()
    try:
        async with flood(world, words):
            await eventually(lambda: world.hub.services.counters.refused >= FLOOD - ADDRESS_MAX)
            assert world.hub._server.connected <= ADDRESS_MAX
            held, _ = tracemalloc.get_traced_memory()
            assert held < ADDRESS_MAX * BYTES_EACH_MAX
            for name, place in (("a1", None), ("a2", (ATTACKER, 0))):
                began_s = time.monotonic()
                async with connected(world.hub.url, token, local_addr=place) as peer:
                    await peer.identify(identify(name, Role.AGENT))
                    assert time.monotonic() - began_s < scaled(1.0), "from elsewhere, and from the same address"
    finally:
        tracemalloc.stop()
    await eventually(lambda: not world.hub._server.connected)
    assert (len(world.hub._server._crowd), world.hub.services.unidentified) == (0, 0)
    noted = [each for each in await refusals(world) if each["what"] == "connection"]
    assert len(noted) <= 2, "one entry for all of the flood, and for what was counted while it was written"
    assert sum(each["count"] for each in noted) == world.hub.services.counters.refused
    assert {(each["code"], each["reason"], each["network"]) for each in noted} == {("overloaded", "silent", "loopback")}


@pytest.mark.parametrize("words", [b"", b"\x16\x03\x01"], ids=["nothing", "half a greeting"])
async def test_who_has_not_come_through_tls_counts_too(world: World, tmp_path: Path, words: bytes) -> None:
    authority = Authority(tmp_path)
    settings = authority.pair("hub").settings()
    await world.start(limits={"unidentified_per_address_max": ADDRESS_MAX, "handshake_ms": 60_000}, **settings)
    async with flood(world, words):
        await eventually(lambda: world.hub.services.counters.refused >= FLOOD - ADDRESS_MAX)
        server = world.hub._server
        await eventually(lambda: server.connected + len(server._beginning) <= ADDRESS_MAX)
        async with connected(world.hub.url, world.token, ssl=authority.trusted(), local_addr=(ATTACKER, 0)) as peer:
            await peer.identify(identify())
    await eventually(lambda: not server.connected and not server._beginning)
    assert len(server._crowd) == 0


async def test_behind_a_trusted_proxy_peers_count_by_the_address_that_it_says(world: World) -> None:
    await world.start(limits={"unidentified_per_address_max": 1}, trusted_proxies=("127.0.0.0/8",))
    async with AsyncExitStack() as stack:

        async def come(address: str) -> None:
            peer = await stack.enter_async_context(connected(world.hub.url, headers={"X-Forwarded-For": address}))
            await peer.expect(Hello)

        for address in ("192.0.2.1", "192.0.2.2", "2001:db8::1"):
            await come(address)
        assert world.hub.services.counters.refused == 0
        await come("2001:db8::ffff")
        await eventually(lambda: world.hub.services.counters.refused == 1)
        assert len(world.hub._server._crowd) == 3


async def test_one_principal_has_so_many_sessions_and_another_has_its_own(world: World) -> None:
    await world.start(limits={"sessions_per_principal_max": 2})
    mine, other = world.issue("operator", name="mine"), world.issue("operator", name="other")
    elsewhere = world.issue("operator", name="mine", namespace="elsewhere")
    async with AsyncExitStack() as stack:
        for token in (mine, mine, other, elsewhere):
            peer = await stack.enter_async_context(world.peer(token))
            await peer.identify(identify())
        async with world.peer(mine) as late:
            await late.expect(Hello)
            await late.send(identify())
            assert await late.told() == (CloseCode.OVERLOADED, "2 sessions are open with tokens of mine")
    (noted,) = await refusals(world)
    assert [noted[name] for name in ("what", "code", "reason", "who")] == [
        "session", "overloaded", "sessions", "client:mine",
    ]  # fmt: skip
    await eventually(lambda: len(world.hub.services.sessions) == 0)
    async with world.peer(mine) as peer:
        await peer.identify(identify())


async def test_a_session_that_is_not_opened_after_all_counts_no_more(world: World) -> None:
    await world.start(limits={"sessions_per_principal_max": 1})
    token = world.issue("agent", name="mine", agents=("a1",))
    async with world.peer(token) as first:
        await first.identify(identify("a1", Role.AGENT))
    await eventually(lambda: not world.hub.services.connections)
    for _ in range(3):
        async with world.peer(token) as peer:
            await peer.expect(Hello)
            await peer.send(identify("a2", Role.AGENT))
            assert (await peer.told())[0] == CloseCode.FORBIDDEN
    async with world.peer(token) as last:
        await last.identify(identify("a1", Role.AGENT))


async def test_who_has_spoken_is_not_displaced_and_who_is_known_is_not_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(limits={"unidentified_per_address_max": 1})
    commit, opening, gate = world.store.commit, asyncio.Event(), asyncio.Event()

    async def slow(proposed: Commit) -> Outcome | Refused:
        opening.set()
        await gate.wait()
        return await commit(proposed)

    async with AsyncExitStack() as stack:
        known = await stack.enter_async_context(world.peer())
        await known.identify(identify())
        agent = await stack.enter_async_context(world.peer())
        await agent.expect(Hello)
        monkeypatch.setattr(world.store, "commit", slow)
        await agent.send(identify("a1", Role.AGENT))
        await opening.wait()
        with pytest.raises((OSError, InvalidHandshake)):
            await stack.enter_async_context(world.peer())
        gate.set()
        await agent.expect(Ready)
        third = await stack.enter_async_context(world.peer())
        await third.identify(identify("third"))
        assert await known.result("log.list")
