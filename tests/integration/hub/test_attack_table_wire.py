"""A table of attacks with bytes and with numbers: frames that are too much, bombs, slow handshakes, floods of requests.

The flood of 5,000 connections is in tests/chaos/test_floods.py, a smaller one in test_crowds.py; peers that read
nothing are in test_hostile_peers.py, rates in test_rates.py, other rubbish in test_rubbish.py.
"""

from __future__ import annotations

import asyncio
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from protocol.codec import encode
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import Frame, Heartbeat, Hello, Ready, Request, Response, Start, Subscribe, Subscribed
from protocol.limits import ARRAYS_MAX, ITEMS_MAX, MAPS_MAX, MESSAGE_FRAMES_MAX, NESTING_MAX, UNIDENTIFIED_BYTES_MAX
from tests.support.hub_peer import HubPeer, identify, subscribe
from tests.support.hub_work import submit
from tests.support.hub_world import World
from tests.support.raw_bytes import BINARY, CLOSE, PING, close_code, raw, rest, upgrade, ws
from tests.support.timing import deadline, eventually, scaled

MIB = 1024 * 1024


# Frames


def nested(levels: int) -> bytes:
    """Return a request with so many levels, itself and its parameters among them."""
    head = b"\x84\xa1t\xa7request\xa2id\x01\xa6method\xa8log.list\xa6params\x81\xa1x"
    return head + b"\x91" * (levels - 2) + b"\xc0"


def wide(header: bytes, item: bytes, count: int) -> bytes:
    """Return a heartbeat with a field of so many items."""
    return b"\x82\xa1t\xa9heartbeat\xa1x" + header + count.to_bytes(4, "big") + item * count


FRAMES: dict[str, tuple[bytes, CloseCode, CloseCode]] = {
    "too large": (b"\xc0" * (5 * MIB), CloseCode.TOO_LARGE, CloseCode.TOO_LARGE),
    "too large for a stranger": (b"\xc0" * (UNIDENTIFIED_BYTES_MAX + 1), CloseCode.TOO_LARGE, CloseCode.MALFORMED),
    "a level too deep": (nested(NESTING_MAX + 1), CloseCode.TOO_LARGE, CloseCode.TOO_LARGE),
    "5,000 levels deep": (nested(5_000), CloseCode.MALFORMED, CloseCode.MALFORMED),
    "60,000 levels deep": (nested(60_000), CloseCode.MALFORMED, CloseCode.MALFORMED),
    "too many items": (wide(b"\xdd", b"\xc0", ITEMS_MAX + 1), CloseCode.MALFORMED, CloseCode.MALFORMED),
    "items that are not there": (b"\xdd\xff\xff\xff\xff", CloseCode.MALFORMED, CloseCode.MALFORMED),
    "bytes that are not there": (b"\xc6\xff\xff\xff\xff", CloseCode.MALFORMED, CloseCode.MALFORMED),
    "a map that is not there": (b"\xdf\xff\xff\xff\xff", CloseCode.MALFORMED, CloseCode.MALFORMED),
    "too many frames": (
        encode(Heartbeat()) * (MESSAGE_FRAMES_MAX + 1),
        CloseCode.UNEXPECTED_FRAME,
        CloseCode.TOO_LARGE,
    ),
    "too many empty maps": (
        b"\x82\xa1t\xa9heartbeat\xa1x\x9f" + (b"\xdc\x10\x00" + b"\x80" * 4096) * 15,
        CloseCode.TOO_LARGE,
        CloseCode.TOO_LARGE,
    ),
}
assert MAPS_MAX < 15 * 4096 < ARRAYS_MAX
"""What is sent, and how who has not said who it is, and who has, is closed."""


@pytest.mark.parametrize("known", [False, True], ids=["a stranger", "a session"])
@pytest.mark.parametrize("name", FRAMES)
async def test_a_frame_that_is_too_much_ends_its_connection_alone(calm: World, name: str, known: bool) -> None:
    message, to_a_stranger, in_a_session = FRAMES[name]
    async with calm.peer() as bystander, calm.peer() as peer:
        await bystander.identify(identify("bystander"))
        if known:
            await peer.identify(identify())
        else:
            await peer.expect(Hello)
        tracemalloc.start()
        try:
            await peer.send_raw(message)
            assert await peer.closed() == (in_a_session if known else to_a_stranger)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 4 * len(message) + 4 * MIB, "this process is both ends"
        await bystander.result("log.list")


