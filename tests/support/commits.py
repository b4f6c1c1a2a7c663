"""Commits for tests of the store, with as little said as each test needs."""

from __future__ import annotations

from itertools import count

from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Append, Commit, Guard, HashSet, Op, Outcome, ProducerClaim, Refused
from orchestrator.store.producer import ProducerRecord
from protocol.ids import LogKind, LogName, partition_of

__all__ = ["EPOCH", "append", "claim", "commit", "done", "open_producer", "topic", "topics_of_one_partition"]

EPOCH = "e0e0e0e0e0e0e0e0"

_ids = count(1)


def topic(name: str = "news") -> LogName:
    """Return a topic's log."""
    return LogName("default", LogKind.TOPIC, name)


def topics_of_one_partition(number: int) -> list[LogName]:
    """Return topics that one commit may append to."""
    partition = partition_of(topic("t0"))
    names = (topic(f"t{index}") for index in count())
    found = []
    for log in names:
        if partition_of(log) == partition:
            found.append(log)
        if len(found) == number:
            break
    return found


def claim(seq: int, number: int, *, fence: int = 1, digest: str = "d", producer: str = "user:ann/p1") -> ProducerClaim:
    """Return a producer's claim to the entries from `seq`."""
    return ProducerClaim(producer, fence, seq, number, digest)


def append(
    log: LogName,
    *entries: bytes,
    producer: ProducerClaim | None = None,
    expect: int | None = None,
    epoch: str = EPOCH,
) -> Append:
    """Return an append to a log."""
    return Append(log, entries, epoch, producer, expect)


def commit(
    *appends: Append,
    guards: tuple[Guard, ...] = (),
    ops: tuple[Op, ...] = (),
    hints: tuple[str, ...] = (),
    partition: int | None = None,
    commit_id: str | None = None,
) -> Commit:
    """Return a commit of the partition of its first append."""
    if partition is None:
        partition = partition_of(appends[0].log)
    return Commit(commit_id or f"c{next(_ids)}", partition, guards, appends, ops, hints)


async def done(store: Store, proposed: Commit) -> Outcome:
    """Do a commit that must not be refused."""
    outcome = await store.commit(proposed)
    assert not isinstance(outcome, Refused), outcome
    return outcome


async def open_producer(store: Store, log: LogName, *, fence: int = 1, producer: str = "user:ann/p1") -> None:
    """Open a producer of a log, as the hub does."""
    record = ProducerRecord(fence, ts_ms=await store.now_ms())
    await done(store, commit(append(log), ops=(HashSet(keys.producers(log), {producer: record.encode()}),)))
