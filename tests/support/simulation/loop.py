"""An event loop on a virtual clock, and the machines that share it.

When nothing is ready, time jumps to the next timer; no socket and no thread takes part. What runs belongs to a
machine (a process of the simulated fleet), by its context. A machine can be frozen, as SIGSTOP does: nothing of
it runs until it is thawed. And it can be killed, as SIGKILL does: its tasks end at whatever they await, and
what they still do then cannot leave the machine.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context, ContextVar, copy_context
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["Machine", "SimulationLoop", "StandsStill", "current_machine", "outside"]

_MACHINE: ContextVar[Machine | None] = ContextVar("machine", default=None)

Call = tuple[asyncio.Handle, Callable[..., object], tuple[Any, ...], Context]


class StandsStill(AssertionError):
    """Nothing is ready and no timer is set: the simulation would wait for ever."""


def current_machine() -> Machine | None:
    """Return the machine that runs now; None for the world between them."""
    return _MACHINE.get()


def outside() -> Context:
    """Return a context that belongs to no machine."""
    return Context()


class Machine:
    """One process of the fleet.

    Attributes:
        name: unique in a simulation, also over restarts.
        skew_ms: how far its wall clock is from the true time.
        born_ms: what its monotonic clock is behind the true time by.
        tasks: that have not ended, in the order in which they were made.
    """

    def __init__(self, loop: SimulationLoop, name: str, *, skew_ms: int = 0, born_ms: int = 0) -> None:
        self.name = name
        self.skew_ms = skew_ms
        self.born_ms = born_ms
        self.alive = True
        self.frozen = False
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.context = Context()
        self.context.run(_MACHINE.set, self)
        self.loop = loop
        self._held: list[Call] = []
        self._fuse = 0
        self._on_fuse: Callable[[], object] | None = None

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run something on this machine."""
        return self.loop.create_task(work, name=name, context=self.context)

    def begin(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Run something on this machine, which owns it."""
        self.tasks[self.start(work, name)] = None

    def run(self, call: Callable[..., object], *args: object) -> None:
        """Have `call` run on this machine, in the next turn."""
        self.loop.call_soon(call, *args, context=self.context)

    def freeze(self) -> None:
        """Let nothing of this machine run."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on: all that came up meanwhile runs now, in its order."""
        self.frozen = False
        held, self._held = self._held, []
        for handle, call, args, context in held:
            self.loop.call_soon(_unless_cancelled, handle, call, args, context=context)

    def kill(self) -> None:
        """End everything. Whoever calls this has cut the machine off from network and store before."""
        self.alive = False
        self.thaw()
        for task in tuple(self.tasks):
            task.cancel()

    def hold(self, call: Call) -> None:
        """Keep a call until the machine is thawed."""
        self._held.append(call)

    def after_turns(self, turns: int, call: Callable[[], object]) -> None:
        """Have `call` run, outside of this machine, once the machine has had so many turns."""
        self._fuse, self._on_fuse = turns, call

    def burn(self) -> None:
        """Count a turn."""
        if self._on_fuse is not None:
            self._fuse -= 1
            if self._fuse <= 0:
                call, self._on_fuse = self._on_fuse, None
                self.loop.call_soon(call, context=outside())


def _unless_cancelled(handle: asyncio.Handle, call: Callable[..., object], args: tuple[Any, ...]) -> None:
    if not handle.cancelled():
        call(*args)


class _Jump(selectors.BaseSelector):
    """Waits for nothing: lets the time pass instead."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise StandsStill("nothing is ready and no timer is set")
        self.now_s += timeout
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class SimulationLoop(asyncio.SelectorEventLoop):
    """The loop of one simulation.

    Attributes:
        turns: calls that were run so far.
        owners: the machine of each task.
        turns_max: after so many the simulation is given up: something runs in circles.
    """

    def __init__(self, turns_max: int) -> None:
        self._jump = _Jump()
        self.turns = 0
        self.turns_max = turns_max
        self.owners: WeakKeyDictionary[asyncio.Future[Any], Machine] = WeakKeyDictionary()
        super().__init__(self._jump)
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Return the virtual time, in seconds from 0."""
        return self._jump.now_s

    @property
    def now_ms(self) -> int:
        """The virtual time in ms."""
        return int(self._jump.now_s * 1000)

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """Run a callback in the next turn, on the machine of its context."""
        context = copy_context() if context is None else context
        cell: list[asyncio.Handle] = []
        handle = super().call_soon(self._turn, cell, callback, args, context, context=context)
        cell.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        """Run a callback at a time, on the machine of its context."""
        context = copy_context() if context is None else context
        cell: list[asyncio.Handle] = []
        handle = super().call_at(when, self._turn, cell, callback, args, context, context=context)
        cell.append(handle)
        return handle

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """Do as `call_soon`: there is one thread."""
        return self.call_soon(callback, *args, context=context)

    def _turn(self, cell: list[asyncio.Handle], callback: Any, args: tuple[Any, ...], context: Context) -> None:
        self.turns += 1
        if self.turns > self.turns_max:
            self.turns_max += 10_000  # the end of the simulation needs some, too
            raise StandsStill(f"{self.turns} turns in {self.time():.3f} s: something runs in circles")
        machine = _MACHINE.get()
        if machine is not None and machine.frozen:
            machine.hold((cell[0], callback, args, context))
            return
        callback(*args)
        if machine is not None:
            machine.burn()


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Any, *, name: str | None = None, context: Context | None = None
) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, name=name, context=context)
    machine = (context if context is not None else copy_context()).get(_MACHINE)
    if machine is not None:
        machine.tasks[task] = None
        machine.loop.owners[task] = machine
        task.add_done_callback(machine.tasks.pop)
        if not machine.alive:
            task.cancel()
    return task
