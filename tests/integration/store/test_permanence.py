"""Every key of a used store has a time to live or stands in the list of permanent keys."""

from __future__ import annotations

from fnmatch import fnmatchcase

from orchestrator.store import keys
from orchestrator.store.commits import HashSet, SetAdd, SortedAdd, TakeToken
from orchestrator.store.redis import RedisStore
from protocol.ids import LogKind, LogName, make_run_id, partition_of, queue_partition
from tests.support.commits import append, claim, commit, done, open_producer, topic
from tests.support.stores import StoreServer

LOG = topic()
RUN = LogName("default", LogKind.RUN, make_run_id(queue_partition("default", "q"), 1, b"12345678"))
TWO_DAYS_MS = 2 * 24 * 3600 * 1000


async def use_everything(store: RedisStore) -> None:
    """Write every kind of key that there is a name for."""
    partition = queue_partition("default", "q")
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"x", producer=claim(1, 1)), ops=(HashSet(keys.acks(LOG), {"u/n": "1"}),)))
    await done(store, commit(append(LogName("default", LogKind.AGENT, "a1"), b"x")))
    ops = (
        HashSet(keys.ops(partition, "default", 20_000), {"u/1": "r"}, ttl_ms=TWO_DAYS_MS),
        HashSet(keys.idempotency(partition, "default", "q"), {"k": "r"}),
        HashSet(keys.held(partition, "default", "a1"), {"r": "1"}),
        SortedAdd(keys.queue(partition, "default", "q", "h"), "r", 1),
        SortedAdd(keys.buckets(partition, "default", "q"), "h", 1),
        HashSet(keys.children(LogName("default", LogKind.RUN, make_run_id(partition, 1, b"12345678"))), {"1/d": "r"}),
        HashSet(keys.keyed(partition, "default", "q", "k"), {"r": "1"}),
        SortedAdd(keys.parked(partition, "default", "q", "k"), "r", 1),
        SetAdd(keys.parked_keys(partition, "default", "q"), "k"),
        SortedAdd(keys.freed(partition, "default", "q"), "k", 1),
        TakeToken(keys.tokens(partition, "default", "q"), 1, 1),
        SortedAdd(keys.dead(partition, "default", "q"), "r", 1),
        SetAdd(keys.queues(partition, "default"), "q"),
        HashSet(keys.queue_terms(partition, "default", "q"), {"limit": "1"}),
        HashSet(keys.active(partition, "default", "q"), {"r": "1"}),
        SortedAdd(keys.later(partition, "default", "q"), "r", 1),
        HashSet(keys.children(RUN), {"1.d": "x"}),
        HashSet(keys.schedules(partition, "default"), {"s": "1"}),
        HashSet(keys.schedule(partition, "default", "s"), {"next": "1"}),
        HashSet(keys.identities(partition, "default"), {"agent/a": "{}"}),
        HashSet(keys.bound(partition, "default"), {"version": "c"}),
        HashSet(keys.joins(partition, "default", "t"), {"agent/a x": "1"}, ttl_ms=TWO_DAYS_MS),
        HashSet(keys.made(partition, "logs", "default/ann"), {"next_us": "1"}, ttl_ms=TWO_DAYS_MS),
        SortedAdd(keys.leases(partition), "default/r", 1),
        SortedAdd(keys.timers(partition), "default/r", 1),
        SortedAdd(keys.ended(partition), "default/r", 1),
        HashSet(keys.revoked(partition), {"version": "1"}),
    )
    await done(store, commit(ops=ops, partition=partition))
    await store.hash_put(keys.AGENTS, {"default/a1": "{}"})
    await store.sorted_put(keys.HUBS, "h1", 1)
    await store.trim(LOG, 1)


async def test_every_key_expires_or_is_listed_as_permanent(server: StoreServer, redis_store: RedisStore) -> None:
    await use_everything(redis_store)
    found = [key.decode() for key in await redis_store._reads.call("KEYS", "*")]
    matched = set()
    for key in found:
        patterns = {pattern for pattern in keys.PERMANENT if fnmatchcase(key, pattern)}
        expires = await redis_store._reads.call("PTTL", key) > 0
        assert expires != bool(patterns), f"{key}: time to live {expires}, permanent {patterns}"
        matched |= patterns

    assert matched == set(keys.PERMANENT), "a pattern that matches nothing"


async def test_deleting_a_log_leaves_only_what_is_not_its_own(server: StoreServer, redis_store: RedisStore) -> None:
    await open_producer(redis_store, LOG)
    await done(redis_store, commit(append(LOG, b"x"), ops=(HashSet(keys.acks(LOG), {"u/n": "1"}),)))

    await redis_store.delete(LOG)

    assert await redis_store._reads.call("KEYS", f"{keys.partition_prefix(partition_of(LOG))}*") == []
