"""A hub over real sockets, on the store's twin in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import uvloop

from tests.support.hub_world import World

ON_BOTH_LOOPS = {"test_transport.py"}


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
