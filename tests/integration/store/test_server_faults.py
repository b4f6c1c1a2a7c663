"""What a real server does to a store: it forgets scripts, dies, hangs, fills up, is set wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orchestrator.store import keys, redis, redis_line
from orchestrator.store.base import Durability, StoreError, StoreMisconfigured, StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refused, SortedAdd
from orchestrator.store.redis import RedisStore
from protocol.entry import chain, origin
from protocol.ids import partition_of
from tests.support.commits import EPOCH, append, claim, commit, done, open_producer, topic
from tests.support.stores import StoreServer
from tests.support.timing import deadline, eventually

LOG = topic()


async def texts(store: RedisStore) -> list[bytes]:
    """Everything in the log, its chain verified."""
    page = await store.read(LOG, 0, 10_000)
    if page is None:
        return []
    assert chain(origin(EPOCH).tag, page.entries) == page.after.tag
    return [entry.packed for entry in page.entries]


async def until_done(store: RedisStore, proposed: Commit) -> Outcome:
    """Commit, as a hub does: again for as long as the answer is missing."""

    async def attempt() -> Outcome | None:
        try:
            return await done(store, proposed)
        except StoreUnavailable:
            return None

    outcome = await eventually(attempt, 20.0)
    assert outcome is not None
    return outcome


async def test_scripts_that_the_server_forgot_are_sent_again(server: StoreServer, redis_store: RedisStore) -> None:
    for number in range(3):
        await server.command("SCRIPT", "FLUSH")
        await asyncio.gather(*(done(redis_store, commit(append(LOG, b"%d" % number))) for _ in range(3)))
        await server.command("SCRIPT", "FLUSH")
        await redis_store.read(LOG, 0, 10)
        await redis_store.tags(LOG, [1])
        await server.command("SCRIPT", "FLUSH")
        await redis_store.trim(LOG, 1)

    assert await texts(redis_store) == [b"0"] * 3 + [b"1"] * 3 + [b"2"] * 3


async def test_a_commit_in_flight_when_the_server_dies_is_unknown_and_then_happens_once(
    server: StoreServer, redis_store: RedisStore
) -> None:
    await open_producer(redis_store, LOG)
    for round_number in range(5):
        first = round_number * 100 + 1
        numbered = [commit(append(LOG, b"%d" % seq, producer=claim(seq, 1))) for seq in range(first, first + 100)]
        tasks = [asyncio.ensure_future(redis_store.commit(proposed)) for proposed in numbered]
        await asyncio.wait([tasks[0]]) if round_number % 2 else await asyncio.sleep(0)
        await server.kill()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        await server.start()

        for outcome, proposed in zip(outcomes, numbered, strict=True):
            assert isinstance(outcome, Outcome | StoreUnavailable), outcome
            await until_done(redis_store, proposed)

    assert await texts(redis_store) == [b"%d" % seq for seq in range(1, 501)]


@pytest.mark.parametrize("happened", [True, False])
async def test_a_reply_that_was_lost_is_unknown_and_the_retry_happens_once(
    server: StoreServer, redis_store: RedisStore, happened: bool
) -> None:
    await done(redis_store, commit(append(LOG, b"before")))
    proposed = [commit(append(LOG, b"%d" % number)) for number in range(3)]
    server.pause()
    tasks = [asyncio.ensure_future(redis_store.commit(one)) for one in proposed]
    await eventually(lambda: bool(redis_store._writes._sent))
    if happened:
        await redis_store._writes.break_off()  # the request is in the server's socket; it will be executed
        server.resume()
    else:
        await server.kill()
    faults = await asyncio.gather(*tasks, return_exceptions=True)
    if not happened:
        await server.start()

    assert [type(fault) for fault in faults] == [StoreUnavailable] * 3
    assert all(fault.unknown and not fault.full for fault in faults if isinstance(fault, StoreUnavailable))
    outcomes = [await until_done(redis_store, one) for one in proposed]
    assert [outcome.repeated for outcome in outcomes] == [happened] * 3
    assert await texts(redis_store) == [b"before", b"0", b"1", b"2"]


async def test_a_server_that_hangs_counts_as_gone(
    server: StoreServer, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_line, "REPLY_TIMEOUT_S", 0.3)
    await done(redis_store, commit(append(LOG, b"1")))
    await redis_store._writes.break_off()
    proposed = commit(append(LOG, b"2"))
    await until_done(redis_store, commit(append(LOG, b"x")))
    server.pause()
    try:
        async with deadline(20):
            with pytest.raises(StoreUnavailable, match="did not answer") as caught:
                await redis_store.commit(proposed)
        assert caught.value.unknown
    finally:
        server.resume()
    await until_done(redis_store, proposed)
    assert await texts(redis_store) == [b"1", b"x", b"2"]


async def test_while_nobody_answers_nothing_is_unknown(server: StoreServer, redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"1")))
    await server.kill()
    await eventually(lambda: redis_store._writes._connection is None)

    with pytest.raises(StoreUnavailable) as caught:
        await redis_store.commit(commit(append(LOG, b"2")))
    assert not caught.value.unknown
    with pytest.raises(StoreUnavailable):
        await redis_store.read(LOG, 0, 1)
    with pytest.raises(StoreUnavailable):
        await redis_store.now_ms()

    await server.start()
    await until_done(redis_store, commit(append(LOG, b"3")))
    assert await texts(redis_store) == [b"1", b"3"]


async def test_the_identity_follows_the_server(server: StoreServer, redis_store: RedisStore) -> None:
    before = redis_store.identity()
    assert len(before.split(":")[0]) == 40
    await server.restart()
    await until_done(redis_store, commit(append(LOG, b"1")))

    assert redis_store.identity() != before


async def test_closing_ends_commits_under_way_as_unknown(server: StoreServer) -> None:
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")
    await store.open()
    await done(store, commit(append(LOG, b"0")))
    server.pause()
    task = asyncio.ensure_future(store.commit(commit(append(LOG, b"1"))))
    await eventually(lambda: bool(store._writes._sent))

    await store.close()
    server.resume()

    with pytest.raises(StoreUnavailable) as caught:
        await task
    assert caught.value.unknown
    with pytest.raises(StoreUnavailable):
        await store.commit(commit(append(LOG, b"2")))
    await store.close()


@asynccontextmanager
async def full(server: StoreServer) -> AsyncIterator[None]:
    """Let the server's memory be used up while the body runs."""
    await server.command("CONFIG", "SET", "maxmemory", "1")
    yield
    await server.command("CONFIG", "SET", "maxmemory", "0")


