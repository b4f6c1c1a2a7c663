"""The journal of a run: what its handler did, so that a later attempt can do it again.

Every operation of the context has an index, dense from 1 over the whole run. A new attempt runs the handler from
the start; an operation that is recorded is served from the record: a call returns what it returned, the time is
what it was, an entry is not appended again. What is not recorded is done. An operation that is not the one of its
record is a `NonDeterminism`, and the run fails: guessing would repeat effects.

A call that failed and so ended its attempt is not served but made again, and what came after it is forgotten:
the attempt's `$errored` entry carries the call's index. What began before the failure was known is kept, but for
calls that failed as well.

Specification: docs/protocol.md, section "Journals".
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

from agent.errors import NonDeterminism
from protocol.artifacts import Attached
from protocol.codec import pack_value, unpack_record, unpack_value
from protocol.control import Call, Errored, Kind, Marker, MarkerOp, read_control
from protocol.conversation import Asked, QuestionKind, Received
from protocol.entry import Entry, Record
from protocol.family import ChildEnded, Spawn
from protocol.output import Piece, written_in
from protocol.run import RunState

__all__ = ["Journal", "digest_arguments"]

_HERE = str(Path(__file__).parent) + os.sep
_ASYNCIO = str(Path(asyncio.__file__).parent)

_EMIT, _WRITE, _CALL, _ATTACH = "emit", "write", "call", "attach"
_CHECKPOINT, _STEERING, _REPLY = "checkpoint", "steering", "reply"
_SUBMIT, _CANCEL = "submit", "cancel"


@dataclass(frozen=True, slots=True)
class _Recorded:
    """One operation: which, of what name, and what tells it from others of that name."""

    op: str
    name: str
    digest: bytes
    outcome: Call | Marker | Received | Spawn | Attached | None = None
    upto: int = 0
    """The last index that it covers, where it is output: several pieces may have been joined."""

    def __str__(self) -> str:
        return _words(self.op, self.name)

    @property
    def failed(self) -> bool:
        return isinstance(self.outcome, Call) and self.outcome.error is not None


class Journal:
    """One attempt's view of its run's journal. Used by one thread at a time.

    Attributes:
        broken: the handler diverged from the journal; it is told again whatever it asks.
    """

    def __init__(self) -> None:
        self._records: dict[int, _Recorded] = {}
        self._failed_children: set[tuple[int, str]] = set()
        self._highest = 0
        self._last = 0
        self._versions: dict[str, int] = {}
        self._output: tuple[_Recorded, hashlib._Hash] | None = None
        self.broken: NonDeterminism | None = None

    @property
    def last(self) -> int:
        """The last index that was given out."""
        return self._last

    @property
    def catching_up(self) -> bool:
        """Whether earlier attempts came further than this one is."""
        return self._last < self._highest

    def record(self, entry: Entry) -> None:
        """Take an entry of an earlier attempt, in the order of the log."""
        record = unpack_record(entry.packed)
        if record.kind == Kind.CHILD_ENDED:
            self._note_child(read_control(ChildEnded, record.body))
        if record.index is None:
            return
        if record.kind == Kind.ERRORED:
            self._forget(record.index, read_control(Errored, record.body).begun)
            return
        written = written_in(record.kind, record.body)
        if written is None or not 0 < written[0] <= record.index:
            self._records[record.index] = _recorded(record)
        else:
            writes, piece = written
            recorded = _Recorded(_WRITE, record.kind, _digest_output(piece, sha256(piece.data)), upto=record.index)
            self._records[record.index - writes + 1] = recorded
        self._highest = max(self._highest, record.index)

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
        """Whether the log has this entry already: one of the handler's, a checkpoint, a reply, a child's cancel.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return False
        op, name = _entry_words(kind)
        self._compare(index, recorded, op, name, _digest(kind, body), "another value")
        return True

    def written(self, index: int, stream: str, piece: Piece) -> bool:
        """Whether the log has this piece of output already, in whatever entry it was joined into.

        What is written for one entry is compared when all of it was written.

        Raises:
            NonDeterminism: it has another operation at this index, or other output up to it.
        """
        recorded = self._find(index)
        if recorded is None:
            return False
        self._compare(index, recorded, _WRITE, stream, recorded.digest, "")
        assert self._output is not None
        content = self._output[1]
        content.update(piece.data)
        if index == recorded.upto:
            self._compare(index, recorded, _WRITE, stream, _digest_output(piece, content), "another content")
        return True

    def called(self, index: int, name: str, digest: str) -> Call | None:
        """Return what this call came to before, if it was made.

        Raises:
            NonDeterminism: the log has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return None
        self._compare(index, recorded, _CALL, name, digest.encode(), "other arguments")
        assert isinstance(recorded.outcome, Call)
        return recorded.outcome

    def marked(self, index: int, op: MarkerOp, name: str | None) -> Marker | None:
        """Return what the log has of this operation, if anything.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return None
        self._compare(index, recorded, op, name or "", b"", "")
        assert isinstance(recorded.outcome, Marker)
        return recorded.outcome

    def received(self, index: int) -> Received | None:
        """Return what the log has of this message that the handler was given, if anything.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return None
        self._compare(index, recorded, _STEERING, "", b"", "")
        assert isinstance(recorded.outcome, Received)
        return recorded.outcome

    def attached(self, index: int, name: str) -> Attached | None:
        """Return what the log has of this artifact, if it is whole.

        Raises:
            NonDeterminism: the log has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return None
        self._compare(index, recorded, _ATTACH, name, b"", "")
        assert isinstance(recorded.outcome, Attached)
        return recorded.outcome

    def served_messages(self) -> frozenset[str]:
        """Return the messages that the handler is given again as it was before."""
        outcomes = (recorded.outcome for recorded in self._records.values())
        return frozenset(outcome.id for outcome in outcomes if isinstance(outcome, Received) and outcome.id)

    def asked(self, index: int, kind: QuestionKind, name: str, digest: str) -> bool:
        """Whether the log has this question already.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return False
        self._compare(index, recorded, kind.value, name, digest.encode(), "another payload")
        return True

    def spawned(self, index: int, handler: str, digest: Callable[[str | None], str]) -> Spawn | None:
        """Return what the log has of this child, if it was asked for already.

        Args:
            index: of the child.
            handler: that it is to be a run of.
            digest: returns what tells it from others, given the child in the place of which it is.

        Raises:
            NonDeterminism: it has another operation at this index.
        """
        recorded = self._find(index)
        if recorded is None:
            return None
        again = recorded.outcome.again if isinstance(recorded.outcome, Spawn) else None
        self._compare(index, recorded, _SUBMIT, handler, digest(again).encode(), "another input or other terms")
        assert isinstance(recorded.outcome, Spawn)
        return recorded.outcome

    def version(self, change: str, latest: int) -> tuple[int, int | None]:
        """Decide which version of a part of its code a run keeps to.

        The first time that a run comes by decides: a new run takes the latest and records it; one that went on
        from here before the change existed has version 0, and no operation of it.

        Returns:
            The version, and the index to record it at, None where there is nothing to record.

        Raises:
            NonDeterminism: the run keeps to a version that this code does not know yet.
        """
        if self.broken is not None:
            raise self.broken
        known = self._versions.get(change)
        if known is not None:
            return known, None
        index = self._last + 1
        recorded = self._find(index)
        if recorded is not None and (recorded.op, recorded.name) == (MarkerOp.VERSION, change):
            version = _value(recorded)
            if version > latest:
                self._diverge(index, f"{recorded} at {version}", f"{recorded} at {latest} at most")
            self._last, place = index, None
        elif self._highest >= index:
            version, place = 0, None
        else:
            version, place = latest, self.next_index()
        self._versions[change] = version
        return version, place

    def returned(self) -> None:
        """The handler is done.

        Raises:
            NonDeterminism: the journal has more than the handler did, or the handler diverged before.
        """
        if self.broken is not None:
            raise self.broken
        index = self._last + 1
        if self._highest >= index:
            recorded = self._find(index)
            self._diverge(index, str(recorded or "a later operation"), "the handler's return")

    def _note_child(self, ended: ChildEnded) -> None:
        if ended.state != RunState.SUCCEEDED:
            self._failed_children.add((ended.index, ended.digest))

    def _failed(self, index: int, recorded: _Recorded) -> bool:
        return recorded.failed or (index, recorded.digest.decode("latin-1")) in self._failed_children

    def _forget(self, failed: int, known_at: int | None) -> None:
        """An attempt ended since the call, or the child, at `failed` did: forget it, and what came of its failure.

        `known_at` is the last index that was given out when the failure of a child was known.
        """
        culprit = self._records.get(failed)
        call = culprit.outcome if culprit is not None else None
        begun = call.begun if isinstance(call, Call) and call.begun is not None else known_at or failed
        self._records = {
            index: kept
            for index, kept in self._records.items()
            if index < failed or (failed < index <= begun and not self._failed(index, kept))
        }
        self._highest = max((max(index, kept.upto) for index, kept in self._records.items()), default=0)

    def _find(self, index: int) -> _Recorded | None:
        """Return what the log has at an index, which the handler is at."""
        if self._output is not None and index <= self._output[0].upto:
            return self._output[0]
        recorded = self._records.get(index)
        self._output = (recorded, sha256()) if recorded is not None and recorded.upto else None
        return recorded

    def _compare(self, index: int, recorded: _Recorded, op: str, name: str, digest: bytes, other: str) -> None:
        if (recorded.op, recorded.name, recorded.digest) == (op, name, digest):
            return
        same = f" with {other}" if (recorded.op, recorded.name) == (op, name) else ""
        self._diverge(index, str(recorded), _words(op, name) + same)

    def _diverge(self, index: int, expected: str, actual: str) -> None:
        self.broken = NonDeterminism(index, expected, actual, _source())
        raise self.broken


def digest_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Return what tells the arguments of one call from another's. What cannot be packed counts by its type."""
    return sha256(_packed((args, kwargs))).hexdigest()[:32]


