"""The conversation of a run: what becomes of messages and questions, entry by entry."""

from __future__ import annotations

from itertools import product

import pytest

from protocol.codec import pack_record, pack_value
from protocol.control import (
    CONTROL,
    Cancel,
    Cancelled,
    Checkpoint,
    Claimed,
    Errored,
    Expired,
    Kind,
    RunError,
    Succeeded,
)
from protocol.conversation import Answered, Asked, QuestionKind, Received, Steer, Steered, SteerStatus
from protocol.entry import Entry
from protocol.frames import Part, Recover
from protocol.talk import MessageState, Question, QuestionState, Talk, talk_after


def claimed(recover: Recover = Recover.RESTART) -> Claimed:
    return Claimed(attempt=1, fence=1, agent="a", instance="i", lease_ms=1, recover=recover, retries=0)


def asked(digest: str = "d", timeout_ms: int | None = None) -> Asked:
    return Asked(kind=QuestionKind.ASK, name="what", digest=digest, payload=b"\xc0", timeout_ms=timeout_ms)


STEER = (Kind.STEER, Steer(id="m", body=pack_value("faster")), None)
RECEIVED = (Kind.RECEIVED, Received(id="m"), None)
APPLIED = (Kind.STEERED, Steered(id="m", status=SteerStatus.APPLIED, value=pack_value("ok")), None)
REJECTED = (Kind.STEERED, Steered(id="m", status=SteerStatus.REJECTED), None)
ASKED = (Kind.ASKED, asked(), 3)
ANSWERED = (Kind.ANSWERED, Answered(index=3, digest="d", answer=b"\x01", by="client:ops"), None)
TIMED_OUT = (Kind.ANSWERED, Answered(index=3, digest="d", by="timeout"), None)
OVER = (Kind.SUCCEEDED, Succeeded(result=b"\xc0"), None)


def talk(*entries: tuple[Kind, Part, int | None]) -> Talk:
    found = Talk()
    for offset, (kind, body, index) in enumerate(entries, 1):
        packed = pack_record(kind, "client:ops", pack_value(body), index=index)
        found = talk_after(found, Entry(offset, 1000 + offset, packed))
    return found


def state_of(*entries: tuple[Kind, Part, int | None]) -> MessageState:
    return talk(*entries).messages["m"].state


def question_of(*entries: tuple[Kind, Part, int | None]) -> Question:
    return talk(*entries).questions[3]


MESSAGE_STEPS = {
    (): "issued",
    (RECEIVED,): "delivered",
    (RECEIVED, APPLIED): "applied",
    (RECEIVED, REJECTED): "rejected",
    (OVER,): "expired",
    (RECEIVED, OVER): "delivered",
    (RECEIVED, APPLIED, OVER): "applied",
    (RECEIVED, REJECTED, OVER): "rejected",
}


@pytest.mark.parametrize(("steps", "state"), MESSAGE_STEPS.items(), ids=str)
def test_what_becomes_of_a_message(steps: tuple[tuple[Kind, Part, int | None], ...], state: str) -> None:
    assert state_of(STEER, *steps) == state


def test_a_message_has_its_reply_and_who_said_it() -> None:
    message = talk(STEER, RECEIVED, APPLIED).messages["m"]
    assert (message.src, message.offset, message.delivered_at) == ("client:ops", 1, 2)
    assert (message.body, message.value) == (pack_value("faster"), pack_value("ok"))


@pytest.mark.parametrize(
    ("recover", "before", "after"),
    [
        (Recover.RESTART, (RECEIVED,), "issued"),
        (Recover.JOURNAL, (RECEIVED,), "delivered"),
        (Recover.CHECKPOINT, (RECEIVED,), "issued"),
        (Recover.CHECKPOINT, (RECEIVED, (Kind.CHECKPOINT, Checkpoint(value=b"\xc0"), 1)), "delivered"),
        (Recover.CHECKPOINT, ((Kind.CHECKPOINT, Checkpoint(value=b"\xc0"), 1), RECEIVED), "issued"),
        (Recover.RESTART, (RECEIVED, APPLIED), "applied"),
    ],
)
def test_what_a_new_attempt_is_given_again_is_issued_again(
    recover: Recover, before: tuple[tuple[Kind, Part, int | None], ...], after: str
) -> None:
    assert state_of(STEER, *before, (Kind.CLAIMED, claimed(recover), None)) == after


