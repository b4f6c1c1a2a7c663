"""One simulation: a fleet on a virtual clock, a script of faults, and a judgement at the end.

    outcome = simulate(seed)
    assert not outcome.violations, outcome.report()

Everything follows from the seed: who there is, what they do, what goes wrong and when. The phases:

    work and faults      about twenty seconds of the fleet's time
    healing              no more faults; every machine is up, every connection may be made
    quiet                every run is over, everything is acknowledged, every subscriber is at the end
    leaving              clients and agents go; what the hubs still hold in memory then is a leak
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any

import structlog

from orchestrator.store.memory import MemoryServer
from tests.support.simulation import judge
from tests.support.simulation.entropy import EPOCH_MS, installed
from tests.support.simulation.faults import Faults, Theme
from tests.support.simulation.fleet import Fleet
from tests.support.simulation.ledger import Ledger
from tests.support.simulation.loop import SimulationLoop, current_machine
from tests.support.simulation.net import Network
from tests.support.simulation.store import StoreFaults
from tests.support.simulation.trace import Trace

__all__ = ["Outcome", "simulate"]

TURNS_MAX = 300_000
WORK_S = 20.0
SETTLE_S = 6.0
"""A hub that was told nothing looks at every log within two seconds; a silent connection is dead within two."""
QUIET_WITHIN_S = 150.0
LEAVE_S = 20.0
LOOK_S = 0.25
THEMES = (None, *Theme)
"""What seeds have for a theme, in turn."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulation came to."""

    seed: int
    violations: tuple[str, ...]
    digest: str
    events: int
    virtual_s: float
    script: tuple[str, ...]
    lines: tuple[str, ...] = ()
    surely: Theme | None = None

    def report(self) -> str:
        """Return what went wrong, what was done to the fleet, and how to see it again."""
        shown = "\n  ".join(self.violations[:20])
        script = "\n  ".join(self.script)
        theme = "" if self.surely is None else f" --theme '{self.surely.value}'"
        return (
            f"seed {self.seed}: {len(self.violations)} violations\n  {shown}\nthe script was\n  {script}\n"
            "again, with every message: PYTHONHASHSEED=0 python -m tests.support.simulation"
            f" --seed {self.seed}{theme} --trace"
        )


def simulate(seed: int, *, keep_lines: bool = False, surely: Theme | None = None) -> Outcome:
    """Run one simulation. The same seed gives the same digest in every process with the same `PYTHONHASHSEED`.

    Args:
        seed: what everything is drawn from.
        keep_lines: keep every event in words.
        surely: what happens in any case; else the seed says it: four seeds of five have a theme.
    """
    surely = surely or THEMES[seed % len(THEMES)]
    loop = SimulationLoop(TURNS_MAX)
    world = _World(seed, loop, keep_lines=keep_lines, surely=surely)
    structlog.configure(processors=[world.on_log], cache_logger_on_first_use=False)
    try:
        with world.installed():
            loop.run_until_complete(world.live())
            return world.outcome()
    finally:
        loop.close()


class _World:
    def __init__(self, seed: int, loop: SimulationLoop, *, keep_lines: bool, surely: Theme | None) -> None:
        self.seed = seed
        self.surely = surely
        self.loop = loop
        self.trace = Trace(keep=keep_lines)
        self.ledger = Ledger()
        self.network = Network(loop, Random(f"network/{seed}"), self.trace)
        self.server = MemoryServer(lambda: EPOCH_MS + loop.now_ms)
        self.store_faults = StoreFaults()
        self.fleet = Fleet(loop, seed, self.network, self.server, self.store_faults, self.trace, self.ledger)
        self.faults = Faults(self.fleet, Random(f"faults/{seed}"), surely)
        self.violations: list[str] = []
        self._ended = False
        loop.set_exception_handler(self._on_exception)

    def installed(self) -> ExitStack:
        """Let the product live here."""
        stack = ExitStack()
        stack.enter_context(installed(self.loop, self.network, self.seed))
        return stack

    async def live(self) -> None:
        """Go through all phases."""
        try:
            await self.fleet.start(WORK_S)
            await self._audited(self.faults.run(WORK_S))
            await self.fleet.heal()
            if not await self._within(QUIET_WITHIN_S, lambda: not judge.apart(self.fleet)):
                self.violations += judge.apart(self.fleet)
            await asyncio.sleep(SETTLE_S)
            if await self._within(QUIET_WITHIN_S, lambda: not judge.unquiet(self.fleet)):
                self.violations += judge.promise(self.fleet)
                await self._leave()
            else:
                self.violations += [f"not quiet: {what}" for what in judge.unquiet(self.fleet)]
        except AssertionError as fault:
            self.violations.append(f"the simulation failed: {fault!r}")
        await self._bury()

    async def _audited(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something, and look all the time for what must never be so."""
        task = self.loop.create_task(work)
        found: dict[str, None] = {}
        while not task.done():
            await asyncio.wait([task], timeout=LOOK_S)
            found |= dict.fromkeys(judge.audit(self.fleet))
        await task
        self.violations += found

    async def _leave(self) -> None:
        await self._end_within(LEAVE_S, self.fleet.leave())
        if not await self._within(LEAVE_S, lambda: not judge.leftovers(self.fleet)):
            self.violations += [f"left over: {what}" for what in judge.leftovers(self.fleet)]
        await self._end_within(LEAVE_S, self.fleet.stop_hubs())
        self.violations += judge.ended_badly(self.fleet)

    async def _within(self, limit_s: float, condition: Callable[[], bool]) -> bool:
        until_s = self.loop.time() + limit_s
        while not condition():
            if self.loop.time() > until_s:
                return False
            await asyncio.sleep(LOOK_S)
        return True

    async def _end_within(self, limit_s: float, work: Coroutine[Any, Any, None]) -> None:
        try:
            async with asyncio.timeout(limit_s):
                await work
        except TimeoutError:
            self.violations.append("leaving took too long")

    async def _bury(self) -> None:
        """End every task of every machine, so that nothing outlives the simulation."""
        self._ended = True
        self.fleet.kill_all()
        mine = asyncio.current_task()
        for _ in range(20):
            left = [task for task in asyncio.all_tasks() if task is not mine]
            if not left:
                return
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=5.0)

    def outcome(self) -> Outcome:
        """Return what it came to."""
        return Outcome(
            self.seed,
            (*self.violations, *self.ledger.faults),
            self.trace.digest,
            self.trace.events,
            self.loop.time(),
            tuple(self.faults.script),
            tuple(self.trace.lines),
            self.surely,
        )

    def on_log(self, _logger: Any, method: str, event: structlog.typing.EventDict) -> Any:
        """Take what the product logs: an error with a traceback is a bug of its own."""
        machine = current_machine()
        name = machine.name if machine is not None else "?"
        fault = event.pop("exc_info", None)
        if machine is not None and machine.alive and not self._ended:
            self.trace.note(self.loop.time(), name, f"log {method} {event}")
            if isinstance(fault, BaseException):
                told = "".join(traceback.format_exception(fault)[-4:])
                self.violations.append(f"{name}: {event.get('event')}: {told}")
        raise structlog.DropEvent

    def _on_exception(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        owner = self.loop.owners.get(context.get("task") or context.get("future") or asyncio.Future(loop=self.loop))
        if owner is not None and not owner.alive:
            return
        fault = context.get("exception")
        self.violations.append(f"{context.get('message')}: {fault!r}")
