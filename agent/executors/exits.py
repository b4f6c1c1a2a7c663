"""How a process ended, in words."""

from __future__ import annotations

import signal

__all__ = ["ended", "signal_name"]


def ended(code: int | None) -> str:
    """Say how a process ended, by its exit code: negative where a signal ended it, None where it is there still."""
    if code is None:
        return "could not be ended"
    return f"ended with exit code {code}" if code >= 0 else f"was ended by {signal_name(-code)}"


def signal_name(number: int) -> str:
    """Return what a signal is called."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time one
        return f"signal {number}"
