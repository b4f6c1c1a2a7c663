"""A view that stands on a terminal and is painted anew, never more often than the eye needs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from orchestrator.cli.output import Output, reader_watched

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["IDLE_S", "REFRESH_S", "Draw", "can_be_live", "shown"]

Draw = Callable[[int, int], "RenderableType"]
"""(width, height) -> what is to be seen, which fits into that."""

REFRESH_S = 0.1
"""From one painting to the next, at least."""
IDLE_S = 1.0
"""From one painting to the next, at most: times that are shown go on."""
ENDINGS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process at once, which would leave the terminal as it is. Ctrl-C ends the command's task."""


def can_be_live(out: Output) -> bool:
    """Return whether standard output is a terminal on which lines can be painted over."""
    from rich.console import Console

    return out.terminal and not Console().is_dumb_terminal


@contextlib.asynccontextmanager
async def shown(draw: Draw) -> AsyncIterator[Callable[[], None]]:
    """Keep on the terminal what `draw` gives; yields what to call when it would give something else.

    At the end, whichever, the last view stays and the cursor is back; a signal ends the process only after that.

    Raises:
        CliError: the terminal is gone.
    """
    from rich.console import Console
    from rich.live import Live

    console, changed = Console(highlight=False), asyncio.Event()
    # What is said on standard error meanwhile goes above the view; into a file it goes as always.
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=sys.stderr.isatty())

    def paint() -> None:
        with reader_watched():
            live.update(draw(console.width, max(1, console.height - 1)), refresh=True)

    with _ended_cleanly(), live:
        painting = asyncio.create_task(_keep_painting(paint, changed))
        try:
            yield changed.set
        finally:
            painting.cancel()
            await asyncio.wait((painting,))
            paint()


@contextlib.contextmanager
def _ended_cleanly() -> Iterator[None]:
    """Have signals end what is done here first, and only then the process, which is seen to end by them."""
    loop, task, came = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None
    taken = [number for number in ENDINGS if signal.getsignal(number) == signal.SIG_DFL]  # nohup ignores one

    def end(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in taken:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
        if came:
            signal.raise_signal(came[0])


async def _keep_painting(paint: Callable[[], None], changed: asyncio.Event) -> None:
    while True:
        changed.clear()
        paint()
        await asyncio.sleep(REFRESH_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S - REFRESH_S):
                await changed.wait()
