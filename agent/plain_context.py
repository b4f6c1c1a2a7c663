"""What a plain handler may do: `PlainRunContext`. Its methods are those of `agent.context.RunContext`, and block.

Specification: docs/protocol.md, sections "Runs" and "Journals".
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, wait
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import partial
from os import PathLike
from typing import Any, TypeVar, Unpack, cast
from uuid import UUID

from agent.attempt_state import AttemptState
from agent.children import ChildOptions, PlainChild, Spawning
from agent.context_base import ContextBase, draw, draw_uuid, wall_ms
from agent.errors import Cancelled
from agent.operations import Begun, EffectKey, Marking, Outcome, outcomes, sleep_left_s, to_datetime
from agent.steering import Asking, PlainSteerMessage, answered_body, received_body
from agent.suspension import Wait
from agent.threads import each_in_a_thread
from protocol.artifacts import Attached
from protocol.children import ChildKey
from protocol.codec import pack_value, unpack_value
from protocol.control import Kind, MarkerOp
from protocol.conversation import QuestionKind, answer_id
from protocol.family import ChildEnded
from protocol.output import STDOUT, Piece, check_stream, pieces

__all__ = ["GATHER_THREADS_MAX", "PlainRunContext"]

T = TypeVar("T")

GATHER_THREADS_MAX = 32
"""How many calls of one `gather` are made at the same time."""


class PlainRunContext(ContextBase):
    """What a plain handler may do; its methods block.

    When the run is cancelled, the next operation raises `Cancelled`, once, and a `sleep` ends with it; a handler
    that does none for long looks at `cancelled`, or calls `check_cancelled`.
    """

    def __init__(self, state: AttemptState) -> None:
        super().__init__(state)
        self._told = False
        state.patience.begins(threading.get_ident())

    def check_cancelled(self) -> None:
        """Raise `Cancelled` where the handler is to stop and was not told yet."""
        if self._to_stop():
            self._told = True
            raise Cancelled(self._state.reason or "")

    def emit(self, kind: str, value: Any = None, *, cause: int | None = None) -> None:
        """Append an entry to the run's log. See `RunContext.emit`."""
        self.check_cancelled()
        begun = self._begin_emit(kind, value, cause)
        if begun is not None:
            self._put(kind, *begun, cause)

    def write(self, data: str | bytes, stream: str = STDOUT) -> None:
        """Write output. See `RunContext.write`."""
        self.check_cancelled()
        check_stream(stream)
        for piece in pieces(data, self._state.outlet.body_bytes_max):
            known, index = self._begin_write(stream, piece)
            if not known:
                self._write(stream, piece, index)

    def call(self, name: str, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make a call and keep what it came to. See `RunContext.call`."""
        self.check_cancelled()
        begun = self._begin_call(name, args, kwargs)
        return cast(T, self._call(begun, fn, args, kwargs))

    def gather(self, *calls: tuple[Any, ...], return_exceptions: bool = False) -> list[Any]:
        """Make calls concurrently, each in a thread: `ctx.gather(("fetch", fetch, 1), ("fetch", fetch, 2))`.

        Each is a tuple of what `call` takes: name, function, arguments. Else as `RunContext.gather`.
        """
        self.check_cancelled()
        begun = [(self._begin_call(name, tuple(args), {}), fn, tuple(args)) for name, fn, *args in calls]

        def make(what: tuple[Begun, Callable[..., Any], tuple[Any, ...]]) -> Outcome:
            if self._to_stop():
                raise Cancelled
            return self._outcome(*what)

        made = each_in_a_thread(
            [partial(contextvars.copy_context().run, make, one) for one in begun], GATHER_THREADS_MAX
        )
        if any(isinstance(future.exception(), Cancelled) for future in made):
            self.check_cancelled()
        return outcomes([future.result() for future in made], return_exceptions, self._state.fault)

    def now(self) -> datetime:
        """Return the time. See `RunContext.now`."""
        self.check_cancelled()
        return to_datetime(self._mark(self._begin_marking(MarkerOp.NOW), wall_ms))

    def random(self) -> float:
        """Return a random number in [0, 1). See `RunContext.random`."""
        self.check_cancelled()
        return cast(float, self._mark(self._begin_marking(MarkerOp.RANDOM), draw))

    def uuid(self) -> UUID:
        """Return a random UUID. See `RunContext.uuid`."""
        self.check_cancelled()
        return UUID(self._mark(self._begin_marking(MarkerOp.UUID), draw_uuid))

    def sleep(self, seconds: float) -> None:
        """Sleep; a cancellation ends it. See `RunContext.sleep`."""
        self.check_cancelled()
        seconds, marking = self._begin_sleep(seconds)
        due_ms = self._mark(marking, lambda: wall_ms() + round(seconds * 1000))
        left_s = sleep_left_s(due_ms, seconds, wall_ms())
        now_s = time.monotonic()
        self._put_away_in_s(Wait(now_s, until_s=now_s + left_s))
        if self._told:
            time.sleep(left_s)
        elif self._state.stopping.wait(left_s):
            self.check_cancelled()

    def checkpoint(self, value: Any) -> None:
        """Say where the handler is. See `RunContext.checkpoint`."""
        self.check_cancelled()
        begun = self._begin_checkpoint(value)
        if begun is not None:
            self._put(Kind.CHECKPOINT, *begun)

    def effect(self, name: str) -> AbstractContextManager[EffectKey]:
        """Do something outside under a key: `with ctx.effect("open_pr") as key`. See `RunContext.effect`."""
        self.check_cancelled()
        return self._effect(*self._begin_effect(name))

    def version(self, change: str, latest: int = 1) -> int:
        """Return the version of a part of the handler that this run keeps to. See `RunContext.version`."""
        self.check_cancelled()
        version, marking = self._begin_version(change, latest)
        if marking is not None:
            self._put(Kind.MARKER, marking.body(version), marking.index)
        return version

    def steering(self, timeout: float | None = None) -> Iterator[PlainSteerMessage]:
        """Give what the run is told: `for message in ctx.steering(timeout=0)`. See `RunContext.steering`."""
        while True:
            self.check_cancelled()
            receiving = self._begin_receive()
            if receiving.recorded is not None:
                steer = self._served(receiving.recorded)
            else:
                steer = self._find(self._state.inbox.take, timeout, Wait(time.monotonic()) if timeout is None else None)
                if steer is not None or receiving.index is not None:
                    self._put(Kind.RECEIVED, received_body(steer), receiving.index)
            if steer is None:
                return
            yield PlainSteerMessage(steer, self._say)

    def attach(self, path: str | PathLike[str], name: str | None = None) -> Attached:
        """Attach a file to the run. A cancellation ends it. See `RunContext.attach`."""
        self.check_cancelled()
        attaching = self._begin_attach(path, name)
        if attaching.recorded is not None:
            return attaching.recorded
        sending = self._start_upload(attaching)
        if not self._told:
            self._state.on_stop(sending.stop)
        try:
            attached = sending.done.result()
        except CancelledError:
            self.check_cancelled()
            raise
        self._put(Kind.ATTACHED, pack_value(attached), attaching.index)
        self.flush()
        return attached

    def ask(self, name: str, payload: Any = None, *, timeout: float | None = None) -> Any:
        """Ask whoever may answer, and wait for the first answer. See `RunContext.ask`."""
        self.check_cancelled()
        return self._ask(self._begin_question(QuestionKind.ASK, name, payload, timeout))

    def approve(self, name: str, payload: Any = None, *, timeout: float | None = None) -> bool:
        """Ask for approval: True or False. See `RunContext.approve`."""
        self.check_cancelled()
        return bool(self._ask(self._begin_question(QuestionKind.APPROVE, name, payload, timeout)))

    def submit(self, handler: str, input: Any = None, **options: Unpack[ChildOptions]) -> PlainChild:
        """Submit a run that is a child of this one. See `RunContext.submit`; several run beside each other."""
        self.check_cancelled()
        return self._submit(self._begin_child(handler, input, options))

    def flush(self) -> None:
        """Wait until everything that was emitted is acknowledged."""
        outlet = self._state.outlet
        outlet.acknowledged(outlet.made).result()

    def _to_stop(self) -> bool:
        return self._state.cancelled and not self._told

    def _call(self, begun: Begun, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if begun.recorded is not None:
            return begun.serve()
        if not begun.index:
            return fn(*args, **kwargs)
        self.flush()
        try:
            value = fn(*args, **kwargs)
            body = begun.succeeded(value)
        except Exception as error:
            if self._state.fault is None:
                self._put(Kind.CALL, self._failed(begun, error), begun.index)
            raise
        self._put(Kind.CALL, body, begun.index)
        return unpack_value(pack_value(value))

    def _outcome(self, begun: Begun, fn: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
        try:
            return Outcome(self._call(begun, fn, args, {}), None)
        except Exception as error:  # noqa: BLE001 - what the call came to, for `outcomes` to raise
            return Outcome(None, error)

    def _mark(self, marking: Marking, make: Callable[[], Any]) -> Any:
        """Return what is recorded, or make it and record it."""
        if marking.recorded is not None:
            return marking.value()
        value = make()
        if marking.index is not None:
            self._put(Kind.MARKER, marking.body(value), marking.index)
        return value

    @contextmanager
    def _effect(self, key: EffectKey, marking: Marking) -> Iterator[EffectKey]:
        self._mark(marking, lambda: None)
        self.flush()
        with self._state.patience.held():
            yield key

    def _submit(self, spawning: Spawning) -> PlainChild:
        inbox, key = self._state.inbox, spawning.key
        if not spawning.known:
            self._find(lambda: inbox.admits(key) or None)
            self.flush()
            self._put(Kind.SPAWN, spawning.body, key[0])
        run = self._find(partial(inbox.child_run, key))
        assert run is not None
        return PlainChild(run, spawning, self._child_end, self._child_value, partial(self._say, Kind.CHILD_CANCEL))

    def _child_end(self, key: ChildKey) -> ChildEnded:
        waiting = Wait(time.monotonic(), child=key)
        ended = self._find(partial(self._state.inbox.child_end, key), None, waiting)
        assert ended is not None
        return ended

    def _say(self, kind: str, body: bytes) -> None:
        self.check_cancelled()
        begun = self._begin_entry(kind, body)
        if begun is not None:
            self._put(kind, *begun)

    def _ask(self, asking: Asking) -> Any:
        if not asking.known:
            self.flush()
            self._put(Kind.ASKED, asking.body(), asking.index)
        waiting = Wait(time.monotonic(), question=asking.index)
        answered = self._find(partial(self._state.inbox.answer, asking.index, asking.digest), None, waiting)
        assert answered is not None
        if self._state.inbox.gives(answer_id(asking.index)):
            self._put(Kind.RECEIVED, answered_body(asking.index), None)
        return asking.value(answered)

    def _find(
        self, look: Callable[[], T | None], timeout_s: float | None = None, waiting: Wait | None = None
    ) -> T | None:
        """Wait until the inbox has what is looked for, there is none in time, or the handler is to stop.

        `waiting` may have the handler put away.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            changed = self._state.inbox.changed()
            self.check_cancelled()
            found, left_s = look(), None if until_s is None else until_s - time.monotonic()
            if found is not None or (left_s is not None and left_s <= 0):
                changed.cancel()
                return found
            wait((changed,), left_s if waiting is None else self._put_away_in_s(waiting))

    def _put_away_in_s(self, waiting: Wait) -> float | None:
        """Put the handler away if it is time. Returns how long it is until then; None where it is not in sight."""
        patience, strand = self._state.patience, threading.get_ident()
        if patience.after_s is None or self._state.cancelled:
            return None
        with patience.waiting(strand, waiting):
            in_s = patience.ripe_in_s(time.monotonic())
            if in_s is not None and in_s <= 0:
                self._state.put_away()
                return None
            return in_s

    def _write(self, stream: str, piece: Piece, index: int | None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not outlet.write(stream, piece, index):
            outlet.room(len(piece.data)).result()

    def _put(self, kind: str, body: bytes, index: int | None, cause: int | None = None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not outlet.offer(kind, body, index, cause):
            outlet.room(len(body)).result()
