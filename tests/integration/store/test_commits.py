"""Commits: what they write, what they check, and that each happens whole or not at all."""

from __future__ import annotations

import asyncio
import re

import pytest

from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import (
    ABSENT,
    COMMIT_ENTRIES_MAX,
    Below,
    Commit,
    Full,
    Guard,
    HashDelete,
    HashSet,
    HasToken,
    Outcome,
    Refusal,
    Refused,
    SetAdd,
    SetPrune,
    SortedAdd,
    SortedPrune,
    SortedRemove,
    TakeToken,
)
from protocol.entry import chain, origin
from protocol.ids import LogName, partition_of
from tests.support.commits import EPOCH, append, commit, done, topic, topics_of_one_partition
from tests.support.timing import eventually

LOG = topic()
META = keys.meta(LOG)
P = partition_of(LOG)
STATE = f"fl:{{p{P:02d}}}:held:default:a1"
LEASES = keys.leases(P)
QUEUES = keys.queues(P, "default")


async def texts(store: Store, log: LogName = LOG) -> list[bytes]:
    """Everything in a log."""
    page = await store.read(log, 0, 1000)
    return [] if page is None else [entry.packed for entry in page.entries]


async def test_the_first_commit_makes_the_log(store: Store) -> None:
    outcome = await done(store, commit(append(LOG, b"one", b"two")))

    [appended] = outcome.appended
    assert appended.before == origin(EPOCH)
    assert (appended.after.epoch, appended.after.offset) == (EPOCH, 2)
    assert (appended.skipped, appended.last_offset, outcome.repeated) == (0, 2, False)
    meta = await store.meta(LOG)
    assert meta is not None
    assert (meta["epoch"], meta["head"], meta["first"], meta["tag"]) == (EPOCH, "2", "1", appended.after.tag)
    assert int(meta["ts"]) == appended.ts_ms


async def test_later_commits_keep_the_epoch_and_continue_the_chain(store: Store) -> None:
    first = await done(store, commit(append(LOG, b"one")))
    second = await done(
        store,
        commit(
            append(LOG, b"two", b"\xff\x00three"),
        ),
    )
    third = await done(store, commit(append(LOG, b"four", epoch="other")))

    assert second.appended[0].before == first.appended[0].after
    assert third.appended[0].after.epoch == EPOCH
    page = await store.read(LOG, 0, 10)
    assert page is not None
    assert [entry.packed for entry in page.entries] == [b"one", b"two", b"\xff\x00three", b"four"]
    assert chain(origin(EPOCH).tag, page.entries) == third.appended[0].after.tag == page.after.tag


async def test_times_never_decrease_and_are_the_stores(store: Store) -> None:
    before_ms = await store.now_ms()
    outcomes = [await done(store, commit(append(LOG, b"x"))) for _ in range(5)]
    after_ms = await store.now_ms()

    times = [outcome.appended[0].ts_ms for outcome in outcomes]
    assert times == sorted(times)
    assert before_ms <= times[0]
    assert times[-1] <= after_ms
    assert before_ms <= outcomes[0].now_ms <= after_ms


async def test_the_time_of_an_entry_is_that_of_its_commit(store: Store) -> None:
    first = await done(store, commit(append(LOG, b"x")))

    async def has_moved_on() -> bool:
        return await store.now_ms() > first.now_ms

    assert await eventually(has_moved_on)
    second = await done(store, commit(append(LOG, b"y")))

    assert first.appended[0].ts_ms == first.now_ms
    assert second.appended[0].ts_ms == second.now_ms > first.now_ms


async def test_a_clock_that_went_back_does_not_take_the_log_along(store: Store) -> None:
    await done(store, commit(append(LOG, b"x"), ops=(HashSet(META, {"ts": "99999999999999"}),)))

    outcome = await done(store, commit(append(LOG, b"y")))

    assert outcome.appended[0].ts_ms == 99_999_999_999_999
    assert outcome.now_ms < 99_999_999_999_999
    page = await store.read(LOG, 1, 1)
    assert page is not None
    assert page.entries[0].ts_ms == 99_999_999_999_999
    assert chain(page.before.tag, page.entries) == page.after.tag


async def test_a_large_number_is_written_out_in_full(store: Store) -> None:
    await done(store, commit(append(LOG), ops=(SortedAdd(LEASES, "default/r", 10**14),)))

    assert await store.sorted_range(LEASES, 5) == [("default/r", 10**14)]


