"""Thousands of connections in one process, against a hub or a bare server: the load of `idle` and `resume`.

To a hub each connection is an agent: it identifies with a token of its own, follows the log of its messages from the
position it has, checks every entry against the tag chain, and sends heartbeats. It is live once it has been
given all that its log held. To a bare server a connection is live after the handshake of WebSocket.

There is no backoff here: how fast a hub takes agents back is what is measured, so a bounded number of them is
always at the door.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.version import SUBPROTOCOL
from scripts.bench.lib.agent import IdleAgent
from scripts.bench.lib.child import serve

__all__: list[str] = []

TICK_S = 1.0
MESSAGE_BYTES_MAX = 8 * 1024 * 1024


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


async def _dial(url: str, token: str | None) -> ClientConnection:
    return await connect(
        url,
        subprotocols=[Subprotocol(SUBPROTOCOL)],
        additional_headers={"Authorization": f"Bearer {token}"} if token else None,
        compression=None,
        ping_interval=None,
        open_timeout=None,
        close_timeout=1,
        max_size=MESSAGE_BYTES_MAX,
        proxy=None,
    )


class Link:
    """One connection that is opened again and again."""

    def __init__(self) -> None:
        self.connection: ClientConnection | None = None

    async def open(self, url: str) -> None:
        """Connect, and return once the connection is live."""
        self.connection = await _dial(url, None)

    async def follow(self) -> None:
        """Go on until the other side ends the connection."""
        assert self.connection is not None
        async for _ in self.connection:
            pass

    async def tick(self) -> None:
        """Do what the clock asks for."""

    def ended(self) -> None:
        """Take note that the connection has ended."""

    async def close(self) -> None:
        """End the connection."""
        if self.connection is not None:
            await self.connection.close()


class Agent(Link):
    """The connection of an agent."""

    def __init__(self, agent: str, token: str) -> None:
        super().__init__()
        self._token = token
        self._agent = IdleAgent(agent)
        self._open = False

    @property
    def resumed(self) -> int:
        """How often it went on from exactly where it was."""
        return self._agent.resumed

    async def open(self, url: str) -> None:
        """Connect, identify, and take what the log holds after the position."""
        self._agent.connected(_now_ms())
        self.connection = await _dial(url, self._token)
        self._open = True
        while not self._agent.live:
            await self._take(await self.connection.recv(decode=False))

    async def follow(self) -> None:
        """Take what comes until the hub ends the connection."""
        assert self.connection is not None
        async for message in self.connection:
            assert isinstance(message, bytes)
            await self._take(message)

    async def tick(self) -> None:
        """Send a heartbeat where one is due."""
        heartbeat = self._agent.tick(_now_ms()) if self._open else None
        if heartbeat is not None:
            await self._say(heartbeat)

    def ended(self) -> None:
        """Say nothing more on this connection."""
        self._open = False

    async def _take(self, message: bytes) -> None:
        said = self._agent.take(message)
        if said is not None:
            await self._say(said)

    async def _say(self, message: bytes) -> None:
        assert self.connection is not None
        await self.connection.send(message)


class Load:
    """All connections of this process."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._followers: set[asyncio.Task[None]] = set()
        self._lost = 0
        self._ticker: asyncio.Task[None] | None = None

    async def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what the benchmark asks; see the methods for what each takes and answers."""
        verbs: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "open": self._open,
            "wait_lost": self._wait_lost,
            "reopen": self._reopen,
            "close": self._close,
        }
        return await verbs[command["do"]](command)

    async def _open(self, command: dict[str, Any]) -> dict[str, Any]:
        """Add `count` connections to `url`; with `tokens`, agents with these ids and tokens."""
        tokens: dict[str, str] | None = command.get("tokens")
        added: list[Link] = (
            [Link() for _ in range(command["count"])] if tokens is None else [Agent(*item) for item in tokens.items()]
        )
        self._links += added
        if self._ticker is None:
            self._ticker = asyncio.create_task(self._tick())
        return await self._connect(added, command)

    async def _reopen(self, command: dict[str, Any]) -> dict[str, Any]:
        """Connect all of them again, to `url`."""
        return await self._connect(self._links, command)

    async def _connect(self, links: list[Link], command: dict[str, Any]) -> dict[str, Any]:
        waiting = iter(links)
        resumed = sum(link.resumed for link in links if isinstance(link, Agent))
        live_at: list[float] = []

        async def work() -> None:
            for link in waiting:
                await link.open(command["url"])
                live_at.append(time.perf_counter())
                self._follow(link)

        cpu_s, began = time.process_time(), time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(command["concurrency"]):
                group.create_task(work())
        return {
            "live": len(live_at),
            "resumed": sum(link.resumed for link in links if isinstance(link, Agent)) - resumed,
            "seconds": live_at[-1] - began,
            "cpu_s": time.process_time() - cpu_s,
        }

    def _follow(self, link: Link) -> None:
        task = asyncio.create_task(self._until_lost(link))
        self._followers.add(task)
        task.add_done_callback(self._followers.discard)

    async def _until_lost(self, link: Link) -> None:
        try:
            with suppress(ConnectionClosed):
                await link.follow()
        finally:
            link.ended()
            self._lost += 1

    async def _wait_lost(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return once the other side has ended every connection."""
        while self._followers:
            await asyncio.wait(set(self._followers))
        lost, self._lost = self._lost, 0
        return {"lost": lost}

    async def _close(self, _: dict[str, Any]) -> dict[str, Any]:
        """End and forget all connections; `lost` counts those that the other side had ended before."""
        lost = self._lost
        await asyncio.gather(*(link.close() for link in self._links))
        while self._followers:
            await asyncio.wait(set(self._followers))
        self._links, self._lost = [], 0
        return {"lost": lost}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for link in self._links:
                with suppress(ConnectionClosed):  # its follower sees to that
                    await link.tick()


async def _main() -> None:
    gc.disable()  # what it would look through again and again is all still in use
    load = Load()
    await serve(load.do)


if __name__ == "__main__":
    uvloop.run(_main())
