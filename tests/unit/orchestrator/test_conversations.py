"""What is said to runs and what they ask, as the hub proposes it: every event in every state, and who is first."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from orchestrator.core import attempts, questions
from orchestrator.core.meta_questions import MetaQuestion, first_due_ms
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, ProducerClaim, Refused
from protocol.codec import pack_record, pack_value, unpack_record
from protocol.control import Errored, Kind, RunError, read_control
from protocol.conversation import QUESTIONS_MAX, Answered, Asked, QuestionKind, Steer
from protocol.errors import RequestError
from protocol.run import RunState
from protocol.talk import QuestionState
from tests.unit.orchestrator.test_runs import FINAL_STATES, STATES, Bench, reach

TIME_MS = 700


@dataclass
class Talks(Bench):
    """A run that is talked to."""

    async def check_talk(self) -> None:
        """Compare what the log says of questions and messages with the meta."""
        view, meta = await self.check(), await self.meta()
        waiting = [(question.index, question.digest, question.deadline_ms) for question in view.talk.waiting]
        known = [
            (question.index, question.digest, question.deadline_ms) for question in meta.questions if question.open
        ]
        assert view.state is not None
        assert waiting == ([] if meta.final else known)
        assert len(view.talk.messages) == meta.steers
        assert meta.asked_due_ms == first_due_ms(meta.questions)
        stands = [message.offset for message in view.talk.messages.values()]
        stands += [question.offset for question in view.talk.questions.values()]
        assert all(meta.talk_from is not None and meta.talk_from <= offset for offset in stands)

    async def asks(self, index: int = 1, digest: str = "d", timeout_ms: int | None = TIME_MS) -> Outcome | Refused:
        """Publish a question as the attempt that was claimed last."""
        body = Asked(kind=QuestionKind.APPROVE, name="push", digest=digest, payload=b"\xc0", timeout_ms=timeout_ms)
        self.sent += 1
        producer = ProducerClaim(f"attempt/{self.held.attempt}", self.held.fence, self.sent, 1, f"digest-{self.sent}")
        packed = pack_record(Kind.ASKED, self.peer.principal, pack_value(body), attempt=self.held.attempt, index=index)
        asking = questions.opened(await self.meta(), [(index, body)], self.now_ms)
        ids, holder = self.ids(), self.peer.holder
        return await self.do(attempts.publish(ids, self.log, holder, producer, (packed,), asking=asking))

    async def question(self) -> MetaQuestion:
        """Return the question as the meta has it."""
        return (await self.meta()).questions[-1]

    async def answering(self, value: object, by: str = "client:ops") -> Commit:
        """Propose an answer."""
        return questions.answer(self.ids(), await self.meta(), await self.question(), pack_value(value), by, None)

    async def steering(self, name: str) -> Commit:
        """Propose a message."""
        stored = HashSet(keys.ops(self.partition, "default", 1), {name: "kept"}, ttl_ms=1000)
        return questions.steer(self.ids(), await self.meta(), Steer(id=name, body=b"\xc0"), stored)

    @property
    def partition(self) -> int:
        return int(self.log.name[:2])

    async def records(self, kind: str) -> list[Answered]:
        """Return the answers in the log."""
        page = await self.store.read(self.log, 0, 1000)
        assert page is not None
        records = [unpack_record(entry.packed) for entry in page.entries]
        return [read_control(Answered, record.body) for record in records if record.kind == kind]


@pytest.fixture
async def bench() -> Talks:
    bench = Talks()
    await bench.store.open()
    return bench


STEPS: dict[str, tuple[str, ...]] = {
    "queued": ("lose",),
    "running": (),
    "cancelling": ("cancel",),
    "succeeded": ("succeed",),
    "failed": ("fail",),
    "cancelled": ("cancel", "stop"),
    "expired": ("expire",),
}
"""From a run that asks to one in another state."""


async def go(bench: Talks, state: str) -> None:
    """Bring a run that is worked on into a state."""
    for step in STEPS[state]:
        assert isinstance(await getattr(bench, step)(), Outcome), step
    await bench.check_talk()


async def asking(bench: Talks, state: str) -> None:
    """Bring a run with a question that waits into a state."""
    await reach(bench, "running")
    assert isinstance(await bench.asks(), Outcome)
    await go(bench, state)


@pytest.mark.parametrize("state", [state for state in STATES if state not in FINAL_STATES])
async def test_a_message_is_taken_in_every_state_but_the_last(bench: Talks, state: str) -> None:
    await reach(bench, state)
    before = (await bench.meta()).state
    assert isinstance(await bench.do(await bench.steering("m1")), Outcome)
    assert (await bench.meta()).state is before
    assert isinstance(await bench.do(await bench.steering("m2")), Outcome)
    await bench.check_talk()
    assert list((await bench.check()).talk.messages) == ["m1", "m2"]


@pytest.mark.parametrize("state", FINAL_STATES)
@pytest.mark.parametrize("what", ["message", "answer", "timeout"])
async def test_what_is_said_as_the_run_ends_is_refused_and_what_was_pending_expires(
    bench: Talks, what: str, state: str
) -> None:
    await asking(bench, "running")
    await bench.do(await bench.steering("m1"))
    proposals = {
        "message": await bench.steering("m2"),
        "answer": await bench.answering(True),
        "timeout": attempts.on_due(bench.ids(), await bench.meta(), 0.5, bench.now_ms + TIME_MS),
    }
    await go(bench, state)
    assert isinstance(await bench.do(proposals[what]), Refused)
    talk = (await bench.check()).talk
    assert [message.state.value for message in talk.messages.values()] == ["expired"]
    assert [question.state.value for question in talk.questions.values()] == ["expired"]


@pytest.mark.parametrize("state", [state for state in STEPS if state not in FINAL_STATES])
async def test_a_question_is_answered_in_every_state_but_the_last(bench: Talks, state: str) -> None:
    await asking(bench, state)
    assert isinstance(await bench.do(await bench.answering(True)), Outcome)
    assert (await bench.check()).talk.questions[1].state is QuestionState.ANSWERED
    await bench.check_talk()


@pytest.mark.parametrize("state", ["queued", "running", "cancelling"])
async def test_a_question_has_its_time_whatever_the_run_does(bench: Talks, state: str) -> None:
    await asking(bench, state)
    due_ms = bench.now_ms + TIME_MS
    assert (await bench.meta()).due_ms == due_ms
    await bench.due(due_ms - 1)
    assert (await bench.question()).open
    commit = attempts.on_due(bench.ids(), await bench.meta(), 0.5, due_ms)
    assert not attempts.lets_go(commit, bench.log)
    assert isinstance(await bench.do(commit), Outcome)
    await bench.check_talk()
    (answered,) = await bench.records(Kind.ANSWERED)
    assert (answered.answer, answered.by) == (pack_value(False), "timeout")


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