async def test_an_append_without_entries_makes_the_log_and_nothing_else(store: Store) -> None:
    outcome = await done(store, commit(append(LOG)))
    assert outcome.appended[0].before == outcome.appended[0].after == origin(EPOCH)

    await done(store, commit(append(LOG, b"x")))
    again = await done(store, commit(append(LOG, epoch="other")))

    assert again.appended[0].after.offset == 1
    assert again.appended[0].after.epoch == EPOCH
    assert await texts(store) == [b"x"]


async def test_the_same_commit_again_is_answered_as_accepted_and_not_done_again(store: Store) -> None:
    proposed = commit(append(LOG, b"one", b"two"), ops=(SortedAdd(LEASES, "default/r", 7),))
    first = await done(store, proposed)
    await done(store, commit(append(LOG), ops=(SortedRemove(LEASES, "default/r"),)))

    again = await done(store, proposed)

    assert again.repeated
    assert again.appended[0].before == again.appended[0].after == first.appended[0].after
    assert again.appended[0].skipped == 2
    assert await texts(store) == [b"one", b"two"]
    assert await store.sorted_range(LEASES, 5) == []


async def test_a_repeated_commit_is_a_success_whatever_its_guards_say_by_now(store: Store) -> None:
    guard = Guard(META, "state", ABSENT)
    proposed = commit(append(LOG, b"one", expect=0), guards=(guard,), ops=(HashSet(META, {"state": "queued"}),))
    await done(store, proposed)

    assert (await done(store, proposed)).repeated


async def test_commits_of_one_lost_call_are_each_recognised(store: Store) -> None:
    lost = [commit(append(LOG, b"%d" % number)) for number in range(8)]
    await asyncio.gather(*(store.commit(proposed) for proposed in lost))
    await done(store, commit(append(LOG, b"later")))

    again = await asyncio.gather(*(done(store, proposed) for proposed in lost))

    assert all(outcome.repeated for outcome in again)
    assert len(await texts(store)) == 9


async def test_the_ids_that_a_log_remembers_are_bounded(store: Store) -> None:
    for number in range(40):
        await done(store, commit(append(LOG, b"x"), commit_id=f"{number:032d}"))

    meta = await store.meta(LOG)

    assert meta is not None
    assert meta["commit"].split() == [f"{number:032d}" for number in range(39, 24, -1)]
    assert re.fullmatch(r"( [!-~]+)+ ", meta["commit"])


@pytest.mark.parametrize(
    ("field", "expected", "actual"),
    [("state", "running", "queued"), ("state", ABSENT, "queued"), ("nobody", "x", None)],
)
async def test_a_guard_that_fails_refuses_the_commit_and_says_what_is(
    store: Store, field: str, expected: str | None, actual: str | None
) -> None:
    await done(store, commit(append(LOG, b"x"), ops=(HashSet(META, {"state": "queued"}),)))
    guards = (Guard(META, "state", "queued"), Guard(META, field, expected))

    refused = await store.commit(commit(append(LOG, b"y"), guards=guards))

    assert refused == Refused(Refusal.GUARD, guard=1, actual=actual)
    assert await texts(store) == [b"x"]


async def test_guards_see_the_fields_of_earlier_commits_of_the_same_call(store: Store) -> None:
    guard = (Guard(META, "attempt", ABSENT),)
    proposals = [commit(append(LOG, b"%d" % n), guards=guard, ops=(HashSet(META, {"attempt": "1"}),)) for n in range(5)]

    outcomes = await asyncio.gather(*(store.commit(proposed) for proposed in proposals))

    assert isinstance(outcomes[0], Outcome)
    assert outcomes[1:] == [Refused(Refusal.GUARD, guard=0, actual="1")] * 4
    assert await texts(store) == [b"0"]


async def test_guards_may_look_at_the_head(store: Store) -> None:
    proposals = [commit(append(LOG, b"%d" % n), guards=(Guard(META, "head", "1"),)) for n in range(2)]

    outcomes = await asyncio.gather(
        store.commit(commit(append(LOG, b"x"))), *(store.commit(proposed) for proposed in proposals)
    )

    assert [isinstance(outcome, Outcome) for outcome in outcomes] == [True, True, False]


