"""The messages and questions of a handler, as both contexts have them: what is begun, and what it came to.

Specification: docs/protocol.md, sections "Conversations" and "Journals".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from agent.errors import Unanswered
from protocol.codec import pack_value, unpack_value
from protocol.control import Kind
from protocol.conversation import Answered, Asked, QuestionKind, Received, Steer, Steered, SteerStatus, answer_id

__all__ = ["Asking", "PlainSteerMessage", "Receiving", "SteerMessage", "answered_body", "received_body"]


@dataclass(frozen=True, slots=True)
class Receiving:
    """The handler asks for a message: `index` is None where that is not recorded; what is recorded, where it was."""

    index: int | None
    recorded: Received | None


@dataclass(frozen=True, slots=True)
class Asking:
    """A question that has its index. `known`: the log has it already."""

    kind: QuestionKind
    name: str
    index: int
    digest: str
    payload: bytes
    timeout_ms: int | None
    known: bool

    def body(self) -> bytes:
        """Return the body of its entry."""
        return pack_value(
            Asked(kind=self.kind, name=self.name, digest=self.digest, payload=self.payload, timeout_ms=self.timeout_ms)
        )

    def value(self, answered: Answered) -> Any:
        """Return what the answer says.

        Raises:
            Unanswered: nobody gave one in time.
        """
        if answered.answer is None:
            raise Unanswered(self.name)
        return unpack_value(answered.answer)


class _Message:
    """A message to the run.

    Attributes:
        id: the hub's name for it.
        body: what it says.
    """

    def __init__(self, steer: Steer, put: Callable[[str, bytes], Any]) -> None:
        self.id = steer.id
        self.body: Any = unpack_value(steer.body)
        self._put = put

    def __repr__(self) -> str:
        return f"<message {self.id} {self.body!r:.100}>"

    def _steered(self, status: SteerStatus, value: Any) -> bytes:
        packed = None if value is None else pack_value(value)
        return pack_value(Steered(id=self.id, status=status, value=packed))


class SteerMessage(_Message):
    """A message to the run, in an async handler."""

    async def reply(self, value: Any = None) -> None:
        """Say that the message was applied, with a word to whoever sent it."""
        await self._say(SteerStatus.APPLIED, value)

    async def reject(self, value: Any = None) -> None:
        """Say that the message was not applied, and why."""
        await self._say(SteerStatus.REJECTED, value)

    async def _say(self, status: SteerStatus, value: Any) -> None:
        said: Awaitable[None] = self._put(Kind.STEERED, self._steered(status, value))
        await said


class PlainSteerMessage(_Message):
    """A message to the run, in a plain handler."""

    def reply(self, value: Any = None) -> None:
        """Say that the message was applied. See `SteerMessage.reply`."""
        self._put(Kind.STEERED, self._steered(SteerStatus.APPLIED, value))

    def reject(self, value: Any = None) -> None:
        """Say that the message was not applied. See `SteerMessage.reject`."""
        self._put(Kind.STEERED, self._steered(SteerStatus.REJECTED, value))


def received_body(steer: Steer | None) -> bytes:
    """Return the body of the record that a message was given, or that none came."""
    return pack_value(Received(id=None if steer is None else steer.id))


def answered_body(index: int) -> bytes:
    """Return the body of the record that the answer to a question was given."""
    return pack_value(Received(id=answer_id(index)))