async def test_a_full_store_says_so_and_does_nothing_half(server: StoreServer, redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"1", b"2")))
    lease = SortedAdd(keys.leases(partition_of(LOG)), "default/r", 5)
    proposals = [commit(append(LOG, b"%d" % n, b"x" * 1000), ops=(lease,)) for n in range(20)]
    async with full(server):
        faults = await asyncio.gather(*(redis_store.commit(one) for one in proposals), return_exceptions=True)
        assert all(isinstance(fault, StoreUnavailable) and fault.full and not fault.unknown for fault in faults)
        with pytest.raises(StoreUnavailable) as caught:
            await redis_store.hash_put(keys.AGENTS, {"default/a": "x"})
        assert caught.value.full

        assert await texts(redis_store) == [b"1", b"2"]
        assert await redis_store.sorted_range(lease.key, 5) == []
        assert await redis_store.trim(LOG, 2) is not None
        assert await redis_store.delete(topic("nothing")) is False

    assert not (await done(redis_store, proposals[0])).repeated
    assert (await redis_store.tags(LOG, [4]))[0] is not None


async def test_a_store_that_fills_up_while_writing_keeps_whole_commits(
    server: StoreServer, redis_store: RedisStore
) -> None:
    reply = (await server.command("INFO", "memory")).decode()
    used = int(next(line for line in reply.splitlines() if line.startswith("used_memory:")).split(":")[1])
    await server.command("CONFIG", "SET", "maxmemory", used + 3_000_000)
    outcomes: list[Outcome | Refused | BaseException] = []
    for start in range(0, 400, 20):
        outcomes += await asyncio.gather(
            *(redis_store.commit(commit(append(LOG, *[b"%d" % n * 2000] * 3))) for n in range(start, start + 20)),
            return_exceptions=True,
        )
    await server.command("CONFIG", "SET", "maxmemory", "0")

    accepted = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Outcome)]
    assert 0 < len(accepted) < len(outcomes)
    assert all(isinstance(outcome, Outcome) or outcome.full for outcome in outcomes)  # type: ignore[union-attr]
    assert len(await texts(redis_store)) > 0
    meta = await redis_store.meta(LOG)
    assert meta is not None
    assert int(meta["head"]) == 3 * len(accepted)


async def test_a_replica_takes_no_commits(server: StoreServer, redis_store: RedisStore) -> None:
    await done(redis_store, commit(append(LOG, b"1")))
    await server.command("REPLICAOF", "127.0.0.1", "1")

    with pytest.raises(StoreUnavailable) as caught:
        await redis_store.commit(commit(append(LOG, b"2")))

    assert not caught.value.unknown
    await server.command("REPLICAOF", "NO", "ONE")
    await until_done(redis_store, commit(append(LOG, b"3")))
    assert await texts(redis_store) == [b"1", b"3"]


