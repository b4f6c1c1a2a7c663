"""Asking: requests and the answer to each; queries of a run's live handler and what it replies.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from typing import Any, Literal

from protocol.frames.part import Name, Part, Span, UInt

__all__ = ["Fault", "Query", "Reply", "Request", "Response"]


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


class Query(Part):
    """hub -> agent: somebody asks the handler of this attempt; `args` is a packed value.

    Nothing of it is recorded. After `timeout_ms` nobody waits for the reply any more.
    """

    t: Literal["query"] = "query"
    id: UInt
    run: Name
    fence: UInt
    name: Name
    args: bytes | None = None
    timeout_ms: Span


class Reply(Part):
    """agent -> hub: the reply to the query with this id: a packed value, or an error."""

    t: Literal["reply"] = "reply"
    id: UInt
    value: bytes | None = None
    error: Fault | None = None
