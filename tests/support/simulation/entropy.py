"""Clocks, ids and chance of every machine: virtual, seeded, each machine's its own.

The product reads clocks and randomness at its edges only; those modules get these instead while a simulation
runs. Objects that the product keeps in sets get a hash that does not depend on where they are in memory. What
is left is the hash of strings: simulations run in a process whose `PYTHONHASHSEED` is fixed.
"""

from __future__ import annotations

import importlib
import random
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from random import Random
from types import ModuleType
from typing import Any

from orchestrator import acks, connection, following, peers, tail
from tests.support.simulation.loop import Machine, SimulationLoop, current_machine
from tests.support.simulation.net import Dial, Network

__all__ = ["EPOCH_MS", "Chance", "Clock", "installed", "patched"]

EPOCH_MS = 1_900_000_000_000
"""The true time at which every simulation begins, in ms since the epoch of Unix."""

MONOTONIC_MS = 3_600_000

_IN_SETS = (connection.Connection, following.Subscription, tail.Tail, acks.DurableAck, peers.Peer)


class Clock:
    """Stands in for the module `time`."""

    def __init__(self, loop: SimulationLoop) -> None:
        self._loop = loop

    def time_ns(self) -> int:
        """Return the wall clock of the machine that runs."""
        machine = current_machine()
        skew_ms = machine.skew_ms if machine is not None else 0
        return (EPOCH_MS + skew_ms) * 1_000_000 + int(self._loop.time() * 1e9)

    def time(self) -> float:
        """Return the wall clock of the machine that runs, in seconds."""
        return self.time_ns() / 1e9

    def monotonic_ns(self) -> int:
        """Return the clock that never steps of the machine that runs."""
        machine = current_machine()
        born_ms = machine.born_ms if machine is not None else 0
        return (MONOTONIC_MS - born_ms) * 1_000_000 + int(self._loop.time() * 1e9)

    def monotonic(self) -> float:
        """Return the clock that never steps, in seconds."""
        return self.monotonic_ns() / 1e9


class Chance:
    """Stands in for the modules `secrets` and `random`; each machine draws from its own."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._of: dict[str, Random] = {}

    def token_bytes(self, nbytes: int) -> bytes:
        """Return bytes that no other machine gets."""
        return self._mine().randbytes(nbytes)

    def token_hex(self, nbytes: int) -> str:
        """Return them in hex."""
        return self.token_bytes(nbytes).hex()

    def random(self) -> float:
        """Return a number in [0, 1)."""
        return self._mine().random()

    def _mine(self) -> Random:
        machine = current_machine()
        name = machine.name if machine is not None else ""
        if name not in self._of:
            self._of[name] = Random(f"{self._seed}/{name}")
        return self._of[name]


class OneThread:
    """Stands in for `agent.threads.LoopThread`: the simulation's own loop, on the machine that made it."""

    over = False

    def __init__(self, name: str = "link") -> None:
        del name
        machine = current_machine()
        assert machine is not None
        self._machine: Machine = machine

    def post(self, call: Callable[..., object], *args: object) -> None:
        """Have `call` run in the next turn."""
        self._machine.run(call, *args)

    def start(self, work: Any) -> Any:
        """Run a coroutine."""
        return self._machine.start(work, "beside")

    def stop(self) -> None:
        """There is nothing to stop: tasks end by themselves or with their machine."""


@contextmanager
def patched(*changes: tuple[str, Any]) -> Iterator[None]:
    """Put other values in place of attributes, each named `module.attribute` or `module:Class.attribute`."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for path, value in changes:
            holder, name = _holder(path)
            undo.append((holder, name, holder.__dict__.get(name)))
            setattr(holder, name, value)
        yield
    finally:
        for holder, name, value in reversed(undo):
            if value is None:
                delattr(holder, name)
            else:
                setattr(holder, name, value)


def _holder(path: str) -> tuple[Any, str]:
    module, colon, inside = path.partition(":")
    if not colon:
        module, _, inside = path.rpartition(".")
    holder: Any = importlib.import_module(module)
    *parts, name = inside.split(".")
    for part in parts:
        holder = getattr(holder, part)
    return holder, name


@contextmanager
def installed(loop: SimulationLoop, network: Network, seed: int) -> Iterator[None]:
    """Let the product live in a simulation."""
    clock, chance = Clock(loop), Chance(seed)

    def dial(url: str, **options: Any) -> Dial:
        return Dial(network, url, **options)

    with patched(
        *_uses_of(time, clock),
        *_uses_of(secrets, chance),
        *_uses_of(random, chance),
        ("agent.link.connect", dial),
        ("agent.service.LoopThread", OneThread),
        *_steady_hashes(),
    ):
        yield


def _uses_of(module: ModuleType, substitute: object) -> Iterator[tuple[str, Any]]:
    """Find every module of the product that uses a module of the standard library by its name."""
    name = module.__name__
    for path, user in sorted(sys.modules.items()):
        if path.startswith(("agent.", "orchestrator.", "protocol.")) and getattr(user, name, None) is module:
            yield f"{path}.{name}", substitute


def _steady_hashes() -> Iterator[tuple[str, Any]]:
    """Number objects as they are made, and let their numbers be their hashes."""
    numbers = count(1)
    known: dict[int, int] = {}

    def numbered(cls: Any) -> tuple[Any, Any]:
        made = cls.__init__

        def init(self: object, *args: Any, **options: Any) -> None:
            known[id(self)] = next(numbers)
            made(self, *args, **options)

        return init, lambda self: known[id(self)]

    for cls in _IN_SETS:
        init, steady = numbered(cls)
        path = f"{cls.__module__}:{cls.__qualname__}"
        yield f"{path}.__init__", init
        yield f"{path}.__hash__", steady