async def test_conditions_see_what_earlier_commits_of_the_same_call_made(store: Store) -> None:
    fields = len(await made(store, LOG))
    await store.delete(LOG)
    looks = [
        Commit("c2", P, below=(Full(META, fields),)),
        Commit("c3", P, below=(Below(META, fields),)),
        Commit("c4", P, ops=(SortedAdd(LEASES, "a", 1, given=META),)),
        Commit("c5", P, ops=(SetAdd(QUEUES, "b"),)),
        Commit("c6", P, ops=(SetPrune(QUEUES, "b", META),)),
    ]
    outcomes = await asyncio.gather(*map(store.commit, [commit(append(LOG, b"one")), *looks]))
    assert [isinstance(outcome, Outcome) for outcome in outcomes] == [True, True, False, True, True, True]
    assert await store.sorted_score(LEASES, "a") == 1
    assert await store.set_members(QUEUES) == {"b"}


async def made(store: Store, log: LogName) -> dict[str, str]:
    """Make a log, and return its meta fields."""
    await done(store, commit(append(log, b"one")))
    meta = await store.meta(log)
    assert meta is not None
    return meta


async def test_expect_is_the_head_that_the_log_must_have(store: Store) -> None:
    await done(store, commit(append(LOG, b"one", expect=0)))
    await done(store, commit(append(LOG, b"two", expect=1)))

    refused = await store.commit(commit(append(LOG, b"three", expect=1)))

    assert refused == Refused(Refusal.EXPECT, append=0, head=2)
    assert await texts(store) == [b"one", b"two"]


async def test_expect_of_a_log_that_is_not_there(store: Store) -> None:
    assert await store.commit(commit(append(LOG, b"x", expect=3))) == Refused(Refusal.EXPECT, append=0, head=0)
    assert await store.meta(LOG) is None


async def test_of_two_that_expect_the_same_head_the_first_wins(store: Store) -> None:
    outcomes = await asyncio.gather(*(store.commit(commit(append(LOG, b"%d" % n, expect=0))) for n in range(2)))

    assert isinstance(outcomes[0], Outcome)
    assert outcomes[1] == Refused(Refusal.EXPECT, append=0, head=1)


async def test_guards_come_before_expect(store: Store) -> None:
    refused = await store.commit(commit(append(LOG, b"x", expect=9), guards=(Guard(META, "state", "running"),)))

    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.GUARD


async def test_a_commit_appends_to_several_logs_or_to_none(store: Store) -> None:
    a, b, c = topics_of_one_partition(3)
    both = await done(store, commit(append(a, b"1"), append(b, b"2", b"3")))
    assert [appended.after.offset for appended in both.appended] == [1, 2]

    refused = await store.commit(
        commit(
            append(a, b"4"),
            append(c, b"5"),
            append(b, b"6", expect=1),
            ops=(SetAdd(keys.queues(partition_of(a), "default"), "x"),),
        )
    )

    assert refused == Refused(Refusal.EXPECT, append=2, head=2)
    assert await texts(store, a) == [b"1"]
    assert await texts(store, b) == [b"2", b"3"]
    assert await store.meta(c) is None
    assert await store.set_members(keys.queues(partition_of(a), "default")) == frozenset()


async def test_a_refused_commit_does_not_touch_the_others_of_its_call(store: Store) -> None:
    proposals = [commit(append(LOG, b"%d" % n, expect=None if n % 2 == 0 else 99)) for n in range(10)]

    outcomes = await asyncio.gather(*(store.commit(proposed) for proposed in proposals))

    assert [isinstance(outcome, Outcome) for outcome in outcomes] == [True, False] * 5
    assert await texts(store) == [b"0", b"2", b"4", b"6", b"8"]


async def test_commits_of_a_partition_happen_in_the_order_they_were_asked_for(store: Store) -> None:
    a, b = topics_of_one_partition(2)
    numbers = range(600)

    outcomes = await asyncio.gather(*(done(store, commit(append(a if n % 3 else b, b"%d" % n))) for n in numbers))

    assert await texts(store, a) == [b"%d" % n for n in numbers if n % 3]
    assert await texts(store, b) == [b"%d" % n for n in numbers if not n % 3]
    offsets = [outcome.appended[0].after.offset for n, outcome in enumerate(outcomes) if n % 3]
    assert offsets == list(range(1, 401))


