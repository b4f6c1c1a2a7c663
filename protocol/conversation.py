"""What is said to a run while it works, and what it asks: bodies of entries, and what requests take and answer.

A message that steers a run is issued (`$steer`), delivered to the handler (`$received`), and, where the handler says
so, applied or rejected (`$steered`). A question (`$asked`) has one answer (`$answered`): somebody's, or that its time
ran out. A query is answered by the live handler, and leaves nothing in the log. A handler that only waits may be put
away (`$suspended`), and is brought back when what it waits for has come.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.frames import Digest, Name, Part, Span, UInt

__all__ = [
    "CANCEL_ID",
    "QUERIES_AT_ONCE_MAX",
    "QUERY_ARGS_BYTES_MAX",
    "QUERY_MS",
    "QUERY_MS_MAX",
    "QUERY_VALUE_BYTES_MAX",
    "QUESTIONS_MAX",
    "STEERS_MAX",
    "STEER_BYTES_MAX",
    "TIMEOUT",
    "Answered",
    "Asked",
    "QuestionKind",
    "Received",
    "RunAnswer",
    "RunAnswered",
    "RunQueried",
    "RunQuery",
    "RunSteer",
    "RunSteering",
    "Steer",
    "SteerStatus",
    "Steered",
    "Suspended",
    "answer_id",
]

STEERS_MAX = 10_000
"""Messages to one run."""
STEER_BYTES_MAX = 64 * 1024
"""Bytes of the packed value of a message to a run: an agent keeps them until its handler asks for them."""
QUESTIONS_MAX = 1000
"""Questions of one run, by their indices."""
QUERY_ARGS_BYTES_MAX = 64 * 1024
"""Bytes of the packed arguments of a query."""
QUERY_VALUE_BYTES_MAX = 256 * 1024
"""Bytes of the packed reply to a query."""
QUERIES_AT_ONCE_MAX = 16
"""Queries of one attempt that its handler has not replied to."""
QUERY_MS = 10_000
"""How long a reply is waited for where nothing else is said."""
QUERY_MS_MAX = 60_000
TIMEOUT = "timeout"
"""Who answered a question that nobody answered in time."""


CANCEL_ID = "cancel"
"""What `$received` calls the command to stop."""


def answer_id(index: int) -> str:
    """Return what `$received` calls the answer to a question."""
    return f"answer-{index}"


class QuestionKind(StrEnum):
    """What is asked for."""

    ASK = "ask"
    """A value. One that nobody gives in time is no answer."""
    APPROVE = "approve"
    """True or false. What nobody approves in time is denied."""


class SteerStatus(StrEnum):
    """What a handler says that it did with a message."""

    APPLIED = "applied"
    REJECTED = "rejected"


class Steer(Part):
    """A command: a message to the handler, as a packed value. `id` is the hub's name for it."""

    id: Name
    body: bytes


class Received(Part):
    """The handler asked for a message and was given this one; without `id` none came in the time that it gave.

    It was told to stop where `id` is `cancel`, and given the answer to question N where it is `answer-N`.
    """

    id: Name | None = None


class Steered(Part):
    """What the handler did with a message, and what it replies to it, as a packed value."""

    id: Name
    status: Annotated[SteerStatus, Field(strict=False)]
    value: bytes | None = None


class Asked(Part):
    """The handler asks; the entry's index is the question's.

    `digest` is that of kind, name and payload: the same question of another attempt has the same. `payload` is a
    packed value. The time for an answer counts from the entry.
    """

    kind: Annotated[QuestionKind, Field(strict=False)]
    name: Name
    digest: Digest
    payload: bytes
    timeout_ms: Span | None = None


class Answered(Part):
    """The answer to a question, as a packed value; without one, nobody gave any in time.

    `by` is who answered, or `timeout`.
    """

    index: UInt
    digest: Digest
    answer: bytes | None = None
    by: Name


class Suspended(Part):
    """The attempt ends, since its handler only waits. A later one goes on when all that is named here has come.

    `sleep_ms` is how long there is nothing to do, from this entry on; each of `questions` has its answer; each of
    `children`, as `INDEX.DIGEST`, has ended; the run was sent more messages than `messages`, those that the attempt
    knew of.
    """

    sleep_ms: Span | None = None
    questions: Annotated[tuple[UInt, ...], Field(strict=False, max_length=QUESTIONS_MAX)] = ()
    children: Annotated[tuple[Name, ...], Field(strict=False, max_length=QUESTIONS_MAX)] = ()
    messages: UInt | None = None

    @property
    def words(self) -> str:
        """What it waits for, for people."""
        said = []
        if self.questions:
            numbers = ", ".join(map(str, self.questions))
            said.append(f"the answer to question {numbers}" if len(self.questions) == 1 else f"answers to {numbers}")
        if self.children:
            said.append(
                "the end of a child" if len(self.children) == 1 else f"the ends of {len(self.children)} children"
            )
        if self.messages is not None:
            said.append("a message")
        if self.sleep_ms is not None:
            said.append("the end of its sleep")
        return " and ".join(said) or "nothing"


class RunSteer(Part):
    """`run.steer`: say something to the handler of a run. A run that waits keeps it for its next attempt.

    Errors: `not_found`; `run_finished`; `too_many` where the run was told as much as it may be; `entry_too_large`.
    """

    run: Name
    body: bytes


class RunSteering(Part):
    """What the message is called in the run's log, and the run's state."""

    id: str
    state: str


class RunAnswer(Part):
    """`run.answer`: answer a question of a run; without `question`, the only one that waits.

    `digest` is how the question's begins: one that asks something else at the same index is not answered by it.

    Errors: `not_found`; `run_finished`; `already_answered` (data: question); `invalid_params` where several questions
    wait and none is named, or an approval is answered with something else than true or false.
    """

    run: Name
    answer: bytes
    question: UInt | None = None
    digest: Digest | None = None


class RunAnswered(Part):
    """The index of the question that was answered."""

    question: UInt


class RunQuery(Part):
    """`run.query`: ask the live handler of a run something. `args` is a packed value; nothing of it is recorded.

    Errors: `not_found`; `not_running` (data: state); `no_such_query`; `query_failed` where what answers it failed;
    `no_reply` where none came in time, or the agent is away: try again; `too_many`.
    """

    run: Name
    name: Name
    args: bytes | None = None
    timeout_ms: Annotated[int, Field(ge=1, le=QUERY_MS_MAX)] = QUERY_MS


class RunQueried(Part):
    """The handler's reply, as a packed value."""

    value: bytes
