"""What frames and their parts share.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from protocol.entry import UInt

__all__ = ["SPAN_MS_MAX", "Name", "Part", "Span", "UInt"]

Name = Annotated[str, Field(max_length=160)]

SPAN_MS_MAX = 10 * 366 * 24 * 3600 * 1000
Span = Annotated[int, Field(ge=1, le=SPAN_MS_MAX)]
"""A duration in milliseconds, of ten years at most."""


class Part(BaseModel):
    """What frames and their parts share: frozen, strictly typed, unknown keys ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")
