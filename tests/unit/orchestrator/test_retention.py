"""How much of a log is kept, and who can hold that back."""

from __future__ import annotations

import pytest

from orchestrator.line import Line
from orchestrator.retention import HARD_FACTOR, Retention, keep_from
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit, HashSet
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from protocol.codec import pack_record
from protocol.ids import LogKind, LogName, make_run_id, partition_of

TOPIC = LogName("default", LogKind.TOPIC, "a")
RUN = LogName("default", LogKind.RUN, make_run_id(3, 1_000, b"12345678"))


@pytest.mark.parametrize(
    ("first", "head", "acked", "wanted"),
    [
        (1, 100, [], 1),
        (1, 110, [], 1),
        (1, 111, [], 12),
        (50, 151, [], 50),
        (1, 111, [111], 12),
        (1, 111, [5, 111], 6),
        (1, 111, [0], 1),
        (1, 250, [5], 250 - 100 * HARD_FACTOR + 1),
        (60, 250, [5], 60),
    ],
)
def test_what_is_kept(first: int, head: int, acked: list[int], wanted: int) -> None:
    assert keep_from(first, head, acked, 100) == wanted


@pytest.fixture
async def line() -> Line:
    """Return a line to a store in memory."""
    store = MemoryStore(MemoryServer(lambda: 1_000), "hub-1")
    await store.open()
    return Line(store, Tails(store, lambda work: work.close(), 1), "hub-1", "local", Counters())


async def grow(line: Line, log: LogName, count: int) -> None:
    """Append some entries."""
    entries = tuple(pack_record("k", "client:me", b"") for _ in range(count))
    append = Append(log, entries, line.new_epoch())
    await line.commit(Commit(line.new_commit_id(), partition_of(log), appends=(append,)))


async def kept(line: Line, log: LogName) -> tuple[int, int]:
    """Return the first and the last offset."""
    meta = await line.store.meta(log)
    assert meta is not None
    return int(meta["first"]), int(meta["head"])


async def test_a_topic_that_grew_is_cut_to_its_last_entries_and_a_run_is_not(line: Line) -> None:
    retention = Retention(line, 100)
    for log in (TOPIC, RUN):
        await grow(line, log, 200)
        await retention.cut(log)
    assert await kept(line, TOPIC) == (101, 200)
    assert await kept(line, RUN) == (1, 200)
    assert line.take_grown() == {TOPIC}
    assert line.take_grown() == set()


async def test_a_durable_subscription_holds_entries_back_until_the_log_is_twice_as_long(line: Line) -> None:
    retention = Retention(line, 100)
    await grow(line, TOPIC, 150)
    acked = HashSet(keys.acks(TOPIC), {"client:me/mine": f"20 {'e' * 16} {'t' * 16}"})
    await line.commit(Commit(line.new_commit_id(), partition_of(TOPIC), ops=(acked,)))
    await retention.cut(TOPIC)
    assert await kept(line, TOPIC) == (21, 150)
    await grow(line, TOPIC, 150)
    await retention.cut(TOPIC)
    assert await kept(line, TOPIC) == (101, 300)
