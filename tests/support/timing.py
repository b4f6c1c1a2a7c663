"""Time limits for tests: every wait is for a condition, and every limit scales with the machine."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

__all__ = ["TIMEOUT_SCALE", "deadline", "eventually", "eventually_sync", "scaled"]

T = TypeVar("T")

TIMEOUT_SCALE = float(os.environ.get("FLEETLINE_TEST_TIMEOUT_SCALE", "1"))
"""What every limit is multiplied by; raise it on a slow or busy machine."""

POLL_S = 0.01


def scaled(seconds: float) -> float:
    """Return a limit for this machine."""
    return seconds * TIMEOUT_SCALE


def deadline(seconds: float) -> asyncio.Timeout:
    """Return a context that raises `TimeoutError` when its body takes longer than the scaled limit."""
    return asyncio.timeout(scaled(seconds))


@overload
async def eventually(condition: Callable[[], Coroutine[Any, Any, T]], within_s: float = ...) -> T: ...


@overload
async def eventually(condition: Callable[[], T], within_s: float = ...) -> T: ...


async def eventually(condition: Callable[[], Any], within_s: float = 10.0) -> Any:
    """Ask `condition` again and again until it is true, and return what it answered.

    Raises:
        AssertionError: it was still false when the scaled limit had passed.
    """
    give_up = time.monotonic() + scaled(within_s)
    while True:
        asked = condition()
        answer = await asked if inspect.isawaitable(asked) else asked
        if answer:
            return answer
        if time.monotonic() > give_up:
            raise AssertionError(f"still {answer!r} after {scaled(within_s):g} s: {_source(condition)}")
        await asyncio.sleep(POLL_S)


def eventually_sync(condition: Callable[[], T], within_s: float = 10.0) -> T:
    """Do as `eventually` does, for tests without an event loop."""
    give_up = time.monotonic() + scaled(within_s)
    while not (answer := condition()):
        if time.monotonic() > give_up:
            raise AssertionError(f"still {answer!r} after {scaled(within_s):g} s: {_source(condition)}")
        time.sleep(POLL_S)
    return answer


def _source(condition: Callable[[], object]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
