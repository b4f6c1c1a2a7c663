"""Whether a subscription goes on where its position says: pure decisions.

A position (epoch, offset, tag) names one history. It is compared with the log as the store has it now:

    another epoch, or no log             reset unknown: what the peer has is of another log
    before what is kept                  reset trimmed: the range between is not kept any more
    the tag at the offset is the same    resumed
    the tag differs, or there is no      diverged: the last common offset is searched for (`Search`), then
    entry at the offset any more         reset diverged, and everything after that offset follows

Tags agree up to the last common offset and differ after it, so the search narrows a range: the hub asks for
the peer's tags at up to 256 offsets spread over it, compares them with the store's, and goes on between the
last that agrees and the first that differs.

Specification: docs/protocol.md, sections "Following a log" and "Diverged histories".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from protocol.entry import Position, first_tag
from protocol.frames import Lost, ResetReason, Start
from protocol.limits import KEPT_TAGS_MAX

__all__ = [
    "PROBES_MAX",
    "LogState",
    "NeedsTag",
    "Probing",
    "ResetTo",
    "Resumed",
    "Search",
    "resume",
    "start_at",
]

PROBES_MAX = 256


@dataclass(frozen=True, slots=True)
class LogState:
    """A log as its meta says it is.

    Attributes:
        head: offset of its last entry, 0 where there is none.
        tag: after that entry.
        first: offset of the first entry that is kept.
        cut_tag: before that entry.
        ts_ms: when the last entry was appended.
    """

    epoch: str
    head: int
    tag: str
    first: int
    cut_tag: str
    ts_ms: int

    @classmethod
    def parse(cls, meta: Mapping[str, str]) -> LogState:
        """Read the meta fields of a log."""
        epoch = meta["epoch"]
        first = int(meta.get("first") or 1)
        tag = meta.get("tag") or first_tag(epoch)
        cut_tag = meta.get("trim_tag") or first_tag(epoch)
        return cls(epoch, int(meta.get("head") or 0), tag, first, cut_tag, int(meta.get("ts") or 0))

    @property
    def cut(self) -> Position:
        """The position before the first entry that is kept."""
        return Position(self.epoch, self.first - 1, self.cut_tag)

    @property
    def end(self) -> Position:
        """The position after the last entry."""
        return Position(self.epoch, self.head, self.tag)


@dataclass(frozen=True, slots=True)
class Resumed:
    """Entries follow after `at`."""

    at: Position


@dataclass(frozen=True, slots=True)
class ResetTo:
    """The position cannot be resumed; entries follow after `at`."""

    reason: ResetReason
    lost: Lost
    at: Position


@dataclass(frozen=True, slots=True)
class NeedsTag:
    """Ask the store for the tag at this offset, and decide again with it."""

    offset: int


@dataclass(frozen=True, slots=True)
class Probing:
    """The histories parted somewhere before the position: search."""

    position: Position


Decision = Resumed | ResetTo | NeedsTag | Probing


def resume(log: LogState, position: Position, tag: str | None = None) -> Decision:
    """Decide whether delivery goes on after `position`.

    Args:
        log: the log as it is now.
        position: where the peer is.
        tag: the store's tag at the position's offset, once `NeedsTag` asked for it.
    """
    offset = position.offset
    if position.epoch != log.epoch:
        return ResetTo(ResetReason.UNKNOWN, _lost(1, offset, exact=False), log.cut)
    if offset > log.head:
        return Probing(position)
    if offset < log.cut.offset:
        return ResetTo(ResetReason.TRIMMED, _lost(offset + 1, log.cut.offset), log.cut)
    known = {log.head: log.tag, log.cut.offset: log.cut_tag}.get(offset, tag)
    if known is None:
        return NeedsTag(offset)
    return Resumed(position) if known == position.tag else Probing(position)


def start_at(log: LogState, start: Start) -> Position:
    """Return where `earliest` or `latest` is."""
    assert start is not Start.ACKED
    return log.cut if start is Start.EARLIEST else log.end


class Search:
    """The search for the last offset at which a peer's history and the log agree.

    Attributes:
        position: where the peer is.
        asked: the offsets of the round under way.
        result: set once the search is over.
    """

    __slots__ = ("_agreed", "_differs", "_floor", "_log", "_whole", "asked", "position", "result")

    def __init__(self, log: LogState, position: Position) -> None:
        self._log = log
        self.position = position
        self._floor = max(log.cut.offset, position.offset - KEPT_TAGS_MAX)
        self._agreed: Position | None = Position(log.epoch, 0, first_tag(log.epoch)) if log.first == 1 else None
        self._differs = min(position.offset, log.head + 1)
        self._whole = False
        self.asked: tuple[int, ...] = ()
        self.result: ResetTo | None = None
        self._next_round()

    def answer(self, theirs: Sequence[str | None], ours: Sequence[str | None]) -> None:
        """Take the tags that the peer and the store have at `asked`."""
        before = self._agreed, self._differs
        for offset, their_tag, our_tag in zip(self.asked, theirs, ours, strict=True):
            if their_tag is None or our_tag is None:
                continue
            if their_tag != our_tag:
                self._differs = min(self._differs, offset)
            elif self._agreed is None or offset > self._agreed.offset:
                self._agreed = Position(self._log.epoch, offset, our_tag)
        if self._whole or before == (self._agreed, self._differs):
            self._finish()
        else:
            self._next_round()

    def _next_round(self) -> None:
        """Ask for every offset between what agrees and what differs, or for as many spread over it as may be."""
        known = self._agreed.offset if self._agreed else -1
        low = max(self._floor, known + 1)
        between = self._differs - low
        self._whole = between <= PROBES_MAX
        if between <= 0:
            self._finish()
        elif self._whole:
            self.asked = tuple(range(low, self._differs))
        else:
            self.asked = tuple(low + place * (between - 1) // (PROBES_MAX - 1) for place in range(PROBES_MAX))

    def _finish(self) -> None:
        agreed = self._agreed
        self.asked = ()
        if agreed is None or agreed.offset < self._log.cut.offset:
            at, exact = self._log.cut, False
            first = agreed.offset + 1 if agreed else 1
        else:
            at, first = agreed, agreed.offset + 1
            exact = self._differs == first
        lost = _lost(first, self.position.offset, exact=exact)
        self.result = ResetTo(ResetReason.DIVERGED, lost, at)


def _lost(first: int, last: int, *, exact: bool = True) -> Lost:
    return Lost(from_=first, to=max(last, first - 1), exact=exact)
