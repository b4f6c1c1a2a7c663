"""Deletes runs that were kept for long enough after their end, with everything that is stored of them.

Hubs share the work out as the timekeeper does; two of them at once are harmless, since whoever comes second finds
nothing there. What a hub that is killed leaves is still noted, and the next one deletes it.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

import asyncio

import structlog

from orchestrator.core import keeping
from orchestrator.core.artifacts import artifact_logs
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import family_member
from orchestrator.line import Line
from orchestrator.registry import Registry
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import StoreError, StoreUnavailable
from orchestrator.store.commits import Outcome, SortedRemove
from orchestrator.timekeeper import partitions_of
from orchestrator.together import together
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.ids import LogKind, LogName

__all__ = ["FORGET_S", "Forgetting"]

FORGET_S = 5.0
"""How often is looked for runs that can go."""
AT_ONCE_MAX = 8
"""Runs of one partition that are deleted before the next ones are looked for."""

log_ = structlog.get_logger()


class Forgetting:
    """What one hub deletes.

    Args:
        line: for the store, its clock, and the tails of whoever follows a run that goes.
        registry: knows the live hubs.
        period_s: how often to look.
    """

    def __init__(self, line: Line, registry: Registry, period_s: float = FORGET_S) -> None:
        self._line = line
        self._store = line.store
        self._registry = registry
        self._period_s = period_s

    async def run(self) -> None:
        """Delete what has been kept for long enough, until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            try:
                while await self._round():
                    pass
            except StoreError as fault:
                log_.debug("runs_not_deleted", reason=str(fault))

    async def _round(self) -> bool:
        """Delete some of what is to go. Returns whether there may be more."""
        now_ms = await self._store.now_ms()
        mine = partitions_of(self._line.hub_id, self._registry.live_hubs())
        found = await asyncio.gather(*(self._due(partition, now_ms) for partition in mine))
        due = [(partition, member) for partition, members in zip(mine, found, strict=True) for member in members]
        done = await together(self._drop(partition, member) for partition, member in due)
        if any(done):
            log_.info("runs_deleted", count=sum(done))
        return sum(done) > 0 and any(len(members) == AT_ONCE_MAX for members in found)

    async def _due(self, partition: int, now_ms: int) -> list[str]:
        found = await self._store.sorted_range(keys.ended(partition), AT_ONCE_MAX, score_max=now_ms)
        return [member for member, _ in found]

    async def _drop(self, partition: int, member: str) -> bool:
        """Delete a run. Returns whether it is gone."""
        namespace, _, run = member.partition("/")
        log = LogName(namespace, LogKind.RUN, run)
        try:
            fields = await self._store.meta(log)
            if fields is None:
                return await self._store.delete(log, also=(SortedRemove(keys.ended(partition), member),))
            meta = RunMeta.parse(log, fields)
            if await self._is_needed(meta):
                await settle(self._line, keeping.put_off(self._line.new_commit_id(), meta))
                return False
            if meta.continues and meta.continued_as and not await self._unlink(meta):
                return False
            for artifact in artifact_logs(meta):  # before the run, which alone knows of them
                await self._store.delete(artifact)
            gone = await self._store.delete(log, keeping.unchanged(meta), keeping.forgotten(meta, await self._key(log)))
        except StoreUnavailable as fault:
            if fault.full:  # what can go without a commit does
                return False
            raise
        except (StoreError, ValueError) as fault:  # this one cannot be read; the others can
            log_.error("run_not_deleted", run=run, namespace=namespace, reason=str(fault))
            return False
        self._line.tails.look(log)
        return gone

    async def _is_needed(self, meta: RunMeta) -> bool:
        """Whether something is left to do for the run's family, or the run is how one that goes on is found."""
        family = await self._store.sorted_score(keys.timers(meta.partition), family_member(meta.log))
        if family is not None:
            return True
        if not meta.continued_as or meta.continues:
            return False
        return await self._store.meta(LogName(meta.log.namespace, LogKind.RUN, meta.continued_as)) is not None

    async def _unlink(self, meta: RunMeta) -> bool:
        """Take a run out of its row. Returns whether it is; else one beside it has just left, and it is read again."""
        result = await settle(self._line, keeping.unlinked(self._line.new_commit_id(), meta))
        return isinstance(result, Outcome) or result.guard > 1

    async def _key(self, log: LogName) -> str | None:
        """Return the key that a run was submitted under."""
        page = await self._store.read(log, 0, 1)
        if page is None or not page.entries:
            return None
        return read_control(Submitted, unpack_record(page.entries[0].packed).body).key
