"""What a handler may do: `RunContext` for async handlers, `PlainRunContext` for plain functions.

Both have the same methods; those of the plain one block. Every operation goes the same way: take its index,
ask the journal, and else let the entry out.

Specification: docs/protocol.md, sections "Runs" and "Journals".
"""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from agent.attempt_state import AttemptState
from agent.errors import Cancelled, FleetlineError
from agent.feed import check_kind
from agent.journal import digest_arguments
from protocol.codec import pack_value, unpack_value
from protocol.control import Call, Kind, RunError

__all__ = ["CallFailed", "PlainRunContext", "RunContext", "describe_error", "failed_call_index"]

T = TypeVar("T")

YIELD_ENTRIES = 256
"""A handler that never has to wait lets others have the loop after so many entries."""

TRACE_CHARS_MAX = 8000
MESSAGE_CHARS_MAX = 2000
_INDEX = "_fleetline_index"


class CallFailed(Exception):
    """A recorded failure whose exception type does not exist here; `str` is its type and message."""


class _Base:
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
    def logger(self) -> Any:
        """A logger that names run, attempt and handler. What it says is not an entry of the run."""
        return self._state.logger

    def progress(self, current: float, total: float | None = None, message: str | None = None) -> None:
        """Say how far the handler is. Never waits; when there is no room, the latest one is sent later."""
        self._state.progress(current, total, message)

    def _begin_emit(self, kind: str, value: Any) -> tuple[bytes, int | None] | None:
        """Return body and index of an entry to let out, or None where the log has it."""
        check_kind(kind)
        body = pack_value(value)
        journal = self._state.journal
        if journal is None:
            return body, None
        index = journal.next_index()
        return None if journal.emitted(index, kind, body) else (body, index)

    def _begin_call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Begun:
        journal = self._state.journal
        if journal is None:
            return _Begun(name, 0, "", None)
        index = journal.next_index()
        digest = digest_arguments(args, kwargs)
        return _Begun(name, index, digest, journal.called(index, name, digest))


class _Begun:
    """A call that has its index: recorded, or to be made."""

    __slots__ = ("digest", "index", "name", "recorded")

    def __init__(self, name: str, index: int, digest: str, recorded: Call | None) -> None:
        self.name = name
        self.index = index
        self.digest = digest
        self.recorded = recorded

    def serve(self) -> Any:
        """Return, or raise, what the record says."""
        assert self.recorded is not None
        if self.recorded.error is not None:
            raise _mark(_revive(self.recorded.error), self.index)
        return unpack_value(self.recorded.result or b"")

    def succeeded(self, value: Any) -> bytes:
        """Return the body of the record of a call that returned."""
        return pack_value(Call(name=self.name, digest=self.digest, result=pack_value(value)))

    def failed(self, error: Exception) -> bytes:
        """Return the body of the record of a call that raised."""
        _mark(error, self.index)
        return pack_value(Call(name=self.name, digest=self.digest, error=describe_error(error)))


