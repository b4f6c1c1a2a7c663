"""What the hub asks of a store: commits (`orchestrator.store.commits`), and reads.

Two implementations are held to this by the same tests: `orchestrator.store.redis.RedisStore` and its
twin in memory, `orchestrator.store.memory.MemoryStore`.

Specification: docs/protocol.md, section "Durability"; docs/store.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from orchestrator.store.commits import Commit, Guard, Outcome, Refused, Removal
from protocol.entry import Entry, Position
from protocol.errors import FleetlineError
from protocol.ids import LogKind, LogName

__all__ = [
    "PRODUCER_TTL_MS",
    "DueAt",
    "Durability",
    "Letter",
    "Page",
    "Store",
    "StoreError",
    "StoreMisconfigured",
    "StoreUnavailable",
    "Wake",
]


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


class DueAt(NamedTuple):
    """Something of a partition that is due at a time of the store's clock; such things sort by it."""

    at_ms: int
    partition: int
    member: str


@dataclass(frozen=True, slots=True)
class Wake:
    """A hint from another hub: heads of logs that grew, by `namespace/kind/name`, and its words."""

    partition: int
    heads: Mapping[str, int] = field(default_factory=dict)
    hints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """What another hub said to this one alone. It is stored nowhere."""

    body: bytes


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

    async def meta_beside(self, log: LogName, key: str, field: str) -> tuple[dict[str, str] | None, bytes | None]:
        """Return what `meta` does and a field of a hash elsewhere: one request, though not one instant."""

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

    async def sorted_score(self, key: str, member: str) -> int | None:
        """Return the score of a member of a sorted set; None where it is none."""

    async def sorted_range(self, key: str, limit: int, *, score_max: int | None = None) -> list[tuple[str, int]]:
        """Return members with scores, lowest score first."""

    async def sorted_put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set outside any partition (the registry); None takes it out."""

    async def set_members(self, key: str) -> frozenset[str]:
        """Return the members of a set."""

    async def log_names(
        self, namespace: str, kind: LogKind, limit: int, before: tuple[int, str] | None = None
    ) -> list[tuple[str, int]]:
        """Return names of logs of one kind over all partitions with the time each was made, in ms, newest first.

        With `before`, a time and a name, those that come after it in that order: of one time, the lesser names.
        """

    async def trim(self, log: LogName, keep_from: int) -> Position | None:
        """Drop the entries before offset `keep_from`, exactly; return the position at the cut.

        Never drops the head. Returns None where there is no such log.
        """

    async def delete(self, log: LogName, guards: Sequence[Guard] = (), also: Sequence[Removal] = ()) -> bool:
        """Drop a log with all its keys, in one step, also on a server that is full.

        Args:
            log: the log.
            guards: what must be so, else nothing is done; each names a value.
            also: what goes with it, of the same partition.

        Returns:
            Whether it was there, and the guards held.
        """

    async def due(
        self, now_ms: int, limit: int, partitions: Collection[int], ahead_ms: int = 0
    ) -> tuple[list[DueAt], list[DueAt]]:
        """Return leases that are due in some partitions, and timers that are or will be within `ahead_ms`.

        Of each the `limit` that come first.
        """

    async def now_ms(self) -> int:
        """Return the store's clock."""

    async def post(self, hub: str, letter: bytes) -> bool:
        """Say something to one other hub, past everything that is stored. Returns whether that hub listens.

        It may be lost all the same.
        """

    def wakes(self) -> AsyncIterator[Wake | Letter]:
        """Yield hints of other hubs' commits, and letters to this hub, while the store is open; both may be lost."""

    def identity(self) -> str:
        """Return what names this server's history (run id and replication id) as last seen."""
