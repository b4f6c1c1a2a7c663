"""The promise, point by point, as checks over what was written down: raw logs and the ledgers of those who used them.

They know nothing of hubs, stores or connections: they take dumps of logs, what publishers were told and what
subscribers were given, and return what is wrong. An empty list means that the promise was kept. What they
hold of runs is in `tests.support.run_checkers`.

    dump = Dump.of("topic/feed", pages)
    assert_kept(check_log(dump), check_acknowledged(dump, ledger), check_delivered(dump, story))

Specification: docs/protocol.md; each check names the sentence that it states.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from protocol.codec import unpack_record
from protocol.entry import Entry, Position, Record, first_tag, next_tag
from protocol.frames import ResetReason

__all__ = [
    "Acknowledged",
    "Began",
    "Dump",
    "Given",
    "Rule",
    "Story",
    "Violation",
    "WasReset",
    "assert_kept",
    "check_absent",
    "check_acknowledged",
    "check_delivered",
    "check_log",
    "check_sequence",
    "check_unchanged",
]

SHOWN_MAX = 20


class Rule(StrEnum):
    """What was promised."""

    DENSE = "offsets are dense and ordered, times never decrease"
    CHAIN = "the tag chain verifies"
    UNCHANGED = "entries never change"
    ACKNOWLEDGED = "every acknowledged entry is in the log exactly once"
    SEQUENCE = "everything that was published is in the log exactly once, in order"
    ABSENT = "what was refused is not in the log"
    DELIVERED = "a subscriber is given every entry in order, or told of the exact range that it is not"
    TERMINAL = "a run has exactly one terminal entry, and it is the last"
    FENCED = "only the attempt that holds the run writes"
    JOURNAL = "no operation of a journal is lost or repeated over all attempts"
    CHILDREN = "a child is told of once when it is submitted and once when it has ended, in this order"
    FOLD = "the fold of a run's log is its live state"


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise, and where."""

    rule: Rule
    log: str
    message: str
    offset: int | None = None

    def __str__(self) -> str:
        """Return one line for the report of a failed test."""
        at = f" at {self.offset}" if self.offset is not None else ""
        return f"{self.log}{at}: {self.message} (promised: {self.rule.value})"


def assert_kept(*checks: Iterable[Violation]) -> None:
    """Fail, naming the first violations, where there are any."""
    found = [violation for check in checks for violation in check]
    shown = "\n".join(map(str, found[:SHOWN_MAX]))
    assert not found, f"{len(found)} violations:\n{shown}"


