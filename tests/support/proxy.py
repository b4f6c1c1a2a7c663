"""A TCP proxy that misbehaves on demand: the network between a peer and its hub.

    async with FaultProxy(("127.0.0.1", hub_port), seed=7) as proxy:
        proxy.cut_every(200, 500)           # reset every connection, again and again
        ...                                 # peers connect to proxy.port
        proxy.stop_cutting()

It forwards bytes between its own loopback port and a target, which may change, go away and come back. Every
fault lasts until it is taken back. What it buffers is bounded: a chunk for each direction of a connection,
and what the kernel and a stream's high-water mark hold; beyond that the sender is made to wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from enum import Enum
from random import Random
from types import TracebackType
from typing import Any, Self

__all__ = ["CONNECTIONS_MAX", "Direction", "FaultProxy"]

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 4096
"""Connections at once; one more is refused."""

CONNECT_S = 8.0
PATIENCE_S = 0.02
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


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


class _Lane:
    """What holds for one direction: whether it is open, and how fast it may be."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.bytes_per_s: float | None = None
        self.carried = 0
        self._free_at = 0.0

    async def pass_on(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Write a chunk when the lane lets it."""
        await self.open.wait()
        if self.bytes_per_s is not None:
            now = asyncio.get_running_loop().time()
            self._free_at = max(now, self._free_at) + len(data) / self.bytes_per_s
            await asyncio.sleep(self._free_at - now)
        writer.write(data)
        await writer.drain()
        self.carried += len(data)

    @property
    def chunk_bytes(self) -> int:
        """How much to read at once: a tenth of a second's worth where the lane is slow."""
        if self.bytes_per_s is None:
            return CHUNK_BYTES
        return max(1, min(CHUNK_BYTES, int(self.bytes_per_s / 10)))


class FaultProxy:
    """Forwards connections from a loopback port to a target, with faults.

    Use it as an async context manager; all its methods are for the loop that it was entered in.

    Attributes:
        target: host and port of new connections; those that are open stay where they are.
        patient: whether a new connection waits for a target that is away.
        accepted: connections that were accepted so far.
        cuts: connections that were cut so far.
    """

    def __init__(self, target: tuple[str, int], *, port: int = 0, seed: int = 0, patient: bool = False) -> None:
        """Make a proxy.

        Args:
            target: host and port.
            port: where to listen; 0 takes a free one.
            seed: of `cut_every`.
            patient: try a target that is away again and again for a few seconds, as a load balancer would, and
                let the connection wait meanwhile.
        """
        self.target = target
        self.patient = patient
        self.accepted = 0
        self.cuts = 0
        self._asked_port = port
        self._random = Random(seed)
        self._lanes = {direction: _Lane() for direction in Direction}
        self._connections: set[_Connection] = set()
        self._refusing = False
        self._stop = asyncio.Event()
        self._ports: asyncio.Future[int] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None
        self._cutter: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._ports is not None, "the proxy was not entered"
        return self._ports.result()

    @property
    def url(self) -> str:
        """The address for a peer of a hub."""
        return f"ws://{HOST}:{self.port}"

    @property
    def open_connections(self) -> int:
        """How many connections are being forwarded now."""
        return len(self._connections)

    def carried(self, direction: Direction) -> int:
        """Return how many bytes went in a direction."""
        return self._lanes[direction].carried

    def cut(self) -> int:
        """Reset every connection now; return how many there were."""
        cut = list(self._connections)
        for connection in cut:
            connection.abort()
        self._connections.clear()
        self.cuts += len(cut)
        return len(cut)

    def cut_every(self, min_ms: int, max_ms: int) -> None:
        """Cut every connection again and again, with waits drawn evenly between two bounds."""
        assert self._group is not None, "the proxy was not entered"
        assert 0 < min_ms <= max_ms, (min_ms, max_ms)
        self.stop_cutting()
        self._cutter = self._group.create_task(self._cut_for_ever(min_ms, max_ms))

    def stop_cutting(self) -> None:
        """Take `cut_every` back."""
        if self._cutter is not None:
            self._cutter.cancel()
            self._cutter = None

    def throttle(self, bytes_per_s: float | None, *directions: Direction) -> None:
        """Let all connections together have so many bytes a second each way; None takes the limit away.

        Without directions it holds for both.
        """
        assert bytes_per_s is None or bytes_per_s > 0, bytes_per_s
        for direction in directions or Direction:
            self._lanes[direction].bytes_per_s = bytes_per_s

    def pause(self, *directions: Direction) -> None:
        """Let nothing through any more, and close nothing: a black hole. Without directions, both ways."""
        for direction in directions or Direction:
            self._lanes[direction].open.clear()

    def resume(self, *directions: Direction) -> None:
        """Take `pause` back; what had come meanwhile goes on its way."""
        for direction in directions or Direction:
            self._lanes[direction].open.set()

    def refuse(self, refusing: bool = True) -> None:
        """Reset new connections at once; those that are open stay."""
        self._refusing = refusing

    async def __aenter__(self) -> Self:
        """Listen."""
        self._ports = asyncio.get_running_loop().create_future()
        self._main = asyncio.create_task(self._run(), name="fault-proxy")
        waited: set[asyncio.Future[Any]] = {self._ports, self._main}
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
            server = await asyncio.start_server(self._accept, HOST, self._asked_port, limit=CHUNK_BYTES)
            assert self._ports is not None
            self._ports.set_result(server.sockets[0].getsockname()[1])
            try:
                await self._stop.wait()
            finally:
                self.stop_cutting()
                self.refuse()
                server.close()
                self.cut()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._refusing or len(self._connections) >= CONNECTIONS_MAX or self._group is None:
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

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the target."""
        while True:
            try:
                return await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
            except OSError:
                if not self.patient or self._stop.is_set():
                    raise
            await asyncio.sleep(PATIENCE_S)

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
        lane = self._lanes[direction]
        while data := await reader.read(lane.chunk_bytes):
            await lane.pass_on(data, writer)
        writer.write_eof()

    async def _cut_for_ever(self, min_ms: int, max_ms: int) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(min_ms, max_ms) / 1000)
            self.cut()


def _abort(writer: asyncio.StreamWriter) -> None:
    """Close a connection so that the other side sees a reset, not an end in good order."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
    writer.transport.abort()
