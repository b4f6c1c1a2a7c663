"""Commits: changes of a store that happen whole or not at all.

A `Commit` touches the keys of one partition. It names what must be so (guards), what to append, and
which index entries to change; the store checks all of it and then does all of it, in one step that no
other commit can come between. Policy never lives in the store: the pure core proposes a commit from
what it read, and the guards decide whether the world still looks as it did.

Order of checks for each `Append` that has a producer: fence, dedupe, then the commit's guards, then
`expect`. An append whose entries were all accepted before is answered as accepted, whatever the guards
say: a retry is a success.

A reply that never came is `StoreUnavailable` with `unknown=True`. The caller may send the very same
commit again: a commit that finds itself (by id) as the last of its first log is answered as accepted,
and producers recognise their own retries.

All of it is tuples: a hub makes dozens for each run, and a frozen dataclass takes three times as long to make.

Specification: docs/protocol.md, sections "Durability" and "Publishing"; docs/store.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from protocol.entry import Position
from protocol.ids import LogName

__all__ = [
    "ABSENT",
    "COMMIT_BYTES_MAX",
    "COMMIT_ENTRIES_MAX",
    "Append",
    "Appended",
    "Below",
    "Commit",
    "Condition",
    "Full",
    "Guard",
    "HasToken",
    "HashDelete",
    "HashSet",
    "Op",
    "Outcome",
    "ProducerClaim",
    "Refusal",
    "Refused",
    "Removal",
    "SetAdd",
    "SetPrune",
    "SortedAdd",
    "SortedPrune",
    "SortedRemove",
    "TakeToken",
]

ABSENT = None
"""What a guard expects of a field that must not be there."""

COMMIT_ENTRIES_MAX = 256

COMMIT_BYTES_MAX = 4 * 1024 * 1024


class Guard(NamedTuple):
    """A field of a hash that must have this value; `ABSENT` means it must not be there."""

    key: str
    field: str
    expected: str | None


class Below(NamedTuple):
    """A hash that must have fewer fields than this."""

    key: str
    limit: int


class Full(NamedTuple):
    """A hash that must have at least so many fields."""

    key: str
    limit: int


class HasToken(NamedTuple):
    """A token bucket that must have a token.

    The bucket is a hash whose field `next_us` says, in µs by the store's clock, when it would be full again: it holds
    `burst` tokens, and gets one every `every_us`. A bucket that is not there is full; so is one of which the field lies
    farther ahead than it can, since the clock was set back.
    """

    key: str
    every_us: int
    burst: int


Condition = Guard | Below | Full | HasToken


@dataclass(frozen=True, slots=True)
class ProducerClaim:
    """Who publishes, for fencing and deduplication.

    Attributes:
        producer: `principal/producer`, the field of the log's producer records.
        fence: the owner fence that the producer was opened with.
        seq: the number of the first entry of the append.
        count: how many of the append's entries carry numbers; those after them are the hub's own.
        digest: digest of the numbered entries, to tell a retry from a conflict.
    """

    producer: str
    fence: int
    seq: int
    count: int
    digest: str


class Append(NamedTuple):
    """Entries for one log.

    An append with no entries makes the log where it is not there yet, and changes nothing else.

    Attributes:
        log: the log; it is made, with `epoch`, where it is not there.
        entries: packed values, in order.
        epoch: the epoch that the log gets if this commit makes it.
        producer: set where the entries come from a producer.
        expect: the head that the log must have, or None.
    """

    log: LogName
    entries: tuple[bytes, ...]
    epoch: str
    producer: ProducerClaim | None = None
    expect: int | None = None


class HashSet(NamedTuple):
    """Set fields of a hash."""

    key: str
    fields: Mapping[str, str | bytes]
    ttl_ms: int | None = None


class HashDelete(NamedTuple):
    """Delete fields of a hash."""

    key: str
    fields: tuple[str, ...]


class SortedAdd(NamedTuple):
    """Put a member into a sorted set.

    Attributes:
        score: the score, or with `from_now` what is added to the store's clock in ms to get it.
        absent: leave a member that is there as it is.
        given: a key without which nothing is added.
    """

    key: str
    member: str
    score: int
    from_now: bool = False
    absent: bool = False
    given: str | None = None


class SortedRemove(NamedTuple):
    """Take a member out of a sorted set."""

    key: str
    member: str


class SetAdd(NamedTuple):
    """Put a member into a set."""

    key: str
    member: str


class SetPrune(NamedTuple):
    """Take a member out of a set, unless the key `unless` is there."""

    key: str
    member: str
    unless: str


class SortedPrune(NamedTuple):
    """Take a member out of a sorted set, unless the key `unless` is there."""

    key: str
    member: str
    unless: str


class TakeToken(NamedTuple):
    """Take a token from a bucket, as `HasToken` describes it."""

    key: str
    every_us: int
    burst: int


Op = HashSet | HashDelete | SortedAdd | SortedRemove | SetAdd | SetPrune | SortedPrune | TakeToken

Removal = HashDelete | SortedRemove
"""What can go together with a log."""


class Commit(NamedTuple):
    """One atomic change of one partition.

    Attributes:
        id: `<hub id>.<number>`, new for every proposal; the same on every retry of that proposal.
        partition: whose keys everything in here belongs to.
        guards: what must be so, else the commit is `Refusal.GUARD`.
        below: what must not be full, must be full, or must have a token, else likewise.
        appends: at most one for each log.
        ops: index entries to change.
        hints: words for other hubs, sent with the heads of the logs on the wake channel.
    """

    id: str
    partition: int
    guards: tuple[Guard, ...] = ()
    appends: tuple[Append, ...] = ()
    ops: tuple[Op, ...] = ()
    hints: tuple[str, ...] = ()
    below: tuple[Below | Full | HasToken, ...] = ()

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """Everything that must be so, as `Refused.guard` counts it."""
        return (*self.guards, *self.below)


class Refusal(StrEnum):
    """Why a commit was refused. Nothing of it was done."""

    GUARD = "guard"
    FENCED = "fenced"
    OUT_OF_ORDER = "out_of_order"
    CONFLICT = "conflict"
    PRODUCER_UNKNOWN = "producer_unknown"
    EXPECT = "expect"


class Refused(NamedTuple):
    """A commit that was refused.

    Attributes:
        reason: which check failed first.
        append: index of the append that it failed on (0 for guards).
        guard: index of the guard that failed, for `GUARD`, among `Commit.conditions`.
        actual: what the guarded field holds, for `GUARD`; None where it is absent. Of others, the number they judge.
        last: the producer's last accepted seq, for the producer's refusals; None where the log knows no such producer.
        head: the log's head, for `EXPECT`.
    """

    reason: Refusal
    append: int = 0
    guard: int = 0
    actual: str | None = None
    last: int | None = None
    head: int | None = None


class Appended(NamedTuple):
    """What one append came to.

    Attributes:
        before: the position before the first entry that was appended now.
        after: the position after the last.
        ts_ms: the time that the store gave to all of them.
        skipped: how many entries, from the first, had been accepted before.
        last_offset: offset of the producer's last accepted entry; `after.offset` without a producer.
        last_seq: the number of that entry, which is past the append's own where later ones were accepted before;
            0 without a producer.
    """

    before: Position
    after: Position
    ts_ms: int
    skipped: int
    last_offset: int
    last_seq: int = 0


class Outcome(NamedTuple):
    """A commit that happened, now or (`repeated`) at an earlier try.

    A repeated commit's appends carry `before == after`: what it wrote is read from the log.
    """

    appended: tuple[Appended, ...]
    now_ms: int
    repeated: bool = False
