"""What the operations of a context have in common, whether they block or are awaited.

An operation has its index before it does anything: where the handler names it, not where it is awaited. So the
order of indices is that of the handler's lines, in whatever order concurrent operations complete.

Specification: docs/protocol.md, section "Journals".
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from agent.errors import FleetlineError
from agent.journal import Journal
from protocol.artifacts import Attached
from protocol.codec import pack_value, unpack_value
from protocol.control import Call, Marker, MarkerOp, RunError

__all__ = [
    "SLEEP_S_MAX",
    "Attaching",
    "Begun",
    "CallFailed",
    "EffectKey",
    "Marking",
    "Operation",
    "Outcome",
    "check_seconds",
    "describe_error",
    "failed_begun",
    "failed_call_index",
    "mark_failed",
    "only_operations",
    "outcomes",
    "run_error",
    "sleep_left_s",
    "to_datetime",
]

T_co = TypeVar("T_co", covariant=True)

SLEEP_S_MAX = 10 * 366 * 24 * 3600.0
"""Ten years: what is longer is a mistake."""

TRACE_CHARS_MAX = 8000
MESSAGE_CHARS_MAX = 2000
NAME_CHARS_MAX = 200
_INDEX, _BEGUN = "_fleetline_index", "_fleetline_begun"


class CallFailed(Exception):
    """A recorded failure whose exception type does not exist here; `str` is its type and message."""


class EffectKey(str):
    """The idempotency key of one effect: run, journal index and name; the same on every attempt.

    Attributes:
        fence: the attempt's fencing token. Those of later attempts of the run are higher.
    """

    __slots__ = ("fence",)

    fence: int

    def __new__(cls, key: str, fence: int) -> Self:
        """Make a key of a string and a fence."""
        made = super().__new__(cls, key)
        made.fence = fence
        return made

    def __getnewargs__(self) -> tuple[str, int]:  # type: ignore[override]
        return str(self), self.fence


class Operation(Coroutine[Any, Any, T_co]):
    """An operation of an async handler, with its index: await it, or give it to `gather` with others."""

    __slots__ = ("_inner", "_journal", "_name", "_start")

    def __init__(self, name: str, start: Callable[[], Coroutine[Any, Any, T_co]], journal: Journal | None) -> None:
        self._name = name
        self._start: Callable[[], Coroutine[Any, Any, T_co]] | None = start
        self._inner: Coroutine[Any, Any, T_co] | None = None
        self._journal = journal

    def __await__(self) -> Generator[Any, Any, T_co]:
        return self._started().__await__()

    def send(self, value: Any) -> Any:
        """See `Coroutine`."""
        return self._started().send(value)

    def throw(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Any:
        """See `Coroutine`."""
        error = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        return self._started().throw(error if tb is None else error.with_traceback(tb))

    def close(self) -> None:
        """See `Coroutine`."""
        self._start = None
        if self._inner is not None:
            self._inner.close()

    def __repr__(self) -> str:
        return f"<operation {self._name}>"

    def __del__(self) -> None:
        diverged = self._journal is not None and self._journal.broken is not None
        if self._start is not None and not diverged:  # one beside it may have: then this one never had a chance
            warnings.warn(f"{self!r} was never awaited", RuntimeWarning, stacklevel=1, source=self)

    def _started(self) -> Coroutine[Any, Any, T_co]:
        if self._start is not None:
            self._inner, self._start = self._start(), None
        if self._inner is None:
            raise RuntimeError(f"{self!r} was closed before it began")
        return self._inner


class Begun:
    """A call that has its index: recorded, or to be made. Index 0: there is no journal."""

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

    def failed(self, error: Exception, last: int) -> bytes:
        """Return the body of the record of a call that raised; `last` is the last index given out by then."""
        _mark(error, self.index)
        begun = last if last > self.index else None
        return pack_value(Call(name=self.name, digest=self.digest, error=describe_error(error), begun=begun))


@dataclass(frozen=True, slots=True)
class Marking:
    """An operation that leaves a `$marker`, and has its index (None: it is not recorded)."""

    op: MarkerOp
    name: str | None
    index: int | None
    recorded: Marker | None

    def value(self) -> Any:
        """Return what is recorded."""
        assert self.recorded is not None
        return unpack_value(self.recorded.value or b"")

    def body(self, value: Any) -> bytes:
        """Return the body of its record."""
        return pack_value(Marker(op=self.op, name=self.name, value=None if value is None else pack_value(value)))


@dataclass(frozen=True, slots=True)
class Attaching:
    """A file that is to be attached, and has its index (None: it is not recorded)."""

    path: str
    name: str
    index: int | None
    recorded: Attached | None


class Outcome(NamedTuple):
    """What one of several concurrent operations came to."""

    value: Any
    error: Exception | None


def outcomes(made: Sequence[Outcome], return_exceptions: bool, fault: FleetlineError | None) -> list[Any]:
    """Return the values in the order of the operations, or raise the first failure in that order.

    Where one failed and the attempt has a fault (see `AttemptState.fault`), that is raised in any case.
    """
    errors = [outcome.error for outcome in made if outcome.error is not None]
    if errors and fault is not None:
        raise fault
    if errors and not return_exceptions:
        raise errors[0]
    return [outcome.value if outcome.error is None else outcome.error for outcome in made]


def only_operations(given: Sequence[object]) -> None:
    """Do nothing where all of these have their indices.

    Raises:
        TypeError: one has none yet, so that its place in the journal would depend on luck.
    """
    for item in given:
        if isinstance(item, Operation):
            continue
        for other in given:
            if isinstance(other, Coroutine):
                other.close()
        raise TypeError(
            f"gather was given {item!r:.140}; what runs concurrently needs its place in the journal before: "
            "give it operations of the context, as in ctx.gather(ctx.call(...), ctx.call(...))"
        )


def check_seconds(seconds: float) -> float:
    """Return how long a sleep is to be.

    Raises:
        ValueError: that is no time to sleep for.
    """
    if not 0 <= seconds <= SLEEP_S_MAX:
        raise ValueError(f"a sleep of {seconds} s; it is from 0 to {SLEEP_S_MAX:.0f} s")
    return float(seconds)


def sleep_left_s(due_ms: int, seconds: float, now_ms: int) -> float:
    """Return what is left of a sleep: never more than was asked for, whatever clock it was begun by."""
    return min(max(0.0, (due_ms - now_ms) / 1000), seconds)


def to_datetime(now_ms: int) -> datetime:
    """Return a time in ms since the epoch of Unix as an aware datetime."""
    return datetime.fromtimestamp(now_ms / 1000, UTC)


def describe_error(error: BaseException) -> RunError:
    """Return an exception as it goes into a log."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception:  # noqa: BLE001 - whatever its author wrote; the words are those of `traceback`
        message = "<exception str() failed>"
    return run_error(name, message, "".join(traceback.format_exception(error)))


