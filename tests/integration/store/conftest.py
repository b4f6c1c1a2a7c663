"""Stores of every kind, each new and empty."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from orchestrator.store.base import Durability, Store
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.store.redis import RedisStore
from tests.support.stores import BINARIES, Binary, StoreServer, valkey


class World:
    """One server of some kind, and as many hubs' stores on it as a test asks for."""

    def __init__(self, server: StoreServer | MemoryServer) -> None:
        self.server = server
        self.opened: list[Store] = []

    async def store(self, hub_id: str) -> Store:
        """Open another hub's store."""
        store: Store
        if isinstance(self.server, MemoryServer):
            store = MemoryStore(self.server, hub_id)
        else:
            store = RedisStore(self.server.url, Durability.LOCAL, hub_id)
        await store.open()
        self.opened.append(store)
        return store


@asynccontextmanager
async def _world(kind: str, tmp_path: Path) -> AsyncIterator[World]:
    if kind == "memory":
        yield World(MemoryServer(lambda: time.time_ns() // 1_000_000))
        return
    binary: Binary = "redis" if kind == "redis" else "valkey"
    async with valkey(tmp_path, binary=binary) as server:
        yield World(server)


@pytest.fixture(params=["memory", *BINARIES])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A store of each kind in turn."""
    async with _world(request.param, tmp_path) as world:
        yield world
        for store in world.opened:
            await store.close()


@pytest.fixture
async def store(world: World) -> Store:
    """The first hub's store."""
    return await world.store("hub-a")


@pytest.fixture(params=BINARIES)
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreServer]:
    """A real server of each kind in turn."""
    async with valkey(tmp_path, binary=request.param) as server:
        yield server


@pytest.fixture
async def redis_store(server: StoreServer) -> AsyncIterator[RedisStore]:
    """A store on that server."""
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")
    await store.open()
    yield store
    await store.close()
