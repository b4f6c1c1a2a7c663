"""What runs in a child process: one handler after the other, each with the usual context over a pipe.

The main thread runs handlers. A second one reads the pipe: that a run is to stop, that entries are acknowledged, what
the handler is told and asked, and, by its end, that the parent is gone, which ends this process at once. A third pipe
takes the stacks of all threads, when the parent asks for them by a signal, and when native code crashes.

    parent -> child   ("prepare", functions)
                      ("start", work, assign, journal, checkpoint, past, suspend_after, body_bytes_max, memory)
                      ("stop", which, reason, fenced) ("told", which, message or answer) ("query", which, number, query)
                      ("flushed", number, error) ("attached", number, attached, error)
    child -> parent   ("ready",) ("begun",) ("offer", kind, body, index, cause) ("flush", number)
                      ("write", stream, piece, index) ("close_output",)
                      ("attach", number, path, name) ("detach", number)
                      ("answered", number, answer) ("returned", packed) ("continued", packed)
                      ("raised", error, index, retryable, begun) ("cancelled",) ("suspended", what for)

`functions` and `work` are pickled by themselves, and read by the main thread: what they name may not be importable.
`which` is the run and the fence of the attempt that is meant: it may be over by then, and another one run here.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import itertools
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from agent.attempt_state import AttemptState
from agent.binding import pack_result
from agent.endings import ContinueAs
from agent.errors import Cancelled, NonDeterminism, ProducerFenced
from agent.executors.memory import in_mib, limited, resident_bytes
from agent.executors.thread import run_here
from agent.feed import too_large
from agent.logs import ensure_logging
from agent.operations import describe_error, failed_begun, failed_call_index, run_error
from agent.threads import reject, resolve
from agent.uploads import AttachFailed, Sending
from protocol.artifacts import Attached
from protocol.codes import ErrorCode
from protocol.control import RunError
from protocol.errors import FleetlineError
from protocol.frames import Reply
from protocol.output import Piece

__all__ = ["DUMP_SIGNAL", "MEMORY_EXCEEDED", "NO_MEMORY", "child_main"]

MEMORY_EXCEEDED = "MemoryExceeded"
"""What the error of a run is called that took more memory than it may."""

NO_MEMORY = 77
"""Exit code of a child whose handler left no memory for anything else."""

DUMP_SIGNAL = int(getattr(signal, "SIGRTMIN", signal.SIGUSR2)) + (5 if hasattr(signal, "SIGRTMIN") else 0)
"""Has a child write the stacks of all its threads. A real-time signal where there are any: few libraries want those."""

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""

_UPLOADS = itertools.count(1)
_FLUSHES = itertools.count(1)
"""Numbers of files and flushes, over all attempts: an answer may come when its attempt is over and another one runs."""


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
        return self._hand_over("offer", str(kind), body, index, cause)

    def write(self, stream: str, piece: Piece, index: int | None = None) -> int:
        """Hand a piece of output to the parent, which joins them. Waits while the pipe is full."""
        return self._hand_over("write", stream, piece, index)

    def close_output(self) -> None:
        """See `Outlet`."""
        self.say("close_output")

    def _hand_over(self, *message: Any) -> int:
        with self._lock:
            if self.dead is not None:
                raise self.dead
            self._pipe.send(message)
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
        """Tell the parent something."""
        with self._lock:
            self._pipe.send(message)


@dataclass(eq=False)
class _Sent(Sending):
    """A file that the parent attaches for us."""

    say: Callable[..., None] = field(kw_only=True)

    def stop(self) -> None:
        """See `Sending`."""
        if self.done.cancel():
            self.say("detach", self.number)


class _PipeUploads:
    """The way of an attempt's files, in a child: the parent reads them. See `agent.uploads.Uploader`."""

    def __init__(self, outlet: _PipeOutlet) -> None:
        self._outlet = outlet
        self._sending: dict[int, _Sent] = {}

    def start(self, path: str, name: str) -> Sending:
        """Have the parent begin with a file."""
        sent = _Sent(next(_UPLOADS), path, name, say=self._outlet.say)
        self._sending[sent.number] = sent
        self._outlet.say("attach", sent.number, path, name)
        return sent

    def stop(self) -> None:
        """See `Uploader`."""
        for sent in tuple(self._sending.values()):
            sent.stop()

    def on_attached(self, number: int, attached: Attached | None, error: str) -> None:
        """The parent's answer; one of an attempt that ended without waiting for it is nothing to us."""
        sent = self._sending.pop(number, None)
        if sent is None:
            return
        if attached is not None:
            resolve(sent.done, attached)
        else:
            reject(sent.done, AttachFailed(error))


class _Current:
    """The attempt that runs now, for the thread that reads the pipe."""

    def __init__(self) -> None:
        self.state: AttemptState | None = None
        self.outlet: _PipeOutlet | None = None
        self.uploads: _PipeUploads | None = None

    def attempt(self, which: tuple[str, int]) -> AttemptState | None:
        """Return its state where it is the one that is meant."""
        state = self.state
        return None if state is None or (state.assign.run, state.assign.fence) != which else state