@pytest.mark.parametrize("levels", [8, 40])
async def test_a_hub_takes_as_many_levels_as_it_is_set_to(world: World, levels: int) -> None:
    await world.start(heartbeat_ms=5_000, limits={"nesting_max": levels})
    async with world.peer() as peer:
        hello = await peer.expect(Hello)
        assert hello.limits.nesting_max == levels
        await peer.send(identify())
        await peer.expect(Ready)
        await peer.send_raw(nested(levels))
        assert (await peer.expect(Response)).error is None
        await peer.send_raw(nested(levels + 1))
        assert await peer.closed() == CloseCode.TOO_LARGE


# Compression


BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB_BYTES = (BOMB.compress(bytes(32 * MIB)) + BOMB.flush(zlib.Z_SYNC_FLUSH)).removesuffix(b"\0\0\xff\xff")
"""32 MiB of zeros, as permessage-deflate sends them."""
RSV1 = 0x40
OFFERS = (
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits; server_max_window_bits=15",
    "x-webkit-deflate-frame",
    "permessage-bzip2, permessage-deflate",
)


@pytest.mark.parametrize("known", [False, True], ids=["a stranger", "a session"])
@pytest.mark.parametrize("offer", OFFERS)
async def test_compression_is_never_agreed_on_and_a_bomb_is_not_unpacked(calm: World, offer: str, known: bool) -> None:
    async with raw(calm) as (reader, writer):
        writer.write(upgrade(calm, "fleetline.v1", f"Sec-WebSocket-Extensions: {offer}"))
        async with deadline(10):
            answer = await reader.readuntil(b"\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 101")
            assert b"extensions" not in answer.lower()
            if known:
                writer.write(ws(BINARY, encode(identify())))
                await reader.readuntil(b"ready")
        tracemalloc.start()
        try:
            writer.write(ws(BINARY | RSV1, BOMB_BYTES))
            assert close_code(await rest(reader)) == 1002
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(BOMB_BYTES) < UNIDENTIFIED_BYTES_MAX
        assert most < MIB


async def test_a_client_that_would_compress_is_told_that_nothing_is(calm: World) -> None:
    options: dict[str, Any] = {"compression": "deflate", "proxy": None}
    async with connect(calm.hub.url, subprotocols=[Subprotocol("fleetline.v1")], **options) as socket:
        assert not socket.protocol.extensions


# Slow handshakes

HANDSHAKE_MS = 300
DRIP_S = 0.02
IDENTIFY = encode(identify("a1"))

SLOW: dict[str, tuple[Callable[[World], Sequence[bytes]], int]] = {
    "nothing": (lambda _: [], 0),
    "half a request": (lambda _: [b"GET / HTTP/1.1\r\n"], 0),
    "a request, byte by byte": (lambda world: [bytes([byte]) for byte in upgrade(world)], 0),
    "headers without end": (lambda _: [b"GET / HTTP/1.1\r\n", *repeat(b"X: y\r\n", 1_000)], 0),
    "a request and no more": (lambda world: [upgrade(world)], CloseCode.HANDSHAKE_TIMEOUT),
    "half an identify": (lambda world: [upgrade(world), ws(BINARY, IDENTIFY)[:9]], CloseCode.HANDSHAKE_TIMEOUT),
    "an identify, byte by byte": (
        lambda world: [
            upgrade(world),
            ws(BINARY, fin=False),
            *[ws(0, bytes([byte]), fin=False) for byte in IDENTIFY],
            *repeat(ws(0, fin=False), 1_000),
        ],
        CloseCode.HANDSHAKE_TIMEOUT,
    ),
    "pings": (lambda world: [upgrade(world), *repeat(ws(PING), 1_000)], CloseCode.HANDSHAKE_TIMEOUT),
}
"""What is said, a piece now and then, and the code that ends it; 0 for none."""


