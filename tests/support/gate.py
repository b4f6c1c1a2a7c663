"""A gate between a hub and its store: it catches a commit in flight, so that a kill can be aimed.

The hub talks to its store through a Unix socket that the gate listens on. Once armed, the gate lets
everything pass until it sees a request with a given mark in it (say, a commit that appends to one log); then
the request meets its fate and nothing comes back to the hub any more:

    EXECUTED   the store does it, and the hub never hears of it
    LOST       it never arrives

Either way the hub has sent a commit and has no answer, for as long as the test likes: a SIGKILL now hits it
with a commit in flight. `interpose` puts the gate in front of an embedded store that already runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Fate", "StoreGate"]

CHUNK_BYTES = 256 * 1024


class Fate(Enum):
    """What becomes of a request that is caught."""

    EXECUTED = "executed"
    LOST = "lost"


class StoreGate:
    """Forwards a Unix socket to another one, and catches requests. An async context manager.

    Attributes:
        caught: set while a request is held in flight.
        back: the store's own socket, for connections that pass the gate by.
    """

    def __init__(self, front: Path, back: Path) -> None:
        """Name the socket to listen on, and where the store's was moved."""
        self.caught = asyncio.Event()
        self._front = front
        self.back = back
        self._mark = b""
        self._fate: Fate | None = None
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

    def arm(self, mark: bytes, fate: Fate) -> None:
        """Catch the next request with `mark` in it."""
        assert self._fate is None, "armed already"
        self._mark, self._fate = mark, fate

    def open(self) -> None:
        """Let everything pass again. Call it once the hub is dead: what was held is dropped with its connection."""
        self._fate = None
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
                self._replies_pass.set()
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
            if self._fate is not None and not self.caught.is_set() and self._mark in tail + data:
                self._replies_pass.clear()
                self.caught.set()
            tail = data[-len(self._mark) :] if self._mark else b""
            if self.caught.is_set() and self._fate is Fate.LOST:
                continue
            store.write(data)
            await store.drain()

    async def _replies(self, reader: asyncio.StreamReader, hub: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self._replies_pass.wait()
                hub.write(data)
                await hub.drain()
        hub.transport.abort()
