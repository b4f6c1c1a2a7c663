"""Asking: requests, and the answer to each.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from typing import Any, Literal

from protocol.frames.part import Name, Part, UInt

__all__ = ["Fault", "Request", "Response"]


class Fault(Part):
    """Why a request was refused."""

    code: str
    message: str
    retry_ms: UInt | None = None
    data: dict[str, Any] | None = None


class Request(Part):
    """peer -> hub: do or tell something (see `protocol.requests`).

    `op` is the peer's name for one change, the same on every retry.
    """

    t: Literal["request"] = "request"
    id: UInt
    method: Name
    params: dict[str, Any] = {}
    op: Name | None = None


class Response(Part):
    """hub -> peer: the answer to the request with this id; either a result or an error."""

    t: Literal["response"] = "response"
    id: UInt
    result: Any = None
    error: Fault | None = None
