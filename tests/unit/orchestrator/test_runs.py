"""The life of a run as the hub proposes it: every event in every state, folded and compared with the meta."""

from __future__ import annotations

import pytest

from orchestrator.core import attempts, runs
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta, bucket_of, newborn
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit, Outcome, Refusal, Refused, SortedAdd
from protocol.codec import pack_record, pack_value, unpack_record
from protocol.control import Cancel, Kind
from protocol.conversation import Suspended
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState
from tests.support.lifecycle import DELAY_MS, LEASE_MS, PAIRS, WHERE, Bench, reach, walk


@pytest.fixture
async def bench() -> Bench:
    """Return a run that is not there yet."""
    bench = Bench()
    await bench.store.open()
    return bench


@pytest.mark.parametrize(("state", "event"), PAIRS)
async def test_every_event_in_every_state(bench: Bench, state: str, event: str) -> None:
    await walk(bench, state, event)


async def test_a_second_submit_with_the_same_key_changes_nothing_and_names_the_run(bench: Bench) -> None:
    await bench.submit()
    again = await bench.submit()
    assert isinstance(again, Refused)
    assert again.actual == f"{bench.log.name} {runs.input_digest('review', pack_value({}))}"


async def test_of_two_claims_only_one_happens(bench: Bench) -> None:
    await bench.submit()
    meta = await bench.meta()
    rival = bench.agent("two", "instance-2", "session-2")
    first, _ = attempts.claim(bench.ids(), meta, bench.peer.holder, bench.spec, Terms(), store_ms=1, lease_ms=LEASE_MS)
    second, _ = attempts.claim(bench.ids(), meta, rival.holder, bench.spec, Terms(), store_ms=1, lease_ms=LEASE_MS)
    assert isinstance(await bench.do(first), Outcome)
    assert isinstance(await bench.do(second), Refused)
    assert (await bench.meta()).agent == "one"


async def test_a_fenced_attempt_cannot_write_though_its_agent_holds_the_next_one(bench: Bench) -> None:
    await reach(bench, "running")
    old = bench.held
    await bench.lose()
    await bench.claim()
    assert bench.held.fence > old.fence
    bench.held = old
    assert isinstance(await bench.emit(), Refused)


async def test_an_older_session_of_the_same_process_cannot_write(bench: Bench) -> None:
    await reach(bench, "running")
    newer = bench.agent("one", "instance-1", "session-2")
    await bench.do(attempts.rebind(bench.ids(), await bench.meta(), newer.holder, LEASE_MS))
    assert isinstance(await bench.emit(), Refused)
    bench.sent -= 1
    bench.peer.session = "session-2"
    assert isinstance(await bench.emit(), Outcome)


async def test_of_two_sessions_that_take_an_attempt_up_only_the_first_does(bench: Bench) -> None:
    await reach(bench, "running")
    seen = await bench.meta()
    newer, older = bench.agent("one", "instance-1", "session-3"), bench.agent("one", "instance-1", "session-2")
    assert isinstance(await bench.do(attempts.rebind(bench.ids(), seen, newer.holder, LEASE_MS)), Outcome)
    assert isinstance(await bench.do(attempts.rebind(bench.ids(), seen, older.holder, LEASE_MS)), Refused)
    assert isinstance(await bench.do(attempts.lose(bench.ids(), seen, "its lease ran out")), Refused)
    assert (await bench.meta()).session == "session-3"


async def test_a_retry_of_the_last_entries_is_accepted_after_the_end(bench: Bench) -> None:
    await reach(bench, "succeeded")
    bench.sent -= 1
    again = await bench.succeed()
    assert isinstance(again, Outcome)
    assert again.repeated
    page = await bench.store.read(bench.log, 0, 100)
    assert page is not None
    kinds = [unpack_record(entry.packed).kind for entry in page.entries]
    assert kinds == [Kind.SUBMITTED, Kind.CLAIMED, Kind.SUCCEEDED]