async def test_every_operation(store: Store) -> None:
    bucket = keys.queues(P, "default")
    now_ms = (await done(store, commit(append(LOG), ops=(HashSet(STATE, {"r1": "5", "r2": b"\xff\x00"}),)))).now_ms
    outcome = await done(
        store,
        commit(
            ops=(
                HashSet(STATE, {"r3": "7"}),
                HashDelete(STATE, ("r1", "r9")),
                SortedAdd(LEASES, "default/r1", 100),
                SortedAdd(LEASES, "default/r2", 5000, from_now=True),
                SortedAdd(LEASES, "default/r1", 400),
                SortedAdd(keys.timers(P), "default/r1", 1),
                SortedRemove(keys.timers(P), "default/r1"),
                SetAdd(bucket, "b1"),
                SetAdd(bucket, "b1"),
            ),
            partition=P,
        ),
    )

    assert outcome.appended == ()
    assert outcome.now_ms >= now_ms
    assert await store.hash_all(STATE) == {"r2": b"\xff\x00", "r3": b"7"}
    assert await store.sorted_range(LEASES, 9) == [("default/r1", 400), ("default/r2", outcome.now_ms + 5000)]
    assert await store.sorted_range(keys.timers(P), 9) == []
    assert await store.set_members(bucket) == {"b1"}


async def test_a_hash_with_a_time_to_live_goes_when_it_is_over(store: Store) -> None:
    key = keys.ops(P, "default", 19_000)
    await done(store, commit(append(LOG), ops=(HashSet(key, {"ann/1": "r"}, ttl_ms=1),)))

    async def is_gone() -> bool:
        return await store.hash_all(key) == {}

    assert await eventually(is_gone)


async def test_operations_may_change_what_later_commits_of_the_call_look_at(store: Store) -> None:
    await done(store, commit(append(LOG, b"x")))
    outcomes = await asyncio.gather(
        store.commit(commit(append(LOG, b"y"), ops=(HashSet(META, {"ts": "99999999999999"}),))),
        store.commit(commit(append(LOG, b"z"))),
    )

    assert isinstance(outcomes[1], Outcome)
    assert outcomes[1].appended[0].ts_ms == 99_999_999_999_999


async def test_a_commit_as_large_as_a_call_may_be(store: Store) -> None:
    entries = tuple(b"%d" % n for n in range(COMMIT_ENTRIES_MAX + 1))

    outcome = await done(store, commit(append(LOG, *entries)))

    assert outcome.appended[0].after.offset == COMMIT_ENTRIES_MAX + 1
    assert await texts(store) == list(entries)


async def test_a_commit_that_is_none_is_told_to_its_author(store: Store) -> None:
    with pytest.raises(ValueError, match="partition"):
        await store.commit(commit(append(LOG, b"x"), guards=(Guard("fl:agents", "x", ABSENT),)))
    with pytest.raises(ValueError, match="too large"):
        await store.commit(commit(append(LOG, *[b"x"] * (2 * COMMIT_ENTRIES_MAX + 1))))
    with pytest.raises(ValueError, match="twice"):
        await store.commit(commit(append(LOG, b"x"), append(LOG, b"y")))
    assert await store.meta(LOG) is None


async def test_a_member_is_pruned_from_a_set_only_while_the_key_it_stands_for_is_gone(store: Store) -> None:
    buckets, queue = keys.queues(P, "default"), keys.queue(P, "default", "q", "h")
    await done(
        store, commit(append(LOG), ops=(SetAdd(buckets, "h"), SortedAdd(queue, "r1", 1), SortedAdd(queue, "r2", 2)))
    )

    await done(store, commit(append(LOG), ops=(SortedRemove(queue, "r1"), SetPrune(buckets, "h", queue))))
    assert await store.set_members(buckets) == {"h"}

    await done(store, commit(append(LOG), ops=(SortedRemove(queue, "r2"), SetPrune(buckets, "h", queue))))
    assert await store.set_members(buckets) == frozenset()


async def test_a_commit_is_refused_while_a_hash_has_as_many_fields_as_it_may(store: Store) -> None:
    active = keys.active(P, "default", "q")

    def take(name: str) -> Commit:
        return commit(append(LOG), ops=(HashSet(active, {name: "1"}),))._replace(below=(Below(active, 2),))

    await done(store, take("r1"))
    await done(store, take("r2"))
    refused = await store.commit(take("r3"))
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.guard, refused.actual) == (Refusal.GUARD, 0, "2")
    await done(store, commit(append(LOG), ops=(HashDelete(active, ("r1",)),)))
    await done(store, take("r3"))
    assert await store.hash_size(active) == 2


