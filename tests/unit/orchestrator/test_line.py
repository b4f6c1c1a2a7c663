"""What a hub knows of the store's clock."""

from __future__ import annotations

import pytest

from orchestrator import line as lines
from orchestrator.line import CLOCK_STEP_MS
from orchestrator.store import keys
from orchestrator.store.commits import Commit, SetAdd
from orchestrator.store.memory import MemoryServer
from tests.unit.orchestrator.parts import NOW_MS, line_to


async def test_a_reply_that_comes_late_does_not_set_the_clock_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store_ms, hub_ms = NOW_MS, 5_000
    line = await line_to(MemoryServer(lambda: store_ms))
    monkeypatch.setattr(lines, "monotonic_ms", lambda: hub_ms)

    async def told(after_ms: int, late_ms: int, step_ms: int = 0) -> int:
        """Let time go by, have a commit's reply come late, and return how far the clock is off."""
        nonlocal store_ms, hub_ms
        store_ms, hub_ms = store_ms + after_ms + step_ms, hub_ms + after_ms + late_ms
        await line.commit(Commit(line.new_commit_id(), 0, ops=(SetAdd(keys.queues(0, "default"), "q"),)))
        store_ms += late_ms
        return line.now_ms() - store_ms

    line._clock_gap_ms = 0
    assert await told(10, 40) == -40
    assert await told(10, 5) == -5
    assert await told(10, 300) == -5
    assert await told(10, 0, step_ms=20) == 0
    assert await told(10, 0, step_ms=-CLOCK_STEP_MS) == 0
