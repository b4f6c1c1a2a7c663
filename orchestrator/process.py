"""What a process that serves sets up for itself: its event loop, and the signals that stop it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

__all__ = ["loop_factory", "told_to_stop"]


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """Return the fastest event loop that is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def told_to_stop() -> Awaitable[signal.Signals]:
    """Return what becomes the signal that this process is stopped with."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[signal.Signals] = loop.create_future()

    def tell(number: signal.Signals) -> None:
        if not told.done():
            told.set_result(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, tell, number)
    return told
