"""Export files: a log as lines of JSON that can be read, kept, and verified without the hub.

    {"log", "offset", "epoch", "ts_ms", "kind", "src", "attempt", "seq", "index", "cause", "body", "tag", "packed"}
    ...
    {"log", "epoch", "head", "tag", "count"}

One line an entry, in order; `packed` in base64 is the truth, everything else can be recomputed from it.
The last line says where the log ended, so that a shortened file is found too. Where the log's first
entries were not kept any more, or it has none at all, a line before all others says where the file begins:

    {"log", "epoch", "before": [offset, tag]}

Every line is written in exactly one way (see `protocol.readable.json_line`), which is what makes any
changed byte detectable.

Specification: docs/protocol.md, section "Export files".
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator

from protocol.entry import Entry, Position, next_tag
from protocol.readable import entry_object, json_line

__all__ = ["Exporter", "entry_line", "header_line", "trailer_line"]


def entry_line(log: str, epoch: str, tag: str, entry: Entry) -> str:
    """Return the line of one entry, given the tag at its offset.

    Raises:
        ValueError: `packed` is not the packed value of an entry.
    """
    packed = b64encode(entry.packed).decode("ascii")
    return json_line({**entry_object(log, epoch, tag, entry), "packed": packed})


def header_line(log: str, before: Position) -> str:
    """Return the line that says after which position the file begins."""
    return json_line({"log": log, "epoch": before.epoch, "before": [before.offset, before.tag]})


def trailer_line(log: str, after: Position, count: int) -> str:
    """Return the last line: where the log ended, and how many entries the file has."""
    return json_line({"log": log, "epoch": after.epoch, "head": after.offset, "tag": after.tag, "count": count})


class Exporter:
    """Writes one log, page by page.

    Args:
        log: the log as `kind/name`.
        before: the position before the first entry that is kept.
        head: the offset that the export ends at.
    """

    def __init__(self, log: str, before: Position, head: int) -> None:
        self._log = log
        self._before = before
        self._head = head
        self.position = before

    @property
    def done(self) -> bool:
        """Whether every entry up to the head was written."""
        return self.position.offset >= self._head

    def header(self) -> Iterator[str]:
        """Yield the line that goes before all others, where one is needed."""
        if self._before.offset > 0 or self._head == 0:
            yield header_line(self._log, self._before)

    def page(self, entries: Iterable[Entry]) -> Iterator[str]:
        """Yield the lines of the entries that follow the last page, as far as the head."""
        for entry in entries:
            if self.done:
                return
            epoch, _, tag = self.position
            tag = next_tag(tag, entry.offset, entry.ts_ms, entry.packed)
            self.position = Position(epoch, entry.offset, tag)
            yield entry_line(self._log, epoch, tag, entry)

    def trailer(self) -> str:
        """Return the last line."""
        return trailer_line(self._log, self.position, self.position.offset - self._before.offset)
