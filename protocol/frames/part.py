"""What frames and their parts share.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

import threading
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from protocol.entry import UInt

__all__ = ["SPAN_MS_MAX", "Digest", "Name", "Part", "Span", "UInt"]

Name = Annotated[str, Field(max_length=160)]
Digest = Annotated[str, Field(pattern=r"^[!-~]{1,64}$")]

SPAN_MS_MAX = 10 * 366 * 24 * 3600 * 1000
Span = Annotated[int, Field(ge=1, le=SPAN_MS_MAX)]
"""A duration in milliseconds, of ten years at most."""


_building = threading.RLock()
"""Held while a model gets what reads and writes it: agents use the models in several threads."""


class Part(BaseModel):
    """What frames and their parts share: frozen, strictly typed, unknown keys ignored.

    What reads and writes a model is made when it is used first: to import them all is most of what a short command
    does, and it uses few of them.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", defer_build=True)

    @classmethod
    def model_rebuild(
        cls,
        *,
        force: bool = False,
        raise_errors: bool = True,
        _parent_namespace_depth: int = 0,
        _types_namespace: Any = None,
    ) -> bool | None:
        """Make what reads and writes this model; Pydantic calls it at the first use.

        One thread at a time, for which not every release of Pydantic sees, and from the names of the model's module:
        Pydantic would also look for them among the variables of whoever used it first.
        """
        del _parent_namespace_depth
        with _building:
            return super().model_rebuild(
                force=force, raise_errors=raise_errors, _types_namespace=_types_namespace or {}
            )
