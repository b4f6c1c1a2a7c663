"""The twin in memory and a real server, given the same commits in the same order, say and hold the same."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from orchestrator.store import keys
from orchestrator.store.base import Durability, Store
from orchestrator.store.commits import (
    Append,
    Appended,
    Below,
    Commit,
    Full,
    Guard,
    HashDelete,
    HashSet,
    Op,
    Outcome,
    ProducerClaim,
    Refused,
    SetAdd,
    SetPrune,
    SortedAdd,
    SortedPrune,
    SortedRemove,
)
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.store.producer import ProducerRecord
from orchestrator.store.redis import RedisStore
from protocol.entry import Entry, Position
from protocol.ids import LogKind, LogName, partition_of
from tests.support.commits import topics_of_one_partition
from tests.support.stores import BINARIES, Binary, valkey

LOGS = topics_of_one_partition(3)
P = partition_of(LOGS[0])
HASHES = (keys.held(P, "default", "a1"), *(keys.meta(log) for log in LOGS))
SORTED = (keys.leases(P), keys.timers(P))
QUEUES = keys.queues(P, "default")
PRODUCERS = ("user:ann/p1", "user:bob/p1")
FIELDS = ("state", "attempt")
WORDS = ("a", "b")

CLOCK_OF_TWIN_MS = 1_000

small = st.integers(0, 6)
packed = st.binary(max_size=12)
claims = st.none() | st.builds(
    ProducerClaim,
    st.sampled_from(PRODUCERS),
    st.integers(1, 2),
    st.integers(1, 6),
    st.integers(0, 4),
    st.sampled_from(("x", "y")),
)
guards = st.builds(Guard, st.sampled_from(HASHES), st.sampled_from(FIELDS), st.none() | st.sampled_from(WORDS))
sizes = st.builds(Below, st.sampled_from(HASHES), small) | st.builds(Full, st.sampled_from(HASHES), small)
records = st.builds(ProducerRecord, fence=st.integers(1, 2)).map(ProducerRecord.encode)
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(
        HashSet,
        st.sampled_from(HASHES),
        st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(WORDS), min_size=1),
        ttl_ms=st.none(),
    ),
    st.builds(
        HashSet,
        st.sampled_from([keys.producers(log) for log in LOGS]),
        st.dictionaries(st.sampled_from(PRODUCERS), records, min_size=1),
        ttl_ms=st.none(),
    ),
    st.builds(HashDelete, st.sampled_from(HASHES), st.sampled_from(FIELDS).map(lambda name: (name,))),
    st.builds(
        SortedAdd,
        st.sampled_from(SORTED),
        st.sampled_from(WORDS),
        small,
        from_now=st.just(False),
        absent=st.booleans(),
        given=st.none() | st.sampled_from([*SORTED, *HASHES]),
    ),
    st.builds(SortedPrune, st.sampled_from(SORTED), st.sampled_from(WORDS), st.sampled_from([*SORTED, *HASHES])),
    st.builds(SortedRemove, st.sampled_from(SORTED), st.sampled_from(WORDS)),
    st.builds(SetAdd, st.just(QUEUES), st.sampled_from(WORDS)),
    st.builds(SetPrune, st.just(QUEUES), st.sampled_from(WORDS), st.sampled_from([*SORTED, *HASHES])),
)


@st.composite
def appends(draw: st.DrawFn) -> tuple[Append, ...]:
    chosen = draw(st.lists(st.sampled_from(LOGS), max_size=3, unique=True))
    made = []
    for log in chosen:
        claim = draw(claims)
        least = 0 if claim is None else claim.count
        entries = draw(st.lists(packed, min_size=least, max_size=least + 2))
        expect = draw(st.none() | small)
        made.append(Append(log, tuple(entries), draw(st.sampled_from(("e1", "e2"))), claim, expect))
    return tuple(made)


commits = st.builds(
    Commit,
    st.integers(0, 30).map(lambda number: f"c{number}"),
    st.just(P),
    st.lists(guards, max_size=2).map(tuple),
    appends(),
    st.lists(ops, max_size=3).map(tuple),
    hints=st.just(()),
    below=st.lists(sizes, max_size=1).map(tuple),
)


class Twins(RuleBasedStateMachine):
    """Does everything to both and compares; times and what hangs on them (tags) are each store's own."""

    binary: Binary = "valkey"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.run = self.runner.run

    @initialize()
    def start(self) -> None:
        self.stores: tuple[Store, Store] = self.run(self._start())

    async def _start(self) -> tuple[Store, Store]:
        directory = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="fl-"))
        server = await self.stack.enter_async_context(valkey(Path(directory), binary=self.binary, appendfsync="no"))
        real = RedisStore(server.url, Durability.MEMORY, "hub-a")
        twin = MemoryStore(MemoryServer(lambda: CLOCK_OF_TWIN_MS), "hub-a")
        await real.open()
        await twin.open()
        self.stack.push_async_callback(real.close)
        return real, twin

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()

    @rule(batch=st.lists(commits, min_size=1, max_size=4))
    def commit(self, batch: list[Commit]) -> None:
        batch = [with_fresh_records(proposed, CLOCK_OF_TWIN_MS) for proposed in batch]
        real, twin = self.run(self._commit(batch))
        for proposed, one, other in zip(batch, real, twin, strict=True):
            assert comparable(one) == comparable(other), proposed

    async def _commit(self, batch: list[Commit]) -> tuple[list[Outcome | Refused], list[Outcome | Refused]]:
        real, twin = self.stores
        now_ms = await real.now_ms()
        theirs = [with_fresh_records(proposed, now_ms) for proposed in batch]
        return (
            list(await asyncio.gather(*map(real.commit, theirs))),
            list(await asyncio.gather(*map(twin.commit, batch))),
        )

    @rule(log=st.sampled_from(LOGS), keep_from=st.integers(0, 12))
    def trim(self, log: LogName, keep_from: int) -> None:
        cuts = [self.run(store.trim(log, keep_from)) for store in self.stores]
        assert place(cuts[0]) == place(cuts[1])

    @rule(log=st.sampled_from(LOGS))
    def delete(self, log: LogName) -> None:
        assert self.run(self.stores[0].delete(log)) == self.run(self.stores[1].delete(log))

    @rule(log=st.sampled_from(LOGS), after=st.integers(0, 15), limit=st.integers(1, 5), bytes_max=st.integers(1, 40))
    def read(self, log: LogName, after: int, limit: int, bytes_max: int) -> None:
        pages = [self.run(store.read(log, after, limit, bytes_max)) for store in self.stores]
        shapes = [page and (place(page.before), place(page.after), page.head, texts(page.entries)) for page in pages]
        assert shapes[0] == shapes[1]

    @rule(log=st.sampled_from(LOGS), offsets=st.lists(st.integers(0, 20), max_size=5))
    def tags(self, log: LogName, offsets: list[int]) -> None:
        real, twin = (self.run(store.tags(log, offsets)) for store in self.stores)
        assert [tag is None for tag in real] == [tag is None for tag in twin]

    @invariant()
    def hold_the_same(self) -> None:
        if hasattr(self, "stores"):
            real, twin = (self.run(held(store)) for store in self.stores)
            assert real == twin


