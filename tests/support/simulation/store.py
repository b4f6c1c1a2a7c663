"""The hub's way to its store: the twin in memory, over a network that delays and loses.

A request that has left the hub happens even where the hub is killed meanwhile, and a reply may come back late:
what a hub reads is what was, not what is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from orchestrator.store.base import DueAt, Letter, Page, StoreUnavailable, Wake
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.entry import Position
from protocol.ids import LogKind, LogName
from tests.support.simulation.loop import SimulationLoop, outside
from tests.support.simulation.trace import Trace

__all__ = ["SimulatedStore", "StoreFaults"]

T = TypeVar("T")

QUICK_S = 0.003
SLOW_S = 0.15
SLOW_SHARE = 0.02


@dataclass
class StoreFaults:
    """How often what goes wrong, as shares of commits and of hints."""

    lost_before: float = 0.0
    lost_after: float = 0.0
    hints_lost: float = 0.0


class SimulatedStore(MemoryStore):
    """One hub's connection to the server that all hubs share."""

    def __init__(
        self, server: MemoryServer, name: str, loop: SimulationLoop, rng: Random, faults: StoreFaults, trace: Trace
    ) -> None:
        super().__init__(server, name, pause=self._travel)
        self._loop = loop
        self._rng = rng
        self._dangers = faults
        self._trace = trace
        self._under_way: dict[asyncio.Task[Outcome | Refused], None] = {}

    async def _travel(self) -> None:
        """Be on the way; a server that went away or was replaced meanwhile answers nothing."""
        history = self.server.incarnation
        slow = self._rng.random() < SLOW_SHARE
        await asyncio.sleep(self._rng.random() * (SLOW_S if slow else QUICK_S))
        if self.server.incarnation != history or self.server.down:
            raise StoreUnavailable("the store's connection broke", unknown=True)

    def hear(self, wake: Wake | Letter) -> None:
        """Take a hint or a letter, unless it is lost."""
        if self._rng.random() >= self._dangers.hints_lost:
            super().hear(wake)

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, even where whoever asked is gone before it is done."""
        task = self._loop.create_task(self._commit(commit), context=outside())
        self._under_way[task] = None
        task.add_done_callback(self._under_way.pop)
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to ask
        return await asyncio.shield(task)

    async def _commit(self, commit: Commit) -> Outcome | Refused:
        draw = self._rng.random()
        if draw < self._dangers.lost_before:
            await self._travel()
            raise StoreUnavailable("the store's connection broke", unknown=True)
        outcome = await super().commit(commit)
        self._trace.note(self._loop.time(), self.hub_id, f"commit {commit.id} {_told(outcome)}")
        if draw < self._dangers.lost_before + self._dangers.lost_after:
            raise StoreUnavailable("the store's connection broke", unknown=True)
        return outcome

    async def _reply(self, answer: Awaitable[T]) -> T:
        """Let a reply be on its way back."""
        value = await answer
        await self._travel()
        return value

    async def read(self, log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        """Return a page, late."""
        return await self._reply(super().read(log, after, limit, bytes_max))

    async def tags(self, log: LogName, offsets: Sequence[int]) -> list[str | None]:
        """Return tags, late."""
        return await self._reply(super().tags(log, offsets))

    async def hash_get(self, key: str, *fields: str) -> list[bytes | None]:
        """Return fields, late."""
        return await self._reply(super().hash_get(key, *fields))

    async def hash_all(self, key: str) -> dict[str, bytes]:
        """Return a hash, late."""
        return await self._reply(super().hash_all(key))

    async def hash_size(self, key: str) -> int:
        """Return a size, late."""
        return await self._reply(super().hash_size(key))

    async def sorted_score(self, key: str, member: str) -> int | None:
        """Return a score, late."""
        return await self._reply(super().sorted_score(key, member))

    async def sorted_size(self, key: str) -> int:
        """Return a size, late."""
        return await self._reply(super().sorted_size(key))

    async def sorted_range(self, key: str, limit: int, *, score_max: int | None = None) -> list[tuple[str, int]]:
        """Return members, late."""
        return await self._reply(super().sorted_range(key, limit, score_max=score_max))

    async def set_members(self, key: str) -> frozenset[str]:
        """Return members, late."""
        return await self._reply(super().set_members(key))

    async def log_names(
        self, namespace: str, kind: LogKind, limit: int, before: tuple[int, str] | None = None
    ) -> list[tuple[str, int]]:
        """Return names, late."""
        return await self._reply(super().log_names(namespace, kind, limit, before))

    async def due(
        self, now_ms: int, limit: int, partitions: Collection[int], ahead_ms: int = 0
    ) -> tuple[list[DueAt], list[DueAt]]:
        """Return what is due, late."""
        return await self._reply(super().due(now_ms, limit, partitions, ahead_ms))

    async def trim(self, log: LogName, keep_from: int) -> Position | None:
        """Trim, and answer late."""
        return await self._reply(super().trim(log, keep_from))

    async def hash_put(self, key: str, fields: Mapping[str, str | bytes | None]) -> None:
        """Set fields, and answer late."""
        await self._reply(super().hash_put(key, fields))


def _told(outcome: Outcome | Refused) -> str:
    if isinstance(outcome, Refused):
        return f"refused {outcome.reason.value} guard {outcome.guard}={outcome.actual!r} last={outcome.last}"
    places = " ".join(f"{done.before.offset}+{done.after.offset}~{done.skipped}" for done in outcome.appended)
    return f"{'repeated ' if outcome.repeated else ''}at {outcome.now_ms} {places}"
