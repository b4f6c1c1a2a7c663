"""The store's twin in memory: the same rules without a server, for simulation and for tests of the hub.

A `MemoryServer` is what several hubs share; each has a `MemoryStore` on it. Time is the server's clock, which
is given. Faults are asked for: a reply that is lost, a commit that never arrives, a store that is full, and a
server that comes back with an older state (`snapshot`, `restore`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from copy import deepcopy
from enum import StrEnum

from orchestrator.store import keys
from orchestrator.store.base import DueAt, Letter, Page, StoreUnavailable, Wake
from orchestrator.store.commits import Commit, Guard, Outcome, Refused, Removal
from orchestrator.store.keys import log_keys
from orchestrator.store.memory_data import Data
from orchestrator.store.shape import check_commit
from protocol.entry import Position
from protocol.ids import PARTITIONS, LogKind, LogName

__all__ = ["WAKES_WAITING_MAX", "Fault", "MemoryServer", "MemoryStore"]

WAKES_WAITING_MAX = 1024
"""Hints that wait for a slow reader; older ones are dropped, as hints may be."""

Ranked = list[tuple[str, int]]


class Fault(StrEnum):
    """What can happen to a commit on its way."""

    LOST_BEFORE = "lost_before"
    """It never reached the store; nobody can know."""
    LOST_AFTER = "lost_after"
    """It happened, and the reply was lost."""
    DOWN = "down"
    """Nothing was sent: the store is known to be away."""
    FULL = "full"
    """The store refused it: memory or disk is used up."""


class MemoryServer:
    """What hubs share: the data, the clock, and the faults to come."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        """Make an empty server.

        Args:
            clock_ms: the store's clock.
        """
        self.clock_ms = clock_ms
        self.down = False
        """While True every request is `StoreUnavailable`."""
        self.data = Data()
        self.incarnation = 1
        self.stores: list[MemoryStore] = []

    def snapshot(self) -> Data:
        """Return a copy of everything that is stored."""
        return deepcopy(self.data)

    def restore(self, snapshot: Data) -> None:
        """Go back to a snapshot, as a failover that lost a tail does; the identity changes."""
        self.data = deepcopy(snapshot)
        self.incarnation += 1

    def expire(self) -> int:
        """Drop what has outlived its time, and return the clock."""
        now_ms = self.clock_ms()
        for key in [key for key, at_ms in self.data.expires_ms.items() if at_ms <= now_ms]:
            self.data.drop(key)
        return now_ms

    def tell(self, sender: str, wake: Wake) -> None:
        """Hand a hint to every store of another hub."""
        for store in self.stores:
            if store.hub_id != sender:
                store.hear(wake)

    def tell_one(self, hub_id: str, letter: Letter) -> bool:
        """Hand a letter to one hub. Returns whether it is there."""
        found = [store for store in self.stores if store.hub_id == hub_id]
        for store in found:
            store.hear(letter)
        return bool(found)


class MemoryStore:
    """A `Store` on a `MemoryServer`."""

    def __init__(
        self, server: MemoryServer, hub_id: str, *, pause: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Make a store; `open` joins it to the server.

        Args:
            server: shared with the other hubs.
            hub_id: names this hub in wake hints.
            pause: awaited on the way to the server and on the way back, for virtual latency; by default
                the event loop's other tasks get one turn.
        """
        self.server = server
        self.hub_id = hub_id
        self._pause = pause if pause is not None else _one_turn
        self._faults: deque[Fault] = deque()
        self._order = [asyncio.Lock() for _ in range(PARTITIONS)]
        self._heard: deque[Wake | Letter] = deque(maxlen=WAKES_WAITING_MAX)
        self._stirred = asyncio.Event()
        self._opened = False

    def fail_next(self, fault: Fault, count: int = 1) -> None:
        """Let the next commits of this hub meet a fault, after the faults asked for before."""
        self._faults.extend([fault] * count)

    def hear(self, wake: Wake | Letter) -> None:
        """Take a hint or a letter from another hub."""
        if self._opened:
            self._heard.append(wake)
            self._stirred.set()

    # ── opening and closing ──────────────────────────────────────────────────

    async def open(self) -> None:
        """Join the server."""
        if self.server.down:
            raise StoreUnavailable("the store does not answer")
        self._opened = True
        self.server.stores.append(self)

    async def close(self) -> None:
        """Leave the server. Commits under way end as `StoreUnavailable(unknown=True)`."""
        self._opened = False
        self._stirred.set()
        if self in self.server.stores:
            self.server.stores.remove(self)

    def identity(self) -> str:
        """Return what names the server's history."""
        return f"memory:{self.server.incarnation}"

    # ── commits ──────────────────────────────────────────────────────────────

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit (see `Store.commit`)."""
        check_commit(commit)
        async with self._order[commit.partition]:
            self._reach()
            fault = self._faults.popleft() if self._faults else None
            if fault is Fault.DOWN:
                raise StoreUnavailable("the store does not answer")
            if fault is Fault.FULL:
                raise StoreUnavailable("the store takes no more writes", full=True)
            await self._pause()
            if fault is Fault.LOST_BEFORE or self.server.down:
                raise StoreUnavailable("the store's connection broke", unknown=True)
            outcome, wake = self.server.data.commit(commit, self.server.expire())
            if wake is not None:
                self.server.tell(self.hub_id, wake)
            await self._pause()
            if fault is Fault.LOST_AFTER or not self._opened:
                raise StoreUnavailable("the store's connection broke", unknown=True)
            return outcome

    async def trim(self, log: LogName, keep_from: int) -> Position | None:
        """Drop the entries before offset `keep_from` (see `Store.trim`)."""
        return (await self._data()).trim(log_keys(log), keep_from)

    async def delete(self, log: LogName, guards: Sequence[Guard] = (), also: Sequence[Removal] = ()) -> bool:
        """Drop a log with all its keys (see `Store.delete`)."""
        return (await self._data()).delete(log_keys(log), log.name, guards, also)

    async def hash_put(self, key: str, fields: Mapping[str, str | bytes | None]) -> None:
        """Set fields of a hash outside any partition; None deletes the field."""
        (await self._data()).put(key, fields)

    async def sorted_put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set outside any partition; None takes it out."""
        data = await self._data()
        if score is None:
            data.discard(key, member)
        else:
            data.sorted_sets.setdefault(key, {})[member] = score

    # ── reads ────────────────────────────────────────────────────────────────

    async def meta(self, log: LogName) -> dict[str, str] | None:
        """Return the log's meta fields, or None where there is no such log."""
        found = await self.hash_all(log_keys(log).meta)
        return {name: value.decode(errors="replace") for name, value in found.items()} if found else None

    async def meta_beside(self, log: LogName, key: str, field: str) -> tuple[dict[str, str] | None, bytes | None]:
        """Return what `meta` does and a field of a hash elsewhere."""
        return await self.meta(log), (await self.hash_get(key, field))[0]

    async def read(self, log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        """Return up to `limit` entries after offset `after` (see `Store.read`)."""
        return (await self._data()).page(log_keys(log), after, limit, bytes_max)

    async def tags(self, log: LogName, offsets: Sequence[int]) -> list[str | None]:
        """Return the tag at each offset; None where there is no such entry (any more)."""
        data, names = await self._data(), log_keys(log)
        return [data.tag(names, offset) for offset in offsets]

    async def hash_get(self, key: str, *fields: str) -> list[bytes | None]:
        """Return fields of a hash."""
        data = await self._data()
        return [data.field(key, name) for name in fields]

    async def hash_all(self, key: str) -> dict[str, bytes]:
        """Return a whole hash."""
        return dict((await self._data()).hashes.get(key, {}))

    async def hash_size(self, key: str) -> int:
        """Return how many fields a hash has."""
        return len((await self._data()).hashes.get(key, {}))

    async def sorted_size(self, key: str) -> int:
        """Return how many members a sorted set has."""
        return len((await self._data()).sorted_sets.get(key, {}))

    async def sorted_score(self, key: str, member: str) -> int | None:
        """Return the score of a member of a sorted set; None where it is none."""
        return (await self._data()).sorted_sets.get(key, {}).get(member)

    async def sorted_range(self, key: str, limit: int, *, score_max: int | None = None) -> Ranked:
        """Return members with scores, lowest score first."""
        return (await self._data()).ranked(key, score_max)[:limit]

    async def set_members(self, key: str) -> frozenset[str]:
        """Return the members of a set."""
        return frozenset((await self._data()).sets.get(key, ()))

    async def log_names(
        self, namespace: str, kind: LogKind, limit: int, before: tuple[int, str] | None = None
    ) -> Ranked:
        """Return names of logs of one kind over all partitions with the time each was made, in ms, newest first."""
        data = await self._data()
        found = [
            item
            for partition in range(PARTITIONS)
            for item in data.ranked(keys.log_index(partition, namespace, kind), None)
            if before is None or (item[1], item[0]) < before
        ]
        found.sort(key=lambda item: (item[1], item[0]), reverse=True)
        return found[:limit]

    async def due(
        self, now_ms: int, limit: int, partitions: Collection[int], ahead_ms: int = 0
    ) -> tuple[list[DueAt], list[DueAt]]:
        """Return leases that are due in some partitions, and timers that are or will be within `ahead_ms`."""
        data = await self._data()

        def due_in(key_of: Callable[[int], str], until_ms: int) -> list[DueAt]:
            found = [
                DueAt(score, partition, member)
                for partition in partitions
                for member, score in data.ranked(key_of(partition), until_ms)
            ]
            return sorted(found)[:limit]

        return due_in(keys.leases, now_ms), due_in(keys.timers, now_ms + ahead_ms)

    async def now_ms(self) -> int:
        """Return the store's clock."""
        await self._data()
        return self.server.clock_ms()

    async def post(self, hub: str, letter: bytes) -> bool:
        """Say something to one other hub. Returns whether that hub listens."""
        await self._data()
        return self.server.tell_one(hub, Letter(letter))

    async def wakes(self) -> AsyncIterator[Wake | Letter]:
        """Yield hints of other hubs' commits, and letters, while the store is open."""
        while self._opened:
            await self._stirred.wait()
            self._stirred.clear()
            while self._heard:
                yield self._heard.popleft()

    def _reach(self) -> None:
        if not self._opened:
            raise StoreUnavailable("the store is not open")
        if self.server.down:
            raise StoreUnavailable("the store does not answer")

    async def _data(self) -> Data:
        self._reach()
        await self._pause()
        self._reach()
        self.server.expire()
        return self.server.data


async def _one_turn() -> None:
    await asyncio.sleep(0)
