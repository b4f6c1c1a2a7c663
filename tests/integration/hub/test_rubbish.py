"""Bytes that no peer of good will sends: each is answered with its code, and the hub goes on."""

from __future__ import annotations

import msgpack
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.frames import Ack, Heartbeat, Hello, Publish, Tags, Unsubscribe
from tests.support.hub_peer import identify, publish
from tests.support.hub_world import World
from tests.support.timing import eventually


def pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value)
    return packed


RUBBISH = {
    "no msgpack": (b"\xc1\xc1\xc1", CloseCode.MALFORMED),
    "half a frame": (pack({"t": "heartbeat"})[:-1], CloseCode.MALFORMED),
    "no map": (pack([1, 2, 3]), CloseCode.MALFORMED),
    "an extension": (pack({"t": "heartbeat", "x": msgpack.ExtType(5, b"")}), CloseCode.MALFORMED),
    "a key twice": (b"\x82\xa1t\xa9heartbeat\xa1t\xa9heartbeat", CloseCode.MALFORMED),
    "an unknown type": (pack({"t": "gossip"}), CloseCode.UNKNOWN_FRAME),
    "no type": (pack({}), CloseCode.UNKNOWN_FRAME),
    "a hub's frame": (pack({"t": "goaway", "after_ms": 1, "reason": ""}), CloseCode.UNEXPECTED_FRAME),
    "a wrong field": (pack({"t": "heartbeat", "slots_free": "many"}), CloseCode.INVALID_FRAME),
    "identify again": (encode(identify()), CloseCode.UNEXPECTED_FRAME),
    "text": ("hello", CloseCode.MALFORMED),
    "an array that claims to be huge": (b"\xdd\xff\xff\xff\xff", CloseCode.MALFORMED),
}


@pytest.mark.parametrize(("message", "code"), RUBBISH.values(), ids=RUBBISH)
async def test_rubbish_is_answered_with_its_code(line: World, message: bytes | str, code: CloseCode) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        await peer.send_raw(message)
        assert (await peer.told())[0] == code
    await eventually(lambda: not line.hub.services.connections)
    async with line.peer() as peer:
        await peer.identify(identify())


async def test_frames_before_the_rubbish_take_effect(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        fence = await peer.publisher("topic/a")
        await peer.send_raw(encode(publish("topic/a", fence, 1, b"kept")) + b"\xc1")
        assert (await peer.told())[0] == CloseCode.MALFORMED
    async with line.peer() as peer:
        await peer.identify(identify())
        assert (await peer.result("log.get", log="topic/a"))["head"][1] == 1


async def test_frames_before_identify_are_refused(line: World) -> None:
    async with line.peer() as peer:
        await peer.expect(Hello)
        await peer.send_raw(encode(Heartbeat()))
        assert (await peer.told())[0] == CloseCode.UNEXPECTED_FRAME


async def test_frames_behind_identify_in_one_message_are_refused(line: World) -> None:
    async with line.peer() as peer:
        await peer.expect(Hello)
        await peer.send_raw(encode(identify()) + encode(Heartbeat()))
        assert (await peer.told())[0] == CloseCode.UNEXPECTED_FRAME


@pytest.mark.parametrize("size", [65 * 1024, 10 * 1024 * 1024])
async def test_a_large_message_before_identify_is_refused(line: World, size: int) -> None:
    async with line.peer() as peer:
        await peer.expect(Hello)
        await peer.send_raw(b"\xc0" * size)
        assert (await peer.closed()) == CloseCode.TOO_LARGE


async def test_a_message_over_the_limit_is_refused(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        await peer.send_raw(b"\xc0" * (5 * 1024 * 1024))
        assert (await peer.closed()) == CloseCode.TOO_LARGE


async def test_an_ack_of_what_was_never_sent_is_refused(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        await peer.follow("topic/a")
        await peer.send(Ack(log="topic/a", offset=1))
        assert (await peer.told())[0] == CloseCode.ACK_AHEAD


async def test_frames_about_logs_that_are_not_followed_mean_nothing(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        await peer.send(Ack(log="topic/a", offset=9), Unsubscribe(log="topic/b"), Tags(log="topic/c", tags=(None,)))
        assert await peer.result("log.list")


async def test_attempts_past_the_limit_are_refused(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        attempts = tuple({"run": "r", "fence": 1} for _ in range(1025))
        await peer.send_raw(pack({"t": "heartbeat", "attempts": attempts}))
        assert (await peer.told())[0] == CloseCode.LIMIT_EXCEEDED


async def test_the_subprotocol_is_required(line: World) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(line.hub.url, proxy=None)
    assert refused.value.response.status_code == 400
    with pytest.raises(InvalidStatus):
        await connect(line.hub.url, subprotocols=[Subprotocol("fleetline.v9")], proxy=None)


async def test_connections_past_the_limit_are_refused_politely(world: World) -> None:
    await world.start(connections_max=1)
    async with world.peer() as peer:
        await peer.expect(Hello)
        with pytest.raises(InvalidStatus) as refused:
            await connect(world.hub.url, subprotocols=[Subprotocol("fleetline.v1")], proxy=None)
        assert refused.value.response.status_code == 503
    await eventually(lambda: not world.hub.services.connections)
    async with world.peer() as second:
        await second.expect(Hello)


async def test_every_prefix_of_a_conversation_may_be_the_last(line: World) -> None:
    """The connection is cut at every byte of an identify with a publish behind it."""
    message = encode(identify("a1"))
    for length in range(0, len(message), 7):
        async with line.peer() as peer:
            await peer.send_raw(message[:length])
    await eventually(lambda: not line.hub.services.connections)
    assert line.hub.services.unidentified == 0
    assert line.hub.services.counters.connections > 10


def test_publish_needs_an_entry() -> None:
    with pytest.raises(ValueError, match="entries"):
        Publish(log="topic/a", producer="p", seq=1, fence=0, entries=())
