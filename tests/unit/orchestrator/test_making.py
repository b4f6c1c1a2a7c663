"""What a principal may make in a day: counted in the store, for all hubs together."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.allowances import DAY_US, FIELD, SHARES, Allowance
from orchestrator.making import Making
from orchestrator.store.commits import HashSet
from orchestrator.store.memory import MemoryServer
from protocol.errors import RequestError
from protocol.limits import Limits
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, making_for

DAY_MS = DAY_US // 1000
ANN = "default/ann"
DAY_S_WORTH = (29, 30)
"""Of 30: the last one waits where a hub's clock is a millisecond behind another's."""


class Clock:
    def __init__(self) -> None:
        self.ms = time.time_ns() // 1_000_000

    def __call__(self) -> int:
        return self.ms


class Bucket:
    """A principal's allowance as a store would keep it."""

    def __init__(self, day_max: int) -> None:
        self.allowance = Allowance("logs", day_max)
        self.value: bytes | None = None
        self.expires_ms = 0

    def take(self, now_ms: int, wanted: int = 1) -> tuple[int, int]:
        value = self.value if now_ms < self.expires_ms else None
        taken = self.allowance.take("c", ANN, value, wanted, now_ms)
        if taken.commit is not None:
            (op,) = taken.commit.ops
            assert isinstance(op, HashSet)
            assert op.ttl_ms is not None
            assert taken.commit.guards[0].expected == (None if value is None else value.decode())
            self.value, self.expires_ms = str(op.fields[FIELD]).encode(), now_ms + op.ttl_ms
        return taken.count, taken.retry_ms


def test_a_day_s_worth_comes_at_once_and_the_rest_one_by_one() -> None:
    bucket = Bucket(4)
    assert [bucket.take(NOW_MS)[0] for _ in range(5)] == [1, 1, 1, 1, 0]
    assert bucket.take(NOW_MS) == (0, DAY_MS // 4)
    assert bucket.take(NOW_MS + DAY_MS // 4 - 1) == (0, 1)
    assert bucket.take(NOW_MS + DAY_MS // 4)[0] == 1
    assert bucket.take(NOW_MS + DAY_MS // 4)[0] == 0


def test_a_hub_takes_a_small_part_of_a_day_s_worth_and_never_less_than_is_needed() -> None:
    assert Bucket(100 * SHARES).take(NOW_MS) == (100, 0)
    assert Bucket(10).take(NOW_MS, 7) == (7, 0)
    assert Bucket(10).take(NOW_MS, 1_000) == (10, 0), "more than a day's worth never comes together"


def test_a_clock_that_was_set_back_locks_nobody_out() -> None:
    bucket = Bucket(2)
    assert [bucket.take(NOW_MS + 10 * DAY_MS)[0] for _ in range(3)] == [1, 1, 0]
    assert bucket.take(NOW_MS)[0] == 1


def test_a_hub_whose_clock_is_a_little_behind_gives_nothing_out_twice() -> None:
    bucket = Bucket(2)
    assert [bucket.take(NOW_MS)[0] for _ in range(2)] == [1, 1]
    assert bucket.take(NOW_MS - 1_000)[0] == 0


@given(st.integers(1, 5_000), st.lists(st.tuples(st.integers(0, DAY_MS // 3), st.integers(1, 40)), max_size=60))
def test_in_no_day_more_is_taken_than_two_days_worth(day_max: int, steps: list[tuple[int, int]]) -> None:
    bucket, now_ms, taken = Bucket(day_max), NOW_MS, []
    for pause_ms, wanted in steps:
        now_ms += pause_ms
        taken.append((now_ms, bucket.take(now_ms, wanted)[0]))
    for start_ms, _ in taken:
        assert sum(count for at_ms, count in taken if start_ms <= at_ms <= start_ms + DAY_MS) <= 2 * day_max + 1


async def spend(making: Making, times: int) -> int:
    """Return how many of so many logs a session may make."""
    peer = agent_peer(lambda _: None)
    peer.account = ANN
    made = await asyncio.gather(*(making.log(peer) for _ in range(times)), return_exceptions=True)
    for refused in (each for each in made if each is not None):
        assert isinstance(refused, RequestError)
        assert refused.code == "too_many"
        assert 0 < (refused.retry_ms or 0) <= 60_000, "nobody waits for half an hour at a time"
        assert refused.message == "ann has made as many logs as may be made in a day: 30"
    return made.count(None)


async def test_hubs_over_one_store_give_out_each_one_once() -> None:
    server = MemoryServer(Clock())
    hubs = [making_for(await line_to(server, f"hub-{number}"), Limits(logs_per_day_max=30)) for number in range(3)]
    assert sum(await asyncio.gather(*(spend(hub, 20) for hub in hubs))) in DAY_S_WORTH


async def test_what_a_hub_had_taken_is_lost_with_it_and_no_more() -> None:
    server = MemoryServer(Clock())
    limits, peer = Limits(logs_per_day_max=2 * SHARES), agent_peer(lambda _: None)
    peer.account = ANN
    for number in range(SHARES):  # each takes two and is killed after it gave out one
        await making_for(await line_to(server, f"hub-{number}"), limits).log(peer)
    with pytest.raises(RequestError, match="as many logs as may be"):
        await making_for(await line_to(server), limits).log(peer)


async def test_a_day_later_everything_may_be_made_again() -> None:
    clock = Clock()
    server = MemoryServer(clock)
    assert await spend(making_for(await line_to(server), Limits(logs_per_day_max=30)), 31) in DAY_S_WORTH
    clock.ms += DAY_MS + 1
    line = await line_to(server)
    line._clock_gap_ms += DAY_MS
    assert await spend(making_for(line, Limits(logs_per_day_max=30)), 31) in DAY_S_WORTH


async def test_runs_and_logs_are_counted_apart_and_none_is_any_number() -> None:
    peer = agent_peer(lambda _: None)
    peer.account = ANN
    line = await line_to(MemoryServer(Clock()))
    making = making_for(line, Limits(logs_per_day_max=1, runs_per_day_max=2))
    await making.runs(peer, 2)
    await making.log(peer)
    with pytest.raises(RequestError, match="as many runs as may be made in a day: 2"):
        await making.runs(peer)
    for _ in range(5):
        await making_for(line, Limits(logs_per_day_max=0)).log(peer)
