"""A hub over real sockets, on the store's twin in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.support.hub_world import World


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
