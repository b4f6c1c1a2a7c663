"""A real hub on a real store, for clients that know nothing of this project."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.auth.principal import ANY_AGENT, Grant
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from tests.support.raw_client import RawClient
from tests.support.stores import valkey

__all__ = ["RawHub", "raw_hub"]


class RawHub:
    """Opens sessions of raw clients with one hub, and closes them at the end."""

    def __init__(self, hub: Hub, stack: AsyncExitStack) -> None:
        self.hub = hub
        self._stack = stack

    def token(self, name: str, *scopes: str, namespace: str = "default", ttl_s: int = 600) -> str:
        """Issue a token."""
        grant = Grant(name, namespace, frozenset(scopes), frozenset({ANY_AGENT}))
        tokens = self.hub.services.tokens
        return tokens.issue(grant, now_s=int(time.time()), ttl_s=ttl_s, token_id=secrets.token_hex(8))

    async def client(self, name: str = "ada", **options: Any) -> RawClient:
        """Open a session as a client that may do everything a client does."""
        return await self._open(self.token(name, "operator"), name=name, **options)

    async def agent(self, name: str = "builder", **options: Any) -> RawClient:
        """Open a session as an agent."""
        return await self._open(self.token(name, "agent"), name=name, role="agent", **options)

    async def store_acks(self, client: RawClient) -> None:
        """Have stored what this client acknowledged, without waiting for the second in which that happens."""
        await client.request("log.list")  # what it sent before was looked at when this is answered
        await self.hub.services.acks.flush()

    async def _open(self, token: str, **options: Any) -> RawClient:
        client = await RawClient.open(self.hub.url, token, **options)
        self._stack.push_async_callback(client.close)
        return client


@asynccontextmanager
async def raw_hub(tmp_path: Path, **settings: Any) -> AsyncIterator[RawHub]:
    """Run a hub on a server of its own."""
    async with valkey(tmp_path) as server:
        chosen = Settings(data=tmp_path / "hub", store=server.url, listen="127.0.0.1:0", **settings)
        async with Hub(chosen) as hub, AsyncExitStack() as stack:
            yield RawHub(hub, stack)
