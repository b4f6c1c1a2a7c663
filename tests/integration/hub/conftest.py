"""A hub over real sockets, on the store's twin in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from tests.support.hub_world import ServedWorld, World
from tests.support.stores import valkey

ON_BOTH_LOOPS = {"test_tls.py", "test_transport.py"}


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run what is close to the sockets on both event loops that a hub may have."""
    if item.path.name in ON_BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A store without a hub."""
    async with AsyncExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
async def line(world: World) -> World:
    """A store with one hub."""
    await world.start()
    return world


@pytest.fixture
async def calm(world: World) -> World:
    """A store with one hub that is patient with silent peers."""
    await world.start(heartbeat_ms=5_000)
    return world


@pytest.fixture(params=["memory", "valkey"])
async def either(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """A store of each kind in turn, with one hub that is patient with silent peers."""
    async with AsyncExitStack() as stack:
        if request.param == "memory":
            world = World(tmp_path, stack)
        else:
            server = await stack.enter_async_context(valkey(tmp_path))
            world = ServedWorld(tmp_path / "hub", stack, server.url)
        await world.start(heartbeat_ms=5_000)
        yield world