def run_error(name: str, message: str, trace: str | None = None) -> RunError:
    """Return an error as it goes into a log: of a size that the hub takes, and of characters that can be packed."""
    return RunError(
        type=_packable(name[:NAME_CHARS_MAX]),
        message=_packable(message[:MESSAGE_CHARS_MAX]),
        trace=None if trace is None else _packable(trace[-TRACE_CHARS_MAX:]),
    )


def _packable(text: str) -> str:
    """Return a text with its lone surrogates (in names of files, say) written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def failed_call_index(error: BaseException) -> int | None:
    """Return the journal index of the call or the child whose failure this exception is, or was raised from."""
    found = _marked(error)
    return None if found is None else getattr(found, _INDEX)


def failed_begun(error: BaseException) -> int | None:
    """Return the last index that was given out when a child's failure was known, where this exception is of one."""
    return getattr(_marked(error), _BEGUN, None)


def mark_failed(error: Exception, index: int, begun: int) -> Exception:
    """Return an exception that says at which index what failed stands, and what was begun when that was known."""
    object.__setattr__(error, _BEGUN, begun)
    return _mark(error, index)


def _marked(error: BaseException) -> BaseException | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(getattr(seen, _INDEX, None), int):
        seen = seen.__cause__ or seen.__context__
    return seen


def _mark(error: Exception, index: int) -> Exception:
    object.__setattr__(error, _INDEX, index)  # its class may allow no change
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