async def test_a_run_that_fails_more_often_than_it_may_is_dead(bench: Bench) -> None:
    await bench.submit(2)
    for state in (RunState.QUEUED, RunState.QUEUED, RunState.DEAD):
        if (await bench.meta()).failures:
            await bench.requeue()
        await bench.claim()
        await bench.fail()
        assert (await bench.meta()).state is state


async def test_an_error_that_another_try_cannot_mend_fails_the_run_at_once(bench: Bench) -> None:
    await bench.submit(5)
    await bench.claim()
    await bench.fail(retryable=False)
    assert (await bench.meta()).state is RunState.FAILED


async def test_a_run_whose_agents_keep_getting_lost_is_dead(bench: Bench) -> None:
    await bench.submit()
    for _ in range(attempts.LOSSES_MAX):
        assert (await bench.meta()).state is RunState.QUEUED
        await bench.claim()
        await bench.lose()
    assert (await bench.meta()).state is RunState.DEAD


async def test_releases_are_not_counted(bench: Bench) -> None:
    await bench.submit()
    for _ in range(attempts.LOSSES_MAX + 1):
        await bench.claim()
        await bench.release()
    meta = await bench.meta()
    assert (meta.state, meta.losses, meta.failures) == (RunState.QUEUED, 0, 0)


async def test_a_renewed_lease_ends_later_and_only_its_session_renews_it(bench: Bench) -> None:
    await reach(bench, "running")
    bench.now_ms += 1_000
    mine = attempts.renew(bench.ids(), bench.log, bench.held.fence, "session-1", LEASE_MS)
    assert isinstance(await bench.do(mine), Outcome)
    leased = await bench.store.sorted_range(keys.leases(int(bench.log.name[:2])), 1)
    assert leased[0][1] == bench.now_ms + LEASE_MS
    theirs = attempts.renew(bench.ids(), bench.log, bench.held.fence, "session-0", LEASE_MS)
    assert isinstance(await bench.do(theirs), Refused)


async def test_higher_priorities_come_first_then_older_runs() -> None:
    partition = queue_partition("default", "work")
    scores = []
    for made_ms, priority in ((1_000, 0), (2_000, 0), (3_000, 9)):
        log = LogName("default", LogKind.RUN, make_run_id(partition, made_ms, b"12345678"))
        params = RunSubmit(queue="work", handler="review", input=b"", key="k", priority=priority)
        commit = runs.submit(runs.Ids("c", "client:me", "0123456789abcdef"), log, params, 0)
        waiting = Queue("default", "work").waiting(bucket_of(priority, "client:me", "review", ""))
        scores += [op.score for op in commit.ops if isinstance(op, SortedAdd) and op.key == waiting]
    assert sorted(scores) == [scores[2], scores[0], scores[1]]


async def test_a_run_that_was_delayed_or_failed_is_taken_when_its_wait_is_over_and_not_before(bench: Bench) -> None:
    await bench.submit(retries=1, delay_ms=DELAY_MS)
    due_ms = bench.now_ms + DELAY_MS
    assert isinstance(await bench.due(due_ms - 1), Outcome)
    assert (await bench.meta()).not_before_ms == due_ms
    await bench.due(due_ms)
    assert (await bench.meta()).not_before_ms == 0
    await bench.claim()
    await bench.fail()
    meta = await bench.meta()
    assert bench.now_ms <= meta.not_before_ms <= bench.now_ms + 1_000
    await bench.due(meta.not_before_ms)
    assert (await bench.meta()).not_before_ms == 0


async def test_an_attempt_that_takes_too_long_counts_as_a_failure_and_is_tried_again(bench: Bench) -> None:
    await bench.submit(retries=1)
    await bench.claim()
    await bench.time_out()
    view, meta = await bench.check(), await bench.meta()
    assert (view.state, view.failures, view.error and view.error.type) == (RunState.QUEUED, 1, "TimeoutError")
    await bench.due(meta.not_before_ms)
    await bench.claim()
    await bench.time_out()
    assert (await bench.check()).state is RunState.DEAD


