"""What the hub asks of a store: commits that happen whole or not at all, and reads.

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

Two implementations are held to this by the same tests: `orchestrator.store.redis.RedisStore` and its
twin in memory, `orchestrator.store.memory.MemoryStore`.

Specification: docs/protocol.md, sections "Durability" and "Publishing"; docs/store.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from protocol.entry import Entry, Position
from protocol.errors import FleetlineError
from protocol.ids import LogKind, LogName

__all__ = [
    "ABSENT",
    "COMMIT_BYTES_MAX",
    "COMMIT_ENTRIES_MAX",
    "PRODUCER_TTL_MS",
    "Append",
    "Appended",
    "Below",
    "Commit",
    "Durability",
    "Guard",
    "HashDelete",
    "HashSet",
    "Op",
    "Outcome",
    "Page",
    "ProducerClaim",
    "Refusal",
    "Refused",
    "SetAdd",
    "SetPrune",
    "SortedAdd",
    "SortedRemove",
    "Store",
    "StoreError",
    "StoreMisconfigured",
    "StoreUnavailable",
    "Wake",
]

ABSENT = None
"""What a guard expects of a field that must not be there."""

COMMIT_ENTRIES_MAX = 256
COMMIT_BYTES_MAX = 4 * 1024 * 1024
PRODUCER_TTL_MS = 30 * 24 * 3600 * 1000
"""A producer unused for longer is refused (`Refusal.PRODUCER_UNKNOWN`), not guessed about."""


class Durability(StrEnum):
    """How safe entries are before they are acknowledged or shown to anybody."""

    MEMORY = "memory"
    """They survive a crash of the hub."""
    LOCAL = "local"
    """They are fsynced on the primary."""


class StoreError(FleetlineError):
    """The root of what a store raises."""


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it cannot serve now (loading, full, read-only).

    Attributes:
        unknown: True where the commit may or may not have happened; the caller sends it again.
        full: True where the store refuses writes because memory or disk is used up.
    """

    def __init__(self, message: str, *, unknown: bool = False, full: bool = False) -> None:
        super().__init__(message)
        self.unknown = unknown
        self.full = full


class StoreMisconfigured(StoreError):
    """The server cannot give what was asked of it. The message names the setting to change."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A field of a hash that must have this value; `ABSENT` means it must not be there."""

    key: str
    field: str
    expected: str | None


@dataclass(frozen=True, slots=True)
class Below:
    """A hash that must have fewer fields than this."""

    key: str
    limit: int


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


@dataclass(frozen=True, slots=True)
class Append:
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


@dataclass(frozen=True, slots=True)
class HashSet:
    """Set fields of a hash."""

    key: str
    fields: Mapping[str, str | bytes]
    ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class HashDelete:
    """Delete fields of a hash."""

    key: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SortedAdd:
    """Put a member into a sorted set.

    Attributes:
        score: the score, or with `from_now` what is added to the store's clock in ms to get it.
    """

    key: str
    member: str
    score: int
    from_now: bool = False


@dataclass(frozen=True, slots=True)
class SortedRemove:
    """Take a member out of a sorted set."""

    key: str
    member: str


@dataclass(frozen=True, slots=True)
class SetAdd:
    """Put a member into a set."""

    key: str
    member: str


@dataclass(frozen=True, slots=True)
class SetPrune:
    """Take a member out of a set, unless the key `unless` is there."""

    key: str
    member: str
    unless: str


Op = HashSet | HashDelete | SortedAdd | SortedRemove | SetAdd | SetPrune


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic change of one partition.

    Attributes:
        id: `<hub id>.<number>`, new for every proposal; the same on every retry of that proposal.
        partition: whose keys everything in here belongs to.
        guards: what must be so, else the commit is `Refusal.GUARD`.
        below: what must not be full, else likewise.
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
    below: tuple[Below, ...] = ()

    @property
    def conditions(self) -> tuple[Guard | Below, ...]:
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


@dataclass(frozen=True, slots=True)
class Refused:
    """A commit that was refused.

    Attributes:
        reason: which check failed first.
        append: index of the append that it failed on (0 for guards).
        guard: index of the guard that failed, for `GUARD`, among `Commit.conditions`.
        actual: what the guarded field holds, for `GUARD`; None where it is absent. Of `Below`, how many there are.
        last: the producer's last accepted seq, for the producer's refusals; None where the log knows no such producer.
        head: the log's head, for `EXPECT`.
    """

    reason: Refusal
    append: int = 0
    guard: int = 0
    actual: str | None = None
    last: int | None = None
    head: int | None = None


