"""What went wrong in a handler, as entries have it.

Specification: docs/protocol.md, section "Control entries".
"""

from __future__ import annotations

from protocol.frames import Part

__all__ = ["RunError"]


class RunError(Part):
    """What went wrong in a handler. `trace` is for people, `type` the name of the exception."""

    type: str
    message: str
    trace: str | None = None
