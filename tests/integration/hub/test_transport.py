"""What comes over bare sockets, from peers that keep to no rule, on both event loops: it is bounded, and it ends."""

from __future__ import annotations

import asyncio
import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import cast
from urllib.parse import urlsplit

import pytest

from orchestrator import hub as hub_module
from orchestrator.hub import Hub
from orchestrator.room import FILES_RESERVED, Room
from orchestrator.settings import Settings
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.web.health import Health, Report
from orchestrator.websocket import PIECE_BYTES_MAX, REQUEST_BYTES_MAX, Socket
from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.frames import Bye, Heartbeat, Role, Start, Subscribe, Window
from protocol.limits import Limits
from tests.support.hub_peer import identify, publish, subscribe
from tests.support.hub_work import connection_of
from tests.support.hub_world import World, topic
from tests.support.raw_bytes import BINARY, CLOSE, PING, ask, raw, rest, upgrade, ws
from tests.support.timing import deadline, eventually

FLOOD_BYTES = 1_000_000
PLAIN = b"GET / HTTP/1.1\r\nHost: hub\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n"


@pytest.fixture(autouse=True)
async def faults() -> AsyncIterator[list[str]]:
    """What the event loop complains about: nothing."""
    found: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(str(context)))
    yield found
    assert found == []


async def test_a_small_message_does_not_wait_for_the_one_before(calm: World) -> None:
    async with calm.peer() as peer:
        await peer.identify(identify("a1", Role.AGENT))
        link = connection_of(calm, "a1")
        assert link is not None
        transport = link._socket._transport
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def sockets(hub: Hub) -> int:
    """Return how many connections of any kind a hub has."""
    return hub._server.connected


async def empty(hub: Hub) -> None:
    """Wait until a hub has no connection, and see that nothing is left of any."""
    await eventually(lambda: sockets(hub) == 0 and not hub._work)
    services = hub.services
    assert (len(services.connections), services.unidentified, len(services.peers)) == (0, 0, 0)
    assert len(services.line.tails) == 0
    assert not hub._server._strangers


# Requests


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (PLAIN + PLAIN, b"426"),
        (PLAIN + ws(CLOSE), b"426"),
        (PLAIN + ws(PING, b"x"), b"426"),
        (b"POST / HTTP/1.1\r\n\r\n" + b"a body of some length", b"405"),
        (HEALTH + HEALTH, b"200"),
        (HEALTH + b"\xff" * 3000, b"200"),
        (b"GET /metrics HTTP/1.1\r\n\r\n" + ws(CLOSE), b"200"),
    ],
    ids=["again", "close", "ping", "body", "health again", "health rubbish", "metrics close"],
)
async def test_what_comes_behind_a_request_does_not_matter(line: World, data: bytes, status: bytes) -> None:
    assert (await ask(line, data)).startswith(b"HTTP/1.1 " + status)
    await empty(line.hub)


