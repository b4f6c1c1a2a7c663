"""Follows runs until they end, for `run watch` and `run submit --follow`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from orchestrator.cli.exits import Exit, exit_of_state
from orchestrator.cli.follow import Follower
from orchestrator.cli.run_screen import RunScreen, draw_runs
from orchestrator.cli.screen import shown
from orchestrator.cli.waiting import at_its_end, told_why_it_waits
from protocol.errors import FleetlineError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from agent.runs import Run
    from orchestrator.cli.output import Output

__all__ = ["follow", "follow_all", "live"]

BREATHER_ENTRIES = 256
"""After so many entries at a stretch the view has its turn."""
LOOK_EVERY_S = 2.0
"""How often the hub is asked why a run waits."""


async def follow(out: Output, run: Run, *, named: bool = False) -> Exit:
    """Print entries until the run ends, and return what its end means.

    Args:
        out: where to.
        run: which.
        named: begin each line with the run's id.
    """
    follower = Follower(out, run.log, prefix=f"{run.id} " if named else "")
    async with told_why_it_waits(out, run), run.watch(on_reset=follower.reset) as entries:
        async for entry in entries:
            follower.entry(entry)
    return exit_of_state((await at_its_end(run)).state)


async def follow_all(out: Output, runs: Sequence[Run]) -> Exit:
    """Print the entries of runs until all have ended."""
    return await _all([follow(out, run, named=len(runs) > 1) for run in runs])


async def live(runs: Sequence[Run]) -> Exit:
    """Show runs on a terminal until all have ended."""
    screens = [RunScreen(await run.get()) for run in runs]
    async with shown(lambda width, height: draw_runs(screens, int(time.time() * 1000), width, height)) as changed:
        return await _all([_fold(run, screen, changed) for run, screen in zip(runs, screens, strict=True)])


async def _fold(run: Run, screen: RunScreen, changed: Callable[[], None]) -> Exit:
    """Take in a run's entries until it ends."""
    looking = asyncio.create_task(_look(run, screen, changed))
    try:
        async with run.watch(on_reset=screen.reset) as entries:
            async for entry in entries:
                screen.entry(entry)
                changed()
                if screen.entries % BREATHER_ENTRIES == 0:
                    await asyncio.sleep(0)
    finally:
        looking.cancel()
        await asyncio.wait((looking,))
    info = await at_its_end(run)
    screen.known(info)
    return exit_of_state(info.state)


async def _look(run: Run, screen: RunScreen, changed: Callable[[], None]) -> None:
    """Ask the hub of a run that waits, for the reason, which is in no entry."""
    while not screen.over:
        await asyncio.sleep(LOOK_EVERY_S)
        with contextlib.suppress(FleetlineError):  # whoever reads the entries meets the same, and tells it
            screen.known(await (await run.last()).get())
            changed()


async def _all(watching: Sequence[Coroutine[Any, Any, Exit]]) -> Exit:
    """Return what the end of runs means: of the first one that did not succeed, else that all is done."""
    async with asyncio.TaskGroup() as tasks:
        ends = [tasks.create_task(each) for each in watching]
    return next((end.result() for end in ends if end.result() is not Exit.DONE), Exit.DONE)