class PageLike(Protocol):
    """A page of a log: the store's `Page` or the hub's `LogReadPage`."""

    @property
    def before(self) -> Position:
        """The position before the first entry."""

    @property
    def after(self) -> Position:
        """The position after the last."""

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The entries."""


@dataclass(frozen=True, slots=True)
class Dump:
    """A log as it was read: `entries` between two positions, as whoever was asked gave them."""

    log: str
    before: Position
    after: Position
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, log: str, pages: Iterable[PageLike]) -> Dump:
        """Join pages that were read one after the other."""
        parts = list(pages)
        entries = tuple(entry for page in parts for entry in page.entries)
        return cls(log, parts[0].before, parts[-1].after, entries)

    def records(self) -> Iterator[tuple[Entry, Record]]:
        """Yield each entry with what it says."""
        for entry in self.entries:
            yield entry, unpack_record(entry.packed)

    def bodies(self, kind: str) -> list[bytes]:
        """Return the bodies of the entries of a kind, in order."""
        return [record.body for _, record in self.records() if record.kind == kind]

    def tags(self) -> dict[int, str]:
        """Return the tag at each offset, as the chain gives it."""
        tag = self.before.tag
        tags = {self.before.offset: tag}
        for offset, ts_ms, packed in self.entries:
            tags[offset] = tag = next_tag(tag, offset, ts_ms, packed)
        return tags


# Logs


def check_log(dump: Dump) -> list[Violation]:
    """Entries of one log are totally ordered by a dense offset 1, 2, 3, ..., and their tags chain."""
    found = []
    last, ts_ms = dump.before.offset, 0
    for entry in dump.entries:
        if entry.offset != last + 1:
            found.append(Violation(Rule.DENSE, dump.log, f"the entry after {last} is {entry.offset}", entry.offset))
        if entry.ts_ms < ts_ms:
            found.append(Violation(Rule.DENSE, dump.log, f"its time {entry.ts_ms} is before {ts_ms}", entry.offset))
        last, ts_ms = entry.offset, entry.ts_ms
    if last != dump.after.offset:
        found.append(Violation(Rule.DENSE, dump.log, f"the last entry is {last}, the log says {dump.after.offset}"))
    return found + _check_chain(dump)


def _check_chain(dump: Dump) -> list[Violation]:
    found = []
    before, after = dump.before, dump.after
    if before.epoch != after.epoch:
        found.append(Violation(Rule.CHAIN, dump.log, f"the epoch went from {before.epoch} to {after.epoch}"))
    if before.offset == 0 and before.tag != first_tag(before.epoch):
        found.append(Violation(Rule.CHAIN, dump.log, f"the first tag is {before.tag}", 0))
    tag = list(dump.tags().values())[-1]
    if tag != after.tag:
        message = f"the chain gives {tag}, the log says {after.tag}"
        found.append(Violation(Rule.CHAIN, dump.log, message, after.offset))
    return found


def check_unchanged(earlier: Dump, later: Dump) -> list[Violation]:
    """Entries never change: what was read once is read again."""
    if earlier.after.epoch != later.before.epoch:
        return [Violation(Rule.UNCHANGED, later.log, f"the epoch is {later.before.epoch} now")]
    now = {entry.offset: entry for entry in later.entries}
    return [
        Violation(Rule.UNCHANGED, later.log, "it is another now" if entry.offset in now else "it is gone", entry.offset)
        for entry in earlier.entries
        if entry.offset > later.before.offset and now.get(entry.offset) != entry
    ]


# Publishers


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What a publisher was told is in the log; tests make kind and body unique. `offset` where it learned it."""

    kind: str
    body: bytes
    offset: int | None = None


def check_acknowledged(dump: Dump, ledger: Iterable[Acknowledged]) -> list[Violation]:
    """An acknowledged entry is in the log, where the acknowledgement said, and a retry is never appended twice."""
    places: defaultdict[tuple[str, bytes], list[int]] = defaultdict(list)
    for entry, record in dump.records():
        places[record.kind, record.body].append(entry.offset)
    found = []
    for said in ledger:
        offsets = places.get((said.kind, said.body), [])
        if len(offsets) != 1:
            where = f"is there {len(offsets)} times: {offsets[:5]}" if offsets else "is not there"
            found.append(Violation(Rule.ACKNOWLEDGED, dump.log, f"{_shown(said.kind, said.body)} {where}", said.offset))
        elif said.offset not in (None, offsets[0]):
            message = f"{_shown(said.kind, said.body)} is at {offsets[0]}"
            found.append(Violation(Rule.ACKNOWLEDGED, dump.log, message, said.offset))
    return found


def check_sequence(dump: Dump, kind: str, bodies: Sequence[bytes]) -> list[Violation]:
    """What one publisher sent, all of it acknowledged, is in the log exactly once and in its order."""
    there = dump.bodies(kind)
    if there == list(bodies):
        return []
    due, counts = Counter(bodies), Counter(there)
    lost = [f"{_shown(kind, body)} is lost" for body in (due - counts)]
    extra = [f"{_shown(kind, body)} is there {count} times too often" for body, count in (counts - due).items()]
    found = [Violation(Rule.SEQUENCE, dump.log, message) for message in lost + extra]
    if not found:
        place = next(place for place, body in enumerate(bodies) if there[place] != body)
        message = f"{_shown(kind, there[place])} stands where {_shown(kind, bodies[place])} was due"
        found.append(Violation(Rule.SEQUENCE, dump.log, message))
    return found


def check_absent(dump: Dump, refused: Iterable[tuple[str, bytes]]) -> list[Violation]:
    """What a fenced attempt or a superseded session still tried to publish is not in the log."""
    unwanted = frozenset(refused)
    return [
        Violation(Rule.ABSENT, dump.log, f"{_shown(record.kind, record.body)} is there", entry.offset)
        for entry, record in dump.records()
        if (record.kind, record.body) in unwanted
    ]


