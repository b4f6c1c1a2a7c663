"""What runs in a child process: one handler after the other, each with the usual context over a pipe.

The main thread runs handlers. A second one reads the pipe: that a run is to stop, that entries are
acknowledged, and, by its end, that the parent is gone, which ends this process at once.

    parent -> child   ("start", function, is_async, arguments, assign, journal, checkpoint, past, body_bytes_max)
                      ("stop", reason, fenced) ("flushed", number, error) ("told", fence, message or answer)
    child -> parent   ("offer", kind, body, index, cause) ("flush", number)
                      ("returned", packed) ("continued", packed) ("raised", error, index, retryable, begun)
                      ("cancelled",)
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Any

from agent.attempt_state import AttemptState
from agent.binding import pack_result
from agent.endings import ContinueAs
from agent.errors import Cancelled, NonDeterminism, ProducerFenced
from agent.executors.thread import run_here
from agent.feed import too_large
from agent.logs import ensure_logging
from agent.operations import describe_error, failed_begun, failed_call_index
from agent.threads import reject, resolve
from protocol.codes import ErrorCode
from protocol.errors import FleetlineError

__all__ = ["child_main"]

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

_FLUSHES = itertools.count(1)
"""Numbers of flushes, over all attempts: an answer may come when its attempt is over and another one runs."""


class _PipeOutlet:
    """The way out of an attempt's entries, in a child. See `agent.attempt_state.Outlet`."""

    def __init__(self, pipe: Connection, log: str, body_bytes_max: int) -> None:
        self.made = 0
        self.body_bytes_max = body_bytes_max
        self.dead: FleetlineError | None = None
        self._flushed = 0
        self._pipe = pipe
        self._log = log
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, Future[None]]] = {}

    @property
    def unacknowledged(self) -> int:
        """How many entries are not known to be acknowledged."""
        return self.made - self._flushed

    def offer(self, kind: str, body: bytes, index: int | None = None, cause: int | None = None) -> int:
        """Hand an entry to the parent. Waits while the pipe is full."""
        if len(body) > self.body_bytes_max:
            raise too_large(self._log, len(body), self.body_bytes_max)
        with self._lock:
            if self.dead is not None:
                raise self.dead
            self._pipe.send(("offer", str(kind), body, index, cause))
            self.made += 1
            return self.made

    def acknowledged(self, seq: int) -> Future[None]:
        """Return what is done when all that was handed over is acknowledged, `seq` with it."""
        del seq
        future: Future[None] = Future()
        with self._lock:
            number = next(_FLUSHES)
            self._waiting[number] = (self.made, future)
            self._pipe.send(("flush", number))
        return future

    def room(self, body_bytes: int) -> Future[None]:
        """There always is room, for who can wait."""
        del body_bytes
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def on_flushed(self, number: int, error: str | None) -> None:
        """The parent's answer to a flush; one of an attempt that ended without waiting for it is nothing to us."""
        made, future = self._waiting.pop(number, (0, None))
        if future is None:
            return
        if error is None:
            self._flushed = max(self._flushed, made)
            resolve(future, None)
        else:
            self.kill(error)
            reject(future, self.dead or FleetlineError(error))

    def kill(self, reason: str) -> None:
        """Nothing more of this attempt is taken."""
        self.dead = ProducerFenced(self._log, ErrorCode.FENCED, reason)

    def say(self, *message: Any) -> None:
        """Tell the parent how it ended."""
        with self._lock:
            self._pipe.send(message)


class _Current:
    """The attempt that runs now, for the thread that reads the pipe."""

    def __init__(self) -> None:
        self.state: AttemptState | None = None
        self.outlet: _PipeOutlet | None = None


def child_main(pipe: Connection) -> None:
    """Run handlers until the parent is gone."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, which tells us
    ensure_logging()
    current = _Current()
    starts: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, current, starts), name="fleetline-pipe", daemon=True).start()
    while True:
        function, is_async, arguments, state, outlet = starts.get()
        outlet.say(*_run(function, is_async, arguments, state))


def _read(pipe: Connection, current: _Current, starts: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: nobody is left to work for
        match message:
            case ("start", function, is_async, arguments, assign, journal, checkpoint, past, body_bytes_max):
                outlet = current.outlet = _PipeOutlet(pipe, f"run/{assign.run}", body_bytes_max)
                state = current.state = AttemptState(assign, outlet, journal, checkpoint, past)
                starts.put((function, is_async, arguments, state, outlet))
            case ("stop", reason, fenced) if current.state is not None:
                current.state.stop(reason, fenced=fenced)
            case ("told", fence, told) if current.state is not None and current.state.assign.fence == fence:
                current.state.inbox.tell(told)
            case ("flushed", number, error) if current.outlet is not None:
                current.outlet.on_flushed(number, error)
            case _:
                continue


def _run(
    function: Callable[..., Any], is_async: bool, arguments: dict[str, Any], state: AttemptState
) -> tuple[Any, ...]:
    """Run one handler. Returns what to tell the parent about its end."""
    try:
        try:
            ended = "returned", pack_result(run_here(function, is_async, state, arguments))
        except ContinueAs as wish:
            ended = "continued", wish.packed
        if state.journal is not None:
            state.journal.returned()
        return ended
    except (Cancelled, asyncio.CancelledError):
        return ("cancelled",)
    except Exception as error:  # noqa: BLE001 - the boundary between the handler and us
        broken = state.journal.broken if state.journal is not None else None
        retryable = broken is None and not isinstance(error, NonDeterminism)
        return "raised", describe_error(broken or error), failed_call_index(error), retryable, failed_begun(error)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, whatever this process is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
