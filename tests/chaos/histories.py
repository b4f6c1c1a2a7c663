"""What is done to a log's history behind a subscriber's back."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.store.base import Durability
from orchestrator.store.redis import RedisStore
from tests.support.fleet import HubProcess
from tests.support.proxy import FaultProxy

__all__ = ["NOWHERE", "away", "restore", "snapshot", "store_of"]

NOWHERE = ("127.0.0.1", 1)
"""Nobody listens there."""


@asynccontextmanager
async def store_of(hub: HubProcess) -> AsyncIterator[RedisStore]:
    """Open the hub's store, as retention would."""
    store = RedisStore(f"unix://{hub.store_socket}", Durability.LOCAL, "test")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def away(proxy: FaultProxy) -> AsyncIterator[None]:
    """Keep everybody behind a patient proxy from the hub; who comes meanwhile waits at the proxy."""
    assert proxy.patient
    target, proxy.target = proxy.target, NOWHERE
    proxy.cut()
    try:
        yield
    finally:
        proxy.target = target


async def snapshot(hub: HubProcess, name: str) -> None:
    """Stop hub and store, and copy the store's data."""
    assert await hub.terminate() == 0
    shutil.copytree(hub.data / "store", hub.data / name)


async def restore(hub: HubProcess, name: str) -> None:
    """Stop hub and store, and put the copy back."""
    assert await hub.terminate() == 0
    shutil.rmtree(hub.data / "store")
    (hub.data / name).rename(hub.data / "store")