async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Return what the hub says until it is gone; answer where it closes."""
    said = b""
    async with deadline(10):
        with suppress(ConnectionError):  # it may be cut off in the midst of what it says
            while more := await reader.read(65536):
                said += more
                if close_code(said) == CloseCode.HANDSHAKE_TIMEOUT:
                    writer.write(ws(CLOSE))
    return said


@pytest.mark.parametrize("name", SLOW)
async def test_who_takes_too_long_to_say_who_it_is_is_cut_off(world: World, name: str) -> None:
    await world.start(limits={"handshake_ms": HANDSHAKE_MS})
    pieces, code = SLOW[name]
    async with raw(world) as (reader, writer):
        began_s = time.monotonic()
        reading = asyncio.create_task(end(reader, writer))
        for piece in pieces(world):
            writer.write(piece)
            if (await asyncio.wait({reading}, timeout=DRIP_S))[0]:
                break
        said = await reading
        assert HANDSHAKE_MS / 1000 * 0.9 < time.monotonic() - began_s < scaled(5.0)
        assert close_code(said) == code
        assert b"ready" not in said
    await eventually(lambda: not world.hub._server.connected)
    assert not world.hub._server._crowd
    async with world.peer() as peer:
        await peer.identify(identify())


# Floods of requests


MANY = 1_000
ALLOWED = 8


def requests(method: str, **params: Any) -> list[Request]:
    return [Request(id=number, method=method, params=params) for number in range(1, MANY + 1)]


async def answers(peer: HubPeer, frames: Sequence[Frame]) -> list[str | None]:
    """Send all in one message; return the codes of the answers, which may come in any order."""
    await peer.send(*frames)
    found: list[str | None] = []
    for frame in frames:
        if isinstance(frame, Subscribe):
            found.append((await peer.expect(Subscribed)).subscription.code)
        else:
            error = (await peer.expect(Response)).error
            assert error is None or error.retry_ms
            found.append(error.code if error else None)
    return found


async def test_of_a_flood_of_requests_as_many_as_may_be_are_taken_on(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"requests_max": ALLOWED})
    async with world.peer() as bystander, world.peer() as peer:
        await bystander.identify(identify("bystander"))
        await peer.identify(identify())
        found = await answers(peer, requests("log.list"))
        assert (found.count(None), found.count(ErrorCode.TOO_MANY)) == (ALLOWED, MANY - ALLOWED)
        await bystander.result("log.list")
        assert await answers(peer, requests("log.list")[:1]) == [None], "and it goes on"


async def test_of_a_flood_of_requests_that_wait_as_many_as_may_be_do(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"waits_max": ALLOWED})
    async with world.peer() as client, world.peer() as peer:
        await client.identify(identify("ada"))
        await peer.identify(identify())
        run = (await submit(client)).name
        flood = requests("run.wait", run=run, wait_ms=60_000)
        await peer.send(*flood)
        told = [await peer.expect(Response) for _ in range(MANY - ALLOWED)]
        assert {each.error and each.error.code for each in told} == {ErrorCode.TOO_MANY}
        await peer.result("log.list")
        await client.result("run.cancel", run=run)
        assert [(await peer.expect(Response)).error for _ in range(ALLOWED)] == [None] * ALLOWED


async def test_of_a_flood_of_subscriptions_as_many_as_may_be_are_had(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"subscriptions_max": ALLOWED})
    async with world.peer() as peer:
        await peer.identify(identify())
        found = await answers(peer, [subscribe(f"topic/t{number}", Start.LATEST) for number in range(100)])
        assert (found.count(None), found.count(ErrorCode.TOO_MANY)) == (ALLOWED, 100 - ALLOWED)


async def test_a_flood_of_requests_past_the_rate_is_late_and_others_are_not(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"frames_per_s_max": 500})
    fast, other = world.issue("operator", name="fast"), world.issue("operator", name="other")
    async with world.peer(fast) as peer, world.peer(other) as bystander:
        await peer.identify(identify())
        await bystander.identify(identify())
        began_s = time.monotonic()
        for _ in range(6):
            await peer.send(*requests("token.check", token="t")[:250])  # of which 1,000 may come at once
        asked_s = time.monotonic()
        await bystander.result("log.list")
        assert time.monotonic() - asked_s < scaled(0.5)
        for _ in range(1_500):
            await peer.expect(Response)
        assert time.monotonic() - began_s > 0.4


@pytest.mark.parametrize("rate", [100, 0], ids=["past a rate", "without rates"])
async def test_a_flood_of_requests_by_many_sessions_leaves_others_their_turn(world: World, rate: int) -> None:
    """Both the rate and the turns are those of whoever the sessions belong to, all together."""
    await world.start(heartbeat_ms=5_000, limits={"frames_per_s_max": rate})
    token, message = world.issue("viewer", name="eve"), ws(BINARY, b"".join(map(encode, requests("run.list")[:50])))

    async def flood(over: asyncio.Event) -> None:
        async with raw(world) as (reader, writer):
            writer.write(upgrade(world) + ws(BINARY, encode(identify("eve", token=token))))
            await reader.readuntil(b"ready")
            while not over.is_set():
                writer.write(message)
                with suppress(TimeoutError):
                    async with asyncio.timeout(DRIP_S):
                        await reader.read(MIB)

    over, took = asyncio.Event(), []
    async with world.peer() as bystander, asyncio.TaskGroup() as floods:
        await bystander.identify(identify("bystander"))
        for number in range(100):
            await submit(bystander, key=f"k{number}")  # what each request of the flood lists
        for _ in range(4):
            floods.create_task(flood(over))
        for _ in range(15):
            began_s = time.monotonic()
            await bystander.result("log.list")
            took.append(time.monotonic() - began_s)
            await asyncio.sleep(DRIP_S)  # so that it is many moments of the flood
        over.set()
    assert max(took) < scaled(1.0)
