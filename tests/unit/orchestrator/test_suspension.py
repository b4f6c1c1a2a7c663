"""Runs whose handlers are put away: what brings them back, once, whatever comes at the same time."""

from __future__ import annotations

import pytest

from orchestrator.core import attempts, runs, suspension
from orchestrator.core.run_meta import RunMeta
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from protocol.codec import pack_value
from protocol.control import Cancel, Kind
from protocol.conversation import Suspended
from protocol.errors import RequestError
from protocol.frames import HandlerSpec, Recover
from protocol.run import RunState
from tests.support.lifecycle import SLEEP_MS, reach
from tests.support.suspensions import CHILD, ORDERS, RACES, Away, walk_order, walk_race
from tests.support.talks import TIME_MS


@pytest.fixture
async def bench() -> Away:
    bench = Away()
    await bench.store.open()
    return bench


async def publish(
    bench: Away, asked: Suspended, meta: RunMeta, children: dict[str, str] | None = None
) -> Outcome | Refused:
    """Publish that the handler is put away, as it was decided from an earlier reading."""
    ending = suspension.suspend(bench.ids(), meta, asked, bench.now_ms, children or {})
    return await bench.publish(Kind.SUSPENDED, pack_value(asked), ending)


@pytest.mark.parametrize("order", ORDERS, ids=" ".join)
async def test_a_run_is_back_when_all_that_it_waits_for_has_come(bench: Away, order: tuple[str, ...]) -> None:
    await walk_order(bench, order)


@pytest.mark.parametrize(("first", "second"), RACES)
async def test_of_two_things_that_come_at_once_neither_is_missed(bench: Away, first: str, second: str) -> None:
    await walk_race(bench, first, second)


async def test_a_run_that_sleeps_is_due_when_its_sleep_is_over_and_takes_no_slot_before(bench: Away) -> None:
    await reach(bench, "suspended")
    meta = await bench.meta()
    assert meta.not_before_ms == meta.due_ms == bench.now_ms + SLEEP_MS, "its timeout is the attempts', not its own"
    await bench.due(meta.not_before_ms - 1)
    assert not await bench.is_back()
    await bench.due(meta.not_before_ms)
    assert await bench.is_back()


async def test_an_answer_that_came_before_the_suspension_brings_the_run_back_at_once(bench: Away) -> None:
    await reach(bench, "running")
    await bench.asks(1, timeout_ms=None)
    seen = await bench.meta()
    assert isinstance(await bench.do(await bench.answers(1)), Outcome)
    asked = Suspended(questions=(1,))
    assert isinstance(await publish(bench, asked, seen), Refused), "decided from what is not so any more"
    bench.sent -= 1
    assert isinstance(await publish(bench, asked, await bench.meta()), Outcome)
    assert await bench.is_back()


async def test_an_answer_that_was_decided_before_the_suspension_is_decided_again(bench: Away) -> None:
    await reach(bench, "running")
    await bench.asks(1, timeout_ms=None)
    early = await bench.answers(1)
    await bench.suspend(Suspended(questions=(1,)))
    assert isinstance(await bench.do(early), Refused)
    assert isinstance(await bench.do(await bench.answers(1)), Outcome)
    assert await bench.is_back()


async def test_a_child_that_ended_before_the_suspension_brings_the_run_back_at_once(bench: Away) -> None:
    await reach(bench, "running")
    record = HashSet(keys.children(bench.log), {CHILD.slot: CHILD.encode()})
    await bench.store.commit(Commit(bench.ids().commit, bench.partition, ops=(record,)))
    asked = Suspended(children=(CHILD.slot,))
    seen, known = await bench.meta(), await bench.open_children(asked)
    assert isinstance(await bench.do(await bench.child_ended()), Outcome)
    assert isinstance(await publish(bench, asked, seen, known), Refused), "decided from what is not so any more"
    bench.sent -= 1
    assert isinstance(await bench.suspend(asked), Outcome)
    assert await bench.is_back()


async def test_a_message_brings_back_a_run_that_waits_for_one_and_no_other(bench: Away) -> None:
    await reach(bench, "suspended")
    await bench.do(await bench.steering("m1"))
    assert not await bench.is_back(), "it sleeps, and would not look"
    await bench.due((await bench.meta()).not_before_ms)
    await bench.claim()
    await bench.suspend(Suspended(messages=1))
    assert not await bench.is_back()
    await bench.do(await bench.steering("m2"))
    assert await bench.is_back()
    await bench.do(await bench.steering("m3"))
    assert await bench.is_back()
    await bench.check_talk()


async def test_a_message_that_the_attempt_did_not_know_of_brings_the_run_back_at_once(bench: Away) -> None:
    await reach(bench, "running")
    seen = await bench.meta()
    await bench.do(await bench.steering("m1"))
    assert isinstance(await publish(bench, Suspended(messages=0), seen), Refused)
    bench.sent -= 1
    await bench.suspend(Suspended(messages=0))
    assert await bench.is_back()


async def test_a_message_to_a_run_that_is_suspended_since_it_was_read_is_decided_again(bench: Away) -> None:
    await reach(bench, "queued")
    early = await bench.steering("m1")
    await bench.claim()
    await bench.suspend(Suspended(messages=0))
    assert isinstance(await bench.do(early), Refused)
    await bench.do(await bench.steering("m1"))
    assert await bench.is_back()


async def test_a_question_whose_time_is_over_brings_the_run_back_with_its_default(bench: Away) -> None:
    await reach(bench, "running")
    await bench.asks(1)
    await bench.suspend(Suspended(questions=(1,)))
    due_ms = bench.now_ms + TIME_MS
    assert (await bench.meta()).due_ms == due_ms
    assert isinstance(await bench.due(due_ms), Outcome)
    assert await bench.is_back()
    (answered,) = await bench.records(Kind.ANSWERED)
    assert (answered.answer, answered.by) == (pack_value(False), "timeout")


async def test_a_cancel_and_a_deadline_end_a_run_that_is_put_away(bench: Away) -> None:
    await bench.away(Suspended(questions=(1,)), 1)
    cancel = runs.cancel(bench.ids(), await bench.meta(), "hub:hub-1", Cancel(), None)
    late = attempts.on_due(bench.ids(), await bench.meta(), 0.5, (await bench.meta()).deadline_ms or 0)
    assert isinstance(await bench.do(late), Outcome)
    assert isinstance(await bench.do(cancel), Refused)
    assert (await bench.check()).state is RunState.EXPIRED


async def test_being_put_away_counts_against_nothing(bench: Away) -> None:
    await bench.submit()
    for _ in range(attempts.LOSSES_MAX + 1):
        await bench.claim()
        await bench.suspend()
        await bench.due((await bench.meta()).not_before_ms)
    meta = await bench.meta()
    assert (meta.attempt, meta.losses, meta.failures) == (attempts.LOSSES_MAX + 1, 0, 0)


async def test_what_waits_for_nothing_that_the_run_has_is_back_at_once(bench: Away) -> None:
    await reach(bench, "running")
    await bench.suspend(Suspended(questions=(7,)))
    assert await bench.is_back()


@pytest.mark.parametrize("recover", [Recover.RESTART, Recover.CHECKPOINT])
async def test_only_attempts_with_a_journal_are_suspended(bench: Away, recover: Recover) -> None:
    bench.spec = HandlerSpec(name="review", recover=recover)
    await reach(bench, "running")
    with pytest.raises(RequestError, match="only an attempt with a journal"):
        suspension.suspend(bench.ids(), await bench.meta(), Suspended(), bench.now_ms)
