"""A gate between a hub and its store: it catches a commit in flight, so that a kill can be aimed.

The hub talks to its store through a Unix socket that the gate listens on. Once armed, the gate lets
everything pass until it sees a request with a given mark in it (say, a commit that appends to one log). It
holds that request, and from then on no answer gets through to the hub. The test may let the request go on to
the store with `execute`, which then does what the hub never hears of; or not, and it is lost. Either way the
hub has sent a commit and has no answer, for as long as the test likes: a SIGKILL now hits it with a commit in
flight. `open` ends all that.

    async with StoreGate.interpose(socket) as gate:      # in front of an embedded store, while no hub runs
        ...
        gate.arm(mark)
        await gate.caught.wait()
        gate.execute()
        await hub.kill()
        gate.open()
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from weakref import WeakKeyDictionary

from tests.support.relay import Accept, Direction, Relay

__all__ = ["StoreGate"]

CHUNK_BYTES = 256 * 1024
TAIL_BYTES = 4096
"""Kept of what has passed, since a request may come in parts."""


class StoreGate(Relay):
    """Forwards a Unix socket to another one, and catches requests. An async context manager.

    Attributes:
        caught: set while a request is held in flight.
        request: the first bytes of that request.
        back: the store's own socket, for connections that pass the gate by.
    """

    def __init__(self, front: Path, back: Path) -> None:
        """Name the socket to listen on, and where the store's was moved."""
        super().__init__(CHUNK_BYTES)
        self.caught = asyncio.Event()
        self.request = b""
        self._front = front
        self.back = back
        self._mark: bytes | None = None
        self._decided = asyncio.Event()
        self._executing = False
        self._replies_pass = asyncio.Event()
        self._replies_pass.set()
        self._passed = WeakKeyDictionary[asyncio.StreamWriter, bytes]()

    @classmethod
    def interpose(cls, socket: Path) -> StoreGate:
        """Return a gate that takes the place of a running store's socket, which is renamed.

        Call it while no hub runs, and enter the gate before one starts.
        """
        back = socket.with_name("behind")
        socket.rename(back)
        return cls(socket, back)

    def arm(self, mark: bytes) -> None:
        """Catch the next request with `mark` in it."""
        assert self._mark is None, "armed already"
        self._mark = mark

    def execute(self) -> None:
        """Let the request that was caught, and what follows it, go on to the store."""
        assert self.caught.is_set(), "nothing was caught"
        self._executing = True
        self._decided.set()

    def open(self) -> None:
        """Let everything pass again. Call it once the hub is dead: a request that is still held is dropped."""
        self._decided.set()
        self._decided = asyncio.Event()
        self._mark, self._executing, self.request = None, False, b""
        self.caught.clear()
        self._replies_pass.set()

    async def _listen(self, accept: Accept) -> asyncio.Server:
        return await asyncio.start_unix_server(accept, self._front, limit=CHUNK_BYTES)

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(self.back, limit=CHUNK_BYTES)

    def _leave(self) -> None:
        self.open()
        with contextlib.suppress(FileNotFoundError):
            self.back.replace(self._front)  # at no moment there is no socket: a hub takes that for the end

    async def _carry(self, data: bytes, writer: asyncio.StreamWriter, direction: Direction) -> None:
        if direction is Direction.TO_CLIENT:
            await self._replies_pass.wait()
        else:
            await self._look_at(data, writer)
        writer.write(data)
        await writer.drain()

    async def _look_at(self, data: bytes, store: asyncio.StreamWriter) -> None:
        """Hold a request that has the mark.

        Raises:
            ConnectionAbortedError: it was dropped, and all that would follow it on its connection is.
        """
        seen = self._passed.get(store, b"") + data
        self._passed[store] = data[-TAIL_BYTES:]
        if self._mark is None or self.caught.is_set() or self._mark not in seen:
            return
        self.request = seen
        self._replies_pass.clear()
        self.caught.set()
        await self._decided.wait()
        if not self._executing:
            raise ConnectionAbortedError("the request was dropped")
