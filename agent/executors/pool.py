"""Child processes for handlers: started ahead, used again, and replaced when they are gone or have grown.

They are spawned, each a fresh interpreter that imports the program: a fork of a process with threads, and every agent
has some, copies locks that nobody will ever release. That costs a fraction of a second, so some are started ahead, and
told which handlers there are, which has them import what those need.

    started -> prepared -> idle <-> runs a handler -> gone (it crashed, was killed, or holds more than it did at first)

Whatever goes to a child is written by a thread of its own: one that reads nothing holds up nobody. See
docs/decisions/0018-isolation.md.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import select
import signal
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from agent.errors import ChildDied
from agent.executors.child import DUMP_SIGNAL, child_main
from agent.executors.exits import ended
from agent.executors.memory import in_mib, resident_bytes

__all__ = ["GROWTH_BYTES_MAX", "Child", "Pool", "died", "pickled"]

GROWTH_BYTES_MAX = 256 * 1024 * 1024
"""A child that holds so much more than after its first run is replaced by a fresh one."""

DUMP_WAIT_S = 1.0
"""How long a child may take to write its stacks; one that is frozen writes nothing."""

DUMP_QUIET_S = 0.1
"""Stacks are complete when nothing more came for so long."""

DUMP_BYTES_MAX = 64 * 1024
LEAVE_WAIT_S = 5.0

_SPAWN = multiprocessing.get_context("spawn")


def pickled(value: Any) -> bytes:
    """Return what a child can be given; a function goes by its name."""
    return bytes(ForkingPickler.dumps(value))


class Child:
    """One child process. It dies with the thread that made it, which is the one of the program's loop.

    Attributes:
        pipe: to read what it says; `send` writes to it.
        fresh: it has run nothing yet.
        ready: it said that it is there, and knows the signal for its stacks.
    """

    def __init__(self, prepared: Sequence[bytes] = ()) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self._dumps, dumps = _SPAWN.Pipe(duplex=False)
        self.process: SpawnProcess = _SPAWN.Process(target=child_main, args=(theirs, dumps), daemon=True)
        self.process.start()
        theirs.close()
        dumps.close()
        os.set_blocking(self._dumps.fileno(), False)
        self.fresh, self.ready = True, False
        self._first_bytes = 0
        self._letters: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name=f"to child {self.process.pid}", daemon=True).start()
        self.send("prepare", tuple(prepared))

    @property
    def alive(self) -> bool:
        """Whether its process is there."""
        return self.process.is_alive()

    @property
    def grown(self) -> bool:
        """Whether it holds much more memory than after its first run, and had better be replaced."""
        held = resident_bytes(self.process.pid or 0)
        self._first_bytes = self._first_bytes or held
        return held - self._first_bytes > GROWTH_BYTES_MAX

    def send(self, *message: Any) -> None:
        """Send a message, from any thread, without waiting. A child that is gone is noticed by whoever reads."""
        self._letters.put(message)

    def stacks(self) -> str:
        """Return where its threads are, whatever they do; nothing where it does not say. Takes a second at most."""
        self.last_words()
        if not self.ready or not self.alive:
            return ""
        os.kill(self.process.pid or 0, DUMP_SIGNAL)
        text, until_s, wait_s = "", time.monotonic() + DUMP_WAIT_S, DUMP_WAIT_S
        while time.monotonic() < until_s and self._readable(wait_s):
            said = self.last_words()
            text += said
            if not said:
                break
            wait_s = DUMP_QUIET_S
        return text

    def last_words(self) -> str:
        """Return what it wrote of its stacks and was not read: of a crash, say."""
        try:
            return os.read(self._dumps.fileno(), DUMP_BYTES_MAX).decode("utf-8", "backslashreplace")
        except OSError:
            return ""

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self._letters.put(None)

    def close(self) -> None:
        """End it, and wait until it is gone."""
        self.kill()
        self.process.join(LEAVE_WAIT_S)
        self.pipe.close()
        self._dumps.close()

    def _readable(self, within_s: float) -> bool:
        return bool(select.select([self._dumps.fileno()], [], [], within_s)[0])

    def _write(self) -> None:
        while (message := self._letters.get()) is not None:
            try:
                self.pipe.send(message)
            except (OSError, ValueError):  # it is gone, or its pipe is closed
                return


class Pool:
    """The children of one agent. Used from its loop.

    Args:
        ahead: how many are there before anybody asks.
        functions: the handlers that may run in one.
    """

    def __init__(self, ahead: int = 0, functions: Sequence[Callable[..., Any]] = ()) -> None:
        self._ahead = ahead if functions else 0
        self._functions = functions
        self._prepared: tuple[bytes, ...] = ()
        self._idle: list[Child] = []
        self._taken = 0
        self._closed = False

    def fill(self) -> None:
        """Start as many as are to be there ahead."""
        while not self._closed and self._taken + len(self._idle) < self._ahead:
            self._idle.insert(0, self._new())

    def take(self) -> Child:
        """Return a child that nobody uses."""
        self._taken += 1
        while self._idle:
            child = self._idle.pop()
            if child.alive:
                return child
        return self._new()

    def give_back(self, child: Child, *, usable: bool) -> None:
        """Take a child back, to be used again or, where it is not `usable` any more, replaced."""
        self._taken -= 1
        child.fresh = False
        if usable and child.alive and not child.grown and not self._closed:
            self._idle.append(child)
        else:
            child.kill()
            self.fill()

    def close(self) -> list[Child]:
        """Kill all that are idle, and start no more. Returns those that were killed, for `Child.close`."""
        self._closed = True
        idle, self._idle = self._idle, []
        for child in idle:
            child.kill()
        return idle

    def _new(self) -> Child:
        if not self._prepared:
            self._prepared = tuple(pickled(function) for function in self._functions)
        return Child(self._prepared)


def died(child: Child, *, begun: bool, memory_bytes: int | None = None) -> ChildDied:
    """Return what to say of a child that ended by itself, before or while it ran a handler."""
    code = child.process.exitcode
    if not begun:
        hint = "the agent's standard error has what went wrong when the child imported the program"
    elif code == -signal.SIGKILL:
        hint = "not by this agent: most often that is the kernel, for want of memory; its log says so"
    elif code is not None and code < 0:
        hint = "most often that is a crash in native code; the trace has the stacks of its threads"
    else:
        hint = "something in the handler ended its process, by os._exit for one"
    if memory_bytes is not None and code is not None and code < 0:
        hint += f"; its memory was limited to {in_mib(memory_bytes)}"
    when = "returned" if begun else "ran anything of it"
    message = f"the handler's process {ended(code)} before it {when}: {hint}; what it emitted before is in the log"
    return ChildDied(message, child.last_words() or None)
