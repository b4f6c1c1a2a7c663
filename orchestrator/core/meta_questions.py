"""What a run's meta keeps of its questions, so that the first answer, or the end of their time, is the only one.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from protocol.conversation import QuestionKind

__all__ = ["ASKED_DUE", "FIELD", "MetaQuestion", "first_due_ms", "parse_questions"]

FIELD = "q:"
"""What the meta fields of questions begin with; their index follows."""
ASKED_DUE = "asked_due"
"""The meta field of when the first question that waits runs out of time."""

_OPEN, _ANSWERED, _NEVER = "open", "answered", "-"


@dataclass(frozen=True, slots=True)
class MetaQuestion:
    """A question of a run, as its meta has it."""

    index: int
    open: bool
    kind: QuestionKind
    deadline_ms: int | None
    digest: str
    name: str

    @classmethod
    def parse(cls, index: int, text: str) -> MetaQuestion:
        """Read a meta field."""
        state, kind, deadline, digest, name = text.split(" ", 4)
        deadline_ms = None if deadline == _NEVER else int(deadline)
        return cls(index, state == _OPEN, QuestionKind(kind), deadline_ms, digest, name)

    @property
    def field(self) -> str:
        """The meta field that it stands in."""
        return f"{FIELD}{self.index}"

    def encode(self) -> str:
        """Return what `parse` reads."""
        deadline = _NEVER if self.deadline_ms is None else self.deadline_ms
        return f"{_OPEN if self.open else _ANSWERED} {self.kind.value} {deadline} {self.digest} {self.name}"


def parse_questions(fields: Mapping[str, str]) -> tuple[MetaQuestion, ...]:
    """Return the questions that a run's meta has, by index."""
    found = ((int(name[len(FIELD) :]), text) for name, text in fields.items() if name.startswith(FIELD))
    return tuple(MetaQuestion.parse(index, text) for index, text in sorted(found))


def first_due_ms(questions: Iterable[MetaQuestion]) -> int | None:
    """Return when the first question that waits runs out of time."""
    return min((each.deadline_ms for each in questions if each.open and each.deadline_ms is not None), default=None)
