"""An entry as its reader sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from protocol.codec import unpack_record, unpack_value
from protocol.control import PACKED_FIELDS
from protocol.entry import Entry as StoredEntry
from protocol.entry import Position
from protocol.readable import entry_object

__all__ = ["Entry", "decode_body", "read_entry"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a log.

    Attributes:
        log: on the wire `kind/name`.
        offset: its place, from 1.
        epoch: names the log's history.
        ts_ms: when it was appended, by the store's clock.
        kind: what it is; kinds that begin with `$` are control.
        src: the principal that wrote it.
        attempt: the run's attempt that wrote it, where one did.
        seq: its number among its producer's entries.
        index: the journal index of the operation that made it.
        cause: the offset of the entry that it answers.
        body: decoded where it is msgpack, else the bytes. Packed values inside control bodies (a run's
            input and result) are decoded as well.
        tag: verified; None where kinds are left out, since the chain cannot be checked then.
        packed: the bytes that were stored and hashed.
    """

    log: str
    offset: int
    epoch: str
    ts_ms: int
    kind: str
    src: str
    attempt: int | None
    seq: int | None
    index: int | None
    cause: int | None
    body: Any
    tag: str | None
    packed: bytes = field(repr=False)
    _ack: Callable[[Entry], None] | None = field(default=None, repr=False, compare=False)

    @property
    def position(self) -> Position | None:
        """The place after this entry, from which to read on; None where the tag is not known."""
        return None if self.tag is None else Position(self.epoch, self.offset, self.tag)

    def ack(self) -> None:
        """Say that everything up to this entry was handled, where the subscription does not by itself."""
        if self._ack is not None:
            self._ack(self)

    def to_json(self) -> dict[str, Any]:
        """Return the entry object that is printed wherever JSON is (see `protocol.readable`)."""
        return entry_object(self.log, self.epoch, self.tag, StoredEntry(self.offset, self.ts_ms, self.packed))


def read_entry(
    log: str,
    epoch: str,
    stored: StoredEntry,
    tag: str | None,
    ack: Callable[[Entry], None] | None = None,
) -> Entry:
    """Return an entry of a log for its reader.

    Raises:
        ValueError: its bytes are not those of an entry.
    """
    record = unpack_record(stored.packed)
    return Entry(
        log,
        stored.offset,
        epoch,
        stored.ts_ms,
        record.kind,
        record.src,
        record.attempt,
        record.seq,
        record.index,
        record.cause,
        decode_body(record.kind, record.body),
        tag,
        stored.packed,
        ack,
    )


def decode_body(kind: str, body: bytes) -> Any:
    """Return the value of a body, or the bytes where it is not msgpack."""
    try:
        value = unpack_value(body)
        inside = PACKED_FIELDS.get(kind)
        if inside is not None and isinstance(value, dict) and isinstance(value.get(inside), bytes):
            value[inside] = unpack_value(value[inside])
    except ValueError:
        return body
    return value
