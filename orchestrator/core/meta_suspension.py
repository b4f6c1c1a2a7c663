"""What a run's meta keeps of why its handler was put away, besides the time of it, which is `not_before`.

Specification: docs/protocol.md, section "Suspension".
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.conversation import Suspended

__all__ = ["SUSPENDED", "awaits", "encode_suspended", "parse_suspended"]

SUSPENDED = "suspended"
"""The meta field of what a run waits for whose handler was put away; it is gone when the run is on its queue again."""

_NONE = "-"


def encode_suspended(suspended: Suspended) -> str:
    """Return what `parse_suspended` reads."""
    questions = ",".join(map(str, suspended.questions)) or _NONE
    return f"{questions} {_NONE if suspended.messages is None else suspended.messages}"


def parse_suspended(fields: Mapping[str, str]) -> Suspended | None:
    """Return what a run's meta says that it waits for; None where it was not put away."""
    if SUSPENDED not in fields:
        return None
    questions, messages = fields[SUSPENDED].split(" ")
    return Suspended(
        questions=() if questions == _NONE else tuple(map(int, questions.split(","))),
        messages=None if messages == _NONE else int(messages),
    )


def awaits(suspended: Suspended | None) -> bool:
    """Whether it waits for something besides a time."""
    return suspended is not None and bool(suspended.questions or suspended.messages is not None)
