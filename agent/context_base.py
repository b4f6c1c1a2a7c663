"""What both contexts of a handler have: `agent.context.RunContext` and `agent.plain_context.PlainRunContext`.

Here every operation takes its index and asks the journal, which waits for nothing. What is left is to do it and
to let its entry out, which the contexts do in their ways.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn, TypeVar, overload
from uuid import UUID

from agent.attempt_state import AttemptState
from agent.children import ChildOptions, Spawning, Wanted, child_value
from agent.endings import ContinueAs
from agent.feed import check_kind, check_offset, too_large
from agent.journal import digest_arguments
from agent.operations import Attaching, Begun, EffectKey, Marking, check_seconds
from agent.steering import Asking, Receiving
from agent.submission import span_ms
from agent.uploads import Sending
from protocol.artifacts import check_artifact_name
from protocol.codec import pack_value, unpack_value
from protocol.control import Checkpoint, Kind, MarkerOp
from protocol.conversation import QUESTIONS_MAX, QuestionKind, Received, Steer
from protocol.errors import FleetlineError
from protocol.family import ChildEnded
from protocol.ids import check_name
from protocol.output import Piece

__all__ = ["ContextBase", "draw", "draw_uuid", "wall_ms"]

Function = TypeVar("Function", bound=Callable[..., Any])


def wall_ms() -> int:
    """Return this machine's time in ms since the epoch of Unix."""
    return time.time_ns() // 1_000_000


def draw() -> float:
    """Return a random number in [0, 1)."""
    return random.random()


def draw_uuid() -> str:
    """Return a random UUID, as text."""
    return str(UUID(bytes=secrets.token_bytes(16), version=4))


