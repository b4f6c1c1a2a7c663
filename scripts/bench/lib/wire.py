"""The least of a WebSocket client (RFC 6455), so that a load costs its machine little beside the server it loads.

No task and no stream for a connection: a socket, and a function that is called with each message. Nothing is sent
masked in earnest (the key is zero, which the server takes off like any other), and only what a server of ours or of
`websockets` sends is understood; anything else is a failure.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

from protocol.version import SUBPROTOCOL
from scripts.bench.lib.child import ChildFailed

__all__ = ["Wire"]

KEY = base64.b64encode(bytes(16))
ACCEPT = base64.b64encode(hashlib.sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
READ_BYTES = 65_536
BINARY, CLOSE = 0x82, 0x88
LENGTH_16, LENGTH_64 = 126, 127
MASKED = 0x80


class Wire:
    """One connection, open until one of both sides ends it.

    Args:
        url: where the server listens.
        token: sent in the header, if there is one.
        on_open: called after the handshake.
        on_message: called with each message.
        on_lost: called once where the server ended the connection.
    """

    __slots__ = ("_loop", "_on_lost", "_on_message", "_on_open", "_open", "_read", "_socket")

    def __init__(
        self,
        url: str,
        token: str | None,
        on_open: Callable[[], None],
        on_message: Callable[[bytes], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._on_open, self._on_message, self._on_lost = on_open, on_message, on_lost
        self._open = False
        self._read = b""
        where = urlsplit(url)
        self._loop = asyncio.get_running_loop()
        self._socket = socket.create_connection((where.hostname, where.port))  # on loopback it does not wait
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(self._socket, self._readable)
        authorization = f"Authorization: Bearer {token}\r\n" if token else ""
        self._write(
            f"GET / HTTP/1.1\r\nHost: {where.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY.decode()}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{authorization}\r\n".encode()
        )

    def send(self, message: bytes) -> None:
        """Send a message."""
        size = len(message)
        if size < LENGTH_16:
            head = bytes((BINARY, MASKED | size))
        else:
            head = bytes((BINARY, MASKED | LENGTH_16)) + size.to_bytes(2, "big")
        self._write(head + bytes(4) + message)

    def close(self) -> None:
        """End the connection."""
        if self._socket.fileno() >= 0:
            self._write(bytes((CLOSE, MASKED)) + bytes(4))
            self._drop()

    def _drop(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _write(self, data: bytes) -> None:
        try:
            sent = self._socket.send(data)
        except OSError:
            return  # the server has ended it, which the reader will see
        if sent != len(data):
            raise ChildFailed("the server does not read")

    def _readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        self._read = self._read + data if self._read else data
        if not self._open:
            self._answered()
        while self._open and self._take():
            pass

    def _answered(self) -> None:
        head, ended, rest = self._read.partition(b"\r\n\r\n")
        if not ended:
            return
        if not head.startswith(b"HTTP/1.1 101 ") or ACCEPT not in head:
            raise ChildFailed(f"the server answers the handshake with {head!r}")
        self._open, self._read = True, rest
        self._on_open()

    def _take(self) -> bool:
        """Take one frame off what was read; returns False where it is not all there."""
        read = self._read
        if len(read) < 2:
            return False
        kind, size, at = read[0], read[1], 2
        if size == LENGTH_16:
            size, at = int.from_bytes(read[2:4], "big"), 4
        elif size == LENGTH_64:
            size, at = int.from_bytes(read[2:10], "big"), 10
        if len(read) < at + size:
            return False
        self._read = read[at + size :]
        if kind == BINARY:
            self._on_message(read[at : at + size])
        elif kind != CLOSE:
            raise ChildFailed(f"the server sends a WebSocket frame of kind {kind:#x}")
        return True

    def _lose(self) -> None:
        if self._socket.fileno() >= 0:
            self._drop()
            self._open = False
            self._on_lost()
