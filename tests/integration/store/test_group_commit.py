"""Group commit: what arrives while a call is under way goes out as one."""

from __future__ import annotations

import asyncio

from orchestrator.store.commits import COMMIT_BYTES_MAX, Outcome
from orchestrator.store.redis import RedisStore
from orchestrator.store.redis_commit import CALL_COMMITS_MAX, CALL_ENTRIES_MAX
from protocol.ids import partition_of
from tests.support.commits import append, commit, done, topic
from tests.support.stores import StoreServer
from tests.support.timing import deadline, eventually

LOG = topic()
P = partition_of(LOG)


def calls(store: RedisStore) -> int:
    """Calls of the script for the log's partition so far."""
    return store._lanes[P].calls


async def test_commits_of_one_tick_are_one_call(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    before = calls(redis_store)

    await asyncio.gather(*(done(redis_store, commit(append(LOG, b"x"))) for _ in range(200)))

    assert calls(redis_store) == before + 1


async def test_commits_that_arrive_during_a_call_are_one_call(server: StoreServer, redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    before = calls(redis_store)
    server.pause()
    first = asyncio.ensure_future(redis_store.commit(commit(append(LOG, b"x"))))
    await eventually(lambda: calls(redis_store) == before + 1)

    later = [asyncio.ensure_future(redis_store.commit(commit(append(LOG, b"x")))) for _ in range(100)]
    await asyncio.sleep(0)
    server.resume()
    await asyncio.gather(first, *later)

    assert calls(redis_store) == before + 2


async def test_a_call_carries_no_more_entries_than_its_bound(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    before = calls(redis_store)

    commits = [commit(append(LOG, *[b"x"] * 100)) for _ in range(12)]
    outcomes = await asyncio.gather(*map(redis_store.commit, commits))

    assert all(isinstance(outcome, Outcome) for outcome in outcomes)
    assert calls(redis_store) == before + 12 * 100 // CALL_ENTRIES_MAX + 1


async def test_a_call_carries_no_more_bytes_than_its_bound(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    before = calls(redis_store)

    await asyncio.gather(*(done(redis_store, commit(append(LOG, b"x" * (COMMIT_BYTES_MAX // 2)))) for _ in range(4)))

    assert calls(redis_store) == before + 2


async def test_a_call_carries_no_more_commits_than_its_bound(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    before = calls(redis_store)

    await asyncio.gather(*(done(redis_store, commit(append(LOG))) for _ in range(CALL_COMMITS_MAX * 2)))

    assert calls(redis_store) == before + 2


async def test_partitions_do_not_wait_for_each_other(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    logs = [log for number in range(200) if partition_of(log := topic(f"p{number}")) != P]
    async with deadline(20):
        await asyncio.gather(*(done(redis_store, commit(append(log, b"x"))) for log in logs))

    lanes = {partition: lane for partition, lane in redis_store._lanes.items() if partition != P}
    assert lanes.keys() == {partition_of(log) for log in logs}
    assert all(lane.calls == 1 for lane in lanes.values())


async def test_a_caller_that_gave_up_does_not_hold_up_the_others(redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"x")))
    tasks = [asyncio.ensure_future(redis_store.commit(commit(append(LOG, b"%d" % n)))) for n in range(10)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()

    outcomes = await asyncio.gather(*tasks, return_exceptions=True)

    assert all(isinstance(outcome, Outcome) for outcome in outcomes[1::2])
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[::2])
    await done(redis_store, commit(append(LOG, b"last")))


async def test_a_commit_that_cannot_be_packed_fails_its_caller_and_the_lane_goes_on(redis_store: RedisStore) -> None:
    impossible = commit(append(LOG, b"x", expect=2**70))

    [fault] = await asyncio.gather(redis_store.commit(impossible), return_exceptions=True)

    assert isinstance(fault, OverflowError | ValueError)
    await done(redis_store, commit(append(LOG, b"x")))