class ContextBase:
    """What both contexts have."""

    def __init__(self, state: AttemptState) -> None:
        self._state = state

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._state.assign.run

    @property
    def attempt(self) -> int:
        """The attempt's number, from 1."""
        return self._state.assign.attempt

    @property
    def cancelled(self) -> bool:
        """Whether the handler is to stop."""
        return self._state.cancelled

    @property
    def cancel_reason(self) -> str | None:
        """Why it is to stop."""
        return self._state.reason

    @property
    def time_left(self) -> float | None:
        """Seconds until the attempt is taken from the handler, by its timeout or the run's deadline; None without."""
        return self._state.time_left_s

    @property
    def last_checkpoint(self) -> Any:
        """With `recover="checkpoint"`, what the earlier attempts' last `checkpoint` was given; else None."""
        checkpoint = self._state.checkpoint
        return None if checkpoint is None else unpack_value(checkpoint.value)

    @property
    def logger(self) -> Any:
        """A logger that names run, attempt and handler. What it says is not an entry of the run."""
        return self._state.logger

    @overload
    def on_query(self, name: str) -> Callable[[Function], Function]: ...

    @overload
    def on_query(self, name: str, function: Function) -> Function: ...

    def on_query(self, name: str, function: Function | None = None) -> Any:
        """Have a function answer what anybody may ask of this handler while it works, as `run.query(name)`.

        `ctx.on_query("status", fn)`, or above the function: `@ctx.on_query("status")`. It is given the arguments of
        the query as one value, or nothing where the query has none, and what it returns, anything msgpack can hold, is
        the reply. An async handler's functions run on its loop, a plain one's in a thread beside it; either may be
        async. Nothing of it is recorded: it looks, and uses no operation of the context.
        """
        check_name(name)
        if function is None:
            return partial(self.on_query, name)
        self._state.queries.on(name, function)
        return function

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the handler is. Never waits; when there is no room, the latest one is sent later."""
        self._state.progress(current, total, message)

    def continue_as(self, input: Any = None) -> NoReturn:
        """End this run, and go on as another one with the same handler and terms, this input, and a log of its own.

        It does not return. For a run whose log grows long: what it is about is handed on in the input. Whoever waits
        for this run's result is given that of the other one. Children that still run are cancelled, as at any end.
        """
        raise ContinueAs(pack_value(input))

    def _begin_emit(self, kind: str, value: Any, cause: int | None) -> tuple[bytes, int | None] | None:
        """Return body and index of an entry to let out, or None where the log has it."""
        check_kind(kind)
        check_offset("cause", cause)
        return self._begin_entry(kind, pack_value(value))

    def _begin_entry(self, kind: str, body: bytes) -> tuple[bytes, int | None] | None:
        """Return body and index of an entry to let out, or None where the log has it."""
        journal = self._state.journal
        if journal is None:
            return body, None
        index = journal.next_index()
        return None if journal.emitted(index, kind, body) else (body, index)

    def _begin_write(self, stream: str, piece: Piece) -> tuple[bool, int | None]:
        """Return whether the log has a piece of output, and its index."""
        journal = self._state.journal
        if journal is None:
            return False, None
        index = journal.next_index()
        return journal.written(index, stream, piece), index

    def _begin_checkpoint(self, value: Any) -> tuple[bytes, int | None] | None:
        """Return body and index of a checkpoint to let out, or None where the log has it."""
        body = pack_value(Checkpoint(value=pack_value(value)))
        return (body, self._next_number()) if self._state.journal is None else self._begin_entry(Kind.CHECKPOINT, body)

    def _begin_child(self, handler: str, input: Any, options: ChildOptions) -> Spawning:
        wanted = Wanted(handler, input, **options)
        journal, inbox = self._state.journal, self._state.inbox
        index = self._next_number() if journal is None else journal.next_index()
        recorded = None if journal is None else journal.spawned(index, handler, wanted.digest)
        spawn = recorded or wanted.spawn(inbox.again(index, wanted.digest))
        if len(spawn.input) > self._state.outlet.body_bytes_max:
            raise too_large(f"run {handler}", len(spawn.input), self._state.outlet.body_bytes_max)
        key = index, spawn.digest
        return Spawning(key, spawn, known=inbox.knows(key))

    def _child_value(self, ended: ChildEnded) -> Any:
        """Return what a child came to, or raise it."""
        journal = self._state.journal
        if journal is None:
            return child_value(ended, 0)
        self._state.outlet.close_output()  # what is written from now on comes after it was known
        return child_value(ended, journal.last)

    def _begin_attach(self, path: str | PathLike[str], name: str | None) -> Attaching:
        place = Path(path).absolute()
        name = check_artifact_name(place.name if name is None else name)
        journal = self._state.journal
        if journal is None:
            return Attaching(str(place), name, None, None)
        index = journal.next_index()
        return Attaching(str(place), name, index, journal.attached(index, name))

    def _start_upload(self, attaching: Attaching) -> Sending:
        assert self._state.uploads is not None, "the attempt has nowhere to put files"
        return self._state.uploads.start(attaching.path, attaching.name)

    def _begin_receive(self) -> Receiving:
        journal = self._state.journal
        if journal is None:
            return Receiving(None, None)
        index = journal.next_index()
        return Receiving(index, journal.received(index))

    def _served(self, received: Received) -> Steer | None:
        """Return the message that the journal says was given; None where none came."""
        if received.id is None:
            return None
        steer = self._state.inbox.named(received.id)
        if steer is None:
            raise FleetlineError(
                f"the run's log has no message {received.id}, which it says that the handler was given"
            )
        return steer

    def _begin_question(self, kind: QuestionKind, name: str, payload: Any, timeout: float | None) -> Asking:
        check_name(name)
        timeout_ms, packed = span_ms("timeout", timeout), pack_value(payload)
        digest = digest_arguments((kind.value, name, payload), {})
        journal, inbox = self._state.journal, self._state.inbox
        if journal is None:
            index, known = self._next_number(), False
        else:
            index = journal.next_index()
            known = journal.asked(index, kind, name, digest)
        known = inbox.asks(index, digest) or known
        if not known and inbox.questions > QUESTIONS_MAX:
            raise ValueError(f"the question {name!r} is one too many: a run asks {QUESTIONS_MAX} at most")
        return Asking(kind, name, index, digest, packed, timeout_ms, known)

    def _begin_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Begun:
        journal = self._state.journal
        if journal is None:
            return Begun(name, 0, "", None)
        index = journal.next_index()
        digest = digest_arguments(args, kwargs)
        return Begun(name, index, digest, journal.called(index, name, digest))

    def _failed(self, begun: Begun, error: Exception) -> bytes:
        """Return the body of the record of a call that raised. What is written from now on comes after it."""
        journal = self._state.journal
        assert journal is not None
        self._state.outlet.close_output()
        return begun.failed(error, journal.last)

    def _begin_marking(self, op: MarkerOp, name: str | None = None) -> Marking:
        journal = self._state.journal
        if journal is None:
            return Marking(op, name, None, None)
        index = journal.next_index()
        return Marking(op, name, index, journal.marked(index, op, name))

    def _begin_sleep(self, seconds: float) -> tuple[float, Marking]:
        seconds = check_seconds(seconds)
        return seconds, self._begin_marking(MarkerOp.SLEEP, repr(seconds))

    def _begin_version(self, change: str, latest: int) -> tuple[int, Marking | None]:
        """Return the version to keep to, and its marking where that is to be recorded."""
        check_name(change)
        if latest < 1:
            raise ValueError(f"the latest version of {change!r} is {latest}; versions count from 1, 0 is none yet")
        journal = self._state.journal
        if journal is None:
            return latest, None
        version, index = journal.version(change, latest)
        return version, None if index is None else Marking(MarkerOp.VERSION, change, index, None)

    def _begin_effect(self, name: str) -> tuple[EffectKey, Marking]:
        check_name(name)
        marking = self._begin_marking(MarkerOp.EFFECT, name)
        number = self._next_number() if marking.index is None else marking.index
        return EffectKey(f"{self.run_id}/{number}/{name}", self._state.assign.fence), marking

    def _next_number(self) -> int:
        """Number an effect, a checkpoint, a question or a child, where there is no journal."""
        self._state.numbered += 1
        return self._state.numbered
