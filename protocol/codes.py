"""Close and error codes: what each means, and whether to come back.

Specification: docs/protocol.md, sections "Close codes" and "Error codes".
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

__all__ = ["TERMINAL_FROM", "CloseCode", "ErrorCode", "explain", "is_terminal"]

TERMINAL_FROM = 4500


class CloseCode(IntEnum):
    """WebSocket close codes of our own. 4000-4499: come back; 4500-4999: do not."""

    GOING_AWAY = 4000
    HEARTBEAT_TIMEOUT = 4001
    HANDSHAKE_TIMEOUT = 4002
    STORE_UNAVAILABLE = 4003
    INTERNAL_ERROR = 4004
    OVERLOADED = 4005
    TOKEN_EXPIRED = 4006
    KEY_PENDING = 4007
    ISSUER_UNAVAILABLE = 4008

    MALFORMED = 4500
    TOO_LARGE = 4501
    UNKNOWN_FRAME = 4502
    INVALID_FRAME = 4503
    UNEXPECTED_FRAME = 4504
    VERSION_UNSUPPORTED = 4505
    UNAUTHENTICATED = 4506
    FORBIDDEN = 4507
    SUPERSEDED = 4508
    ACK_AHEAD = 4509
    LIMIT_EXCEEDED = 4510
    REVOKED = 4511
    KEY_REFUSED = 4512
    KEY_REVOKED = 4513


_EXPLANATIONS = {
    CloseCode.GOING_AWAY: "the hub is stopping or draining; reconnect, to any hub",
    CloseCode.HEARTBEAT_TIMEOUT: "nothing was heard for two heartbeat intervals; reconnect",
    CloseCode.HANDSHAKE_TIMEOUT: "the session was not identified in time; reconnect",
    CloseCode.STORE_UNAVAILABLE: "the hub cannot reach its store; reconnect later",
    CloseCode.INTERNAL_ERROR: "the hub failed on this session; reconnect, and report its log",
    CloseCode.OVERLOADED: "the hub has no room for another session now; reconnect later",
    CloseCode.TOKEN_EXPIRED: "the token ran out; reconnect with a new one",
    CloseCode.KEY_PENDING: "the key waits until an operator accepts it; reconnect after some seconds",
    CloseCode.ISSUER_UNAVAILABLE: "the hub could not read the keys of the token's issuer yet; reconnect later",
    CloseCode.MALFORMED: "the bytes are not msgpack of the allowed form",
    CloseCode.TOO_LARGE: "a message, a frame or its nesting is over the announced limit",
    CloseCode.UNKNOWN_FRAME: "the frame's type is not known",
    CloseCode.INVALID_FRAME: "the frame does not fit the schema of its type",
    CloseCode.UNEXPECTED_FRAME: "the frame is not allowed in this state of the session",
    CloseCode.VERSION_UNSUPPORTED: "hub and peer share no protocol version",
    CloseCode.UNAUTHENTICATED: "the token is missing, wrong or expired",
    CloseCode.FORBIDDEN: "the token does not permit this session",
    CloseCode.SUPERSEDED: "a newer session of the same agent id took over",
    CloseCode.ACK_AHEAD: "the peer acknowledged what it was never sent",
    CloseCode.LIMIT_EXCEEDED: "the peer went past a limit that the hub announced",
    CloseCode.REVOKED: "the token, the agent or its key was revoked; get a new token, or enrol again",
    CloseCode.KEY_REFUSED: "an operator rejected the key, or the name has another key",
    CloseCode.KEY_REVOKED: "the key was revoked; the name needs a new one",
}


def explain(code: int) -> str:
    """Say in a sentence what a close code means. Unknown codes get their range's meaning."""
    if code in _EXPLANATIONS:
        return _EXPLANATIONS[CloseCode(code)]
    return "terminal; do not reconnect" if is_terminal(code) else "the connection broke; reconnect"


def is_terminal(code: int) -> bool:
    """Whether a peer that is closed with this code must not reconnect by itself."""
    return TERMINAL_FROM <= code < 5000


class ErrorCode(StrEnum):
    """Codes of `nack`, of a request's error, and of a subscription that is refused."""

    # publishing
    FENCED = "fenced"
    SUPERSEDED = "superseded"
    OUT_OF_ORDER = "out_of_order"
    PRODUCER_CONFLICT = "producer_conflict"
    PRODUCER_UNKNOWN = "producer_unknown"
    PUBLISHER_LOST = "publisher_lost"
    EXPECT_FAILED = "expect_failed"
    ENTRY_TOO_LARGE = "entry_too_large"
    INVALID_ENTRY = "invalid_entry"
    RUN_FINISHED = "run_finished"
    # asking
    UNKNOWN_METHOD = "unknown_method"
    INVALID_PARAMS = "invalid_params"
    NOT_FOUND = "not_found"
    KEY_CONFLICT = "key_conflict"
    NOT_OVER = "not_over"
    ALREADY_ANSWERED = "already_answered"
    NOT_RUNNING = "not_running"
    NO_SUCH_QUERY = "no_such_query"
    QUERY_FAILED = "query_failed"
    NO_REPLY = "no_reply"
    NAME_CONFLICT = "name_conflict"
    LIMIT_REACHED = "limit_reached"
    KEY_STATE = "key_state"
    FORBIDDEN = "forbidden"
    STORE_FULL = "store_full"
    UNAVAILABLE = "unavailable"
    TOO_MANY = "too_many"
    INTERNAL = "internal"
