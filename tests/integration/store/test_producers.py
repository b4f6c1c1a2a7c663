"""Producers: fence, then dedupe, then guards, then expect."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.store import keys
from orchestrator.store.base import PRODUCER_TTL_MS, Store
from orchestrator.store.commits import Guard, HashDelete, HashSet, Outcome, ProducerClaim, Refusal, Refused
from orchestrator.store.producer import ProducerRecord
from tests.support.commits import append, claim, commit, done, open_producer, topic, topics_of_one_partition

LOG = topic()
PRODUCER = "user:ann/p1"


async def record(store: Store) -> ProducerRecord:
    """What the log remembers of the producer."""
    [value] = await store.hash_get(keys.producers(LOG), PRODUCER)
    assert value is not None
    return ProducerRecord.decode(value)


async def texts(store: Store) -> list[bytes]:
    """Everything in the log."""
    page = await store.read(LOG, 0, 1000)
    return [] if page is None else [entry.packed for entry in page.entries]


async def test_a_producer_that_was_never_opened_is_unknown(store: Store) -> None:
    refused = await store.commit(commit(append(LOG, b"x", producer=claim(1, 1))))

    assert refused == Refused(Refusal.PRODUCER_UNKNOWN)
    assert await store.meta(LOG) is None


async def test_a_producer_unused_for_longer_than_its_time_to_live_is_unknown(store: Store) -> None:
    stale_ms = await store.now_ms() - PRODUCER_TTL_MS - 1
    fields = {PRODUCER: ProducerRecord(1, 4, 4, 4, "d", stale_ms).encode()}
    await done(store, commit(append(LOG), ops=(HashSet(keys.producers(LOG), fields),)))

    refused = await store.commit(commit(append(LOG, b"x", producer=claim(5, 1))))
    assert refused == Refused(Refusal.PRODUCER_UNKNOWN, last=4)


async def test_accepted_entries_are_recorded(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"other")))

    outcome = await done(store, commit(append(LOG, b"1", b"2", b"3", producer=claim(1, 3, digest="d1"))))

    assert outcome.appended[0].last_offset == 4
    assert outcome.appended[0].skipped == 0
    held = await record(store)
    assert (held.fence, held.last, held.last_offset, held.first, held.digest) == (1, 3, 4, 1, "d1")
    assert held.ts_ms == outcome.now_ms


async def test_entries_of_the_hubs_own_come_after_and_are_not_numbered(store: Store) -> None:
    await open_producer(store, LOG)

    outcome = await done(store, commit(append(LOG, b"1", b"2", b"$own", producer=claim(1, 2))))

    assert outcome.appended[0].after.offset == 3
    assert (outcome.appended[0].last_seq, outcome.appended[0].last_offset) == (2, 2)
    assert (await record(store)).last == 2
    again = await done(store, commit(append(LOG, b"1", b"2", b"$own", producer=claim(1, 2))))
    assert again.repeated
    assert (again.appended[0].last_offset, again.appended[0].skipped) == (2, 3)
    assert await texts(store) == [b"1", b"2", b"$own"]


async def test_a_frame_sent_again_is_accepted_and_not_appended_again(store: Store) -> None:
    await open_producer(store, LOG)
    first = await done(store, commit(append(LOG, b"1", b"2", producer=claim(1, 2))))
    await done(store, commit(append(LOG, b"other")))

    again = await done(store, commit(append(LOG, b"1", b"2", producer=claim(1, 2))))

    assert again.repeated
    assert again.appended[0].before == again.appended[0].after
    assert again.appended[0].after.offset == 3
    assert again.appended[0].last_offset == first.appended[0].last_offset == 2
    assert await texts(store) == [b"1", b"2", b"other"]


async def test_a_frame_older_than_the_last_is_accepted_too(store: Store) -> None:
    await open_producer(store, LOG)
    for seq in (1, 3, 5):
        await done(store, commit(append(LOG, b"a", b"b", producer=claim(seq, 2, digest=f"d{seq}"))))

    again = await done(store, commit(append(LOG, b"a", b"b", producer=claim(1, 2, digest="d1"))))

    assert again.repeated
    assert (again.appended[0].last_seq, again.appended[0].last_offset) == (6, 6)
    assert len(await texts(store)) == 6


async def test_a_retry_is_a_success_whatever_the_guards_and_expect_say(store: Store) -> None:
    await open_producer(store, LOG)
    meta = keys.meta(LOG)
    proposed = commit(append(LOG, b"1", producer=claim(1, 1), expect=0), guards=(Guard(meta, "state", None),))
    await done(store, proposed)
    await done(store, commit(append(LOG), ops=(HashSet(meta, {"state": "done"}),)))

    assert (await done(store, commit(*proposed.appends, guards=proposed.guards))).repeated
    refused = await store.commit(commit(append(LOG, b"2", producer=claim(2, 1)), guards=proposed.guards))
    assert refused == Refused(Refusal.GUARD, actual="done")
    assert (await record(store)).last == 1


async def test_of_a_frame_partly_accepted_only_the_rest_is_appended(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"1", b"2", producer=claim(1, 2, digest="d1"))))

    outcome = await done(store, commit(append(LOG, b"1", b"2", b"3", b"4", producer=claim(1, 4, digest="d2"))))

    appended = outcome.appended[0]
    assert (appended.before.offset, appended.after.offset, appended.skipped) == (2, 4, 2)
    assert (appended.last_seq, appended.last_offset) == (4, 4)
    assert await texts(store) == [b"1", b"2", b"3", b"4"]
    held = await record(store)
    assert (held.first, held.last, held.digest) == (1, 4, "d2")


async def test_a_gap_is_out_of_order_and_consumes_nothing(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"1", producer=claim(1, 1))))

    refused = await store.commit(commit(append(LOG, b"3", producer=claim(3, 1))))

    assert refused == Refused(Refusal.OUT_OF_ORDER, last=1)
    await done(store, commit(append(LOG, b"2", b"3", producer=claim(2, 2))))
    assert await texts(store) == [b"1", b"2", b"3"]


async def test_other_entries_under_the_last_frames_numbers_are_a_conflict(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"1", b"2", producer=claim(1, 2, digest="d1"))))

    refused = await store.commit(commit(append(LOG, b"1", b"X", producer=claim(1, 2, digest="d2"))))

    assert refused == Refused(Refusal.CONFLICT, last=2)


@pytest.mark.parametrize("fence", [1, 3])
async def test_another_owner_fence_is_fenced_even_for_a_retry(store: Store, fence: int) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"1", producer=claim(1, 1))))
    held = await record(store)
    taken = ProducerRecord(2, held.last, held.last_offset, held.first, held.digest, held.ts_ms)
    await done(store, commit(append(LOG), ops=(HashSet(keys.producers(LOG), {PRODUCER: taken.encode()}),)))

    for seq in (1, 2):
        refused = await store.commit(commit(append(LOG, b"%d" % seq, producer=claim(seq, 1, fence=fence))))
        assert refused == Refused(Refusal.FENCED, last=1)
    await done(store, commit(append(LOG, b"2", producer=claim(2, 1, fence=2))))


async def test_the_fence_comes_before_guards_and_expect(store: Store) -> None:
    await open_producer(store, LOG, fence=2)

    refused = await store.commit(
        commit(
            append(LOG, b"x", producer=claim(1, 1, fence=1), expect=9),
            guards=(Guard(keys.meta(LOG), "state", "running"),),
        )
    )

    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.FENCED


async def test_a_claim_without_numbers_is_only_fenced(store: Store) -> None:
    await open_producer(store, LOG)
    await done(store, commit(append(LOG, b"1", producer=claim(1, 1))))

    outcome = await done(store, commit(append(LOG, b"$own", producer=claim(1, 0))))

    assert outcome.appended[0].after.offset == 2
    assert (await record(store)).last == 1
    refused = await store.commit(commit(append(LOG, b"$own", producer=claim(1, 0, fence=9))))
    assert refused == Refused(Refusal.FENCED, last=1)


async def test_frames_of_one_call_build_on_each_other(store: Store) -> None:
    await open_producer(store, LOG)
    frames = [commit(append(LOG, b"%d" % seq, producer=claim(seq, 1))) for seq in (1, 2, 4, 3, 4)]

    outcomes = await asyncio.gather(*(store.commit(frame) for frame in frames))

    assert [type(outcome) for outcome in outcomes] == [Outcome, Outcome, Refused, Outcome, Outcome]
    assert outcomes[2] == Refused(Refusal.OUT_OF_ORDER, last=2)
    assert await texts(store) == [b"1", b"2", b"3", b"4"]


async def test_a_producer_closed_earlier_in_the_call_is_unknown(store: Store) -> None:
    await open_producer(store, LOG)

    outcomes = await asyncio.gather(
        store.commit(commit(append(LOG, b"1", producer=claim(1, 1)))),
        store.commit(commit(append(LOG), ops=(HashDelete(keys.producers(LOG), (PRODUCER,)),))),
        store.commit(commit(append(LOG, b"2", producer=claim(2, 1)))),
    )

    assert outcomes[2] == Refused(Refusal.PRODUCER_UNKNOWN)


async def test_a_guard_on_a_record_sees_what_the_call_wrote(store: Store) -> None:
    await open_producer(store, LOG)
    [before] = await store.hash_get(keys.producers(LOG), PRODUCER)
    assert before is not None
    guard = Guard(keys.producers(LOG), PRODUCER, before.decode())

    outcomes = await asyncio.gather(
        store.commit(commit(append(LOG, b"1", producer=claim(1, 1)))),
        store.commit(commit(append(LOG, b"take over"), guards=(guard,))),
    )

    assert isinstance(outcomes[1], Refused)
    assert outcomes[1].reason is Refusal.GUARD
    assert outcomes[1].actual == (await record(store)).encode()


async def test_two_producers_of_one_log_do_not_meet(store: Store) -> None:
    await open_producer(store, LOG)
    await open_producer(store, LOG, producer="user:bob/p1")
    bob = ProducerClaim("user:bob/p1", 1, 1, 1, "d")

    await done(store, commit(append(LOG, b"a", producer=claim(1, 1))))
    await done(store, commit(append(LOG, b"b", producer=bob)))

    assert await texts(store) == [b"a", b"b"]


async def test_a_refusal_names_the_append_and_undoes_the_others(store: Store) -> None:
    a, b = topics_of_one_partition(2)
    await open_producer(store, b)

    refused = await store.commit(commit(append(a, b"x"), append(b, b"y", producer=claim(2, 1))))

    assert refused == Refused(Refusal.OUT_OF_ORDER, append=1, last=0)
    assert await store.meta(a) is None


async def test_a_commit_with_one_old_append_does_only_the_rest(store: Store) -> None:
    a, b = topics_of_one_partition(2)
    await open_producer(store, a)
    await open_producer(store, b)
    await done(store, commit(append(a, b"1", producer=claim(1, 1))))

    outcome = await done(store, commit(append(a, b"1", producer=claim(1, 1)), append(b, b"1", producer=claim(1, 1))))

    assert not outcome.repeated
    assert [appended.skipped for appended in outcome.appended] == [1, 0]
    assert [appended.after.offset for appended in outcome.appended] == [1, 1]
