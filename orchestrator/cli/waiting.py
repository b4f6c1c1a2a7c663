"""Waiting for a run: what is told beside its entries, on standard error, and what its end is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from orchestrator.cli.output import Output
from protocol.errors import FleetlineError

if TYPE_CHECKING:
    from agent.runs import Run
    from protocol.requests import RunInfo

__all__ = ["LOOK_AFTER_S", "at_its_end", "left_behind", "told_why_it_waits"]

LOOK_AFTER_S = 1.5
"""How long a run may wait before the reason is looked for: most are taken at once."""


@contextlib.asynccontextmanager
async def told_why_it_waits(out: Output, run: Run, after_s: float = LOOK_AFTER_S) -> AsyncIterator[None]:
    """Say once why a run that is not taken waits, where the hub knows that nobody can take it."""
    telling = asyncio.create_task(_tell(out, run, after_s))
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait((telling,))


async def _tell(out: Output, run: Run, after_s: float) -> None:
    await asyncio.sleep(after_s)
    with contextlib.suppress(FleetlineError):  # whoever waits for the run meets the same, and tells it
        info = await run.get()
        if info.reason and info.state == "queued":
            out.note(f"waits because {info.reason}")


async def at_its_end(run: Run) -> RunInfo:
    """Return a run that was followed to its end, as it is there: the run that it went on as, where it did."""
    return await (await run.last()).get()


@contextlib.contextmanager
def left_behind(out: Output, run: Run) -> Iterator[None]:
    """Say at Ctrl-C that the run does not end with this command."""
    try:
        yield
    except asyncio.CancelledError:
        out.note(f"the run goes on; fleetline run watch {run.id}")
        raise
