"""The journal of a run: what its handler did, so that a later attempt can do it again.

Every operation of the context (`call`, `emit`) has an index, dense from 1 over the whole run. A new attempt
runs the handler from the start; an operation that is recorded is served from the record: a call returns what
it returned, an entry is not appended again. What is not recorded is done. An operation that is not the one
of its record is a `NonDeterminism`, and the run fails: guessing would repeat effects.

A call that failed and so ended its attempt is not served but made again, and what came after it is forgotten:
the attempt's `$errored` entry carries the call's index.

Specification: docs/protocol.md, section "Journals".
"""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from agent.errors import NonDeterminism
from protocol.codec import pack_value, unpack_record
from protocol.control import Call, Kind, read_control
from protocol.entry import Entry

__all__ = ["Journal", "digest_arguments"]

_HERE = str(Path(__file__).parent)
_ASYNCIO = str(Path(asyncio.__file__).parent)


@dataclass(frozen=True, slots=True)
class _Recorded:
    kind: str
    digest: bytes
    call: Call | None

    def __str__(self) -> str:
        return f"call {self.call.name!r}" if self.call is not None else f"emit {self.kind!r}"


class Journal:
    """One attempt's view of its run's journal. Used by one thread at a time."""

    def __init__(self) -> None:
        self._records: dict[int, _Recorded] = {}
        self._last = 0
        self.broken: NonDeterminism | None = None

    def record(self, entry: Entry) -> None:
        """Take an entry of an earlier attempt, in the order of the log."""
        record = unpack_record(entry.packed)
        if record.index is None:
            return
        if record.kind == Kind.ERRORED:
            self._records = {index: kept for index, kept in self._records.items() if index < record.index}
            return
        call = read_control(Call, record.body) if record.kind == Kind.CALL else None
        digest = _digest(record.kind, record.body) if call is None else b""
        self._records[record.index] = _Recorded(record.kind, digest, call)

    def next_index(self) -> int:
        """Return the index of the operation that begins now.

        Raises:
            NonDeterminism: the handler was told before that it diverged, and went on.
        """
        if self.broken is not None:
            raise self.broken
        self._last += 1
        return self._last

    def emitted(self, index: int, kind: str, body: bytes) -> bool:
        """Whether the log has this entry already.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._records.get(index)
        if recorded is None:
            return False
        if recorded.call is not None or recorded.digest != _digest(kind, body):
            same = " with another value" if recorded.call is None and recorded.kind == kind else ""
            self._diverge(index, str(recorded), f"emit {kind!r}{same}")
        return True

    def called(self, index: int, name: str, digest: str) -> Call | None:
        """Return what this call came to before, if it was made.

        Raises:
            NonDeterminism: the log has another operation at this index.
        """
        recorded = self._records.get(index)
        if recorded is None:
            return None
        call = recorded.call
        if call is None or call.name != name or call.digest != digest:
            same = " with other arguments" if call is not None and call.name == name else ""
            self._diverge(index, str(recorded), f"call {name!r}{same}")
        return call

    def returned(self) -> None:
        """The handler is done.

        Raises:
            NonDeterminism: the journal has more than the handler did, or the handler diverged before.
        """
        if self.broken is not None:
            raise self.broken
        index = self._last + 1
        if any(recorded >= index for recorded in self._records):
            recorded = self._records.get(index)
            self._diverge(index, str(recorded or "a later operation"), "the handler's return")

    def _diverge(self, index: int, expected: str, actual: str) -> None:
        self.broken = NonDeterminism(index, expected, actual, _source())
        raise self.broken


def digest_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return what tells the arguments of one call from another's. What cannot be packed counts by its type."""
    return sha256(_packed((args, kwargs))).hexdigest()[:32]


def _packed(value: Any) -> bytes:
    try:
        return pack_value(value)
    except (TypeError, ValueError, OverflowError):
        pass
    if isinstance(value, dict):
        return b"".join(_packed(str(key)) + _packed(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return b"".join(map(_packed, value))
    return f"<{type(value).__module__}.{type(value).__qualname__}>".encode()


def _digest(kind: str, body: bytes) -> bytes:
    return sha256(kind.encode() + b"\0" + body).digest()[:16]


def _source() -> str:
    """Return file and line of the handler that asked: the first frame outside of this package."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_ASYNCIO):
        return "the end of the handler"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