async def test_a_server_set_wrong_is_refused_at_the_start(server: StoreServer) -> None:
    await server.command("CONFIG", "SET", "appendfsync", "everysec")
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")
    with pytest.raises(StoreMisconfigured, match="appendfsync"):
        await store.open()
    await store.close()

    less = RedisStore(server.url, Durability.MEMORY, "hub-a")
    await less.open()
    await less.close()


async def test_a_server_set_wrong_later_serves_nothing_until_it_is_put_right(
    server: StoreServer, redis_store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await redis_store.close()
    monkeypatch.setattr(redis, "CHECK_INTERVAL_S", 0.02)
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")
    await store.open()
    await done(store, commit(append(LOG, b"1")))
    assert await texts(store) == [b"1"]
    await server.command("CONFIG", "SET", "appendfsync", "no")

    async def refusal() -> str:
        try:
            await store.commit(commit(append(topic("probe"), b"x")))
        except StoreUnavailable as fault:
            return str(fault)
        return ""

    async def names_the_setting() -> bool:
        return "appendfsync" in await refusal()

    assert await eventually(names_the_setting)
    with pytest.raises(StoreUnavailable):
        await store.read(LOG, 0, 1)
    await server.command("CONFIG", "SET", "appendfsync", "always")
    await until_done(store, commit(append(LOG, b"2")))
    assert await texts(store) == [b"1", b"2"]
    await store.close()


async def test_another_deployments_store_is_refused(server: StoreServer, redis_store: RedisStore) -> None:
    assert await redis_store.hash_all(keys.CONFIG) == {"layout": b"3", "partitions": b"64"}
    await redis_store.hash_put(keys.CONFIG, {"partitions": "16"})

    other = RedisStore(server.url, Durability.LOCAL, "hub-b")
    with pytest.raises(StoreMisconfigured, match="partitions is 16"):
        await other.open()


@pytest.mark.parametrize("written", [(), ("layout",), ("partitions",)])
async def test_constants_of_which_a_killed_hub_wrote_some_are_completed(
    server: StoreServer, written: tuple[str, ...]
) -> None:
    constants = {"layout": "3", "partitions": "64"}
    for name in written:
        await server.command("HSET", keys.CONFIG, name, constants[name])
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")
    await store.open()
    assert await store.hash_all(keys.CONFIG) == {"layout": b"3", "partitions": b"64"}
    await store.close()


async def test_a_deployment_of_another_layout_is_left_as_it_is(server: StoreServer) -> None:
    await server.command("HSET", keys.CONFIG, "layout", "1")
    with pytest.raises(StoreMisconfigured, match="layout is 1"):
        await RedisStore(server.url, Durability.LOCAL, "hub-a").open()
    assert await server.command("HLEN", keys.CONFIG) == b":1\r\n"


async def test_where_nobody_listens_the_store_does_not_open(server: StoreServer) -> None:
    await server.kill()
    store = RedisStore(server.url, Durability.LOCAL, "hub-a")

    with pytest.raises(StoreUnavailable, match="does not answer"):
        await store.open()


async def test_a_hole_in_a_log_is_said_not_skipped(server: StoreServer, redis_store: RedisStore) -> None:
    for _ in range(10):
        await done(redis_store, commit(append(LOG, b"x")))
    await server.command("XDEL", keys.stream(LOG), "5-0")

    with pytest.raises(StoreError, match="has no entry"):
        await redis_store.read(LOG, 0, 10)
    with pytest.raises(StoreError, match="has no entry 5"):
        await redis_store.read(LOG, 5, 10)


async def test_a_key_of_the_wrong_type_is_told_and_leaves_the_log_whole(
    server: StoreServer, redis_store: RedisStore
) -> None:
    leases = keys.leases(partition_of(LOG))
    await server.command("SET", leases, "not a sorted set")
    proposals = [commit(append(LOG, b"1")), commit(append(LOG, b"2"), ops=(SortedAdd(leases, "default/r", 5),))]

    faults = await asyncio.gather(*map(redis_store.commit, proposals), return_exceptions=True)

    assert all(isinstance(fault, StoreError) and "WRONGTYPE" in str(fault) for fault in faults)
    assert not any(isinstance(fault, StoreUnavailable) for fault in faults)
    outcome = await done(redis_store, commit(append(LOG, b"3")))
    assert outcome.appended[0].after.offset == len(await texts(redis_store)) == 3
