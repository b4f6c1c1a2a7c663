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
from types import TracebackType
from typing import Any, Self

__all__ = ["StoreGate"]

CHUNK_BYTES = 256 * 1024
TAIL_BYTES = 4096
"""Kept of what has passed, since a request may come in parts."""


class StoreGate:
    """Forwards a Unix socket to another one, and catches requests. An async context manager.

    Attributes:
        caught: set while a request is held in flight.
        request: the first bytes of that request.
        back: the store's own socket, for connections that pass the gate by.
    """

    def __init__(self, front: Path, back: Path) -> None:
        """Name the socket to listen on, and where the store's was moved."""
        self.caught = asyncio.Event()
        self.request = b""
        self._front = front
        self.back = back
        self._mark: bytes | None = None
        self._decided = asyncio.Event()
        self._executing = False
        self._replies_pass = asyncio.Event()
        self._replies_pass.set()
        self._stop = asyncio.Event()
        self._listening: asyncio.Future[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._main: asyncio.Task[None] | None = None
        self._writers: set[asyncio.StreamWriter] = set()

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

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listening = asyncio.get_running_loop().create_future()
        self._main = asyncio.create_task(self._run(), name="store-gate")
        waited: set[asyncio.Future[Any]] = {self._listening, self._main}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if self._main.done():
            await self._main
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Put the store's socket back where it was, and close every connection."""
        assert self._main is not None
        self._stop.set()
        await self._main

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as self._group:
            server = await asyncio.start_unix_server(self._accept, self._front, limit=CHUNK_BYTES)
            assert self._listening is not None
            self._listening.set_result(None)
            try:
                await self._stop.wait()
            finally:
                self.open()
                with contextlib.suppress(FileNotFoundError):
                    self.back.replace(self._front)  # at no moment there is no socket: a hub takes that for the end
                server.close()
                for writer in self._writers:
                    writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self._group is not None
        if self._stop.is_set():
            writer.transport.abort()
            return
        self._group.create_task(self._serve(reader, writer))

    async def _serve(self, from_hub: asyncio.StreamReader, hub: asyncio.StreamWriter) -> None:
        self._writers.add(hub)
        store: asyncio.StreamWriter | None = None
        try:
            from_store, store = await asyncio.open_unix_connection(self.back, limit=CHUNK_BYTES)
            self._writers.add(store)
            replies = asyncio.create_task(self._replies(from_store, hub))
            try:
                await self._requests(from_hub, store)
            finally:
                replies.cancel()
                await asyncio.wait([replies])
        except OSError:
            pass  # the store or the hub is gone
        finally:
            for writer in filter(None, (hub, store)):
                self._writers.discard(writer)
                writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, store: asyncio.StreamWriter) -> None:
        tail = b""
        while data := await reader.read(CHUNK_BYTES):
            if self._mark is not None and not self.caught.is_set() and self._mark in tail + data:
                self.request = tail + data
                self._replies_pass.clear()
                self.caught.set()
                decided = self._decided
                await decided.wait()
                if not self._executing:
                    return
            store.write(data)
            await store.drain()
            tail = data[-TAIL_BYTES:]

    async def _replies(self, reader: asyncio.StreamReader, hub: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._replies_pass.wait()
                hub.write(data)
                await hub.drain()
        hub.transport.abort()
