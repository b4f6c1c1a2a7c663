"""Thousands of connections in one process, against a hub or a bare server: the load of `idle` and `resume`.

To a hub each connection is an agent: it identifies with a token of its own, or with the proof that it holds a key of
its own, follows the log of its messages from the position it has, checks every entry against the tag chain, and sends
heartbeats. It is live once it has been given all that its log held. An agent with a key enrols it with a join token
when it first comes, and has no token from then on. To a bare server a connection is live after the handshake of
WebSocket.

There is no backoff here: how fast a hub takes agents back is what is measured, so a bounded number of them is
always at the door.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from scripts.bench.lib.agent import IdleAgent
from scripts.bench.lib.child import serve
from scripts.bench.lib.wire import Wire

__all__: list[str] = []

TICK_S = 1.0


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class Link:
    """One connection that is opened again and again.

    Attributes:
        resumed: how often it went on from exactly where it was.
        proved: how often it was let in by a key.
        signing_s: the processor time that proving it took.
    """

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.resumed = 0
        self.proved = 0
        self.signing_s = 0.0
        self._on_lost = on_lost
        self._on_live: Callable[[], None] | None = None
        self._wire: Wire | None = None

    def open(self, url: str, on_live: Callable[[], None]) -> None:
        """Connect; `on_live` is called once the connection is live."""
        self._on_live = on_live
        self._wire = self._dial(url)

    def tick(self) -> None:
        """Do what the clock asks for."""

    def close(self) -> None:
        """End the connection."""
        if self._wire is not None:
            self._wire.close()

    def _dial(self, url: str) -> Wire:
        return Wire(url, None, self._live, lambda _message: None, self._ended)

    def _live(self) -> None:
        if self._on_live is not None:
            on_live, self._on_live = self._on_live, None
            on_live()

    def _ended(self) -> None:
        self._wire = None
        self._on_lost()


class Agent(Link):
    """The connection of an agent.

    Args:
        agent: its id.
        token: that it identifies with; of one that has a key, the join token that it enrols it with.
        key: that it proves to hold, if it has one.
        on_lost: called where the other side ended the connection.
    """

    def __init__(self, agent: str, token: str, key: Ed25519PrivateKey | None, on_lost: Callable[[], None]) -> None:
        super().__init__(on_lost)
        self._token: str | None = token
        self._enrols = key is not None
        self._agent = IdleAgent(agent, key)

    def tick(self) -> None:
        """Send a heartbeat where one is due."""
        heartbeat = self._agent.tick(_now_ms()) if self._wire is not None else None
        if heartbeat is not None:
            self._say(heartbeat)

    def _dial(self, url: str) -> Wire:
        self._agent.connected(_now_ms())
        return Wire(url, self._token, lambda: None, self._take, self._ended)

    def _take(self, message: bytes) -> None:
        said = self._agent.take(message)
        if said is not None:
            self._say(said)
        if self._agent.live:
            self.resumed = self._agent.resumed
            self.proved, self.signing_s = self._agent.proved, self._agent.signing_s
            if self._enrols:
                self._enrols, self._token = False, None  # its key is known: it is let in by that alone
            self._live()

    def _say(self, message: bytes) -> None:
        assert self._wire is not None
        self._wire.send(message)


class Load:
    """All connections of this process."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._open = 0
        self._lost = 0
        self._none_left = asyncio.Event()
        self._ticker: asyncio.Task[None] | None = None

    async def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """Do what the benchmark asks; see the methods for what each takes and answers."""
        verbs: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "open": self._open_more,
            "wait_lost": self._wait_lost,
            "reopen": self._reopen,
            "close": self._close,
        }
        return await verbs[command["do"]](command)

    async def _open_more(self, command: dict[str, Any]) -> dict[str, Any]:
        """Add `count` connections to `url`; with `tokens`, agents with these ids and tokens.

        With `keys` each is given a key, and enrols it with its token.
        """
        tokens: dict[str, str] | None = command.get("tokens")
        new_key = Ed25519PrivateKey.generate if command.get("keys") else lambda: None
        added: list[Link] = (
            [Link(self._ended) for _ in range(command["count"])]
            if tokens is None
            else [Agent(agent, token, new_key(), self._ended) for agent, token in tokens.items()]
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
        resumed, proved = sum(link.resumed for link in links), sum(link.proved for link in links)
        signing_s = sum(link.signing_s for link in links)
        live = 0
        all_live = asyncio.Event()

        def next_one() -> None:
            link = next(waiting, None)
            if link is not None:
                self._open += 1
                link.open(command["url"], on_live)

        def on_live() -> None:
            nonlocal live
            live += 1
            if live == len(links):
                all_live.set()
            next_one()

        cpu_s, began = time.process_time(), time.perf_counter()
        for _ in range(command["concurrency"]):
            next_one()
        await all_live.wait()
        seconds = time.perf_counter() - began
        return {
            "live": live,
            "resumed": sum(link.resumed for link in links) - resumed,
            "proved": sum(link.proved for link in links) - proved,
            "seconds": seconds,
            "cpu_s": time.process_time() - cpu_s,
            "signing_s": sum(link.signing_s for link in links) - signing_s,
        }

    def _ended(self) -> None:
        self._open -= 1
        self._lost += 1
        if self._open == 0:
            self._none_left.set()

    async def _wait_lost(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return once the other side has ended every connection."""
        while self._open:
            self._none_left.clear()
            await self._none_left.wait()
        lost, self._lost = self._lost, 0
        return {"lost": lost}

    async def _close(self, _: dict[str, Any]) -> dict[str, Any]:
        """End and forget all connections; `lost` counts those that the other side had ended before."""
        lost, self._lost = self._lost, 0
        for link in self._links:
            link.close()
        self._links, self._open = [], 0
        return {"lost": lost}

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for link in self._links:
                link.tick()


async def _main() -> None:
    gc.disable()  # what it would look through again and again is all still in use
    load = Load()
    await serve(load.do)


if __name__ == "__main__":
    uvloop.run(_main())
