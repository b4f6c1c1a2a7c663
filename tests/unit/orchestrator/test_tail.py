"""Where logs end: what a tail takes in, what it hands out, and when it says that the history changed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any
from unittest.mock import AsyncMock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator import tail as tailing
from orchestrator.chunks import CHUNK_BYTES_MAX, CHUNK_ENTRIES_MAX, Chunk, cut, fitting, matching, prefixes
from orchestrator.core.resume import LogState
from orchestrator.line import Line
from orchestrator.lingering import LINGERING_MAX
from orchestrator.store.base import Page
from orchestrator.store.commits import Append, Commit, Outcome
from orchestrator.store.memory import Fault, MemoryServer, MemoryStore
from orchestrator.tail import RING_CHUNKS_MAX, Tail, Tails
from orchestrator.telemetry import Counters
from orchestrator.verdicts import log_state
from protocol.codec import pack_record
from protocol.entry import Entry, chain, first_tag
from protocol.ids import LogKind, LogName, make_run_id, partition_of
from tests.support.timing import eventually

LOG = LogName("default", LogKind.TOPIC, "a")
TAG = first_tag("e")


class Watcher:
    """A subscriber that takes everything."""

    def __init__(self) -> None:
        self.tail: Tail | None = None
        self.offset = 0
        self.entries: list[Entry] = []
        self.reverified = 0

    def pump(self) -> None:
        assert self.tail is not None
        while self.offset < self.tail.head:
            chunk = self.tail.chunk_after(self.offset)
            assert chunk is not None
            self.entries += chunk.entries[self.offset - chunk.prev :]
            self.offset = chunk.upto

    def reverify(self) -> None:
        self.reverified += 1


class Bench:
    """A line on a store in memory, and another hub's store on the same server."""

    def __init__(self) -> None:
        self.server = MemoryServer(lambda: 1_000)
        self.store, self.other = MemoryStore(self.server, "h1"), MemoryStore(self.server, "h2")
        self.tasks: set[asyncio.Task[None]] = set()
        self.tails = Tails(self.store, self.spawn, 4)
        self.line = Line(self.store, self.tails, "h1", "memory", Counters())
        self.watcher = Watcher()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def commit_of(self, *bodies: bytes) -> Commit:
        entries = tuple(pack_record("note", "client:x", body) for body in bodies)
        return Commit(self.line.new_commit_id(), partition_of(LOG), appends=(Append(LOG, entries, "e"),))

    async def append(self, *bodies: bytes) -> None:
        assert isinstance(await self.line.commit(self.commit_of(*bodies)), Outcome)

    async def elsewhere(self, *bodies: bytes) -> None:
        assert isinstance(await self.other.commit(self.commit_of(*bodies)), Outcome)

    async def watch(self) -> Tail:
        tail = self.watcher.tail = self.tails.join(LOG, self.watcher)
        state = await log_state(self.line, tail, AsyncMock())
        assert state is not None
        self.watcher.offset = state.head
        return tail

    async def seen(self, *offsets: int) -> None:
        await eventually(lambda: [entry.offset for entry in self.watcher.entries] == list(offsets))


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.store.open()
    await made.other.open()
    return made


async def test_what_a_hub_commits_reaches_its_watchers(bench: Bench) -> None:
    await bench.watch()
    await bench.append(b"1", b"2")
    await bench.append(b"3")
    await bench.seen(1, 2, 3)


async def test_commits_of_one_turn_become_one_chunk_encoded_once(bench: Bench) -> None:
    tail = await bench.watch()
    await asyncio.gather(*(bench.append(b"%d" % number) for number in range(5)))
    await bench.seen(1, 2, 3, 4, 5)
    chunk = tail.chunk_after(4)
    assert chunk is not None
    assert chunk.frame("topic/a") is chunk.frame("topic/a")


async def test_a_log_that_nobody_follows_has_no_tail(bench: Bench) -> None:
    await bench.append(b"1")
    assert len(bench.tails) == 0
    tail = await bench.watch()
    assert len(bench.tails) == 1
    bench.tails.leave(tail, bench.watcher)
    assert len(bench.tails) == 0