async def test_of_commits_that_go_out_together_no_more_pass_than_there_is_room_for(store: Store) -> None:
    active = keys.active(P, "default", "q")
    taken = [
        commit(append(LOG), ops=(HashSet(active, {f"r{number}": "1"}),))._replace(below=(Below(active, 3),))
        for number in range(10)
    ]
    results = await asyncio.gather(*map(store.commit, taken))
    assert sum(isinstance(result, Outcome) for result in results) == 3
    assert await store.hash_size(active) == 3


async def test_sizes_are_those_of_what_is_there(store: Store) -> None:
    queue = keys.queue(P, "default", "q", "h")
    assert (await store.sorted_size(queue), await store.hash_size(META)) == (0, 0)
    await done(store, commit(append(LOG), ops=(SortedAdd(queue, "r1", 1), SortedAdd(queue, "r2", 2))))
    assert await store.sorted_size(queue) == 2


async def test_a_score_is_that_of_its_member(store: Store) -> None:
    queue = keys.queue(P, "default", "q", "h")
    await done(store, commit(append(LOG), ops=(SortedAdd(queue, "r1", 9 * 10**13), SortedAdd(queue, "r2", 2))))
    assert [await store.sorted_score(queue, member) for member in ("r1", "r2", "r3")] == [9 * 10**13, 2, None]
    assert await store.sorted_score(keys.later(P, "default", "q"), "r1") is None


async def test_a_commit_is_refused_until_a_hash_has_as_many_fields_as_it_must(store: Store) -> None:
    active = keys.active(P, "default", "q")
    full = commit(append(LOG))._replace(below=(Full(active, 2),))
    await done(store, commit(append(LOG), ops=(HashSet(active, {"r1": "1"}),)))
    refused = await store.commit(full)
    assert isinstance(refused, Refused)
    assert (refused.reason, refused.actual) == (Refusal.GUARD, "1")
    await done(store, commit(append(LOG), ops=(HashSet(active, {"r2": "1"}),)))
    await done(store, full._replace(id="again"))


async def test_a_member_may_be_added_only_where_it_is_new_or_only_where_a_key_is_there(store: Store) -> None:
    queue, other = keys.later(P, "default", "q"), keys.parked(P, "default", "q", "k")
    await done(store, commit(ops=(SortedAdd(queue, "a", 5), SortedAdd(queue, "b", 6, given=other)), partition=P))
    assert await store.sorted_range(queue, 9) == [("a", 5)]
    add = (
        SortedAdd(other, "r", 1),
        SortedAdd(queue, "a", 7, absent=True),
        SortedAdd(queue, "b", 8, absent=True, given=other),
    )
    await done(store, commit(ops=add, partition=P))
    assert await store.sorted_range(queue, 9) == [("a", 5), ("b", 8)]
    prune = (SortedPrune(queue, "a", other), SortedRemove(other, "r"), SortedPrune(queue, "b", other))
    await done(store, commit(ops=prune, partition=P))
    assert await store.sorted_range(queue, 9) == [("a", 5)]


def take_token(tokens: str, every_us: int, burst: int) -> Commit:
    proposed = commit(ops=(TakeToken(tokens, every_us, burst),), partition=P)
    return proposed._replace(below=(HasToken(tokens, every_us, burst),))


async def test_of_commits_that_go_out_together_as_many_pass_as_there_are_tokens(store: Store) -> None:
    tokens, hour_us = keys.tokens(P, "default", "q"), 3_600_000_000
    results = await asyncio.gather(*(store.commit(take_token(tokens, hour_us, 3)) for _ in range(10)))
    assert [isinstance(result, Outcome) for result in results] == [True] * 3 + [False] * 7
    assert isinstance(results[-1], Refused)
    now_ms = results[0].now_ms if isinstance(results[0], Outcome) else 0
    assert results[-1].actual == str(now_ms * 1000 + 3 * hour_us)


async def test_a_token_bucket_of_a_clock_that_was_set_back_is_full(store: Store) -> None:
    tokens, now_ms = keys.tokens(P, "default", "q"), await store.now_ms()
    await done(store, commit(ops=(HashSet(tokens, {"next_us": str(now_ms * 1000 + 3_600_000_000)}),), partition=P))
    await done(store, take_token(tokens, 1_000_000, 1))
    assert isinstance(await store.commit(take_token(tokens, 1_000_000, 1)), Refused)