class _Start:
    """A handler to run: a pickled (function, is_async, arguments), and its attempt."""

    def __init__(self, work: bytes, state: AttemptState, outlet: _PipeOutlet, memory_bytes: int | None) -> None:
        self.work = work
        self.state = state
        self.outlet = outlet
        self.memory_bytes = memory_bytes


_Prepare = tuple[bytes, ...]
_Todo = queue.SimpleQueue[_Start | _Prepare]


def child_main(pipe: Connection, dumps: Connection) -> None:
    """Run handlers until the parent is gone."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is for the parent, which tells us
    os.set_blocking(dumps.fileno(), False)  # whoever dumps must not wait for a reader
    faulthandler.enable(dumps.fileno(), all_threads=True)
    faulthandler.register(DUMP_SIGNAL, dumps.fileno(), all_threads=True)
    ensure_logging()
    pipe.send(("ready",))
    current = _Current()
    todo: _Todo = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, current, todo), name="fleetline-pipe", daemon=True).start()
    while True:
        asked = todo.get()
        if isinstance(asked, _Start):
            ended, suspended = _run(asked), asked.state.suspended
            asked.outlet.say(*(ended if suspended is None else ("suspended", suspended)))
        else:
            _prepare(asked)


def _read(pipe: Connection, current: _Current, todo: _Todo) -> None:
    while True:
        try:
            message = pipe.recv()
        except MemoryError:  # the handler left none for us: what it is told cannot be read any more
            os._exit(NO_MEMORY)
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone: nobody is left to work for
        _take(message, pipe, current, todo)


def _take(message: tuple[Any, ...], pipe: Connection, current: _Current, todo: _Todo) -> None:
    """Do what the parent says. What is about an attempt that is over is the parent's to answer."""
    match message:
        case ("start", work, assign, journal, checkpoint, past, after_s, body_bytes_max, memory_bytes):
            outlet = current.outlet = _PipeOutlet(pipe, f"run/{assign.run}", body_bytes_max)
            uploads = current.uploads = _PipeUploads(outlet)
            state = current.state = AttemptState(assign, outlet, journal, checkpoint, past, after_s, uploads)
            todo.put(_Start(work, state, outlet, memory_bytes))
        case ("prepare", functions):
            todo.put(functions)
        case ("stop", which, reason, fenced) if meant := current.attempt(which):
            meant.stop(reason, fenced=fenced)
        case ("told", which, told) if meant := current.attempt(which):
            meant.inbox.tell(told)
        case ("query", which, number, query) if (meant := current.attempt(which)) and current.outlet is not None:
            meant.queries.ask(query, partial(_answer, current.outlet, number))
        case ("flushed", number, error) if current.outlet is not None:
            current.outlet.on_flushed(number, error)
        case ("attached", number, attached, error) if current.uploads is not None:
            current.uploads.on_attached(number, attached, error)
        case _:
            return


def _answer(outlet: _PipeOutlet, number: int, reply: Reply) -> None:
    outlet.say("answered", number, reply.error or reply.value)


def _prepare(functions: _Prepare) -> None:
    """Import what the handlers need. What cannot be imported is told to the run that needs it."""
    for function in functions:
        with suppress(Exception):
            pickle.loads(function)  # noqa: S301 - our parent made it


def _run(start: _Start) -> tuple[Any, ...]:
    """Run one handler. Returns what to tell the parent about its end."""
    state = start.state
    state.on_stop(partial(_tell_put_away, start))
    try:
        function, is_async, arguments = pickle.loads(start.work)  # noqa: S301 - our parent made it
        start.outlet.say("begun")
        try:
            with limited(start.memory_bytes):
                result = run_here(function, is_async, state, arguments)
            ended = "returned", pack_result(result)
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
        said = _described(broken or error, start.memory_bytes)
        return "raised", said, failed_call_index(error), retryable, failed_begun(error)
    finally:
        state.queries.close()


def _tell_put_away(start: _Start) -> None:
    """Tell the parent at once: it waits no longer for a handler that is put away than for one that is cancelled."""
    if start.state.suspended is not None:
        start.outlet.say("put_away", start.state.suspended)


def _described(error: BaseException, memory_bytes: int | None) -> RunError:
    """Return an error as it goes into a log; where memory was refused, with the limit and what was in use."""
    said = describe_error(error)
    if memory_bytes is None or not isinstance(error, MemoryError):
        return said
    message = (
        f"the handler asked for memory past the limit of {in_mib(memory_bytes)} of its process, which held "
        f"{in_mib(resident_bytes(os.getpid()))} then; raise memory_mib, or let the handler keep less at a time"
    )
    return run_error(MEMORY_EXCEEDED, message, said.trace)


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends, whatever this process is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
