"""Notices that the program's own loop, or the whole interpreter, is blocked, and says what to do.

It lives on the link's thread. It asks the program's loop to answer; where no answer comes for long, a handler
blocks that loop. Where it wakes late itself, something holds the interpreter lock, and then heartbeats are
late as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

__all__ = ["BLOCKED_S", "watch"]

log = structlog.get_logger("fleetline.agent")

BLOCKED_S = 1.0
"""How long the loop or the interpreter may be blocked before it is worth a warning."""

PERIOD_S = 0.25

REMEDY = (
    "the agent keeps its leases, but does nothing else meanwhile; make the handler a plain function, which runs in a "
    'thread, or give it isolation="process"'
)
LOCKED_REMEDY = (
    "heartbeats wait as well, and leases can be lost; give the handler that holds the interpreter lock "
    'isolation="process"'
)


async def watch(loop: asyncio.AbstractEventLoop, running: Callable[[], list[str]], period_s: float = PERIOD_S) -> None:
    """Watch a loop from another one, until cancelled.

    Args:
        loop: the program's.
        running: names what runs there now, for the warning.
        period_s: how often to look.
    """
    answered = asked = time.monotonic()
    waiting = warned = False
    here = asyncio.get_running_loop()

    def answer() -> None:
        nonlocal answered, waiting, warned
        answered, waiting = time.monotonic(), False
        if warned:
            warned = False
            log.warning("loop_unblocked", blocked_s=round(answered - asked, 1))

    while not loop.is_closed():
        if not waiting:
            waiting, asked = True, time.monotonic()
            loop.call_soon_threadsafe(lambda: here.call_soon_threadsafe(answer))
        before = time.monotonic()
        await asyncio.sleep(period_s)
        late_s = time.monotonic() - before - period_s
        if late_s > BLOCKED_S:
            log.warning("interpreter_blocked", blocked_s=round(late_s, 1), running=running(), remedy=LOCKED_REMEDY)
            continue
        if waiting and not warned and time.monotonic() - asked > BLOCKED_S:
            warned = True
            log.warning("loop_blocked", running=running(), remedy=REMEDY)