class RunContext(_Base):
    """What an async handler may do. Cancellation arrives as `asyncio.CancelledError`."""

    async def emit(self, kind: str, value: Any = None, *, cause: int | None = None) -> None:
        """Append an entry to the run's log: every watcher sees it. Waits while the window is full.

        Args:
            kind: what it is; not beginning with `$`.
            value: anything msgpack can hold.
            cause: the offset of the entry that it answers.
        """
        begun = self._begin_emit(kind, value)
        if begun is not None:
            body, index = begun
            await self._put(kind, body, index, cause)

    async def call(self, name: str, fn: Callable[..., Awaitable[T]] | Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make a call and keep what it came to: on a new attempt it is not made again, but served.

        Plain functions run in a thread. What the call returns must be something msgpack can hold; it is given
        back as it is read from there (a tuple as a list), now as on every attempt.
        """
        begun = self._begin_call(name, args, kwargs)
        if begun.recorded is not None:
            return cast(T, begun.serve())
        if not begun.index:
            return cast(T, await _make(fn, args, kwargs))
        await self.flush()
        try:
            value = await _make(fn, args, kwargs)
            body = begun.succeeded(value)
        except FleetlineError:
            raise
        except Exception as error:
            await self._put(Kind.CALL, begun.failed(error), begun.index, None)
            raise
        await self._put(Kind.CALL, body, begun.index, None)
        return cast(T, unpack_value(pack_value(value)))

    async def flush(self) -> None:
        """Wait until everything that was emitted is acknowledged."""
        outlet = self._state.outlet
        if outlet.unacknowledged or outlet.dead is not None:
            await asyncio.wrap_future(outlet.acknowledged(outlet.made))

    async def _put(self, kind: str, body: bytes, index: int | None, cause: int | None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not (seq := outlet.offer(kind, body, index, cause)):
            await asyncio.wrap_future(outlet.room(len(body)))
        if not seq % YIELD_ENTRIES:
            await asyncio.sleep(0)


class PlainRunContext(_Base):
    """What a plain handler may do; its methods block.

    When the run is cancelled, the next `emit` or `call` raises `Cancelled`, once; a handler that does
    neither for long looks at `cancelled`, or calls `check_cancelled`.
    """

    def __init__(self, state: AttemptState) -> None:
        super().__init__(state)
        self._told = False

    def check_cancelled(self) -> None:
        """Raise `Cancelled` where the handler is to stop and was not told yet."""
        if self._state.cancelled and not self._told:
            self._told = True
            raise Cancelled(self._state.reason or "")

    def emit(self, kind: str, value: Any = None, *, cause: int | None = None) -> None:
        """Append an entry to the run's log. See `RunContext.emit`."""
        self.check_cancelled()
        begun = self._begin_emit(kind, value)
        if begun is not None:
            body, index = begun
            self._put(kind, body, index, cause)

    def call(self, name: str, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Make a call and keep what it came to. See `RunContext.call`."""
        self.check_cancelled()
        begun = self._begin_call(name, args, kwargs)
        if begun.recorded is not None:
            return cast(T, begun.serve())
        if not begun.index:
            return fn(*args, **kwargs)
        self.flush()
        try:
            value = fn(*args, **kwargs)
            body = begun.succeeded(value)
        except FleetlineError:
            raise
        except Exception as error:
            self._put(Kind.CALL, begun.failed(error), begun.index, None)
            raise
        self._put(Kind.CALL, body, begun.index, None)
        return cast(T, unpack_value(pack_value(value)))

    def flush(self) -> None:
        """Wait until everything that was emitted is acknowledged."""
        outlet = self._state.outlet
        outlet.acknowledged(outlet.made).result()

    def _put(self, kind: str, body: bytes, index: int | None, cause: int | None) -> None:
        self._state.send_progress()
        outlet = self._state.outlet
        while not outlet.offer(kind, body, index, cause):
            outlet.room(len(body)).result()


async def _make(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(fn):
        return await fn(*args, **kwargs)
    made = await asyncio.to_thread(fn, *args, **kwargs)
    return await made if inspect.isawaitable(made) else made


def describe_error(error: BaseException) -> RunError:
    """Return an exception as it goes into a log."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    trace = "".join(traceback.format_exception(error))
    return RunError(type=name, message=str(error)[:MESSAGE_CHARS_MAX], trace=trace[-TRACE_CHARS_MAX:])


def failed_call_index(error: BaseException) -> int | None:
    """Return the journal index of the call whose failure this exception is, or was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        index = getattr(seen, _INDEX, None)
        if isinstance(index, int):
            return index
        seen = seen.__cause__ or seen.__context__
    return None


def _mark(error: Exception, index: int) -> Exception:
    setattr(error, _INDEX, index)
    return error


def _revive(recorded: RunError) -> Exception:
    """Return an exception of the recorded type, where that type is loaded here."""
    module, _, name = recorded.type.rpartition(".")
    kind = getattr(sys.modules.get(module or "builtins"), name, None)
    if isinstance(kind, type) and issubclass(kind, Exception):
        error = kind.__new__(kind)
        error.args = (recorded.message,)
        return error
    return CallFailed(f"{recorded.type}: {recorded.message}")
