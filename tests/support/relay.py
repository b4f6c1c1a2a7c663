"""What a proxy and a gate have in common: a server that carries the bytes of each connection to a target and back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self

__all__ = ["Accept", "Direction", "Relay"]

CONNECT_S = 8.0
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], None]
"""What a server does with a new connection."""


class Direction(Enum):
    """Which way bytes go."""

    TO_TARGET = "to target"
    TO_CLIENT = "to client"


@dataclass(frozen=True, slots=True, eq=False)
class _Connection:
    client: asyncio.StreamWriter
    target: asyncio.StreamWriter
    task: asyncio.Task[None]

    def abort(self) -> None:
        """Reset both sides: what was under way is lost."""
        for writer in (self.client, self.target):
            _abort(writer)
        self.task.cancel()


class Relay(ABC):
    """Forwards connections to a target; who inherits from it says where, and what happens to the bytes.

    An async context manager; all its methods are for the loop that it was entered in.
    """

    def __init__(self, chunk_bytes: int) -> None:
        """Say how much is read at once, and so the most that is kept of a direction of a connection."""
        self._chunk_bytes = chunk_bytes
        self._connections: set[_Connection] = set()
        self._stop = asyncio.Event()
        self._listening: asyncio.Future[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None

    @abstractmethod
    async def _listen(self, accept: Accept) -> asyncio.Server:
        """Start the server."""

    @abstractmethod
    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the target. An `OSError` closes the client's connection."""

    @abstractmethod
    async def _carry(self, data: bytes, writer: asyncio.StreamWriter, direction: Direction) -> None:
        """Write a chunk, or do what there is to do with it instead. An `OSError` ends the connection."""

    @abstractmethod
    def _leave(self) -> None:
        """Do what comes first at the end, while it still listens."""

    def _admits(self) -> bool:
        """Say whether a new connection may come in; one that may not is reset."""
        return True

    def _read_bytes(self, direction: Direction) -> int:
        """Say how much to read next."""
        return self._chunk_bytes

    @property
    def open_connections(self) -> int:
        """How many connections are being forwarded now."""
        return len(self._connections)

    def cut(self) -> int:
        """Reset every connection now; return how many there were."""
        cut = list(self._connections)
        for connection in cut:
            connection.abort()
        self._connections.clear()
        return len(cut)

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listening = asyncio.get_running_loop().create_future()
        self._main = asyncio.create_task(self._run(), name=type(self).__name__)
        waited: set[asyncio.Future[Any]] = {self._listening, self._main}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._main.done():
            await self._main
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut every connection, stop listening, and wait until nothing of it is left."""
        assert self._main is not None
        self._stop.set()
        await self._main

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            server = await self._listen(self._accept)
            assert self._listening is not None
            self._listening.set_result(None)
            try:
                await self._stop.wait()
            finally:
                self._leave()
                server.close()
                self.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._group is None or self._stop.is_set() or not self._admits():
            _abort(writer)
            return
        self._group.create_task(self._serve(reader, writer))

    async def _serve(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                from_target, target = await self._reach()
        except (OSError, TimeoutError):
            _abort(client)
            return
        task = asyncio.current_task()
        assert task is not None
        connection = _Connection(client, target, task)
        self._connections.add(connection)
        try:
            if not self._stop.is_set():
                await self._forward(from_client, client, from_target, target)
        except* OSError:
            pass  # one side is gone; the other learns it now
        finally:
            self._connections.discard(connection)
            _abort(client)
            _abort(target)

    async def _forward(
        self,
        from_client: asyncio.StreamReader,
        client: asyncio.StreamWriter,
        from_target: asyncio.StreamReader,
        target: asyncio.StreamWriter,
    ) -> None:
        """Carry bytes both ways until both sides have ended, and let what is left of them arrive."""
        async with asyncio.TaskGroup() as pumps:
            pumps.create_task(self._pump(from_client, target, Direction.TO_TARGET))
            pumps.create_task(self._pump(from_target, client, Direction.TO_CLIENT))
        for writer in (client, target):
            writer.close()
        for writer in (client, target):
            await writer.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction) -> None:
        while data := await reader.read(self._read_bytes(direction)):
            await self._carry(data, writer, direction)
        writer.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees a reset, not an end in good order."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
