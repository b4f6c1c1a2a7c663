"""Runs of entries, and the parts of them that a subscription may be sent: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from protocol.codec import encode_entries, pack_record, pack_value
from protocol.entry import Entry, chain

__all__ = ["CHUNK_BYTES_MAX", "CHUNK_ENTRIES_MAX", "Chunk", "Part", "cut", "fitting", "matching", "prefixes"]

CHUNK_ENTRIES_MAX = 256
CHUNK_BYTES_MAX = 512 * 1024


class Chunk:
    """A run of entries, with the tags before and after it."""

    __slots__ = ("_frame", "entries", "prev", "prev_tag", "size", "tag", "upto")

    def __init__(self, prev: int, prev_tag: str, entries: Sequence[Entry], tag: str) -> None:
        self.prev = prev
        self.prev_tag = prev_tag
        self.entries = tuple(entries)
        self.upto = prev + len(self.entries)
        self.tag = tag
        self.size = sum([len(entry.packed) for entry in self.entries])
        self._frame: bytes | None = None

    def frame(self, path: str) -> bytes:
        """Return the whole chunk as an `entries` frame; made once."""
        if self._frame is None:
            self._frame = encode_entries(path, self.prev, self.prev_tag, self.upto, self.tag, self.entries)
        return self._frame


def cut(prev: int, prev_tag: str, entries: list[Entry], tag: str) -> list[Chunk]:
    """Cut a run of entries into chunks of bounded size."""
    chunks: list[Chunk] = []
    start = size = 0
    for place, entry in enumerate(entries):
        size += len(entry.packed)
        count = place - start
        if count == CHUNK_ENTRIES_MAX or (count and size > CHUNK_BYTES_MAX):
            part = entries[start:place]
            part_tag = chain(prev_tag, part)
            chunks.append(Chunk(prev, prev_tag, part, part_tag))
            prev, prev_tag, start, size = prev + len(part), part_tag, place, len(entry.packed)
    chunks.append(Chunk(prev, prev_tag, entries[start:], tag))
    return chunks


class Part(NamedTuple):
    """What is to be sent of a chunk: `entries`, which close the range up to `upto`; `size` in bytes."""

    entries: tuple[Entry, ...]
    upto: int
    tag: str
    size: int


def fitting(chunk: Chunk, offset: int, tag: str, entries_max: int, bytes_max: int) -> Part:
    """Return what fits of a chunk after `offset`, where the tag is `tag`: one entry at least."""
    part: list[Entry] = []
    size = 0
    for entry in chunk.entries[offset - chunk.prev :]:
        if part and (len(part) == entries_max or size + len(entry.packed) > bytes_max):
            break
        part.append(entry)
        size += len(entry.packed)
    upto = offset + len(part)
    return Part(tuple(part), upto, chunk.tag if upto == chunk.upto else chain(tag, part), size)


def matching(chunk: Chunk, offset: int, tag: str, entries_max: int, bytes_max: int, kinds: tuple[bytes, ...]) -> Part:
    """Return what fits of a chunk after `offset` of the entries that begin with `kinds`; the rest is passed over."""
    part: list[Entry] = []
    size = scanned = 0
    start = offset - chunk.prev
    for entry in chunk.entries[start:]:
        if entry.packed.startswith(kinds):
            if part and (len(part) == entries_max or size + len(entry.packed) > bytes_max):
                break
            part.append(entry)
            size += len(entry.packed)
        scanned += 1
    upto = offset + scanned
    after = chunk.tag if upto == chunk.upto else chain(tag, chunk.entries[start : start + scanned])
    return Part(tuple(part), upto, after, size)


@lru_cache(maxsize=256)
def prefixes(kinds: tuple[str, ...]) -> tuple[bytes, ...]:
    """What the packed values of entries of these kinds begin with."""
    return tuple(pack_record(kind, "", b"")[: 1 + len(pack_value(kind))] for kind in kinds)