def _recorded(record: Record) -> _Recorded:
    if record.kind == Kind.CALL:
        call = read_control(Call, record.body)
        return _Recorded(_CALL, call.name, call.digest.encode(), call)
    if record.kind == Kind.MARKER:
        marker = read_control(Marker, record.body)
        return _Recorded(marker.op, marker.name or "", b"", marker)
    if record.kind == Kind.RECEIVED:
        return _Recorded(_STEERING, "", b"", read_control(Received, record.body))
    if record.kind == Kind.SPAWN:
        spawn = read_control(Spawn, record.body)
        return _Recorded(_SUBMIT, spawn.handler, spawn.digest.encode(), spawn)
    if record.kind == Kind.ATTACHED:
        attached = read_control(Attached, record.body)
        return _Recorded(_ATTACH, attached.name, b"", attached)
    if record.kind == Kind.ASKED:
        asked = read_control(Asked, record.body)
        return _Recorded(asked.kind.value, asked.name, asked.digest.encode())
    return _Recorded(*_entry_words(record.kind), _digest(record.kind, record.body))


def _entry_words(kind: str) -> tuple[str, str]:
    if kind in (Kind.STEERED, Kind.CHILD_CANCEL):
        return (_REPLY if kind == Kind.STEERED else _CANCEL), ""
    return (_CHECKPOINT, "") if kind == Kind.CHECKPOINT else (_EMIT, kind)


def _words(op: str, name: str) -> str:
    """Return an operation in the words that the handler's author wrote it in."""
    if op == MarkerOp.SLEEP:
        return f"sleep of {name} s"
    return f"{op} {name!r}" if name else str(op)


def _value(recorded: _Recorded) -> Any:
    assert isinstance(recorded.outcome, Marker)
    return unpack_value(recorded.outcome.value or b"")


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


def _digest_output(piece: Piece, content: hashlib._Hash) -> bytes:
    return (b"text" if piece.text else b"data") + content.digest()[:16]


def _source() -> str:
    """Return file and line of the handler that asked: the first frame outside of this package."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename.startswith(_ASYNCIO):
        return "the end of the handler"
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