async def test_a_hint_brings_what_another_hub_wrote(bench: Bench) -> None:
    await bench.watch()
    await bench.elsewhere(*[b"x"] * 256)
    await bench.elsewhere(*[b"x"] * 100)
    bench.tails.hint({"default/topic/a": 356})
    await bench.seen(*range(1, 357))


async def test_a_hole_between_two_commits_is_filled_from_the_store(bench: Bench) -> None:
    await bench.watch()
    await bench.elsewhere(b"1")
    await bench.append(b"2")
    await bench.elsewhere(b"3")
    await bench.append(b"4")
    await bench.seen(1, 2, 3, 4)


async def test_a_repeated_commit_is_read_from_the_store(bench: Bench) -> None:
    await bench.watch()
    commit = bench.commit_of(b"1")
    bench.store.fail_next(Fault.LOST_AFTER)
    with pytest.raises(Exception, match="broke"):
        await bench.line.commit(commit)
    outcome = await bench.line.commit(commit)
    assert isinstance(outcome, Outcome)
    assert outcome.repeated
    await bench.seen(1)


async def test_a_history_that_changed_has_everybody_verified(bench: Bench) -> None:
    await bench.append(b"1")
    snapshot = bench.server.snapshot()
    tail = await bench.watch()
    await bench.append(b"2")
    await bench.seen(2)
    bench.server.restore(snapshot)
    await bench.append(b"other")
    await eventually(lambda: bench.watcher.reverified == 1)
    assert tail.epoch == ""


async def test_a_head_that_went_back_is_found_by_looking(bench: Bench) -> None:
    await bench.append(b"1")
    snapshot = bench.server.snapshot()
    tail = await bench.watch()
    await bench.append(b"2")
    await bench.seen(2)
    bench.server.restore(snapshot)
    bench.tails.check_soon(tail)
    await eventually(lambda: bench.watcher.reverified == 1)


