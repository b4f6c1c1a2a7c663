"""Runs that are set aside since as many with their concurrency key run as may, and what brings them back."""

from __future__ import annotations

import pytest

from orchestrator.core import parking
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.parking import Parking
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused, SetAdd, SortedAdd
from orchestrator.store.memory import MemoryServer
from protocol.ids import make_run_id
from protocol.run import RunState
from tests.support.lifecycle import CONCURRENCY_KEY, Bench
from tests.unit.orchestrator.parts import NOW_MS, line_to

KEY = "repo-1"


async def waits() -> RunMeta:
    """Return a run with a concurrency key that waits."""
    bench = Bench()
    await bench.store.open()
    await bench.submit()
    return (await bench.meta())._replace(concurrency_key=KEY)


@pytest.mark.parametrize(
    ("change", "back"),
    [({}, True), ({"not_before_ms": NOW_MS}, False), ({"state": RunState.RUNNING}, False)],
    ids=["waits", "put off", "runs"],
)
async def test_only_a_run_that_waits_now_is_put_on_its_queue_again(change: dict[str, object], back: bool) -> None:
    meta = (await waits())._replace(**change)  # type: ignore[arg-type]
    ops = parking.bring_back(Bench().ids(), meta).ops
    assert any(isinstance(op, SortedAdd) and op.member == meta.log.name for op in ops) is back


async def test_a_hub_that_is_slow_to_bring_a_run_back_does_not_lose_it() -> None:
    bench, terms, queue = Bench(), Terms(key_limit=1, keyed=True), Queue("default", "work")
    await bench.store.open()
    parked = queue.parked(CONCURRENCY_KEY)
    full = Commit("full", queue.partition, ops=(HashSet(queue.keyed(CONCURRENCY_KEY), {"other": "1"}),))
    await bench.submit(retries=1)
    await bench.claim()
    await bench.fail()
    slow = parking.bring_back(bench.ids(), await bench.meta())  # it was listed as parked before it was claimed
    await bench.requeue()
    await bench.store.commit(full)
    assert isinstance(await bench.store.commit(parking.park(bench.ids(), await bench.meta(), terms)), Outcome)
    assert isinstance(await bench.store.commit(slow), Refused)
    assert [run for run, _ in await bench.store.sorted_range(parked, 10)] == [bench.log.name]


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
