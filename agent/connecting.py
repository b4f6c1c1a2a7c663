"""How a client comes by its connection: awaited, entered, or waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agent.links import Links
from agent.threads import LoopThread, in_loop
from protocol.frames import Identify

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["Connecting"]


class Connecting:
    """What `Client.connect()` returns: await it, or enter it."""

    def __init__(
        self, kind: type[Client], identity: Identify, locate: Callable[[], Any], timeout: float | None
    ) -> None:
        self._kind = kind
        self._identity = identity
        self._locate = locate
        self._timeout = timeout
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._connect().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> Client:
        with self._begun() as links:
            async with asyncio.timeout(self._timeout):
                await in_loop(links.main.opened)
        return self._kind(links)

    def blocking(self) -> Client:
        """Connect, for a program without a loop."""
        with self._begun() as links:
            links.main.opened.result(self._timeout)
        return self._kind(links)

    @contextmanager
    def _begun(self) -> Iterator[Links]:
        """Begin to connect; the body waits for it. What goes wrong in that ends the links."""
        self._locate()
        links = Links(self._identity, self._locate, LoopThread("fleetline-link"))
        links.main.open()
        try:
            yield links
        except TimeoutError:
            links.thread.stop()
            raise links.main.unreachable(self._timeout) from None
        except BaseException:
            links.thread.stop()
            raise