async def test_what_the_run_says_of_times_goes_before_what_the_handler_says(bench: Bench) -> None:
    params = RunSubmit(
        queue="work", handler="review", input=b"", key="k", where=WHERE, timeout_ms=7, backoff_ms=1, backoff_max_ms=1
    )
    await bench.do(runs.submit(bench.ids(), bench.log, params, bench.now_ms))
    commit, run = attempts.claim(
        bench.ids(),
        await bench.meta(),
        bench.peer.holder,
        bench.spec,
        Terms(),
        store_ms=bench.now_ms,
        lease_ms=LEASE_MS,
    )
    assert (run.times_out_ms, run.backoff_ms, run.backoff_max_ms) == (bench.now_ms + 7, 1, 1)
    await bench.store.commit(commit)
    assert await bench.meta() == run


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_run_that_came_to_its_queue_since_it_was_read_leaves_it_when_it_ends(bench: Bench, end: str) -> None:
    await bench.submit(delay_ms=DELAY_MS)
    seen = await bench.meta()
    await bench.due(seen.not_before_ms)
    proposed = (
        runs.cancel(bench.ids(), seen, "hub:hub-1", Cancel(), None)
        if end == "cancel"
        else attempts.on_due(bench.ids(), seen, 0.5, seen.deadline_ms or 0)
    )
    assert isinstance(await bench.do(proposed), Outcome)
    assert (await bench.check()).state in (RunState.CANCELLED, RunState.EXPIRED)


@pytest.mark.parametrize("retry_of", [None, "earlier"])
async def test_what_is_at_hand_of_a_new_run_is_what_the_store_says_of_it(bench: Bench, retry_of: str | None) -> None:
    samples: dict[str, object] = dict.fromkeys(RunSubmit.model_fields, 7)
    samples |= {"queue": "default", "handler": "review", "input": b"", "where": "a=1,b!=2", "delay_ms": None}
    samples |= {"concurrency_key": "seven"}
    plain: dict[str, object] = {"queue": "default", "handler": "review", "input": b""}
    for number, params in enumerate([samples, plain]):
        run_id = make_run_id(queue_partition("default", "default"), 1, number.to_bytes(8, "big"))
        log, asked = LogName("default", LogKind.RUN, run_id), RunSubmit.model_validate({**params, "key": run_id})
        commit = runs.submit(runs.Ids(f"c{number}", "client:c", "e"), log, asked, 1_000, retry_of)
        assert isinstance(await bench.store.commit(commit), Outcome)
        fields = await bench.store.meta(log)
        assert fields is not None
        assert newborn(log, runs.submitted(asked, 1_000, retry_of), "client:c") == RunMeta.parse(log, fields)


async def test_an_entry_that_came_since_a_run_was_read_has_its_claim_refused(bench: Bench) -> None:
    await bench.submit()
    seen = await bench.meta()
    note = Append(bench.log, (pack_record("$steer", "client:c", b""),), "")
    assert isinstance(await bench.store.commit(Commit("other", seen.partition, appends=(note,))), Outcome)
    late, _ = attempts.claim(bench.ids(), seen, bench.peer.holder, bench.spec, Terms(), store_ms=1, lease_ms=LEASE_MS)
    refused = await bench.store.commit(late)
    assert isinstance(refused, Refused)
    assert refused.reason is Refusal.EXPECT


@pytest.mark.parametrize("state", ["cancelled", "expired", "succeeded"])
async def test_what_comes_for_a_run_that_is_over_puts_it_on_no_queue(bench: Bench, state: str) -> None:
    await reach(bench, state)
    over = (await bench.meta())._replace(suspended=Suspended(children=("1.d",)))
    assert over.final
    assert runs.struck(over, children=()) is over
