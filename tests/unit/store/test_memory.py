"""The twin's faults: lost replies, a server that is away or full, a state that is rolled back."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.store import keys
from orchestrator.store.base import Store, StoreUnavailable, Wake
from orchestrator.store.commits import HashSet, Outcome
from orchestrator.store.memory import WAKES_WAITING_MAX, Fault, MemoryServer, MemoryStore
from protocol.ids import partition_of
from tests.support.commits import append, commit, done, topic

LOG = topic()


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_ms = 1_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(clock: Clock) -> MemoryServer:
    return MemoryServer(clock)


@pytest.fixture
async def store(server: MemoryServer) -> MemoryStore:
    store = MemoryStore(server, "hub-a")
    await store.open()
    return store


async def texts(store: Store) -> list[bytes]:
    page = await store.read(LOG, 0, 100)
    return [] if page is None else [entry.packed for entry in page.entries]


async def test_it_is_a_store(store: MemoryStore) -> None:
    held: Store = store
    assert await held.now_ms() == 1_000


@pytest.mark.parametrize(("fault", "repeated"), [(Fault.LOST_BEFORE, False), (Fault.LOST_AFTER, True)])
async def test_a_lost_reply_is_unknown_and_the_retry_happens_once(
    store: MemoryStore, fault: Fault, repeated: bool
) -> None:
    proposed = commit(append(LOG, b"1"))
    store.fail_next(fault)
    with pytest.raises(StoreUnavailable) as caught:
        await store.commit(proposed)

    assert (caught.value.unknown, caught.value.full) == (True, False)
    assert (await done(store, proposed)).repeated is repeated
    assert await texts(store) == [b"1"]


@pytest.mark.parametrize(("fault", "is_full"), [(Fault.DOWN, False), (Fault.FULL, True)])
async def test_a_refused_request_did_not_happen(store: MemoryStore, fault: Fault, is_full: bool) -> None:
    store.fail_next(fault, 2)
    for _ in range(2):
        with pytest.raises(StoreUnavailable) as caught:
            await store.commit(commit(append(LOG, b"1")))
        assert (caught.value.unknown, caught.value.full) == (False, is_full)

    assert await texts(store) == []
    await done(store, commit(append(LOG, b"2")))


async def test_while_the_server_is_down_nothing_is_answered(store: MemoryStore, server: MemoryServer) -> None:
    server.down = True
    with pytest.raises(StoreUnavailable):
        await store.commit(commit(append(LOG, b"1")))
    with pytest.raises(StoreUnavailable):
        await store.meta(LOG)
    with pytest.raises(StoreUnavailable):
        await MemoryStore(server, "hub-b").open()


async def test_a_server_that_goes_down_during_a_commit_leaves_it_unknown(server: MemoryServer) -> None:
    gate = asyncio.Event()
    store = MemoryStore(server, "hub-a", pause=lambda: _wait(gate))
    await store.open()
    task = asyncio.ensure_future(store.commit(commit(append(LOG, b"1"))))
    await asyncio.sleep(0)
    server.down = True
    gate.set()

    with pytest.raises(StoreUnavailable) as caught:
        await task
    assert caught.value.unknown


async def _wait(gate: asyncio.Event) -> None:
    await gate.wait()


async def test_a_restored_snapshot_forgets_what_came_after(store: MemoryStore, server: MemoryServer) -> None:
    await done(store, commit(append(LOG, b"1")))
    snapshot = server.snapshot()
    before = store.identity()
    lost = await done(store, commit(append(LOG, b"2")))

    server.restore(snapshot)

    assert store.identity() != before
    assert await texts(store) == [b"1"]
    again = await done(store, commit(append(LOG, b"other")))
    assert again.appended[0].after.offset == lost.appended[0].after.offset
    assert again.appended[0].after.tag != lost.appended[0].after.tag
    server.restore(snapshot)
    assert await texts(store) == [b"1"]


async def test_commits_of_a_partition_keep_their_order_whatever_the_latency(server: MemoryServer) -> None:
    turns = iter([5, 0, 1, 4, 0, 0, 3] * 20)

    async def pause() -> None:
        for _ in range(next(turns)):
            await asyncio.sleep(0)

    store = MemoryStore(server, "hub-a", pause=pause)
    await store.open()
    outcomes = await asyncio.gather(*(done(store, commit(append(LOG, b"%d" % number))) for number in range(20)))

    assert [outcome.appended[0].after.offset for outcome in outcomes] == list(range(1, 21))


async def test_time_is_the_clock_that_was_given(store: MemoryStore, clock: Clock) -> None:
    key = keys.ops(partition_of(LOG), "default", 1)
    outcome = await done(store, commit(append(LOG, b"1"), ops=(HashSet(key, {"u/1": "r"}, ttl_ms=50),)))
    assert (outcome.now_ms, outcome.appended[0].ts_ms) == (1_000, 1_000)

    clock.now_ms = 1_049
    assert await store.hash_all(key) == {"u/1": b"r"}
    clock.now_ms = 1_050
    assert await store.hash_all(key) == {}
    clock.now_ms = 900
    late = await done(store, commit(append(LOG, b"2")))
    assert (late.now_ms, late.appended[0].ts_ms) == (900, 1_000)


async def test_a_closed_store_answers_nothing_and_hears_nothing(server: MemoryServer, store: MemoryStore) -> None:
    listener = MemoryStore(server, "hub-b")
    await listener.open()
    await listener.close()
    await done(store, commit(append(LOG, b"1")))

    assert [wake async for wake in listener.wakes()] == []
    with pytest.raises(StoreUnavailable):
        await listener.meta(LOG)


async def test_closing_during_a_commit_leaves_it_unknown(store: MemoryStore) -> None:
    task = asyncio.ensure_future(store.commit(commit(append(LOG, b"1"))))
    await asyncio.sleep(0)
    await store.close()

    [fault] = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(fault, StoreUnavailable)
    assert fault.unknown


async def test_a_slow_listener_loses_the_oldest_hints(server: MemoryServer, store: MemoryStore) -> None:
    listener = MemoryStore(server, "hub-b")
    await listener.open()
    for number in range(WAKES_WAITING_MAX + 5):
        listener.hear(Wake(0, {}, (str(number),)))
    heard = []
    async for wake in listener.wakes():
        assert isinstance(wake, Wake)
        heard.append(wake.hints[0])
        if len(heard) == WAKES_WAITING_MAX:
            break

    assert heard[0] == "5"


async def test_group_of_commits_all_answered(store: MemoryStore) -> None:
    outcomes = await asyncio.gather(*(store.commit(commit(append(LOG, b"x"))) for _ in range(50)))

    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
