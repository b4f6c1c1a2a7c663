"""What is said to runs and what they ask, as the hub proposes it: every event in every state, and who is first."""

from __future__ import annotations

import pytest

from orchestrator.core import attempts, questions
from orchestrator.core.meta_questions import MetaQuestion
from orchestrator.store.commits import Outcome, Refused
from protocol.codec import pack_value
from protocol.control import Errored, Kind, RunError
from protocol.conversation import QUESTIONS_MAX, Asked, QuestionKind
from protocol.errors import RequestError
from protocol.run import RunState
from tests.support.lifecycle import reach
from tests.support.talks import (
    ANSWERABLE,
    LATE,
    OPEN_STATES,
    TIME_MS,
    Talks,
    asking,
    walk_answer,
    walk_late,
    walk_message,
    walk_timeout,
)


@pytest.fixture
async def bench() -> Talks:
    bench = Talks()
    await bench.store.open()
    return bench


@pytest.mark.parametrize("state", OPEN_STATES)
async def test_a_message_is_taken_in_every_state_but_the_last(bench: Talks, state: str) -> None:
    await walk_message(bench, state)


@pytest.mark.parametrize(("state", "what"), LATE)
async def test_what_is_said_as_the_run_ends_is_refused_and_what_was_pending_expires(
    bench: Talks, state: str, what: str
) -> None:
    await walk_late(bench, state, what)


@pytest.mark.parametrize("state", ANSWERABLE)
async def test_a_question_is_answered_in_every_state_but_the_last(bench: Talks, state: str) -> None:
    await walk_answer(bench, state)


@pytest.mark.parametrize("state", ANSWERABLE)
async def test_a_question_has_its_time_whatever_the_run_does(bench: Talks, state: str) -> None:
    await walk_timeout(bench, state)


@pytest.mark.parametrize("late", ["answer", "timeout"])
async def test_of_two_answers_the_first_counts(bench: Talks, late: str) -> None:
    await asking(bench, "running")
    first = await bench.answering(True)
    second = (
        await bench.answering(False, "client:late")
        if late == "answer"
        else attempts.on_due(bench.ids(), await bench.meta(), 0.5, bench.now_ms + TIME_MS)
    )
    assert isinstance(await bench.do(first), Outcome)
    assert isinstance(await bench.do(second), Refused)
    (answered,) = await bench.records(Kind.ANSWERED)
    assert (answered.answer, answered.by) == (pack_value(True), "client:ops")


async def test_of_two_messages_that_were_proposed_at_once_one_is_proposed_again(bench: Talks) -> None:
    await reach(bench, "running")
    first, second = await bench.steering("m1"), await bench.steering("m2")
    assert isinstance(await bench.do(first), Outcome)
    assert isinstance(await bench.do(second), Refused)


async def test_a_new_attempt_that_asks_the_same_opens_nothing_anew(bench: Talks) -> None:
    await asking(bench, "queued")
    deadline_ms = (await bench.question()).deadline_ms
    await bench.claim()
    bench.now_ms += 100
    await bench.asks()
    assert (await bench.question()).deadline_ms == deadline_ms
    await bench.do(await bench.answering(True))
    await bench.asks()
    assert not (await bench.question()).open
    await bench.check_talk()


async def test_another_question_at_the_same_index_takes_its_place(bench: Talks) -> None:
    await asking(bench, "running")
    await bench.asks(digest="other", timeout_ms=None)
    assert ((await bench.question()).digest, (await bench.meta()).asked_due_ms) == ("other", None)
    await bench.check_talk()


@pytest.mark.parametrize("event", ["lose", "release", "time_out", "fail", "look"])
async def test_whoever_sets_the_timer_is_refused_where_a_question_came_since(bench: Talks, event: str) -> None:
    await reach(bench, "running")
    seen = await bench.meta()
    errored = Errored(error=RunError(type="t", message="m"))
    ending = attempts.conclude_error(bench.ids(), seen, errored, 0.5, bench.now_ms)
    proposals = {
        "lose": attempts.lose(bench.ids(), seen, "gone"),
        "release": attempts.release(bench.ids(), seen, "drain"),
        "time_out": attempts.time_out(bench.ids(), seen, 0.5, bench.now_ms),
        "look": attempts.on_due(bench.ids(), seen, 0.5, bench.now_ms),
    }
    await bench.asks()
    if event == "fail":
        assert isinstance(await bench.publish(Kind.ERRORED, pack_value(errored), ending), Refused)
    else:
        assert isinstance(await bench.do(proposals[event]), Refused)
    assert (await bench.meta()).state is RunState.RUNNING
    await bench.check_talk()


async def test_a_run_asks_no_more_than_it_may(bench: Talks) -> None:
    await reach(bench, "running")
    body = Asked(kind=QuestionKind.ASK, name="what", digest="d", payload=b"\xc0")
    many = [(index, body) for index in range(1, QUESTIONS_MAX + 1)]
    assert len(questions.opened(await bench.meta(), many, 1).after.questions) == QUESTIONS_MAX
    with pytest.raises(RequestError, match=str(QUESTIONS_MAX)):
        questions.opened(await bench.meta(), [*many, (QUESTIONS_MAX + 1, body)], 1)


def test_a_question_of_the_meta_reads_as_it_was_written() -> None:
    for deadline_ms in (None, 12):
        question = MetaQuestion(7, True, QuestionKind.APPROVE, deadline_ms, "digest", "a name of words")
        assert MetaQuestion.parse(7, question.encode()) == question
