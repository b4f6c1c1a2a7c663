"""The agent's side of the guard: starts it, has it start programs, signals their groups, hears of their ends.

Everything happens on one event loop. What is sent is small against the socket's buffer, and the guard reads at
once: a guard that takes nothing is as good as gone, and is killed, which has the kernel kill its programs. Where
the guard is gone, the groups are killed from here.

See `agent.executors.guard_main` for what they say to each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.program import program_error

__all__ = ["Guard", "Guarded"]

MAIN = Path(__file__).with_name("guard_main.py")
READ_BYTES = 64 * 1024
LEAVE_WAIT_S = 10.0
"""How long a guard may take to end, once it is told to, before it is killed."""

KEPT_BACK = ("FLEETLINE_TOKEN", "FLEETLINE_JOIN_TOKEN")
"""Variables that are the agent's own: no program needs them."""


class Guarded:
    """One program that was started.

    Attributes:
        pid: of the program, and of its group.
        exited: its exit code, negative where a signal ended it; done when the program itself has ended.
        gone: done when no process of its group is left.
        over_bytes: what its group held when it was killed for that; None where it was not.
    """

    def __init__(self, guard: Guard, number: int, pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.exited: asyncio.Future[int] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.over_bytes: int | None = None
        self._guard = guard
        self._number = number

    def signal(self, number: signal.Signals) -> None:
        """Signal its whole group, if any of it is left."""
        if not self.gone.done():
            self._guard.say({"do": "signal", "id": self._number, "number": int(number)})

    def orphaned(self) -> None:
        """The guard is gone: kill the group from here."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            if not self.exited.done():
                self.exited.set_result(-signal.SIGKILL)
            self.gone.set_result(None)


class Guard:
    """A guard's process. It starts one command, as often as it is asked to.

    Attributes:
        lost: its process is gone, or about to be.
    """

    def __init__(self, command: tuple[str, ...]) -> None:
        self.lost = False
        self._command = command
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._starting: dict[int, asyncio.Future[Guarded]] = {}
        self._started: dict[int, Guarded] = {}
        self._held = b""
        self._line, theirs = socket.socketpair()
        with theirs:
            self._line.setblocking(False)
            words = [sys.executable, "-I", "-S", str(MAIN), str(theirs.fileno()), *command]
            self._process = subprocess.Popen(
                words,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in KEPT_BACK},
                start_new_session=True,
            )
        self._loop.add_reader(self._line, self._on_readable)

    async def start(
        self, environment: dict[str, str], descriptors: tuple[int, int, int], memory_bytes: int | None = None
    ) -> Guarded:
        """Start the command, with variables of its own, its three standard descriptors, and what its group may hold.

        Raises:
            ChildRaised: it cannot be executed.
        """
        number = next(self._numbers)
        started: asyncio.Future[Guarded] = self._loop.create_future()
        self._starting[number] = started
        if self.lost:
            self._not_started(started, "the process that guards programs has ended")
        self.say({"do": "start", "id": number, "environment": environment, "memory": memory_bytes}, descriptors)
        try:
            return await started
        except asyncio.CancelledError:
            if not started.cancelled():
                started.result().signal(signal.SIGKILL)
            raise

    def say(self, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Tell the guard something. Where it is gone, that is noticed by who listens."""
        if self.lost:
            return
        data = json.dumps(message).encode("ascii") + b"\n"
        try:
            sent = socket.send_fds(self._line, [data], list(descriptors))
        except OSError:
            sent = 0
        if sent != len(data):
            self._lose()

    async def close(self) -> None:
        """End it, and with it whatever it still guards."""
        if not self.lost:
            self._lose(kill=False)
        try:
            await asyncio.to_thread(self._process.wait, LEAVE_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _on_readable(self) -> None:
        try:
            data = self._line.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose()
            return
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._hear(json.loads(line))

    def _hear(self, said: dict[str, Any]) -> None:
        number = said["id"]
        match said:
            case {"started": pid}:
                guarded = self._started[number] = Guarded(self, number, pid)
                starting = self._starting.pop(number)
                if starting.cancelled():  # nobody waits for it any more
                    guarded.signal(signal.SIGKILL)
                else:
                    starting.set_result(guarded)
            case {"failed": why}:
                self._not_started(self._starting.pop(number), why)
            case {"over": held}:
                self._started[number].over_bytes = held
            case {"exited": code}:
                self._started[number].exited.set_result(code)
            case {"gone": True}:
                self._started.pop(number).gone.set_result(None)

    def _lose(self, *, kill: bool = True) -> None:
        if self.lost:
            return
        self.lost = True
        self._loop.remove_reader(self._line)
        self._line.close()
        if kill:
            self._process.kill()
            self._process.poll()
        for guarded in self._started.values():
            guarded.orphaned()
        for starting in self._starting.values():
            self._not_started(starting, "the process that guards programs has ended")
        self._started.clear()
        self._starting.clear()

    def _not_started(self, starting: asyncio.Future[Guarded], why: str) -> None:
        if not starting.done():
            error = f"{self._command[0]} cannot be started: {why}; look at the agent's command, on its own machine"
            starting.set_exception(program_error("ProgramNotStarted", error))
