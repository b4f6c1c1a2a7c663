"""Sets runs aside whose concurrency key is full, and brings them back: what a claim does besides claiming.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from orchestrator.core import parking, runs
from orchestrator.core.queues import EVERY_KEY, Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.settle import settle
from orchestrator.store.commits import Commit
from orchestrator.writing import read_run
from protocol.ids import LogKind, LogName
from protocol.run import RunState

__all__ = ["FREED_AT_ONCE_MAX", "Parking"]

FREED_AT_ONCE_MAX = 64
BACK_AT_ONCE_MAX = 64
PARKED_AT_ONCE_MAX = 256
"""Runs of a bucket that are looked at once one of them was found to wait for its key: others may as well."""
LISTED_AT_ONCE_MAX = 256


class Parking:
    """The runs of one store that wait for their concurrency keys, as one hub treats them.

    Args:
        line: where commits go.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._store = line.store

    async def full(self, meta: RunMeta, terms: Terms) -> bool:
        """Whether as many runs with the concurrency key of this one are worked on as may."""
        if not meta.concurrency_key or terms.key_limit is None:
            return False
        return await self._store.hash_size(meta.place.keyed(meta.concurrency_key)) >= terms.key_limit

    async def park(self, queue: Queue, found: Sequence[tuple[LogName, str]], terms: Terms) -> None:
        """Set these runs aside, and the first ones of the buckets that they wait in, as far as their keys are full."""
        waiting = await asyncio.gather(
            *(
                self._store.sorted_range(queue.waiting(bucket), PARKED_AT_ONCE_MAX)
                for bucket in {bucket for _, bucket in found}
            )
        )
        beside = {run for members in waiting for run, _ in members}
        metas = await self._metas(queue, sorted(beside | {log.name for log, _ in found}))
        keyed = [meta for meta in metas if meta.concurrency_key and _waits(meta)]
        first = {meta.concurrency_key: meta for meta in keyed}
        full = dict(zip(first, await asyncio.gather(*(self.full(meta, terms) for meta in first.values())), strict=True))
        await self._settle(parking.park(self._ids(), meta, terms) for meta in keyed if full[meta.concurrency_key])

    async def bring_back(self, queue: Queue, freed: Sequence[str], terms: Terms) -> bool:
        """Bring back runs that are parked for these keys, as far as their keys have room.

        Returns whether there are other keys to look at now, since all were freed.
        """
        await asyncio.gather(*(self._bring_back(queue, key, terms) for key in freed if key != EVERY_KEY))
        if EVERY_KEY in freed:
            await self._list_all(queue, terms)
        return EVERY_KEY in freed

    async def _list_all(self, queue: Queue, terms: Terms) -> None:
        names = sorted(await self._store.set_members(queue.parked_keys))
        starts = range(0, max(1, len(names)), LISTED_AT_ONCE_MAX)
        for start in starts:
            some = names[start : start + LISTED_AT_ONCE_MAX]
            await settle(self._line, parking.freed(self._ids(), queue, some, terms, last=start == starts[-1]))

    async def _bring_back(self, queue: Queue, key: str, terms: Terms) -> None:
        room = BACK_AT_ONCE_MAX
        if terms.key_limit is not None:
            room = min(room, terms.key_limit - await self._store.hash_size(queue.keyed(key)))
        if room <= 0:
            await settle(self._line, parking.full_again(self._ids(), queue, key, terms))
            return
        members = await self._store.sorted_range(queue.parked(key), room)
        if not members:
            await settle(self._line, parking.nobody_left(self._ids(), queue, key))
            return
        metas = await self._metas(queue, [run for run, _ in members])
        gone = {run for run, _ in members} - {meta.log.name for meta in metas}
        if gone:
            await settle(self._line, parking.forget(self._ids(), queue, key, sorted(gone)))
        await self._settle(parking.bring_back(self._ids(), meta) for meta in metas)

    async def _settle(self, commits: Iterable[Commit]) -> None:
        await asyncio.gather(*(settle(self._line, commit) for commit in commits))

    async def _metas(self, queue: Queue, names: Sequence[str]) -> list[RunMeta]:
        logs = [LogName(queue.namespace, LogKind.RUN, run) for run in names]
        found = await asyncio.gather(*(read_run(self._line, log) for log in logs))
        return [meta for meta in found if meta is not None]

    def _ids(self) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), self._line.src)


def _waits(meta: RunMeta) -> bool:
    """Whether a run waits in its bucket, or did when it was listed there."""
    return meta.state is RunState.QUEUED and not meta.put_off