@dataclass(frozen=True, slots=True)
class Appended:
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """A commit that happened, now or (`repeated`) at an earlier try.

    A repeated commit's appends carry `before == after`: what it wrote is read from the log.
    """

    appended: tuple[Appended, ...]
    now_ms: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Entries read from a log, in order, with nothing left out between `before` and `after`.

    Attributes:
        before: position before the first entry.
        after: position after the last.
        entries: the entries.
        head: offset of the log's last entry when it was read.
    """

    before: Position
    after: Position
    entries: tuple[Entry, ...]
    head: int


@dataclass(frozen=True, slots=True)
class Wake:
    """A hint from another hub: heads of logs that grew, by `namespace/kind/name`, and its words."""

    partition: int
    heads: Mapping[str, int] = field(default_factory=dict)
    hints: tuple[str, ...] = ()


class Store(Protocol):
    """Everything the hub knows of its store. Every method may raise `StoreUnavailable`."""

    async def open(self) -> None:
        """Connect, check the server and the deployment's constants.

        Raises:
            StoreMisconfigured: the server cannot give the durability asked for, may evict keys, is too
                old, or holds a deployment with other constants.
        """

    async def close(self) -> None:
        """Disconnect. Commits under way end as `StoreUnavailable(unknown=True)`."""

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit. Commits of one partition happen in the order they were asked for.

        What arrives while the partition's last commit is under way goes out together, as one call.
        Returns once the store's durability level is reached.
        """

    async def meta(self, log: LogName) -> dict[str, str] | None:
        """Return the log's meta fields, or None where there is no such log."""

    async def read(self, log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        """Return up to `limit` entries after offset `after`, at least one where there is one.

        Returns None where there is no such log. Where `after` lies before the first entry that is kept,
        the page begins at the first that is kept (`before.offset > after`). Where it lies past the
        head, the page is empty and `before` and `after` are the head.
        """

    async def tags(self, log: LogName, offsets: Sequence[int]) -> list[str | None]:
        """Return the tag at each offset; None where there is no such entry (any more)."""

    async def hash_get(self, key: str, *fields: str) -> list[bytes | None]:
        """Return fields of a hash."""

    async def hash_all(self, key: str) -> dict[str, bytes]:
        """Return a whole hash."""

    async def hash_put(self, key: str, fields: Mapping[str, str | bytes | None]) -> None:
        """Set fields of a hash outside any partition (the registry); None deletes the field."""

    async def hash_size(self, key: str) -> int:
        """Return how many fields a hash has."""

    async def sorted_size(self, key: str) -> int:
        """Return how many members a sorted set has."""

    async def sorted_range(self, key: str, limit: int, *, score_max: int | None = None) -> list[tuple[str, int]]:
        """Return members with scores, lowest score first."""

    async def sorted_put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set outside any partition (the registry); None takes it out."""

    async def set_members(self, key: str) -> frozenset[str]:
        """Return the members of a set."""

    async def log_names(self, namespace: str, kind: LogKind, limit: int) -> list[tuple[str, int]]:
        """Return names of logs of one kind over all partitions with the time each was made, in ms, newest first."""

    async def trim(self, log: LogName, keep_from: int) -> Position | None:
        """Drop the entries before offset `keep_from`, exactly; return the position at the cut.

        Never drops the head. Returns None where there is no such log.
        """

    async def delete(self, log: LogName) -> bool:
        """Drop a log with all its keys, in one step. Returns whether it was there."""

    async def due(
        self, now_ms: int, limit: int, partitions: Collection[int]
    ) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        """Return leases and timers that are due in some partitions, as (partition, `namespace/run`).

        Of each the `limit` that have been due for longest.
        """

    async def now_ms(self) -> int:
        """Return the store's clock."""

    def wakes(self) -> AsyncIterator[Wake]:
        """Yield hints of other hubs' commits while the store is open; hints may be lost."""

    def identity(self) -> str:
        """Return what names this server's history (run id and replication id) as last seen."""
