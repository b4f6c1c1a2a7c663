"""Connections that were accepted and with which nothing has begun: most say something first, and some never do.

    Turns -> Doorstep: silent -> (bytes have come) -> due -> begun

Who is silent is an open file and a line here, nothing more: a flood of connections that say nothing costs little.
Who has said something is begun when it is its turn, a few in each turn of the event loop, so that those who come
together are served together. Addresses take turns: behind a flood from one, a peer from another does not wait. And of
one address who came last and who has waited for longest take turns: behind a flood that has come, a peer does not wait,
and one that came in its midst is not forgotten.

Connections are accepted as soon as they come, since the system keeps only so many that were not, and has the peer of
one more wait for a second before it tries again; but while many are due, no more are taken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from socket import MSG_PEEK, socket

from orchestrator.core.crowd import Guest

__all__ = ["Caller", "Doorstep"]

TURN_CALLERS_MAX = 16
LEAST_S = 0.001
TURN_SWEPT_MAX = 256
SWEEPS = 4
"""How often whoever has been silent for too long is looked for, in the time that may be taken."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who has said something.

    Attributes:
        connection: it does not block.
        crowd: what its address counts for; "" where only its request can say.
        guest: counts it, but not while it waits for its turn.
        left_s: what is left of the time for its request. To wait for its turn takes nothing of it.
    """

    connection: socket
    crowd: str
    guest: Guest
    left_s: float


@dataclass(frozen=True, slots=True)
class _Silent:
    crowd: str
    guest: Guest
    until_s: float


class Doorstep:
    """Those who wait.

    Args:
        begin: begins with a caller, and lets its guest come back.
        silence_s: how long one may be silent.
        due_max: of those who have spoken, how many should wait; beyond, who comes stays in the system's queue.
    """

    def __init__(self, begin: Callable[[Caller], object], silence_s: float, due_max: int) -> None:
        self._begin = begin
        self._silence_s = silence_s
        self._due_max = due_max
        self._loop = asyncio.get_running_loop()
        self._silent: dict[socket, _Silent] = {}
        self._due: dict[str, deque[Caller]] = {}
        self._dues = 0
        self._last_first = False
        self._turn: asyncio.Handle | None = None
        self._sweep: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._silent) + self._dues

    @property
    def full(self) -> bool:
        """Whether so many are due that no more should be taken."""
        return self._dues >= self._due_max

    def wait(self, connection: socket, crowd: str, guest: Guest) -> None:
        """Let somebody wait, counted by `guest`; `drop` ends it while it is silent."""
        self._silent[connection] = _Silent(crowd, guest, self._loop.time() + self._silence_s)
        self._loop.add_reader(connection, self._heard, connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._silence_s / SWEEPS, self._sweep_out)

    def drop(self, connection: socket) -> None:
        """Cut off somebody who is silent."""
        self._leave(connection)
        connection.close()

    def clear(self) -> None:
        """Cut off all who wait."""
        for connection in tuple(self._silent):
            self.drop(connection)
        for callers in self._due.values():
            for caller in callers:
                caller.connection.close()
        self._due.clear()
        self._dues = 0
        for handle in (self._turn, self._sweep):
            if handle is not None:
                handle.cancel()
        self._turn = self._sweep = None

    def _leave(self, connection: socket) -> _Silent:
        silent = self._silent.pop(connection)
        self._loop.remove_reader(connection)
        silent.guest.leave()
        return silent

    def _heard(self, connection: socket) -> None:
        """Bytes have come, which it is for whoever begins to read; or the end."""
        if _is_over(connection):
            self.drop(connection)
            return
        silent = self._leave(connection)
        left_s = max(silent.until_s - self._loop.time(), LEAST_S)
        self._due.setdefault(silent.crowd, deque()).append(Caller(connection, silent.crowd, silent.guest, left_s))
        self._dues += 1
        if self._turn is None:
            self._turn = self._loop.call_soon(self._next)

    def _next(self) -> None:
        for _ in range(min(TURN_CALLERS_MAX, self._dues)):
            crowd = next(iter(self._due))
            callers = self._due.pop(crowd)
            self._last_first = not self._last_first
            caller = callers.pop() if self._last_first else callers.popleft()
            if callers:
                self._due[crowd] = callers  # behind all others
            self._dues -= 1
            self._begin(caller)
        self._turn = self._loop.call_soon(self._next) if self._dues else None

    def _sweep_out(self) -> None:
        now_s, wait_s = self._loop.time(), 0.0
        for connection, silent in tuple(islice(self._silent.items(), TURN_SWEPT_MAX)):
            if silent.until_s > now_s:
                wait_s = self._silence_s / SWEEPS
                break  # whoever came later may stay longer
            self.drop(connection)
        self._sweep = self._loop.call_later(wait_s, self._sweep_out) if self._silent else None


def _is_over(connection: socket) -> bool:
    try:
        return not connection.recv(1, MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
