"""What a subscription makes of a log that is not what it was."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from orchestrator import acks
from orchestrator.following import Subscription
from orchestrator.line import Line
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit
from orchestrator.store.memory import MemoryServer
from protocol.codec import pack_record
from protocol.frames import Ack, Frame, Probe, Reset, ResetReason, Resumption, Start, Subscribe, Subscribed, Tags
from protocol.ids import LogKind, LogName, partition_of
from protocol.limits import Limits
from tests.unit.orchestrator.parts import NOW_MS, line_to

TOPIC = LogName("default", LogKind.TOPIC, "a")


class Reader:
    """A connection that keeps what it is to say and to run."""

    congested = False

    def __init__(self) -> None:
        self.said: list[Frame] = []
        self._work: list[Coroutine[Any, Any, None]] = []

    def send(self, frame: Frame) -> None:
        self.said.append(frame)

    def send_entries(self, frame: bytes, entries: int) -> None:
        pass

    def spawn_asked(self, work: Coroutine[Any, Any, None]) -> None:
        self._work.append(work)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._work.append(work)

    async def run(self) -> None:
        """Run what there is to run."""
        while self._work:
            await self._work.pop(0)
        await asyncio.sleep(0)


@pytest.fixture
async def line() -> Line:
    return await line_to(MemoryServer(lambda: NOW_MS))


def commit_of(line: Line, epoch: str, count: int, word: bytes = b"") -> Commit:
    """Return a commit that appends entries to the topic."""
    entries = tuple(pack_record("said", "client:c", b"%s%d" % (word, number)) for number in range(count))
    return Commit(line.new_commit_id(), partition_of(TOPIC), appends=(Append(TOPIC, entries, epoch),))


async def grow(line: Line, epoch: str, count: int, word: bytes = b"") -> None:
    """Append entries to the topic as another hub does: this one hears nothing of it."""
    await line.store.commit(commit_of(line, epoch, count, word))


async def follow(line: Line, reader: Reader, frame: Subscribe) -> Subscription:
    """Follow the topic, up to its end."""
    subscription = Subscription(line, reader, TOPIC, frame, Limits())
    verdict = await subscription.verify(frame, "client:c", None)
    assert verdict.code is None
    subscription.begin()
    await reader.run()
    return subscription


async def test_verifying_again_does_not_make_a_topic_that_was_deleted(line: Line) -> None:
    await grow(line, "e1", 3)
    reader = Reader()
    subscription = await follow(line, reader, Subscribe(log=TOPIC.path, from_=Start.EARLIEST))
    await line.store.delete(TOPIC)
    line.tails.changed(subscription.tail)
    await reader.run()
    assert await line.store.meta(TOPIC) is None
    (told,) = reader.said
    assert isinstance(told, Subscribed)
    assert (told.subscription.verdict, told.subscription.code) == (Resumption.REFUSED, "not_found")
    assert len(line.tails) == 0


async def test_a_topic_that_was_deleted_and_made_again_is_another(line: Line) -> None:
    await grow(line, "e1", 3)
    reader = Reader()
    subscription = await follow(line, reader, Subscribe(log=TOPIC.path, from_=Start.EARLIEST))
    await line.store.delete(TOPIC)
    await grow(line, "e2", 1)
    line.tails.changed(subscription.tail)
    await reader.run()
    (told,) = reader.said
    assert isinstance(told, Reset)
    assert (told.reason, told.lost.from_, told.lost.to) == (ResetReason.UNKNOWN, 1, 3)
    assert told.at.epoch == "e2"


async def test_a_durable_subscription_too_many_is_refused_and_leaves_nothing(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acks, "DURABLES_MAX", 1)
    await grow(line, "e1", 3)
    reader = Reader()
    await follow(line, reader, Subscribe(log=TOPIC.path, from_=Start.EARLIEST, durable="first"))
    frame = Subscribe(log=TOPIC.path, from_=Start.EARLIEST, durable="second")
    verdict = await Subscription(line, reader, TOPIC, frame, Limits()).verify(frame, "client:c", None)
    assert (verdict.verdict, verdict.code) == (Resumption.REFUSED, "forbidden")
    assert list(await line.store.hash_all(keys.acks(TOPIC))) == ["client:c/first"]


async def test_what_a_resumed_peer_has_yet_to_handle_is_not_stored_as_acknowledged(line: Line) -> None:
    await grow(line, "e1", 3)
    page = await line.store.read(TOPIC, 0, 3)
    assert page is not None
    reader = Reader()
    subscription = await follow(line, reader, Subscribe(log=TOPIC.path, from_=page.after, durable="d"))
    ack = subscription.durable
    assert ack is not None
    subscription.on_ack(Ack(log=TOPIC.path, offset=2))
    await ack.save(line)
    assert ack.stored is None
    subscription.on_ack(Ack(log=TOPIC.path, offset=3))
    await ack.save(line)
    assert ack.stored == page.after


async def test_a_store_that_lost_entries_is_not_asked_for_them_over_and_over() -> None:
    server = MemoryServer(lambda: NOW_MS)
    line = await line_to(server)
    await grow(line, "e1", 3)
    before = server.snapshot()
    reader = Reader()
    subscription = await follow(line, reader, Subscribe(log=TOPIC.path, from_=Start.LATEST))
    reader.congested = True
    await line.commit(commit_of(line, "e1", 3))
    await asyncio.sleep(0)
    subscription.tail.age()
    subscription.tail.age()
    server.restore(before)
    reader.congested = False
    subscription.pump()
    async with asyncio.timeout(5):
        await reader.run()
    assert subscription.tail.head == 3


async def test_the_answer_to_a_search_that_is_over_is_not_one_to_the_next() -> None:
    server = MemoryServer(lambda: NOW_MS)
    line = await line_to(server)
    await grow(line, "e1", 3)
    before = server.snapshot()
    await grow(line, "e1", 6)
    reader = Reader()
    subscription = await follow(line, reader, Subscribe(log=TOPIC.path, from_=Start.LATEST))
    server.restore(before)
    await grow(line, "e1", 7, b"other")
    line.tails.changed(subscription.tail)
    await reader.run()
    server.restore(before)
    line.tails.changed(subscription.tail)
    await reader.run()
    first, second = reader.said
    assert isinstance(first, Probe)
    assert isinstance(second, Probe)
    assert len(first.offsets) != len(second.offsets)
    theirs = await line.store.tags(TOPIC, (1, 2, 3))
    for probe in (first, second):
        tags = tuple(theirs[offset - 1] if offset <= 3 else "0" * 16 for offset in probe.offsets)
        subscription.on_tags(Tags(log=TOPIC.path, tags=tags))
        await reader.run()
    told = reader.said[-1]
    assert isinstance(told, Reset)
    assert (told.at.offset, told.lost.from_, told.lost.to, told.lost.exact) == (3, 4, 9, True)
