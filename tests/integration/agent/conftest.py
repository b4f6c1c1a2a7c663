"""A hub that does as it is told, and the real one in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.memory import MemoryServer, MemoryStore
from tests.support.fake_hub import FakeHub, running_hub


@pytest.fixture
async def fake() -> AsyncIterator[FakeHub]:
    """A hub that can be told to misbehave."""
    async with running_hub() as hub:
        yield hub


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    """The real hub, on the memory twin of the store; its data directory is `tmp_path`."""
    settings = Settings(
        data=tmp_path, listen="127.0.0.1:0", durability=Durability.MEMORY, heartbeat_ms=500, lease_ms=2000
    )
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    async with Hub(settings, MemoryStore(server, "hub")) as running:
        yield running
