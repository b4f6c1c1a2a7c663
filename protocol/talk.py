"""The conversation of a run, as its log tells it: what it was told, what it asked, and what it handed to children.

A part of the fold of a run.

    message    issued -> delivered -> applied | rejected        issued -> expired, when the run ends
    question   open -> answered | timed_out                     open -> expired, when the run ends or asks anew
    cancel     issued -> delivered -> applied | rejected        issued -> expired, when the run ends otherwise

An answer is delivered when the handler is given it. A cancel is applied when the run ends `cancelled`, and rejected
where its handler was told and the run ended otherwise: it returned a result all the same, say.

A message that was delivered to an attempt which is started over, or since the checkpoint that the next one begins
with, is issued again. One that was delivered and of which the handler says nothing stays so.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from protocol.children import Child, ChildKey, children_after
from protocol.codec import unpack_record
from protocol.control import CONTROL, Cancel, Claimed, Kind, read_control
from protocol.conversation import CANCEL_ID, TIMEOUT, Answered, Asked, QuestionKind, Received, Steer, Steered, answer_id
from protocol.entry import Entry, Record
from protocol.frames import Recover

__all__ = ["Command", "Message", "MessageState", "Question", "QuestionState", "Talk", "talk_after"]


class MessageState(StrEnum):
    """Where a message to a run is."""

    ISSUED = "issued"
    DELIVERED = "delivered"
    APPLIED = "applied"
    REJECTED = "rejected"
    EXPIRED = "expired"


class QuestionState(StrEnum):
    """Where a question of a run is."""

    OPEN = "open"
    ANSWERED = "answered"
    TIMED_OUT = "timed_out"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a run.

    Attributes:
        body: as a packed value.
        src: who said it.
        offset: of its entry.
        delivered_at: offset of the entry that says so; None before.
        value: the handler's reply, as a packed value.
    """

    id: str
    body: bytes
    src: str = ""
    offset: int = 0
    state: MessageState = MessageState.ISSUED
    delivered_at: int | None = None
    value: bytes | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a run.

    Attributes:
        payload: as a packed value.
        offset: of its entry.
        deadline_ms: when its time runs out; None where it has no end.
        answer: as a packed value; None before, and where nobody gave one in time.
        by: who answered, or `timeout`.
        delivered_at: offset of the entry that says that the handler was given the answer; None before.
    """

    index: int
    kind: QuestionKind
    name: str
    digest: str
    payload: bytes
    offset: int
    deadline_ms: int | None
    state: QuestionState = QuestionState.OPEN
    answer: bytes | None = None
    by: str = ""
    delivered_at: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """The command that the run is to stop.

    Attributes:
        src: who said so.
        offset: of its entry.
        reason: why.
        delivered_at: offset of the entry that says that the handler was told; None before.
    """

    src: str
    offset: int
    reason: str | None = None
    state: MessageState = MessageState.ISSUED
    delivered_at: int | None = None


@dataclass(frozen=True, slots=True)
class Talk:
    """What a run was told, what it asked, and its children.

    Attributes:
        messages: by id, in the order of the log.
        questions: by index; of several at one index the last.
        children: by index and digest, in the order in which they were asked for.
        checkpoint: offset of the last `$checkpoint`; 0 before the first.
        cancel: the command to stop; None where there was none.
    """

    messages: Mapping[str, Message] = field(default_factory=lambda: MappingProxyType({}))
    questions: Mapping[int, Question] = field(default_factory=lambda: MappingProxyType({}))
    children: Mapping[ChildKey, Child] = field(default_factory=lambda: MappingProxyType({}))
    checkpoint: int = 0
    cancel: Command | None = None

    @property
    def waiting(self) -> tuple[Question, ...]:
        """The questions that wait for an answer, by index."""
        found = (question for question in self.questions.values() if question.state is QuestionState.OPEN)
        return tuple(sorted(found, key=lambda question: question.index))


def talk_after(talk: Talk, entry: Entry, record: Record | None = None) -> Talk:
    """Return the conversation after one more entry of the run's log, of whatever kind.

    Raises:
        ValueError: the entry is malformed.
    """
    record = record or unpack_record(entry.packed)
    match record.kind:
        case Kind.STEER:
            steer = read_control(Steer, record.body)
            return _with_message(talk, Message(steer.id, steer.body, record.src, entry.offset))
        case Kind.CANCEL:
            reason = read_control(Cancel, record.body).reason
            return talk if talk.cancel else replace(talk, cancel=Command(record.src, entry.offset, reason))
        case Kind.RECEIVED:
            return _received(talk, entry.offset, read_control(Received, record.body))
        case Kind.STEERED:
            return _steered(talk, read_control(Steered, record.body))
        case Kind.ASKED:
            return _asked(talk, entry, record)
        case Kind.ANSWERED:
            return _answered(talk, read_control(Answered, record.body))
        case Kind.SPAWN | Kind.CHILD | Kind.CHILD_ENDED:
            children = children_after(talk.children, entry.offset, record)
            return talk if children is talk.children else replace(talk, children=children)
        case Kind.CHECKPOINT:
            return replace(talk, checkpoint=entry.offset)
        case Kind.CLAIMED:
            return _begun(talk, read_control(Claimed, record.body).recover)
        case kind if kind in CONTROL and CONTROL[kind].terminal:
            return _over(talk, cancelled=record.kind == Kind.CANCELLED)
        case _:
            return talk


def _with_message(talk: Talk, message: Message) -> Talk:
    return replace(talk, messages={**talk.messages, message.id: message})


def _with_question(talk: Talk, question: Question) -> Talk:
    return replace(talk, questions={**talk.questions, question.index: question})


def _received(talk: Talk, offset: int, received: Received) -> Talk:
    if received.id == CANCEL_ID and talk.cancel is not None:
        told = replace(talk.cancel, state=MessageState.DELIVERED, delivered_at=talk.cancel.delivered_at or offset)
        return replace(talk, cancel=told)
    for question in talk.questions.values():
        if received.id == answer_id(question.index):
            return _with_question(talk, replace(question, delivered_at=question.delivered_at or offset))
    message = talk.messages.get(received.id or "")
    if message is None:
        return talk
    state = MessageState.DELIVERED if message.state is MessageState.ISSUED else message.state
    return _with_message(talk, replace(message, state=state, delivered_at=offset))


def _steered(talk: Talk, steered: Steered) -> Talk:
    message = talk.messages.get(steered.id)
    if message is None:
        return talk
    return _with_message(talk, replace(message, state=MessageState(steered.status.value), value=steered.value))


def _asked(talk: Talk, entry: Entry, record: Record) -> Talk:
    asked, index = read_control(Asked, record.body), record.index or 0
    before = talk.questions.get(index)
    if before is not None and before.digest == asked.digest:
        return talk
    deadline_ms = None if asked.timeout_ms is None else entry.ts_ms + asked.timeout_ms
    question = Question(index, asked.kind, asked.name, asked.digest, asked.payload, entry.offset, deadline_ms)
    return _with_question(talk, question)


def _answered(talk: Talk, answered: Answered) -> Talk:
    question = talk.questions.get(answered.index)
    if question is None or question.digest != answered.digest or question.state is not QuestionState.OPEN:
        return talk
    state = QuestionState.TIMED_OUT if answered.by == TIMEOUT else QuestionState.ANSWERED
    return _with_question(talk, replace(question, state=state, answer=answered.answer, by=answered.by))


def _begun(talk: Talk, recover: Recover) -> Talk:
    """An attempt begins: what an earlier one was given, and this one is to be given again, is issued again."""
    if recover is Recover.JOURNAL:
        return talk
    since = talk.checkpoint if recover is Recover.CHECKPOINT else 0
    again = {
        message.id: replace(message, state=MessageState.ISSUED, delivered_at=None)
        for message in talk.messages.values()
        if message.state is MessageState.DELIVERED and (message.delivered_at or 0) > since
    }
    return replace(talk, messages={**talk.messages, **again}) if again else talk


def _over(talk: Talk, *, cancelled: bool) -> Talk:
    """The run is over: what is still pending has expired."""
    command = talk.cancel
    if command is not None:
        late = MessageState.EXPIRED if command.delivered_at is None else MessageState.REJECTED
        command = replace(command, state=MessageState.APPLIED if cancelled else late)
    messages = {
        message.id: replace(message, state=MessageState.EXPIRED) if message.state is MessageState.ISSUED else message
        for message in talk.messages.values()
    }
    questions = {
        question.index: replace(question, state=QuestionState.EXPIRED)
        if question.state is QuestionState.OPEN
        else question
        for question in talk.questions.values()
    }
    return replace(talk, messages=messages, questions=questions, cancel=command)