async def test_a_store_that_changed_while_a_tail_was_compared_has_it_compared_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailing, "AGE_S", 0.001)
    await bench.append(b"1")
    snapshot = bench.server.snapshot()
    tail = await bench.watch()
    await bench.append(b"2")
    await bench.seen(2)
    read, reading, answered = bench.store.read, asyncio.Event(), asyncio.Event()

    async def answer_late(log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        page = await read(log, after, limit, bytes_max)
        reading.set()
        await answered.wait()
        return page

    bench.store.read = answer_late  # type: ignore[method-assign]
    looks: list[str] = []
    identity = bench.store.identity

    def look() -> str:
        looks.append(identity())
        return looks[-1]

    bench.store.identity = look  # type: ignore[method-assign]
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(bench.tails.run(1_000.0))
        await eventually(lambda: bool(looks))
        bench.tails.check_soon(tail)
        await reading.wait()
        bench.server.restore(snapshot)
        await eventually(lambda: looks.count(identity()) > 1)
        answered.set()
        await eventually(lambda: bench.watcher.reverified == 1)
        running.cancel()


async def test_a_ring_is_bounded_and_forgets(bench: Bench) -> None:
    tail = await bench.watch()
    for number in range(RING_CHUNKS_MAX + 20):
        await bench.append(b"%d" % number)
    await bench.seen(*range(1, RING_CHUNKS_MAX + 21))
    assert tail.chunk_after(0) is None
    assert tail.chunk_after(tail.head - 1) is not None
    tail.age()
    assert not tail.age()
    assert tail.chunk_after(tail.head - 1) is None


def entries_of(sizes: list[int]) -> list[Entry]:
    return [Entry(place, 1, b"x" * size) for place, size in enumerate(sizes, 1)]


@given(st.lists(st.sampled_from([0, 10, CHUNK_BYTES_MAX // 3, CHUNK_BYTES_MAX + 1]), min_size=1, max_size=12))
def test_cutting_keeps_every_entry_and_every_link(sizes: list[int]) -> None:
    entries = entries_of(sizes)
    chunks = cut(0, TAG, entries, chain(TAG, entries))
    assert [entry for chunk in chunks for entry in chunk.entries] == entries
    offset, tag = 0, TAG
    for chunk in chunks:
        assert (chunk.prev, chunk.prev_tag) == (offset, tag)
        assert len(chunk.entries) == 1 or chunk.size <= CHUNK_BYTES_MAX
        offset, tag = chunk.upto, chain(tag, chunk.entries)
        assert chunk.tag == tag


def test_cutting_bounds_the_entries_of_a_chunk() -> None:
    entries = entries_of([1] * (CHUNK_ENTRIES_MAX * 2 + 1))
    lengths = [len(chunk.entries) for chunk in cut(0, TAG, entries, chain(TAG, entries))]
    assert lengths == [CHUNK_ENTRIES_MAX, CHUNK_ENTRIES_MAX, 1]


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.integers(0, 29),
    st.integers(1, 40),
    st.integers(1, 200),
    st.lists(st.sampled_from(["a", "b"]), min_size=30, max_size=30),
)
def test_a_part_is_what_fits_and_its_tag_is_that_of_its_end(
    sizes: list[int], start: int, entries_max: int, bytes_max: int, kinds: list[str]
) -> None:
    start %= len(sizes)
    rows = zip(sizes, kinds, strict=False)
    entries = [Entry(place, 1, pack_record(kind, "s", b"x" * size)) for place, (size, kind) in enumerate(rows, 1)]
    chunk = Chunk(0, TAG, entries, chain(TAG, entries))
    at = chain(TAG, entries[:start])
    for part, asked in (
        (fitting(chunk, start, at, entries_max, bytes_max), {"a", "b"}),
        (matching(chunk, start, at, entries_max, bytes_max, prefixes(("a",))), {"a"}),
    ):
        assert part.tag == chain(TAG, entries[: part.upto])
        assert start < part.upto <= len(entries)
        passed = range(start, part.upto)
        assert part.entries == tuple(entries[place] for place in passed if kinds[place] in asked)
        assert len(part.entries) <= entries_max
        assert len(part.entries) <= 1 or sum(len(entry.packed) for entry in part.entries) <= bytes_max


def test_a_kind_that_begins_like_another_is_not_taken_for_it() -> None:
    wanted = prefixes(("note",))
    assert pack_record("note", "s", b"").startswith(wanted)
    assert not pack_record("notes", "s", b"").startswith(wanted)
    assert not pack_record("not", "s", b"").startswith(wanted)


RUN = LogName("default", LogKind.RUN, make_run_id(0, 1, b"12345678"))


def first_of(bench: Bench, *bodies: bytes) -> Commit:
    entries = tuple(pack_record("note", "client:x", body) for body in bodies)
    return Commit(bench.line.new_commit_id(), partition_of(RUN), appends=(Append(RUN, entries, "e"),))


async def test_a_log_that_was_just_made_here_is_all_at_hand_for_a_moment(bench: Bench) -> None:
    bench.tails.linger(RUN)
    tail = bench.tails.get(RUN)
    assert tail is not None
    assert tail.whole() is None
    await bench.line.commit(first_of(bench, b"1"))
    await bench.line.commit(first_of(bench, b"2"))
    await asyncio.sleep(0)
    meta = await bench.store.meta(RUN)
    assert meta is not None
    assert tail.whole() == await log_state(bench.line, Tail(RUN)) == LogState.parse(meta)
    bench.tails._lingering.age()
    assert len(bench.tails) == 1
    bench.tails._lingering.age()
    assert len(bench.tails) == 0


async def test_what_was_hinted_before_the_hub_heard_of_its_own_commit_is_looked_for_after_it(bench: Bench) -> None:
    bench.tails.linger(RUN)
    tail = bench.tails.get(RUN)
    assert tail is not None
    commit = first_of(bench, b"1")
    outcome = await bench.store.commit(commit)
    assert isinstance(outcome, Outcome)
    assert isinstance(await bench.other.commit(first_of(bench, b"2")), Outcome)
    bench.tails.hint({f"default/run/{RUN.name}": 2})
    assert tail.head == 0
    bench.tails.take(commit, outcome)
    await eventually(lambda: tail.head == 2)


async def test_only_so_many_tails_stay_that_nobody_follows(bench: Bench) -> None:
    for number in range(LINGERING_MAX + 3):
        bench.tails.linger(LogName("default", LogKind.RUN, make_run_id(0, number, b"12345678")))
    assert len(bench.tails) == LINGERING_MAX
