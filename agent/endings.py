"""How runs end: the errors of those that have no result, and the wish to go on as another run."""

from __future__ import annotations

from typing import Any

from agent.errors import RunCancelled, RunDead, RunEnded, RunExpired, RunFailed
from protocol.run import RunState

__all__ = ["ContinueAs", "run_ended"]

_ENDINGS: dict[str, tuple[type[RunEnded], str]] = {
    RunState.FAILED: (RunFailed, "failed"),
    RunState.CANCELLED: (RunCancelled, "was cancelled"),
    RunState.EXPIRED: (RunExpired, "expired"),
    RunState.DEAD: (RunDead, "is dead: it failed or was lost as often as is allowed"),
}


class ContinueAs(BaseException):
    """Raised by the context in a handler that is to go on as another run. Let it pass.

    It is no `Exception`, so that a handler's `except Exception` lets it pass by itself.

    Attributes:
        packed: the input of the other run, as a packed value.
    """

    def __init__(self, packed: bytes) -> None:
        super().__init__("the run goes on as another one")
        self.packed = packed


def run_ended(run: str, state: str, offset: int, error: dict[str, Any] | None, reason: str | None) -> RunEnded:
    """Return the error of a run that is over without a result.

    Args:
        run: its id.
        state: that it ended in.
        offset: of its last entry.
        error: what it failed with, as `RunError` has it, if anything.
        reason: why it ended so, where that is known and there is no error.
    """
    kind, said = _ENDINGS.get(state, (RunEnded, f"ended as {state}"))
    why = f": {error.get('type')}: {error.get('message')}" if error else f": {reason}" if reason else ""
    return kind(run, offset, said + why, error)
