"""One store in memory and the hubs on it, for tests of the hub over real sockets."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from orchestrator.auth.keys import load_keys
from orchestrator.auth.principal import Grant
from orchestrator.auth.tokens import Tokens
from orchestrator.core.patterns import Patterns
from orchestrator.hub import TOKEN_FILE, Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability, Store
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.store.redis import RedisStore
from protocol.codec import unpack_record
from protocol.ids import LogKind, LogName
from tests.support.hub_peer import HubPeer, connected

__all__ = ["ServedWorld", "World", "topic"]


def topic(name: str) -> LogName:
    return LogName("default", LogKind.TOPIC, name)


class World:
    """One store, and the hubs that a test starts on it."""

    def __init__(self, data: Path, stack: AsyncExitStack) -> None:
        self.data = data
        self.server = MemoryServer(lambda: time.time_ns() // 1_000_000)
        self.stores: list[MemoryStore] = []
        self.hubs: list[Hub] = []
        self._stack = stack

    @property
    def hub(self) -> Hub:
        return self.hubs[0]

    @property
    def store(self) -> MemoryStore:
        return self.stores[0]

    @property
    def token(self) -> str:
        return (self.data / TOKEN_FILE).read_text()

    async def start(self, **settings: Any) -> Hub:
        """Start another hub on the same store."""
        hub = self.new_hub(**settings)
        return await self._stack.enter_async_context(hub)

    def new_hub(self, **settings: Any) -> Hub:
        """Make a hub that the test starts and stops."""
        values = {"listen": "127.0.0.1:0", "heartbeat_ms": 1_000, "recheck_ms": 200, "runs_kept_least_s": 0, **settings}
        hub = Hub(Settings(data=self.data, **values), self.new_store())
        self.hubs.append(hub)
        return hub

    def new_store(self) -> Store:
        """Make another hub's way to the store."""
        store = MemoryStore(self.server, f"store-{len(self.stores)}")
        self.stores.append(store)
        return store

    def peer(self, token: str | None = None, hub: Hub | None = None) -> AbstractAsyncContextManager[HubPeer]:
        """Connect to a hub, with the local token unless another is given."""
        return connected((hub or self.hub).url, self.token if token is None else token)

    def issue(
        self,
        *scopes: str,
        name: str = "somebody",
        namespace: str = "default",
        agents: tuple[str, ...] = (),
        ttl_s: int = 60,
        uses: int = 0,
        may: Mapping[str, list[str]] | None = None,
    ) -> str:
        """Issue a token of this deployment, held to names by `may`; with `uses` a join token."""
        patterns = Patterns.parse(may or {})
        grant = Grant(name, namespace, frozenset(scopes), frozenset(agents), uses, patterns)
        tokens = Tokens(load_keys(self.data))
        return tokens.issue(grant, now_s=int(time.time()), ttl_s=ttl_s, token_id=secrets.token_hex(4))

    async def kinds(self, log: LogName) -> list[str]:
        """Return the kinds of a log's entries."""
        page = await self.store.read(log, 0, 1000)
        return [unpack_record(entry.packed).kind for entry in page.entries] if page else []


class ServedWorld(World):
    """A real server, and the hubs that a test starts on it."""

    def __init__(self, data: Path, stack: AsyncExitStack, url: str) -> None:
        super().__init__(data, stack)
        self._url = url

    def new_store(self) -> Store:
        return RedisStore(self._url, Durability.LOCAL, f"store-{len(self.hubs)}")
