"""A handler in a child process: for what holds the interpreter lock, and what must be stoppable.

In the child the handler has the same context as anywhere; only the way out of its entries is a pipe to this process
(`agent.executors.child`), which puts them into the attempt's stream. A full window fills the pipe, which makes the
child wait. A child dies with its parent. One that does not heed its cancellation is killed after a grace time, and its
stacks and what ended it are entries of the run; what it emitted before counts.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from agent.attempt_state import AttemptState
from agent.endings import ContinueAs
from agent.errors import Cancelled, ChildRaised
from agent.executors.child import MEMORY_EXCEEDED, NO_MEMORY
from agent.executors.ladder import Cause, Rung
from agent.executors.memory import MIB, in_mib, resident_bytes
from agent.executors.pool import Child, Pool, died, pickled
from agent.executors.program import STOPPED
from agent.executors.stacks import STACKS, STOP_GRACE_S, Overdue, cut_stacks, record
from agent.handlers import Handler
from agent.operations import run_error
from agent.suspension import PUT_AWAY
from agent.threads import in_loop, reject, resolve
from agent.uploads import Sending
from protocol.artifacts import Attached
from protocol.codec import unpack_value
from protocol.errors import FleetlineError

__all__ = ["MEMORY_LOOK_S", "Children"]

MEMORY_LOOK_S = 0.1
"""How often the memory of a child with a limit is looked at, for what its own limit does not count."""

DEATH_WAIT_S = 5.0
"""How long a child whose pipe is closed may take to be gone."""


class _NotBegun(Exception):
    """The child ended before it ran anything of the handler."""


class Children:
    """The child processes of one agent."""

    def __init__(self, pool: Pool | None = None, stop_grace_s: float = STOP_GRACE_S) -> None:
        self.pool = Pool() if pool is None else pool
        self._stop_grace_s = stop_grace_s

    async def run(self, handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
        """Run a handler in a child, and return what it returns.

        Raises:
            asyncio.CancelledError: it was told to stop, and did, or was killed for not doing so.
            ChildRaised: it raised, or took more memory than it may.
            ChildDied: its process ended by itself.
        """
        work = pickled((handler.function, handler.is_async, arguments))
        while True:
            child = self.pool.take()
            fresh = child.fresh
            try:
                return await self._run_in(child, work, handler, state)
            except _NotBegun:  # one that died while it was idle is no fault of this handler
                if fresh:
                    raise died(child, begun=False) from None

    async def close(self) -> None:
        """End all idle children."""
        for child in self.pool.close():
            await asyncio.to_thread(child.close)

    async def _run_in(self, child: Child, work: bytes, handler: Handler, state: AttemptState) -> object:
        done: Future[object] = Future()
        serving = _Serving(child, state, handler.memory_mib)
        threading.Thread(
            target=serving.main, args=(work, done), name=f"child of {state.assign.run}", daemon=True
        ).start()
        overdue = Overdue(state, child.stacks, serving.kill, self._stop_grace_s)
        usable = False
        try:
            result = await asyncio.shield(in_loop(done))
            usable = not state.cancelled or state.suspended is not None
        except Cancelled:
            raise asyncio.CancelledError from None
        except ChildRaised as raised:
            usable = not state.cancelled and raised.error.type != MEMORY_EXCEEDED
            raise
        finally:
            usable = overdue.close() and usable
            if isinstance(_error_of(done), _NotBegun):
                state.inbox.unfollow()
            else:
                state.ended()
            done.add_done_callback(_error_of)
            self.pool.give_back(child, usable=usable)
        return result


def _error_of(done: Future[object]) -> BaseException | None:
    return done.exception() if done.done() and not done.cancelled() else None


class _Serving:
    """Serves a child while it runs a handler: starts it, lets its entries out, tells it what is said to the run."""

    def __init__(self, child: Child, state: AttemptState, memory_mib: int | None) -> None:
        self._child = child
        self._state = state
        self._memory_bytes = None if memory_mib is None else memory_mib * MIB
        self._look_s = 0.0
        self._begun = False
        self._sending: dict[int, Sending] = {}

    def main(self, work: bytes, done: Future[object]) -> None:
        """Do it, in a thread of its own."""
        child, state = self._child, self._state
        try:
            past = state.inbox.past()
            which = (state.assign.run, state.assign.fence)
            begin = (state.assign, state.journal, state.checkpoint, past)
            child.send("start", work, *begin, state.patience.after_s, state.outlet.body_bytes_max, self._memory_bytes)
            state.on_stop(lambda: child.send("stop", which, state.reason, state.fenced))
            state.inbox.follow(partial(child.send, "told", which), past)
            state.queries.forward(partial(child.send, "query", which))
            resolve(done, self._serve())
        except BaseException as error:  # noqa: BLE001 - the boundary between the handler and us
            reject(done, error)

    def kill(self) -> None:
        """It did not stop: end it, and say so in the log."""
        record(self._state, STOPPED, _stopped(Cause.CANCELLED.value))
        self._child.kill()

    def _serve(self) -> object:
        """Let the child's entries out until its handler is done. Raises as `Children.run` says."""
        while True:
            try:
                while not self._child.pipe.poll(None if self._memory_bytes is None else MEMORY_LOOK_S):
                    self._weigh()
                message = self._child.pipe.recv()
            except (EOFError, OSError):
                raise self._gone() from None
            self._weigh()
            if not self._take(message):
                return self._ended(message)

    def _take(self, message: tuple[Any, ...]) -> bool:
        """Do what the child asks for. Returns False where its handler is done."""
        match message:
            case ("ready",):
                self._child.ready = True
            case ("begun",):
                self._begun = True
            case ("offer", kind, body, index, cause):
                self._offer(len(body), partial(self._state.outlet.offer, kind, body, index, cause))
            case ("write", stream, piece, index):
                self._offer(len(piece.data), partial(self._state.outlet.write, stream, piece, index))
            case ("put_away", suspended):  # its handler may not heed that: from now on it is overdue
                self._state.stop(PUT_AWAY, suspended=suspended)
            case ("close_output",):
                self._state.outlet.close_output()
            case ("flush", number):
                seq = self._state.outlet.made
                self._state.outlet.acknowledged(seq).add_done_callback(_tell_flushed(self._child, number))
            case ("attach" | "detach", number, *what):
                self._attach(number, *what)
            case ("answered", number, answer):
                self._state.queries.answered(number, answer)
            case _:
                return False
        return True

    def _ended(self, message: tuple[Any, ...]) -> object:
        """Return what the handler returned, or raise as `Children.run` says."""
        match message:
            case ("returned", packed):
                return unpack_value(packed)
            case ("suspended", suspended):
                self._state.suspended = suspended
                return None
            case ("continued", packed):
                raise ContinueAs(packed)
            case ("raised", error, index, retryable, begun):
                raise ChildRaised(error, index, retryable, begun)
            case _:
                raise Cancelled(self._state.reason or "")

    def _attach(self, number: int, *what: str) -> None:
        """Begin with a file of the handler, or with no further words give it up."""
        if not what:
            self._sending[number].stop()
            return
        assert self._state.uploads is not None
        self._sending[number] = sending = self._state.uploads.start(*what)
        sending.done.add_done_callback(_tell_attached(self._child, number))

    def _gone(self) -> BaseException:
        """Return what it means that the child is gone."""
        process, most = self._child.process, self._memory_bytes
        process.join(DEATH_WAIT_S)
        if self._state.cancelled:
            return Cancelled(self._state.reason or "")
        if most is not None and process.exitcode == NO_MEMORY:
            message = f"the handler's process used up its limit of {in_mib(most)} of memory, and ended"
            return ChildRaised(run_error(MEMORY_EXCEEDED, message), None, True)
        return died(self._child, begun=True, memory_bytes=most) if self._begun else _NotBegun()

    def _offer(self, body_bytes: int, put: Callable[[], int]) -> None:
        """Put something into the stream, waiting for room. A dead stream's attempt is being stopped anyway.

        What threads of the handler's own say after it was put away does not count.
        """
        try:
            while not put():
                self._state.outlet.room(body_bytes).result()
        except FleetlineError as fault:
            if self._state.suspended is None:
                self._state.stop(str(fault), fenced=True)

    def _weigh(self) -> None:
        """End the child where it holds more memory than it may.

        Raises:
            ChildRaised: it did.
        """
        now_s, most = time.monotonic(), self._memory_bytes
        if most is None or now_s < self._look_s:
            return
        self._look_s = now_s + MEMORY_LOOK_S
        held = resident_bytes(self._child.process.pid or 0)
        if held <= most:
            return
        stacks = cut_stacks(self._child.stacks())
        record(self._state, STACKS, {"why": "memory", "stacks": stacks})
        record(self._state, STOPPED, _stopped("memory"))
        self._child.kill()
        message = (
            f"the handler's process held {in_mib(held)} of memory; its limit is {in_mib(most)}, and it was killed; "
            "raise memory_mib, or let the handler keep less at a time"
        )
        raise ChildRaised(run_error(MEMORY_EXCEEDED, message, stacks or None), None, True)


def _stopped(why: str) -> dict[str, str]:
    return {"why": why, "rung": Rung.SIGKILL.value, "signal": "SIGKILL"}


def _tell_attached(child: Child, number: int) -> Callable[[Future[Attached]], None]:
    def tell(future: Future[Attached]) -> None:
        if future.cancelled():
            child.send("attached", number, None, "it was given up")
            return
        error = future.exception()
        child.send("attached", number, None if error else future.result(), "" if error is None else str(error))

    return tell


def _tell_flushed(child: Child, number: int) -> Callable[[Future[None]], None]:
    def tell(future: Future[None]) -> None:
        error = future.exception()
        child.send("flushed", number, None if error is None else str(error))

    return tell