async def test_what_comes_behind_a_handshake_is_read_after_the_answer(line: World) -> None:
    async with raw(line) as (reader, writer):
        writer.write(upgrade(line) + ws(PING, b"early") + ws(BINARY, encode(identify())))
        async with deadline(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 101")
            said = await reader.readuntil(b"early")
            assert said.index(b"hello") < said.index(b"\x8a\x05early")
            await reader.readuntil(b"ready")
    assert (await ask(line, upgrade(line) + ws(CLOSE, b"\x03\xe8"))).endswith(b"\x88\x02\x03\xe8")
    assert (await ask(line, upgrade(line, "other") + ws(CLOSE))).startswith(b"HTTP/1.1 400")
    await empty(line.hub)


async def test_a_peer_that_is_gone_before_its_health_is_known_harms_nobody(
    line: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, gate = asyncio.Event(), asyncio.Event()

    async def slow(_: Health) -> Report:
        asked.set()
        await gate.wait()
        return Report(True, "ok", 0)

    monkeypatch.setattr(Health, "report", slow)
    async with raw(line) as (reader, writer):
        writer.write(HEALTH)
        writer.write_eof()
        await asked.wait()
        gate.set()
        assert (await rest(reader)).endswith(b"ok\n"), "it may not say more, and still be told"
    gate.clear()
    asked.clear()
    async with raw(line) as (_, writer):
        writer.write(HEALTH)
        await asked.wait()
        writer.write(b"x" * 1000)
    gate.set()
    await empty(line.hub)


async def test_an_endless_request_is_refused(line: World) -> None:
    header = b"X-Header: " + b"x" * 4000 + b"\r\n"
    async with raw(line) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        for _ in range(REQUEST_BYTES_MAX // len(header) + 1):
            writer.write(header)
            await writer.drain()
        assert (await rest(reader)).startswith(b"HTTP/1.1 431")
    await empty(line.hub)


# Room


async def test_a_connection_that_never_asks_is_closed(world: World) -> None:
    await world.start(limits={"handshake_ms": 300})
    async with raw(world) as (silent, _), raw(world) as (slow, writer):
        writer.write(b"GET / HT")
        assert (await rest(silent), await rest(slow)) == (b"", b"")
    await empty(world.hub)


async def test_connections_that_never_ask_are_bounded(world: World) -> None:
    await world.start(limits={"unidentified_max": 4})
    async with AsyncExitStack() as stack:
        async with world.peer() as peer:
            await peer.identify(identify())
            crowd = [await stack.enter_async_context(raw(world)) for _ in range(20)]
            await eventually(lambda: sockets(world.hub) == 5)
            await eventually(lambda: world.hub.services.counters.refused == 16)
            assert await peer.result("log.list"), "who was let in is not troubled"
        for _, writer in crowd:
            writer.close()
        await empty(world.hub)
    async with world.peer() as peer:
        await peer.identify(identify())


def test_a_hub_leaves_itself_files_to_work_with(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def room(files: int) -> tuple[int, int]:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
        found = Room(Settings(data=world.data, connections_max=5_000, limits=Limits(unidentified_max=1_000)))
        assert found.address_strangers_max == found.strangers_max, "an address may have no more than all"
        return found.sockets_max, found.strangers_max

    assert room(resource.RLIM_INFINITY) == room(100_000) == (6_000, 1_000)
    assert room(1_024) == (1_024 - FILES_RESERVED, (1_024 - FILES_RESERVED) // 2)
    assert room(100) == (50, 25)


# Messages


FLOODS = {
    "pings": ws(PING),
    "pongs": ws(PING + 1),
    "fragments": ws(0, fin=False),
    "pieces": ws(0, b"x", fin=False),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
async def test_a_flood_of_tiny_frames_leaves_others_their_turn(
    calm: World, frame: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one peer sent before, and all that its socket holds, is not handled in one turn of the event loop."""
    async with calm.peer() as bystander, raw(calm) as (reader, writer):
        await bystander.identify(identify())
        writer.write(upgrade(calm) + ws(BINARY, encode(identify("flood"))))
        async with deadline(10):
            await reader.readuntil(b"ready")
        link = connection_of(calm, "flood")
        assert link is not None
        turns, taken, take = [0], 0, Socket._take

        def counted(it: Socket, data: bytes) -> int:
            nonlocal taken
            if it is link._socket:
                turns[-1] += len(data)
                taken += len(data)
            return take(it, data)

        def next_turn() -> None:
            turns.append(0)
            loop.call_soon(next_turn)

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(Socket, "_take", counted)
        loop.call_soon(next_turn)
        writer.write(ws(BINARY, fin=False) + frame * (FLOOD_BYTES // len(frame)))
        await eventually(lambda: taken > FLOOD_BYTES * 0.9)
        assert max(turns) < 2 * PIECE_BYTES_MAX
        assert await bystander.result("log.list")


BROKEN = {
    "not masked": (b"\x82\x01x", 1002),
    "a reserved bit": (b"\xc2\x80" + bytes(4), 1002),
    "an opcode that is none": (ws(3), 1002),
    "a fragment of nothing": (ws(0), 1002),
    "a ping in fragments": (ws(PING, fin=False), 1002),
    "a long ping": (ws(PING, b"x" * 126), 1002),
    "a message in a message": (ws(BINARY, fin=False) + ws(BINARY), 1002),
    "a close code that is none": (ws(CLOSE, b"\x03\xed"), 1002),
    "half a close code": (ws(CLOSE, b"\x03"), 1002),
    "a reason that is no text": (ws(CLOSE, b"\x03\xe8\xff"), CloseCode.MALFORMED),
    "a text in fragments": (ws(1, b"x", fin=False), CloseCode.MALFORMED),
    "too large, in fragments": (ws(BINARY, b"x" * 40_000, fin=False) + ws(0, b"x" * 40_000), CloseCode.TOO_LARGE),
    "data behind a close": (ws(CLOSE, b"\x03\xe8") + ws(BINARY, b"\xc1"), 1000),
}


@pytest.mark.parametrize(("data", "code"), BROKEN.values(), ids=BROKEN)
async def test_a_websocket_that_breaks_the_rules_is_closed_with_a_code(line: World, data: bytes, code: int) -> None:
    said = await ask(line, upgrade(line) + data)
    assert struct.pack("!H", code) in said[said.rindex(b"\x88") :]
    await empty(line.hub)


async def test_a_message_in_pieces_with_pings_between_them_is_whole(line: World) -> None:
    message = encode(identify())
    async with raw(line) as (reader, writer):
        writer.write(upgrade(line) + ws(BINARY, fin=False))
        for at in range(0, len(message), 5):
            writer.write(ws(0, message[at : at + 5], fin=False) + ws(PING, b"p") + ws(0, fin=False))
        writer.write(ws(0))
        async with deadline(10):
            await reader.readuntil(b"ready")


async def test_what_comes_behind_identify_waits_and_is_not_hoarded(
    calm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, gate, commit = asyncio.Event(), asyncio.Event(), calm.store.commit

    async def slow(proposed: Commit) -> Outcome | Refused:
        opening.set()
        await gate.wait()
        return await commit(proposed)

    monkeypatch.setattr(calm.store, "commit", slow)
    heartbeat = ws(BINARY, encode(Heartbeat()))
    async with raw(calm) as (reader, writer):
        writer.write(upgrade(calm) + ws(BINARY, encode(identify("a1", Role.AGENT))) + heartbeat * 20_000)
        await opening.wait()
        link = next(iter(calm.hub.services.connections))
        await eventually(lambda: link._incoming._unread)
        for _ in range(10):
            assert len(link._incoming._unread or ()) <= PIECE_BYTES_MAX // len(heartbeat) + 1
            assert await calm.store.meta(topic("a")) is None
        gate.set()
        writer.write(ws(BINARY, encode(Bye(reason="done"))))
        assert b"ready" in await rest(reader)
    await empty(calm.hub)


# Ends


async def test_a_peer_that_says_and_reads_nothing_more_is_cut_off(calm: World) -> None:
    async with calm.peer() as client, raw(calm) as (reader, writer):
        await client.identify(identify())
        fence = await client.publisher("topic/a")
        for seq in range(1, 16):
            await client.publish("topic/a", fence, seq, b"x" * 900_000)
        writer.write(upgrade(calm) + ws(BINARY, encode(identify("deaf"))))
        async with deadline(10):
            await reader.readuntil(b"ready")
        link = connection_of(calm, "deaf")
        assert link is not None
        cast(asyncio.Transport, writer.transport).pause_reading()
        frame = Subscribe.model_validate({"log": "topic/a", "from": Start.EARLIEST, "window": Window(bytes=8_000_000)})
        writer.write(ws(BINARY, encode(frame)))
        await eventually(lambda: link.congested)
        writer.write_eof()
        await eventually(lambda: sockets(calm.hub) == 1)


async def test_a_peer_that_is_told_to_go_while_it_waits_can_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.start(heartbeat_ms=5_000, limits={"publish_entries_max": 1})
    commit, gate = world.store.commit, asyncio.Event()
    aborted: list[Socket] = []

    async def slow(proposed: Commit) -> Outcome | Refused:
        await gate.wait()
        return await commit(proposed)

    async with world.peer() as peer:
        await peer.identify(identify())
        fence = await peer.publisher("topic/a")
        monkeypatch.setattr(world.store, "commit", slow)
        monkeypatch.setattr(Socket, "abort", aborted.append)
        for seq in range(1, 4):
            await peer.send(publish("topic/a", fence, seq, b"x"))
        link = connection_of(world, "tester")
        assert link is not None
        await eventually(lambda: link._incoming._unread)
        link.fail(CloseCode.TOKEN_EXPIRED, "enough")
        await peer.send(Heartbeat())
        assert await peer.closed() == CloseCode.TOKEN_EXPIRED
        await eventually(lambda: sockets(world.hub) == 0)
        assert aborted == []
        gate.set()


@pytest.mark.parametrize("how", ["reset", "end", "half"])
async def test_a_conversation_may_break_at_any_byte(line: World, how: str) -> None:
    place = urlsplit(line.hub.url)
    says = upgrade(line) + ws(BINARY, encode(identify("a1", Role.AGENT)))
    says += ws(BINARY, encode(subscribe("topic/a", Start.EARLIEST))) + ws(BINARY, encode(Heartbeat())) * 3
    loop, left = asyncio.get_running_loop(), []
    for length in range(1, len(says), 23):
        peer = socket.socket()
        peer.setblocking(False)
        await loop.sock_connect(peer, (place.hostname, place.port))
        await loop.sock_sendall(peer, says[:length])
        if how == "half":
            peer.shutdown(socket.SHUT_WR)
            left.append(peer)
            continue
        if how == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
    await empty(line.hub)
    for peer in left:
        peer.close()


async def test_a_stopping_hub_does_not_wait_for_those_who_never_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "FAREWELL_S", 60.0)
    hub = world.new_hub(limits={"handshake_ms": 60_000})
    async with AsyncExitStack() as stack:
        async with deadline(20), hub:
            crowd = [await stack.enter_async_context(raw(world)) for _ in range(5)]
            for _, writer in crowd[1:]:
                writer.write(b"GET /healthz HT")
            peer = await stack.enter_async_context(world.peer())
            await peer.identify(identify())
            await eventually(lambda: sockets(hub) == 6)
        assert sockets(hub) == 0