QUESTION_STEPS = {
    (): QuestionState.OPEN,
    (ANSWERED,): QuestionState.ANSWERED,
    (TIMED_OUT,): QuestionState.TIMED_OUT,
    (ANSWERED, TIMED_OUT): QuestionState.ANSWERED,
    (OVER,): QuestionState.EXPIRED,
    (ANSWERED, OVER): QuestionState.ANSWERED,
    ((Kind.CLAIMED, claimed(), None),): QuestionState.OPEN,
    (ANSWERED, ASKED): QuestionState.ANSWERED,
    ((Kind.ANSWERED, Answered(index=3, digest="other", answer=b"\x01", by="client:ops"), None),): QuestionState.OPEN,
    (ANSWERED, (Kind.ASKED, asked("other"), 3)): QuestionState.OPEN,
}


@pytest.mark.parametrize(("steps", "state"), QUESTION_STEPS.items(), ids=str)
def test_what_becomes_of_a_question(steps: tuple[tuple[Kind, Part, int | None], ...], state: QuestionState) -> None:
    found = talk(ASKED, *steps)
    assert found.questions[3].state is state
    assert found.waiting == ((found.questions[3],) if state is QuestionState.OPEN else ())


def test_the_time_of_a_question_counts_from_its_entry_and_asking_again_changes_nothing() -> None:
    assert question_of(STEER, (Kind.ASKED, asked(timeout_ms=500), 3), (Kind.ASKED, asked(), 3)).deadline_ms == 1502
    assert question_of(ASKED).deadline_ms is None


def test_whoever_ends_a_run_expires_what_is_pending() -> None:
    terminal = [kind for kind, row in CONTROL.items() if row.terminal]
    bodies: dict[str, Part] = {Kind.SUCCEEDED: Succeeded(result=b""), Kind.EXPIRED: Expired(reason="late")}
    for kind, entry in product(terminal, (STEER, ASKED)):
        found = talk(entry, (Kind(kind), bodies.get(kind, Errored(error=RunError(type="t", message="m"))), None))
        states = [message.state.value for message in found.messages.values()]
        states += [question.state.value for question in found.questions.values()]
        assert states == ["expired"]


def test_what_is_about_nothing_known_changes_nothing() -> None:
    assert talk(RECEIVED, APPLIED, ANSWERED, (Kind.RECEIVED, Received(), 1)) == Talk()


CANCEL = (Kind.CANCEL, Cancel(reason="enough"), None)
AGAIN = (Kind.CANCEL, Cancel(reason="once more"), None)
TOLD = (Kind.RECEIVED, Received(id="cancel"), None)
STOPPED = (Kind.CANCELLED, Cancelled(reason="enough"), None)
CANCEL_STEPS = {
    (): ("issued", None),
    (STOPPED,): ("applied", None),
    (TOLD,): ("delivered", 2),
    (TOLD, TOLD): ("delivered", 2),
    (TOLD, AGAIN): ("delivered", 2),
    (TOLD, STOPPED): ("applied", 2),
    (TOLD, OVER): ("rejected", 2),
    (OVER,): ("expired", None),
}


@pytest.mark.parametrize(("steps", "expected"), CANCEL_STEPS.items(), ids=str)
def test_what_becomes_of_a_cancel(steps: tuple[tuple[Kind, Part, None], ...], expected: tuple[str, int | None]) -> None:
    command = talk(CANCEL, *steps).cancel
    assert command is not None
    assert (command.state, command.delivered_at) == expected
    assert (command.src, command.reason, command.offset) == ("client:ops", "enough", 1)


def test_that_a_handler_was_told_to_stop_means_nothing_where_nobody_said_so() -> None:
    assert talk(TOLD, OVER).cancel is None


def test_an_answer_is_delivered_when_the_handler_is_given_it() -> None:
    given = (Kind.RECEIVED, Received(id="answer-3"), None)
    assert question_of(ASKED, ANSWERED).delivered_at is None
    assert question_of(ASKED, ANSWERED, given, given).delivered_at == 3
    assert talk(ASKED, ANSWERED, (Kind.RECEIVED, Received(id="answer-4"), None)).questions[3].delivered_at is None