def with_fresh_records(proposed: Commit, now_ms: int) -> Commit:
    """Give the records of producers that a commit opens the time of the store that it goes to."""
    made = tuple(
        HashSet(op.key, {name: opened(str(value), now_ms) for name, value in op.fields.items()})
        if isinstance(op, HashSet) and ":producers:" in op.key
        else op
        for op in proposed.ops
    )
    return proposed._replace(ops=made)


def opened(value: str, now_ms: int) -> str:
    return replace(ProducerRecord.decode(value), ts_ms=now_ms).encode()


def place(position: Position | None) -> tuple[str, int] | None:
    return None if position is None else (position.epoch, position.offset)


def texts(entries: tuple[Entry, ...]) -> list[tuple[int, bytes]]:
    return [(entry.offset, entry.packed) for entry in entries]


def comparable(outcome: Outcome | Refused) -> object:
    if isinstance(outcome, Refused):
        return outcome

    def shape(appended: Appended) -> tuple[object, ...]:
        last = appended.last_seq, appended.last_offset
        return place(appended.before), place(appended.after), appended.skipped, *last

    return outcome.repeated, [shape(appended) for appended in outcome.appended]


async def held(store: Store) -> list[object]:
    """Everything that a store holds, save times and tags."""
    found: list[object] = [await store.set_members(QUEUES)]
    found += [await store.sorted_range(key, 100) for key in SORTED]
    found += [sorted(name for name, _ in await store.log_names("default", LogKind.TOPIC, 100))]
    for log in LOGS:
        meta = await store.meta(log)
        found.append(meta and {name: value for name, value in meta.items() if name not in {"ts", "tag", "trim_tag"}})
        records = (await store.hash_all(keys.producers(log))).items()
        found.append({name: value.rsplit(b" ", 1)[0] for name, value in records})
    found.append(await store.hash_all(HASHES[0]))
    return found


@pytest.mark.parametrize("binary", BINARIES)
def test_the_twin_does_as_the_server_does(binary: Binary) -> None:
    machine = type("TwinsOf" + binary, (Twins,), {"binary": binary})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
