"""What a durable subscription acknowledged: an ack is of the history that was sent, and of no other."""

from __future__ import annotations

import pytest

from orchestrator.acks import DURABLES_MAX, POSITIONS_MAX, Acks, DurableAck
from orchestrator.line import Line
from orchestrator.store import keys
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Append, Commit, Outcome, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from protocol.codec import pack_record
from protocol.entry import Position
from protocol.ids import LogKind, LogName, partition_of

LOG = LogName("default", LogKind.TOPIC, "a")
FIELD = "client:me/mine"


class Bench:
    """One log on a store in memory, and a durable subscription to it."""

    def __init__(self) -> None:
        self.server = MemoryServer(lambda: 1_000)
        self.store = MemoryStore(self.server, "hub-1")
        self.line = Line(self.store, Tails(self.store, lambda work: work.close(), 1), "hub-1", "local", Counters())
        self.ack = DurableAck(LOG, FIELD, None)

    async def grow(self, count: int, word: bytes) -> None:
        """Append entries, and send them."""
        entries = tuple(pack_record("k", "client:me", word) for _ in range(count))
        append = Append(LOG, entries, "e" * 16)
        await self.line.commit(Commit(self.line.new_commit_id(), partition_of(LOG), appends=(append,)))

    async def position(self, offset: int) -> Position:
        """Return a position of the log as it is now."""
        tags = await self.store.tags(LOG, (offset,))
        assert tags[0] is not None
        return Position("e" * 16, offset, tags[0])

    async def send(self, *offsets: int) -> None:
        for offset in offsets:
            self.ack.sent(await self.position(offset))

    async def stored(self) -> int | None:
        """Return the offset that the store has."""
        loaded = await DurableAck.load(self.store, LOG, *FIELD.split("/"))
        return None if loaded is None or loaded.stored is None else loaded.stored.offset


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    await made.store.open()
    await made.grow(10, b"first")
    return made


async def test_the_last_entry_that_was_acknowledged_is_stored(bench: Bench) -> None:
    await bench.send(*range(1, 11))
    bench.ack.note(7)
    await bench.ack.save(bench.line)
    assert await bench.stored() == 7
    assert not bench.ack.pending


async def test_an_ack_of_a_history_that_was_rolled_back_is_not_one_of_the_next(bench: Bench) -> None:
    before = bench.server.snapshot()
    await bench.grow(10, b"lost")
    await bench.send(*range(1, 21))
    bench.ack.note(20)
    bench.server.restore(before)
    await bench.grow(10, b"new")
    await bench.ack.save(bench.line)
    assert await bench.stored() is None
    assert not bench.ack.pending


async def test_a_reset_takes_back_what_was_acknowledged_after_it(bench: Bench) -> None:
    await bench.send(*range(1, 11))
    bench.ack.note(8)
    await bench.ack.save(bench.line)
    bench.ack.note(10)
    bench.ack.reset(await bench.position(5))
    await bench.ack.save(bench.line)
    assert await bench.stored() == 5
    bench.ack.note(10)
    assert not bench.ack.pending


@pytest.mark.parametrize("stored_before", [False, True])
async def test_a_reset_that_comes_while_an_ack_is_stored_takes_that_back_too(bench: Bench, stored_before: bool) -> None:
    await bench.send(*range(1, 11))
    if stored_before:
        bench.ack.note(7)
        await bench.ack.save(bench.line)
    bench.ack.note(9)
    at = await bench.position(5)
    do = bench.store.commit

    async def commit_and_reset(commit: Commit) -> Outcome | Refused:
        bench.store.commit = do  # type: ignore[method-assign]
        result = await do(commit)
        bench.ack.reset(at)
        return result

    bench.store.commit = commit_and_reset  # type: ignore[method-assign]
    await bench.ack.save(bench.line)
    assert await bench.stored() == 5
    assert not bench.ack.pending


async def test_a_log_that_cannot_be_read_keeps_no_other_ack_from_being_stored(bench: Bench) -> None:
    acks, broken = Acks(bench.line), DurableAck(LogName("default", LogKind.TOPIC, "b"), FIELD, None)
    broken.begin(Position("e" * 16, 1, "t" * 16))
    read = bench.store.meta

    async def meta(log: LogName) -> dict[str, str] | None:
        if log == broken.log:
            raise StoreError("a key of the wrong type")
        return await read(log)

    bench.store.meta = meta  # type: ignore[method-assign]
    await bench.send(*range(1, 11))
    bench.ack.note(7)
    acks.note(broken)
    acks.note(bench.ack)
    await acks.flush()
    assert await bench.stored() == 7


async def test_an_ack_of_a_log_that_is_deleted_meanwhile_leaves_nothing_behind(bench: Bench) -> None:
    do = bench.store.commit

    async def delete_and_commit(commit: Commit) -> Outcome | Refused:
        await bench.store.delete(LOG)
        return await do(commit)

    bench.store.commit = delete_and_commit  # type: ignore[method-assign]
    await bench.send(*range(1, 11))
    bench.ack.note(7)
    await bench.ack.save(bench.line)
    assert not bench.ack.pending
    assert await bench.store.hash_all(keys.acks(LOG)) == {}


async def test_a_subscription_that_acknowledged_nothing_has_a_place_all_the_same(bench: Bench) -> None:
    bench.ack.begin(await bench.position(2))
    await bench.ack.save(bench.line)
    assert await bench.stored() == 2
    bench.ack.begin(await bench.position(9))
    assert not bench.ack.pending


async def test_a_principal_has_only_so_many_durable_subscriptions_to_a_log(bench: Bench) -> None:
    for number in range(DURABLES_MAX):
        ack = await DurableAck.load(bench.store, LOG, "client:me", f"name-{number}")
        assert ack is not None
        ack.begin(await bench.position(2))
        await ack.save(bench.line)
    assert await DurableAck.load(bench.store, LOG, "client:me", "another") is None
    known = await DurableAck.load(bench.store, LOG, "client:me", "name-7")
    assert known is not None
    assert known.stored == await bench.position(2)
    others = await DurableAck.load(bench.store, LOG, "client:me2", "another")
    assert others is not None, "what others have does not count"


def test_positions_that_are_never_acknowledged_are_bounded() -> None:
    ack = DurableAck(LOG, FIELD, None)
    for offset in range(1, POSITIONS_MAX + 101):
        ack.sent(Position("e", offset, "t"))
    ack.note(100)
    assert not ack.pending
    ack.note(101)
    assert ack.acked == Position("e", 101, "t")
