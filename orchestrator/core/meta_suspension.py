"""What a run's meta keeps of why its handler was put away, besides the time of it, which is `not_before`.

Specification: docs/protocol.md, section "Suspension".
"""

from __future__ import annotations

from collections.abc import Mapping

from protocol.conversation import Suspended

__all__ = ["SUSPENDED", "awaits", "encode_suspended", "parse_suspended"]

SUSPENDED = "suspended"
"""The meta field of what a run waits for whose handler was put away; it is gone when the run is on its queue again."""


def encode_suspended(suspended: Suspended) -> str:
    """Return what `parse_suspended` reads."""
    return suspended.model_dump_json(exclude_defaults=True, exclude={"sleep_ms"})


def parse_suspended(fields: Mapping[str, str]) -> Suspended | None:
    """Return what a run's meta says that it waits for; None where it was not put away."""
    return Suspended.model_validate_json(fields[SUSPENDED]) if SUSPENDED in fields else None


def awaits(suspended: Suspended | None) -> bool:
    """Whether it waits for something besides a time."""
    if suspended is None:
        return False
    return bool(suspended.questions or suspended.children) or suspended.messages is not None
