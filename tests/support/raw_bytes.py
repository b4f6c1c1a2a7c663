"""Bytes of websockets on bare sockets, for peers that keep to no rule."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.support.hub_world import World
from tests.support.timing import deadline

__all__ = ["BINARY", "CLOSE", "PING", "Raw", "ask", "close_code", "raw", "rest", "upgrade", "ws"]

BINARY, CLOSE, PING = 2, 8, 9
Raw = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def ws(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a frame, masked with zeros."""
    if len(data) < 126:
        length = bytes([0x80 | len(data)])
    else:
        length = b"\xfe" + struct.pack("!H", len(data)) if len(data) < 2**16 else b"\xff" + struct.pack("!Q", len(data))
    return bytes([fin << 7 | opcode]) + length + bytes(4) + data


def upgrade(world: World, subprotocol: str = "fleetline.v1", *more: str) -> bytes:
    """Return the request for a websocket, with the local token and more headers."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = (
        "GET / HTTP/1.1",
        "Host: hub",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Protocol: {subprotocol}",
        f"Authorization: Bearer {world.token}",
        *more,
    )
    return "\r\n".join((*lines, "", "")).encode()


@asynccontextmanager
async def raw(world: World) -> AsyncIterator[Raw]:
    """Connect, and say nothing yet."""
    place = urlsplit(world.hub.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """Return what the hub says until it closes."""
    async with deadline(10):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def ask(world: World, data: bytes) -> bytes:
    """Send this and return what the hub says until it closes."""
    async with raw(world) as (reader, writer):
        writer.write(data)
        return await rest(reader)


def close_code(said: bytes) -> int:
    """Return the code of the close frame that ends what a hub said; 0 where there is none."""
    at = said.rfind(b"\x88")
    return int.from_bytes(said[at + 2 : at + 4], "big") if at >= 0 else 0
