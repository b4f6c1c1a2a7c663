"""Exit codes: what a script that calls `fleetline` may rely on. The one table."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["Exit", "exit_of_code", "exit_of_state"]


class Exit(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """The run failed, `doctor` found something, or this program or the hub broke."""
    USAGE = 2
    """What was asked for makes no sense as it was asked: an option, a name, an input, a setting."""
    CANCELLED = 3
    """The run was cancelled or expired."""
    FORBIDDEN = 4
    """The token, or the owner of a file, does not permit it."""
    NO_HUB = 5
    """No hub, or no store, could be reached, or it cannot serve now."""
    UNVERIFIED = 6
    """A log or a replay does not verify."""
    INTERRUPTED = 130
    """Ctrl-C."""
    BROKEN_PIPE = 141
    """Whoever read the output went away; as of a program that SIGPIPE ended."""


_OF_STATE = {
    "succeeded": Exit.DONE,
    "failed": Exit.FAILED,
    "dead": Exit.FAILED,
    "cancelled": Exit.CANCELLED,
    "expired": Exit.CANCELLED,
}

_OF_CODE = {
    "forbidden": Exit.FORBIDDEN,
    "unavailable": Exit.NO_HUB,
    "too_many": Exit.NO_HUB,
    "store_full": Exit.NO_HUB,
    "internal": Exit.FAILED,
    "query_failed": Exit.FAILED,
    "no_reply": Exit.FAILED,
}


def exit_of_state(state: str) -> Exit:
    """Return what a run's final state means to whoever waited for it."""
    return _OF_STATE[state]


def exit_of_code(code: str) -> Exit:
    """Return what a refused request means; what is not in the table was asked wrongly."""
    return _OF_CODE.get(code, Exit.USAGE)
