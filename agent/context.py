"""What an async handler may do: `RunContext`. Plain functions have `agent.plain_context.PlainRunContext`.

Every operation goes the same way: take its index, ask the journal, and else do it and let its entry out. Those that
may run concurrently (each that is an `Operation`) and `effect` take their index where they are named, the others where
they are awaited.

Specification: docs/protocol.md, sections "Runs" and "Journals".
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from os import PathLike
from typing import Any, TypeVar, Unpack, cast, overload
from uuid import UUID

from agent.attempt_state import AttemptState
from agent.children import Child, ChildOptions, Spawning
from agent.context_base import ContextBase, draw, draw_uuid, wall_ms
from agent.operations import (
    Attaching,
    Begun,
    EffectKey,
    Marking,
    Operation,
    Outcome,
    only_operations,
    outcomes,
    sleep_left_s,
    to_datetime,
)
from agent.steering import Asking, SteerMessage, answered_body, received_body
from agent.suspension import Wait, Waiter
from agent.threads import in_loop
from protocol.artifacts import Attached
from protocol.children import ChildKey
from protocol.codec import pack_value, unpack_value
from protocol.control import Kind, MarkerOp
from protocol.conversation import QuestionKind, answer_id
from protocol.family import ChildEnded
from protocol.output import STDOUT, Piece, check_stream, pieces

__all__ = ["RunContext"]

T = TypeVar("T")

YIELD_ENTRIES = 256
"""A handler that never has to wait lets others have the loop after so many entries."""


class RunContext(ContextBase):
    """What an async handler may do. Cancellation arrives as `asyncio.CancelledError`."""

    def __init__(self, state: AttemptState) -> None:
        super().__init__(state)
        self._waiter = Waiter(state.patience, state.put_away)
        self._written = 0

    async def emit(self, kind: str, value: Any = None, *, cause: int | None = None) -> None:
        """Append an entry to the run's log: every watcher sees it. Waits while the window is full.

        Args:
            kind: what it is; not beginning with `$`.
            value: anything msgpack can hold.
            cause: the offset of the entry that it answers.
        """
        begun = self._begin_emit(kind, value, cause)
        if begun is not None:
            await self._put(kind, *begun, cause)

    async def write(self, data: str | bytes, stream: str = STDOUT) -> None:
        """Write output: text or bytes in pieces of any size, which every watcher sees within a few milliseconds.

        Pieces that come close together are joined into one entry. Waits while the window is full.

        Args:
            data: it is shown as it is; a line ends where it says so.
            stream: `stdout` or `stderr`.
        """
        check_stream(stream)
        for piece in pieces(data, self._state.outlet.body_bytes_max):
            known, index = self._begin_write(stream, piece)
            if not known:
                await self._write(stream, piece, index)

    @overload
    def call(self, name: str, fn: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> Operation[T]: ...

    @overload
    def call(self, name: str, fn: Callable[..., T], *args: Any, **kwargs: Any) -> Operation[T]: ...

    def call(self, name: str, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Operation[Any]:
        """Make a call and keep what it came to: on a new attempt it is not made again, but served.

        Plain functions run in a thread. What the call returns must be something msgpack can hold; it is given
        back as it is read from there (a tuple as a list), now as on every attempt. Await it.
        """
        begun = self._begin_call(name, args, kwargs)
        return Operation(f"call {name!r}", partial(self._call, begun, fn, args, kwargs), self._state.journal)

    async def gather(self, *operations: Operation[Any], return_exceptions: bool = False) -> list[Any]:
        """Do operations concurrently, as in `ctx.gather(ctx.call(...), ctx.call(...))`.

        Their indices are in the order of the arguments, in whatever order they complete. All of them are waited
        for; then, where some failed, the first of those in that order is raised.

        Args:
            operations: what to do.
            return_exceptions: give failures back, each in its place, instead of raising one.

        Raises:
            TypeError: something has no index yet, a coroutine of the handler's own, say.
        """
        only_operations(operations)
        with self._waiter.gathering() as split:
            async with asyncio.TaskGroup() as group:
                made = [group.create_task(_outcome(operation)) for operation in operations]
                split(made)
        return outcomes([task.result() for task in made], return_exceptions, self._state.fault)

    async def now(self) -> datetime:
        """Return the time, in UTC and whole milliseconds; on every attempt the same."""
        return to_datetime(await self._mark(self._begin_marking(MarkerOp.NOW), wall_ms))

    async def random(self) -> float:
        """Return a random number in [0, 1); on every attempt the same. A seed for more of them."""
        return cast(float, await self._mark(self._begin_marking(MarkerOp.RANDOM), draw))

    async def uuid(self) -> UUID:
        """Return a random UUID; on every attempt the same."""
        return UUID(await self._mark(self._begin_marking(MarkerOp.UUID), draw_uuid))

    def sleep(self, seconds: float) -> Operation[None]:
        """Sleep. When it is over is recorded, so that a new attempt sleeps only what is left. Await it."""
        return Operation("sleep", partial(self._sleep, *self._begin_sleep(seconds)), self._state.journal)

    async def checkpoint(self, value: Any) -> None:
        """Say where the handler is: with `recover="checkpoint"` a new attempt finds it as `last_checkpoint`.

        Like `emit` it returns when the entry is on its way; `flush` waits until it counts.
        """
        begun = self._begin_checkpoint(value)
        if begun is not None:
            await self._put(Kind.CHECKPOINT, *begun)

    def effect(self, name: str) -> AbstractAsyncContextManager[EffectKey]:
        """Do something outside under a key: `async with ctx.effect("open_pr") as key`.

        The key is the same on every attempt, and another for every effect: hand it to the outside, which is to do
        once what comes with one key. `key.fence` is the attempt's fencing token. The body begins when everything
        that came before it is acknowledged; on a new attempt it is run again.
        """
        return self._effect(*self._begin_effect(name))

    async def version(self, change: str, latest: int = 1) -> int:
        """Return the version of a part of the handler that this run keeps to, from its first use on.

        A new run gets `latest`; one that went past here with code that had no such line gets 0.
        """
        version, marking = self._begin_version(change, latest)
        if marking is not None:
            await self._put(Kind.MARKER, marking.body(version), marking.index)
        return version

    def steering(self, timeout: float | None = None) -> AsyncIterator[SteerMessage]:
        """Give what the run is told, in the order of the log: `async for message in ctx.steering()`.

        A message is asked for when the one before is done with. It ends when none comes within `timeout` seconds (0:
        with what is there); without, never: leave the loop. Each message is given once; an attempt that starts over is
        given all of them again.
        """
        return self._steering(timeout)

    def attach(self, path: str | PathLike[str], name: str | None = None) -> Operation[Attached]:
        """Attach a file to the run: it is whole and durable when this returns. Await it.

        Args:
            path: of a regular file, which must not change meanwhile.
            name: what it is to be called; without, the file's name. Of one name the last that is begun counts.

        Raises (when awaited):
            AttachFailed: there is no such file, it cannot be read, or it changed.
            RequestError: `limit_reached`; the message says which.
        """
        attaching = self._begin_attach(path, name)
        return Operation(f"attach {attaching.name!r}", partial(self._attach, attaching), self._state.journal)

    def ask(self, name: str, payload: Any = None, *, timeout: float | None = None) -> Operation[Any]:
        """Ask whoever may answer, and wait for the first answer. Await it.

        The question waits through reconnects, restarts of the hub and new attempts; its time is kept by the hub.

        Args:
            name: what is asked.
            payload: what there is to know about it; anything msgpack can hold.
            timeout: how long there is for an answer, in seconds; without, for ever.

        Raises (when awaited):
            Unanswered: nobody answered in time.
        """
        asking = self._begin_question(QuestionKind.ASK, name, payload, timeout)
        return Operation(f"ask {name!r}", partial(self._ask, asking), self._state.journal)

    def approve(self, name: str, payload: Any = None, *, timeout: float | None = None) -> Operation[bool]:
        """Ask for approval: True or False. What nobody approves in time is denied. Else as `ask`."""
        asking = self._begin_question(QuestionKind.APPROVE, name, payload, timeout)
        return Operation(f"approve {name!r}", partial(self._ask, asking), self._state.journal)

    def submit(self, handler: str, input: Any = None, **options: Unpack[ChildOptions]) -> Operation[Child]:
        """Submit a run that is a child of this one: `child = await ctx.submit("build", {"target": "x"})`.

        `await child.result()` waits for what it comes to. Several: `await ctx.gather(ctx.submit(...), ...)`, and then
        `await ctx.gather(*[child.result() for child in children])`. A new attempt does not submit it again, but finds
        it, unless it did not succeed and this handler failed of that. It is cancelled when this run is cancelled, or
        ends in any way before it; with `abandon` it goes on.

        Args:
            handler: name of the handler.
            input: what it is applied to: anything msgpack can hold.
            options: queue, where, priority, times and more: see `agent.children.ChildOptions`.

        Raises:
            ValueError: an option has no such value, or the run has had as many children as it may.
            TypeError: a child has no such option.
        """
        spawning = self._begin_child(handler, input, options)
        return Operation(f"submit {handler!r}", partial(self._submit, spawning), self._state.journal)

    async def flush(self) -> None:
        """Wait until everything that was emitted is acknowledged."""
        outlet = self._state.outlet
        if outlet.unacknowledged or outlet.dead is not None:
            await in_loop(outlet.acknowledged(outlet.made))

    async def _call(self, begun: Begun, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if begun.recorded is not None:
            return begun.serve()
        if not begun.index:
            return await _make(fn, args, kwargs)
        await self.flush()
        try:
            value = await _make(fn, args, kwargs)
            body = begun.succeeded(value)
        except Exception as error:
            if self._state.fault is None:
                await self._put(Kind.CALL, self._failed(begun, error), begun.index)
            raise
        await self._put(Kind.CALL, body, begun.index)
        return unpack_value(pack_value(value))

    async def _mark(self, marking: Marking, make: Callable[[], Any]) -> Any:
        """Return what is recorded, or make it and record it."""
        if marking.recorded is not None:
            return marking.value()
        value = make()
        if marking.index is not None:
            await self._put(Kind.MARKER, marking.body(value), marking.index)
        return value

    async def _sleep(self, seconds: float, marking: Marking) -> None:
        due_ms = await self._mark(marking, lambda: wall_ms() + round(seconds * 1000))
        left_s = sleep_left_s(due_ms, seconds, wall_ms())
        now_s = time.monotonic()
        with self._waiter.waiting(Wait(now_s, until_s=now_s + left_s)):
            await asyncio.sleep(left_s)

    @asynccontextmanager
    async def _effect(self, key: EffectKey, marking: Marking) -> AsyncIterator[EffectKey]:
        await self._mark(marking, lambda: None)
        await self.flush()
        with self._state.patience.held():
            yield key

    async def _attach(self, attaching: Attaching) -> Attached:
        if attaching.recorded is not None:
            return attaching.recorded
        sending = self._start_upload(attaching)
        try:
            attached = await in_loop(sending.done)
        except asyncio.CancelledError:
            sending.stop()
            raise
        await self._put(Kind.ATTACHED, pack_value(attached), attaching.index)
        await self.flush()
        return attached

    async def _steering(self, timeout_s: float | None) -> AsyncIterator[SteerMessage]:
        while True:
            receiving, inbox = self._begin_receive(), self._state.inbox
            if receiving.recorded is not None:
                steer = self._served(receiving.recorded)
            else:
                steer = await self._find(inbox.take, timeout_s, Wait(time.monotonic()) if timeout_s is None else None)
                if steer is not None or receiving.index is not None:
                    await self._put(Kind.RECEIVED, received_body(steer), receiving.index)
            if steer is None:
                return
            yield SteerMessage(steer, self._say)

    async def _submit(self, spawning: Spawning) -> Child:
        inbox, key = self._state.inbox, spawning.key
        if not spawning.known:
            await self._find(lambda: inbox.admits(key) or None)
            await self.flush()
            await self._put(Kind.SPAWN, spawning.body, key[0])
        run = await self._find(partial(inbox.child_run, key))
        assert run is not None
        return Child(run, spawning, self._child_end, self._child_value, partial(self._say, Kind.CHILD_CANCEL))

    async def _child_end(self, key: ChildKey) -> ChildEnded:
        waiting = Wait(time.monotonic(), child=key)
        ended = await self._find(partial(self._state.inbox.child_end, key), None, waiting)
        assert ended is not None
        return ended

    async def _say(self, kind: str, body: bytes) -> None:
        begun = self._begin_entry(kind, body)
        if begun is not None:
            await self._put(kind, *begun)

    async def _ask(self, asking: Asking) -> Any:
        if not asking.known:
            await self.flush()
            await self._put(Kind.ASKED, asking.body(), asking.index)
        waiting = Wait(time.monotonic(), question=asking.index)
        answered = await self._find(partial(self._state.inbox.answer, asking.index, asking.digest), None, waiting)
        assert answered is not None
        if self._state.inbox.gives(answer_id(asking.index)):
            await self._put(Kind.RECEIVED, answered_body(asking.index), None)
        return asking.value(answered)

    async def _find(
        self, look: Callable[[], T | None], timeout_s: float | None = None, waiting: Wait | None = None
    ) -> T | None:
        """Wait until the inbox has what is looked for, or there is none in time.

        `waiting` may have the handler put away.
        """
        found = look()
        if found is not None:
            return found
        if waiting is not None:
            with self._waiter.waiting(waiting):
                return await self._found(look)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self._found(look)
        return look()

    async def _found(self, look: Callable[[], T | None]) -> T:
        while True:
            changed = self._state.inbox.changed()
            found = look()
            if found is not None:
                changed.cancel()
                return found
            await in_loop(changed)

    async def _put(self, kind: str, body: bytes, index: int | None, cause: int | None = None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not (seq := outlet.offer(kind, body, index, cause)):
            await in_loop(outlet.room(len(body)))
        if not seq % YIELD_ENTRIES:
            await asyncio.sleep(0)

    async def _write(self, stream: str, piece: Piece, index: int | None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not outlet.write(stream, piece, index):
            await in_loop(outlet.room(len(piece.data)))
        self._written += 1
        if not self._written % YIELD_ENTRIES:
            await asyncio.sleep(0)


async def _outcome(operation: Operation[Any]) -> Outcome:
    try:
        return Outcome(await operation, None)
    except Exception as error:  # noqa: BLE001 - what the operation came to, for `outcomes` to raise
        return Outcome(None, error)


async def _make(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args, **kwargs)
    made = await asyncio.to_thread(fn, *args, **kwargs)
    return await made if inspect.isawaitable(made) else made