def _shown(kind: str, body: bytes) -> str:
    return f"{kind} {body[:40]!r}"


# Subscribers


@dataclass(frozen=True, slots=True)
class Began:
    """A subscription began, or its process came back, after this offset."""

    after: int


@dataclass(frozen=True, slots=True)
class Given:
    """A subscriber was given an entry; the tag tells which history it belongs to."""

    offset: int
    tag: str


@dataclass(frozen=True, slots=True)
class WasReset:
    """A subscriber was told that its position cannot be resumed; both ends of the range are included."""

    reason: ResetReason
    first: int
    last: int
    exact: bool
    epoch: str
    at: int


Story = Sequence[Began | Given | WasReset]


def check_delivered(dump: Dump, story: Story, *, complete: bool = True) -> list[Violation]:
    """A subscriber is given every entry after its position, in order, without a gap, or a reset says what not.

    Args:
        dump: the log as it is at the end, from the first entry that is kept.
        story: what the subscriber was told, in order. It begins with `Began`.
        complete: the subscriber must have come to the end of the dump.
    """
    follower = _Follower(dump)
    for event in story:
        follower.take(event)
    return follower.finish(complete=complete)


class _Follower:
    """Walks a story beside the log that it ended with."""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump
        self._tags = dump.tags()
        self._last: int | None = None
        self._given: dict[int, str] = {}
        self._found: list[Violation] = []

    def take(self, event: Began | Given | WasReset) -> None:
        """Follow one event."""
        match event:
            case Began(after):
                if self._last is not None and after > self._last:
                    self._wrong(f"came back after {after}, having been given no more than {self._last}", after)
                self._last = after
            case Given(offset, tag):
                if self._last is None:
                    self._wrong("was given an entry before it had a position", offset)
                elif offset != self._last + 1:
                    self._wrong(f"was given {offset} after {self._last}", offset)
                self._last = offset
                self._given[offset] = tag
            case WasReset():
                self._reset(event)

    def finish(self, *, complete: bool) -> list[Violation]:
        """Compare what counts in the end with the log."""
        for offset, tag in self._given.items():
            if offset > self._dump.before.offset and self._tags.get(offset) != tag:
                self._wrong("was given another entry than the log has there, and never told", offset)
        if complete and self._last != self._dump.after.offset:
            self._wrong(f"stands at {self._last}, the log ends at {self._dump.after.offset}", self._last)
        return self._found

    def _reset(self, reset: WasReset) -> None:
        held = self._last or 0
        if reset.reason is ResetReason.TRIMMED:
            right = (held + 1, reset.at)
        elif reset.reason is ResetReason.DIVERGED:
            right = (self._common(reset.at) + 1, held)
            if reset.at != right[0] - 1 and reset.exact:
                self._wrong(f"goes on after {reset.at}; the last common offset is {right[0] - 1}", reset.at)
        else:
            right = (1, held)
            if reset.epoch != self._dump.before.epoch:
                self._wrong(f"goes on in the epoch {reset.epoch}, which is not the log's", reset.at)
        first_fits = reset.first == right[0] if reset.exact else reset.first <= right[0]
        if not first_fits or reset.last != right[1]:
            self._wrong(
                f"was told that {reset.first} to {reset.last} are lost ({reset.reason}); it is {right[0]} to {right[1]}"
            )
        # Where the log was trimmed up to and beyond the position, nobody can tell any more which history that was of.
        known_upto = 0 if reset.reason is ResetReason.TRIMMED else reset.first - 1
        self._given = {offset: tag for offset, tag in self._given.items() if offset <= known_upto}
        self._last = reset.at

    def _common(self, at: int) -> int:
        """Return the last offset at which what was given is what the log has.

        Where nothing that was given is, it lies before that: the story has no tags there, and `at` may be right.
        """
        common = [offset for offset, tag in self._given.items() if self._tags.get(offset) == tag]
        before_all = min(self._given, default=1) - 1
        return max(common, default=min(before_all, at))

    def _wrong(self, message: str, offset: int | None = None) -> None:
        self._found.append(Violation(Rule.DELIVERED, self._dump.log, f"the subscriber {message}", offset))
