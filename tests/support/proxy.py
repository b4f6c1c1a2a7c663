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
from random import Random

from tests.support.relay import Accept, Direction, Relay

__all__ = ["CONNECTIONS_MAX", "Direction", "FaultProxy"]

HOST = "127.0.0.1"
CHUNK_BYTES = 64 * 1024
CONNECTIONS_MAX = 4096
"""Connections at once; one more is refused."""

PATIENCE_S = 0.02


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


class FaultProxy(Relay):
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
        super().__init__(CHUNK_BYTES)
        self.target = target
        self.patient = patient
        self.accepted = 0
        self.cuts = 0
        self._asked_port = port
        self._port = 0
        self._random = Random(seed)
        self._lanes = {direction: _Lane() for direction in Direction}
        self._refusing = False
        self._cutter: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._port, "the proxy was not entered"
        return self._port

    @property
    def url(self) -> str:
        """The address for a peer of a hub."""
        return f"ws://{HOST}:{self.port}"

    def carried(self, direction: Direction) -> int:
        """Return how many bytes went in a direction."""
        return self._lanes[direction].carried

    def cut(self) -> int:
        """Reset every connection now; return how many there were."""
        cut = super().cut()
        self.cuts += cut
        return cut

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

    async def _listen(self, accept: Accept) -> asyncio.Server:
        server = await asyncio.start_server(accept, HOST, self._asked_port, limit=CHUNK_BYTES)
        self._port = int(server.sockets[0].getsockname()[1])
        return server

    def _admits(self) -> bool:
        self.accepted += 1
        return not self._refusing and self.open_connections < CONNECTIONS_MAX

    def _leave(self) -> None:
        self.stop_cutting()

    def _read_bytes(self, direction: Direction) -> int:
        return self._lanes[direction].chunk_bytes

    async def _carry(self, data: bytes, writer: asyncio.StreamWriter, direction: Direction) -> None:
        await self._lanes[direction].pass_on(data, writer)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the target."""
        while True:
            try:
                return await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
            except OSError:
                if not self.patient or self._stop.is_set():
                    raise
            await asyncio.sleep(PATIENCE_S)

    async def _cut_for_ever(self, min_ms: int, max_ms: int) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(min_ms, max_ms) / 1000)
            self.cut()
