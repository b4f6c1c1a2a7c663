"""A data directory with a short path, and hubs on it that leave nothing behind."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.embedded_hub import Hubs


@pytest.fixture
def hubs() -> Iterator[Hubs]:
    with tempfile.TemporaryDirectory(prefix="fleetline-test-", dir="/tmp") as name:
        hubs = Hubs(Path(name) / "data")
        try:
            yield hubs
        finally:
            hubs.close()


@pytest.fixture
def data(hubs: Hubs) -> Path:
    return hubs.data
