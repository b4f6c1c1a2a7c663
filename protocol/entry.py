"""Entries, positions and the tag chain.

A log is a sequence of entries with dense offsets 1, 2, 3, ... Each entry is stored, sent and hashed
as the same bytes, its `packed` value. The tag of an entry chains over all before it:

    tag_0 = first 16 hex digits of sha1("fleetline1" + epoch)
    tag_n = first 16 hex digits of sha1(tag_{n-1} + offset + ":" + ts_ms + ":" + packed)

so that a position (epoch, offset, tag) names one history, not merely a place in some history. The tag
finds accidents (a lost tail, a restored backup); it is no signature.

Specification: docs/protocol.md, sections "Entries" and "Tags".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha1
from typing import Annotated, NamedTuple

from pydantic import Field

__all__ = ["Entry", "Position", "Record", "Tag", "UInt", "chain", "first_tag", "next_tag", "origin"]


UInt = Annotated[int, Field(ge=0, lt=2**63)]
Tag = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class Position(NamedTuple):
    """A place in a log, after the entry at `offset`: on the wire the array [epoch, offset, tag]."""

    epoch: Annotated[str, Field(max_length=64)]
    offset: UInt
    tag: Tag


class Entry(NamedTuple):
    """One entry as it is stored: on the wire the array [offset, ts_ms, packed]."""

    offset: UInt
    ts_ms: UInt
    packed: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """What an entry says: the msgpack array inside `packed` (see `protocol.codec.unpack_record`).

    Attributes:
        kind: what it is; kinds that begin with `$` are control, with a schema of their own.
        src: the principal that wrote it, as the hub authenticated it.
        attempt: the run's attempt that wrote it, from 1; None outside an attempt.
        seq: its number among the entries of its producer, from 1; None where a hub wrote it.
        index: the journal index of the operation that made it; None where there is none.
        cause: the offset, in the same log, of the entry that made its writer write it.
        body: what was said; opaque to the hub, msgpack by convention.
    """

    kind: str
    src: str
    attempt: int | None
    seq: int | None
    index: int | None
    cause: int | None
    body: bytes


def first_tag(epoch: str) -> str:
    """Return tag_0 of a log."""
    return sha1(f"fleetline1{epoch}".encode(), usedforsecurity=False).hexdigest()[:16]


def next_tag(tag: str, offset: int, ts_ms: int, packed: bytes) -> str:
    """Return the tag of the entry at `offset`, given the tag of the entry before it."""
    head = f"{tag}{offset}:{ts_ms}:".encode()
    return sha1(head + packed, usedforsecurity=False).hexdigest()[:16]


def chain(tag: str, entries: Iterable[Entry]) -> str:
    """Return the tag after `entries`, given the tag before them."""
    for offset, ts_ms, packed in entries:
        tag = next_tag(tag, offset, ts_ms, packed)
    return tag


def origin(epoch: str) -> Position:
    """Return the position before the first entry of the log with this epoch."""
    return Position(epoch, 0, first_tag(epoch))
