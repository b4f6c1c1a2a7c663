"""Runs that are set aside since as many with their concurrency key run as may, and what brings them back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core import parking
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.parking import Parking
from orchestrator.store.commits import Commit, Outcome, SetAdd, SortedAdd
from orchestrator.store.memory import MemoryServer
from protocol.ids import make_run_id
from protocol.run import RunState
from tests.support.lifecycle import Bench
from tests.unit.orchestrator.parts import NOW_MS, line_to

KEY = "repo-1"


async def waits() -> RunMeta:
    """Return a run with a concurrency key that waits."""
    bench = Bench()
    await bench.store.open()
    await bench.submit()
    return replace(await bench.meta(), concurrency_key=KEY)


@pytest.mark.parametrize(
    ("change", "back"),
    [({}, True), ({"not_before_ms": NOW_MS}, False), ({"state": RunState.RUNNING}, False)],
    ids=["waits", "put off", "runs"],
)
async def test_only_a_run_that_waits_now_is_put_on_its_queue_again(change: dict[str, object], back: bool) -> None:
    meta = replace(await waits(), **change)  # type: ignore[arg-type]
    ops = parking.bring_back(Bench().ids(), meta).ops
    assert any(isinstance(op, SortedAdd) and op.member == meta.log.name for op in ops) is back


async def test_a_run_that_is_gone_keeps_no_other_from_coming_back() -> None:
    line: Line = await line_to(MemoryServer(lambda: NOW_MS))
    queue = Queue("default", "q")
    gone = make_run_id(queue.partition, NOW_MS, b"12345678")
    ops = (SortedAdd(queue.parked(KEY), gone, 1), SetAdd(queue.parked_keys, KEY))
    assert isinstance(await line.commit(Commit(line.new_commit_id(), queue.partition, ops=ops)), Outcome)
    terms = await line.store.hash_all(queue.terms)
    await Parking(line)._bring_back(queue, KEY, Terms.parse(terms))
    assert await line.store.sorted_range(queue.parked(KEY), 10) == []
    assert await line.store.set_members(queue.parked_keys) == set()
