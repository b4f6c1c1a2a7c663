"""The fault proxy: what it forwards, and each of its faults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.support.proxy import Direction, FaultProxy
from tests.support.timing import deadline, eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_server(prefix: bytes = b"") -> AsyncIterator[tuple[str, int]]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                writer.write(prefix + data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield "127.0.0.1", server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def connected(proxy: FaultProxy) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def say(streams: Streams, data: bytes, expected: bytes | None = None) -> None:
    reader, writer = streams
    writer.write(data)
    async with deadline(5):
        assert await reader.readexactly(len(expected or data)) == (expected or data)


async def is_reset(streams: Streams) -> bool:
    async with deadline(5):
        try:
            return await streams[0].read(1) == b""
        except ConnectionError:
            return True


async def test_forwards_both_ways_more_than_it_buffers() -> None:
    async with echo_server() as target, FaultProxy(target) as proxy, connected(proxy) as (reader, writer):
        sent = bytes(range(256)) * 8192
        writer.write(sent)
        async with deadline(10):
            assert await reader.readexactly(len(sent)) == sent
        assert proxy.carried(Direction.TO_TARGET) == proxy.carried(Direction.TO_CLIENT) == len(sent)


async def test_an_end_in_good_order_is_passed_on_with_everything_before_it() -> None:
    async with echo_server() as target, FaultProxy(target) as proxy, connected(proxy) as (reader, writer):
        writer.write(b"last words")
        writer.write_eof()
        async with deadline(5):
            assert await reader.readexactly(10) == b"last words"
            await is_reset((reader, writer))
        await eventually(lambda: proxy.open_connections == 0)


async def test_cut_resets_every_connection_and_new_ones_work() -> None:
    async with echo_server() as target, FaultProxy(target) as proxy:
        async with connected(proxy) as one, connected(proxy) as two:
            await say(one, b"1")
            await say(two, b"2")
            assert proxy.cut() == 2
            assert await is_reset(one)
            assert await is_reset(two)
        async with connected(proxy) as three:
            await say(three, b"3")
        assert (proxy.cuts, proxy.accepted) == (2, 3)


async def test_cut_every_cuts_again_and_again_until_it_is_taken_back() -> None:
    async with echo_server() as target, FaultProxy(target, seed=1) as proxy:
        proxy.cut_every(5, 20)
        for number in range(3):
            async with connected(proxy) as streams:
                assert await is_reset(streams), number
        assert proxy.cuts >= 3
        proxy.stop_cutting()
        async with connected(proxy) as streams:
            await say(streams, b"x")


async def test_throttle_slows_down_one_direction() -> None:
    async with echo_server() as target, FaultProxy(target) as proxy, connected(proxy) as streams:
        proxy.throttle(200_000, Direction.TO_CLIENT)
        before = asyncio.get_running_loop().time()
        await say(streams, b"x" * 60_000)
        assert asyncio.get_running_loop().time() - before >= 0.2
        proxy.throttle(None)
        await say(streams, b"x" * 500_000)


@pytest.mark.parametrize("direction", Direction)
async def test_a_paused_direction_is_a_black_hole_until_it_is_resumed(direction: Direction) -> None:
    async with echo_server() as target, FaultProxy(target) as proxy, connected(proxy) as streams:
        await say(streams, b"before")
        proxy.pause(direction)
        streams[1].write(b"after")
        if direction is Direction.TO_CLIENT:
            await eventually(lambda: proxy.carried(Direction.TO_TARGET) == len(b"beforeafter"))
        assert proxy.carried(direction) == len(b"before")
        proxy.resume(direction)
        async with deadline(5):
            assert await streams[0].readexactly(5) == b"after"


async def test_refuse_resets_new_connections_and_leaves_the_others() -> None:
    async with echo_server() as target, FaultProxy(target) as proxy, connected(proxy) as old:
        await say(old, b"a")
        proxy.refuse()
        async with connected(proxy) as new:
            assert await is_reset(new)
        await say(old, b"b")
        proxy.refuse(False)
        async with connected(proxy) as new:
            await say(new, b"c")


async def test_a_target_that_is_away_resets_and_another_takes_over() -> None:
    async with echo_server() as target, FaultProxy(("127.0.0.1", 1)) as proxy:
        async with connected(proxy) as streams:
            assert await is_reset(streams)
        proxy.target = target
        async with connected(proxy) as streams:
            await say(streams, b"x")
        async with echo_server(b">") as other:
            proxy.target = other
            async with connected(proxy) as streams:
                await say(streams, b"x", b">x")


async def test_a_patient_proxy_waits_for_a_target_that_is_away() -> None:
    async with FaultProxy(("127.0.0.1", 1), patient=True) as proxy, connected(proxy) as streams:
        streams[1].write(b"x")
        async with echo_server() as target:
            proxy.target = target
            async with deadline(5):
                assert await streams[0].readexactly(1) == b"x"


async def test_the_end_of_the_proxy_resets_what_is_open() -> None:
    async with echo_server() as target:
        async with FaultProxy(target) as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            await say((reader, writer), b"x")
        assert await is_reset((reader, writer))
        writer.transport.abort()
        assert proxy.open_connections == 0
        with pytest.raises(OSError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", proxy.port)
