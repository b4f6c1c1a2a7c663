"""What frames and their parts share.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from protocol.entry import UInt

__all__ = ["Name", "Part", "UInt"]

Name = Annotated[str, Field(max_length=160)]


class Part(BaseModel):
    """What frames and their parts share: frozen, strictly typed, unknown keys ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")
