"""Whether a log, or an export file of one, is what was written.

A log verifies when its offsets are dense, its times never decrease, and every tag is the one that the chain
gives. A file verifies when, besides, every line is byte for byte what an export of the same entries writes:
so a changed byte is found wherever it is, a readable field that says something else than `packed` among it.
The tag finds accidents; it is no signature.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NoReturn

from orchestrator.replay.export import entry_line, header_line, trailer_line
from protocol.entry import Entry, Position, next_tag, origin
from protocol.errors import FleetlineError

__all__ = ["LINE_BYTES_MAX", "ChainVerifier", "FileVerifier", "NotVerified", "read_export"]

LINE_BYTES_MAX = 64 * 1024 * 1024
"""Bytes of one line of an export file; a body of 1 MiB makes at most 8."""

_ENTRY_FIELDS = (
    *("log", "offset", "epoch", "ts_ms", "kind", "src", "attempt", "seq", "index", "cause", "body", "tag", "packed"),
)
_HEADER_FIELDS = ("log", "epoch", "before")
_TRAILER_FIELDS = ("log", "epoch", "head", "tag", "count")
_SHOWN_MAX = 80


_UNCHAINED = "packed does not match its tag: this entry's bytes were changed"


class NotVerified(FleetlineError):
    """A log, or an export of one, is not what was written.

    Attributes:
        offset: of the first entry at fault.
        what: is wrong with it.
    """

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(f"does not verify at offset {offset}: {what}")
        self.offset = offset
        self.what = what


class ChainVerifier:
    """Follows a log entry by entry and recomputes the chain.

    Args:
        before: the position before the first entry; `protocol.entry.origin` of the epoch for a whole log.
        claim: a position that somebody else gives for this log; the chain must pass through it.
    """

    def __init__(self, before: Position, claim: Position | None = None) -> None:
        self.position = before
        self._claim = claim
        self.count = 0
        self._ts_ms = 0

    def entry(self, entry: Entry) -> Position:
        """Take the next entry and return the position after it.

        Raises:
            NotVerified: it is not the next, or is older than the one before it.
        """
        epoch, offset, tag = self.position
        if entry.offset != offset + 1:
            raise NotVerified(offset + 1, f"the entry that follows offset {offset} has offset {entry.offset}")
        if entry.ts_ms < self._ts_ms:
            raise NotVerified(entry.offset, f"its time {entry.ts_ms} is before {self._ts_ms}, that of offset {offset}")
        self._ts_ms = entry.ts_ms
        self.count += 1
        self.position = Position(epoch, entry.offset, next_tag(tag, *entry))
        if self._claim is not None and self._claim.offset == entry.offset:
            self.expect(self._claim)
        return self.position

    def page(self, before: Position, after: Position, entries: Iterable[Entry]) -> None:
        """Take a page that was read from a live log, with the positions that the hub gave for it.

        Raises:
            NotVerified: the page does not follow, or its tags are not what the chain gives.
        """
        if before != self.position:
            raise NotVerified(self.position.offset + 1, f"the log goes on from {_at(before)}, not {_at(self.position)}")
        for entry in entries:
            self.entry(entry)
        self.expect(after)

    def expect(self, position: Position) -> None:
        """Compare the chain with a position that somebody else claims.

        Raises:
            NotVerified: they differ.
        """
        if position != self.position:
            raise NotVerified(
                self.position.offset, f"the log says {_at(position)}, the chain gives {_at(self.position)}"
            )


class FileVerifier:
    """Takes the lines of an export file, one by one, and says whether they are what an export wrote.

    Call `feed` with each line, its newline included, and `end` at the end of the file.

    Attributes:
        log: the log that the file says it is of; empty before the first line.
        count: entries so far.
    """

    def __init__(self) -> None:
        self.log = ""
        self._epoch = ""
        self._lines = 0
        self._chain: ChainVerifier | None = None
        self._before: Position | None = None
        self._other_name: tuple[str, str] | None = None
        self._ended = False

    @property
    def count(self) -> int:
        """Entries so far."""
        return self._chain.count if self._chain else 0

    @property
    def before(self) -> Position:
        """The position before the first entry."""
        assert self._before is not None, "no line was fed"
        return self._before

    @property
    def position(self) -> Position:
        """The position after the last entry."""
        assert self._chain is not None, "no line was fed"
        return self._chain.position

    @property
    def _next(self) -> int:
        return self._chain.position.offset + 1 if self._chain else 1

    def feed(self, line: bytes) -> Entry | None:
        """Take one line; return its entry where it is one.

        Raises:
            NotVerified: the line is not what an export writes there.
        """
        self._lines += 1
        if self._ended:
            self._fault("there is more after the last line")
        if not line.endswith(b"\n"):
            cut = "the file ends in the middle of a line; it was cut short, or its export did not finish"
            self._fault(cut if len(line) <= LINE_BYTES_MAX else f"over {LINE_BYTES_MAX} bytes")
        fields = self._parse(line[:-1])
        names = tuple(fields)
        if names == _ENTRY_FIELDS:
            return self._entry(fields, line)
        if names == _TRAILER_FIELDS:
            self._trailer(fields, line)
        elif names == _HEADER_FIELDS and self._lines == 1:
            self._header(fields, line)
        else:
            self._fault(_wrong_fields(names))
        return None

    def end(self) -> Position:
        """Say that the file is over; return the position after its last entry.

        Raises:
            NotVerified: the last line is missing.
        """
        if not self._ended:
            self._fault(
                f"the file ends after offset {self._next - 1}, without the line that ends every export; "
                "it was cut short, or its export did not finish"
                if self._lines
                else "the file is empty"
            )
        return self.position

    def _fault(self, what: str, offset: int | None = None) -> NoReturn:
        raise NotVerified(self._next if offset is None else offset, f"{what} (line {self._lines})")

    def _parse(self, line: bytes) -> dict[str, Any]:
        try:
            value = json.loads(line.decode("ascii"), object_pairs_hook=_no_twice, parse_constant=_no_constant)
        except (ValueError, RecursionError) as fault:
            self._fault(f"not a line of JSON as an export writes it: {fault}")
        if not isinstance(value, dict):
            self._fault("the line is not a JSON object")
        return value

    def _named(self, fields: dict[str, Any]) -> None:
        """Check that every line speaks of the same log; where the first two differ, the third decides."""
        name = (fields["log"], fields["epoch"])
        if not all(isinstance(part, str) and part.isascii() for part in name):
            self._fault("log and epoch are not names")
        if self._chain is None:
            self.log, self._epoch = name
            self._begin(origin(self._epoch))
        mine = (self.log, self._epoch)
        if self._other_name is not None:
            at = self.position.offset - (name == self._other_name)
            self._fault(f"entries of {_of(mine)} and of {_of(self._other_name)} in one file", at)
        if name == mine:
            return
        if self.count != 1 or "packed" not in fields:
            at = self._next if "packed" in fields else self.position.offset
            self._fault(f"the line is of {_of(name)}, the file of {_of(mine)}", at)
        self._other_name = name

    def _header(self, fields: dict[str, Any], line: bytes) -> None:
        self._named(fields)
        place = fields["before"]
        if not isinstance(place, list) or [type(part) for part in place] != [int, str]:
            self._fault("before is not [offset, tag]")
        before = Position(self._epoch, *place)
        written = header_line(self.log, before).encode()
        if written != line[:-1] or (before.offset == 0 and before != origin(self._epoch)):
            self._fault("the first line is not as an export writes it")
        self._begin(before)

    def _begin(self, before: Position) -> None:
        self._before = before
        self._chain = ChainVerifier(before)

    def _entry(self, fields: dict[str, Any], line: bytes) -> Entry:
        self._named(fields)
        assert self._chain is not None
        entry = self._read_entry(fields)
        position = self._chain.entry(entry)
        chained = fields["tag"] == position.tag
        log, epoch = self._other_name or (self.log, self._epoch)
        try:
            written = entry_line(log, epoch, position.tag, entry)
        except ValueError as fault:
            self._fault(f"packed is no entry: {fault}" if chained else _UNCHAINED, entry.offset)
        if written.encode() != line[:-1]:
            must = json.loads(written)
            readable = chained or _same(fields, {**must, "tag": fields["tag"]})
            self._fault(_difference(fields, must) if readable else _UNCHAINED, entry.offset)
        return entry

    def _read_entry(self, fields: dict[str, Any]) -> Entry:
        offset, ts_ms, packed = fields["offset"], fields["ts_ms"], fields["packed"]
        if type(offset) is not int or type(ts_ms) is not int or type(packed) is not str:
            self._fault("offset and ts_ms are not integers, or packed is not a string")
        try:
            value = b64decode(packed, validate=True)
        except ValueError as fault:
            self._fault(f"packed is not base64: {fault}")
        if b64encode(value).decode() != packed:
            self._fault("packed is not base64 as an export writes it: bits that stand for nothing are set")
        return Entry(offset, ts_ms, value)

    def _trailer(self, fields: dict[str, Any], line: bytes) -> None:
        if self._chain is None:
            self._fault("the file has no entries, and no line that says where it begins")
        self._named(fields)
        written = trailer_line(self.log, self.position, self.count)
        if written.encode() != line[:-1]:
            head, last = fields["head"], self.position.offset
            if type(head) is int and head > last:
                self._fault(f"entries are missing: the file ends at offset {last}, the log went to {head}")
            self._fault(f"the last line is wrong: {_difference(fields, json.loads(written))}", last)
        self._ended = True


def read_export(file: BinaryIO, verifier: FileVerifier) -> Iterator[Entry]:
    """Yield the entries of an export file, each verified, and verify the end.

    Raises:
        NotVerified: the file is not what an export wrote; the entries before the fault were yielded.
    """
    while line := file.readline(LINE_BYTES_MAX + 1):
        entry = verifier.feed(line)
        if entry is not None:
            yield entry
    verifier.end()


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("an object has the same key twice")
    return fields


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _wrong_fields(names: tuple[str, ...]) -> str:
    missing = [name for name in _ENTRY_FIELDS if name not in names]
    unknown = [name for name in names if name not in _ENTRY_FIELDS]
    if not missing and not unknown:
        return "the fields are not in the order that an export writes"
    parts = [f"without {', '.join(missing)}"] if missing else []
    if unknown:
        parts.append(f"with unknown {', '.join(map(_shown, unknown))}")
    return f"a line {' and '.join(parts)}"


def _same(fields: dict[str, Any], written: dict[str, Any]) -> bool:
    return json.dumps(fields) == json.dumps(written)


def _difference(fields: dict[str, Any], written: dict[str, Any]) -> str:
    """Say which field differs from what it must be."""
    for name, value in written.items():
        found = fields[name]
        if json.dumps(found) != json.dumps(value):
            if name == "tag":
                return f"the tag is {_shown(found)}, the chain gives {value}: this entry, or one before it, was changed"
            return f"the field {name} says {_shown(found)}, it must be {_shown(value)}"
    return "the line says the right things but is not written as an export writes it"


def _shown(value: Any) -> str:
    text = ascii(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _of(name: tuple[str, str]) -> str:
    return f"{_shown(name[0])} (epoch {_shown(name[1])})"


def _at(position: Position) -> str:
    return f"offset {position.offset} with tag {position.tag} of epoch {position.epoch}"
