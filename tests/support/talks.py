"""What is said to a run and what it asks, as the hub proposes it, on any store and in every state."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core import attempts, questions
from orchestrator.core.meta_questions import MetaQuestion, first_due_ms
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, ProducerClaim, Refused
from protocol.codec import pack_record, pack_value, unpack_record
from protocol.control import Kind, read_control
from protocol.conversation import TIMEOUT, Answered, Asked, QuestionKind, Steer
from protocol.talk import QuestionState
from tests.support.lifecycle import FINAL_STATES, STATES, Bench, reach

__all__ = [
    "ANSWERABLE",
    "LATE",
    "OPEN_STATES",
    "TIME_MS",
    "Talks",
    "asking",
    "walk_answer",
    "walk_late",
    "walk_message",
    "walk_timeout",
]

TIME_MS = 700
CLOCKS_APART_MS = 1_000
"""A deadline is reckoned from what the hub takes the store's clock to say, which an entry's own time is near to."""


@dataclass
class Talks(Bench):
    """A run that is talked to."""

    async def check_talk(self) -> None:
        """Compare what the log says of questions and messages with the meta."""
        view, meta = await self.check(), await self.meta()
        waiting = view.talk.waiting
        known = [question for question in meta.questions if question.open and not meta.final]
        assert view.state is not None
        assert [(each.index, each.digest) for each in waiting] == [(each.index, each.digest) for each in known]
        for told, kept in zip(waiting, known, strict=True):
            assert abs((told.deadline_ms or 0) - (kept.deadline_ms or 0)) <= CLOCKS_APART_MS
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
        stored = HashSet(keys.ops(self.partition, self.namespace, 1), {name: "kept"}, ttl_ms=1000)
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


STEPS: dict[str, tuple[str, ...]] = {
    "queued": ("lose",),
    "running": (),
    "suspended": ("suspend",),
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


OPEN_STATES = tuple(state for state in STATES if state not in FINAL_STATES)
ANSWERABLE = tuple(state for state in STEPS if state not in FINAL_STATES)
LATE = tuple((state, what) for state in FINAL_STATES for what in ("message", "answer", "timeout"))


async def walk_message(bench: Talks, state: str) -> None:
    """Say something to a run in a state that is not its last: it is taken, and moves nothing."""
    await reach(bench, state)
    before = (await bench.meta()).state
    assert isinstance(await bench.do(await bench.steering("m1")), Outcome)
    assert (await bench.meta()).state is before
    assert isinstance(await bench.do(await bench.steering("m2")), Outcome)
    await bench.check_talk()
    assert list((await bench.check()).talk.messages) == ["m1", "m2"]


async def walk_answer(bench: Talks, state: str) -> None:
    """Answer what a run asked that is now in a state which is not its last."""
    await asking(bench, state)
    assert isinstance(await bench.do(await bench.answering(True)), Outcome)
    assert (await bench.check()).talk.questions[1].state is QuestionState.ANSWERED
    await bench.check_talk()


async def walk_timeout(bench: Talks, state: str) -> None:
    """Let the time of a question be over, whatever its run does: an approval is denied."""
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
    assert (answered.answer, answered.by) == (pack_value(False), TIMEOUT)


async def walk_late(bench: Talks, state: str, what: str) -> None:
    """Say something that was proposed before a run came to its last state: it is refused, and all else expires."""
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
