"""A handler in a child process: for what holds the interpreter lock, and what must be stoppable.

Children are spawned, kept warm and used again. In the child the handler has the same context as anywhere;
only the way out of its entries is a pipe to this process (`agent.executors.child`), which puts them into the
attempt's stream. A full window fills the pipe, which makes the child wait. A child dies with its parent. One
that does not heed its cancellation is killed after a grace time; what it emitted before counts.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from multiprocessing.context import SpawnProcess
from typing import Any

from agent.attempt_state import AttemptState
from agent.endings import ContinueAs
from agent.errors import Cancelled, ChildDied, ChildRaised
from agent.executors.child import child_main
from agent.handlers import Handler
from agent.threads import reject, resolve
from protocol.codec import unpack_value
from protocol.errors import FleetlineError

__all__ = ["STOP_GRACE_S", "Children"]

STOP_GRACE_S = 10.0
"""How long a cancelled handler may take to stop before its process is killed."""

_SPAWN = multiprocessing.get_context("spawn")


class _Child:
    """One warm child process."""

    def __init__(self) -> None:
        self.pipe, theirs = _SPAWN.Pipe()
        self.process: SpawnProcess = _SPAWN.Process(target=child_main, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self._lock = threading.Lock()

    def send(self, *message: Any) -> None:
        """Send a message, from any thread. A child that is gone is noticed by whoever reads."""
        try:
            with self._lock:
                self.pipe.send(message)
        except OSError:
            return

    def close(self) -> None:
        """Let go of it; it ends when it sees its pipe closed."""
        self.pipe.close()
        self.process.join(STOP_GRACE_S)
        if self.process.is_alive():
            self.process.kill()


class Children:
    """The child processes of one agent."""

    def __init__(self, stop_grace_s: float = STOP_GRACE_S) -> None:
        self._idle: list[_Child] = []
        self._stop_grace_s = stop_grace_s

    async def run(self, handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
        """Run a handler in a child, and return what it returns.

        Raises:
            asyncio.CancelledError: it was told to stop, and did, or was killed for not doing so.
            ChildRaised: it raised.
            ChildDied: its process ended by itself.
        """
        child = self._take()
        done: Future[object] = Future()
        stopping = threading.Timer(self._stop_grace_s, child.process.kill)
        stopping.daemon = True

        def stop() -> None:
            child.send("stop", state.reason, state.fenced)
            stopping.start()

        def main() -> None:
            try:
                what = (handler.function, handler.is_async, arguments, state.assign, state.journal, state.checkpoint)
                past = state.inbox.past()
                child.send("start", *what, past, state.outlet.body_bytes_max)
                state.on_stop(stop)
                state.inbox.follow(partial(child.send, "told", state.assign.fence), past)
                resolve(done, _serve(child, state))
            except BaseException as error:  # noqa: BLE001 - the boundary between the handler and us
                reject(done, error)

        threading.Thread(target=main, name=f"child of {state.assign.run}", daemon=True).start()
        try:
            result = await asyncio.shield(asyncio.wrap_future(done))
        except Cancelled:
            raise asyncio.CancelledError from None
        finally:
            state.ended()
            stopping.cancel()
            if done.done() and child.process.is_alive() and not state.cancelled:
                self._idle.append(child)
            else:
                child.process.kill()
        return result

    async def close(self) -> None:
        """End all idle children."""
        idle, self._idle = self._idle, []
        for child in idle:
            await asyncio.to_thread(child.close)

    def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if child.process.is_alive():
                return child
        return _Child()


def _serve(child: _Child, state: AttemptState) -> object:
    """Let the child's entries out until its handler is done. Raises as `Children.run` says."""
    while True:
        try:
            message = child.pipe.recv()
        except (EOFError, OSError):
            child.process.join(STOP_GRACE_S)
            if state.cancelled:
                raise Cancelled(state.reason or "") from None
            raise ChildDied(child.process.exitcode) from None
        match message:
            case ("offer", kind, body, index, cause):
                _offer(state, kind, body, index, cause)
            case ("flush", number):
                seq = state.outlet.made
                state.outlet.acknowledged(seq).add_done_callback(_tell_flushed(child, number))
            case ("returned", packed):
                return unpack_value(packed)
            case ("continued", packed):
                raise ContinueAs(packed)
            case ("raised", error, index, retryable, begun):
                raise ChildRaised(error, index, retryable, begun)
            case _:
                raise Cancelled(state.reason or "")


def _offer(state: AttemptState, kind: str, body: bytes, index: int | None, cause: int | None) -> None:
    """Put one entry into the stream, waiting for room. A dead stream's attempt is being stopped anyway."""
    try:
        while not state.outlet.offer(kind, body, index, cause):
            state.outlet.room(len(body)).result()
    except FleetlineError as fault:
        state.stop(str(fault), fenced=True)


def _tell_flushed(child: _Child, number: int) -> Callable[[Future[None]], None]:
    def tell(future: Future[None]) -> None:
        error = future.exception()
        child.send("flushed", number, None if error is None else str(error))

    return tell
