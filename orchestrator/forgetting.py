"""Deletes runs that were kept for long enough after their end, with everything that is stored of them.

Hubs share the work out as the timekeeper does; two of them at once are harmless, since whoever comes second finds
nothing there. What a hub that is killed leaves is still noted, and the next one deletes it.

Whatever cannot go is in nobody's way: a note of no run is taken away, a run that cannot be read is set aside for a
day, and what else could not go is passed over until the next time.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

import asyncio
from collections import defaultdict

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
from orchestrator.store.commits import Commit, Outcome, SortedRemove
from orchestrator.timekeeper import partitions_of
from orchestrator.together import together
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.errors import InvalidName
from protocol.ids import LogKind, LogName, partition_of

__all__ = ["FORGET_S", "Forgetting"]

FORGET_S = 5.0
"""How often is looked for runs that can go."""
AT_ONCE_MAX = 8
"""Runs of one partition that are deleted before the next ones are looked for."""
PASSED_MAX = 256
"""Runs of one partition that could not go and are passed over, before the rest waits for the next time."""

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
        self._passed: defaultdict[int, set[str]] = defaultdict(set)

    async def run(self) -> None:
        """Delete what has been kept for long enough, until cancelled."""
        while True:
            await asyncio.sleep(self._period_s)
            await self.look()

    async def look(self) -> None:
        """Delete what has been kept for long enough; what cannot go now is left for the next time."""
        self._passed.clear()
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
        for (partition, member), gone in zip(due, done, strict=True):
            if not gone:
                self._passed[partition].add(member)
        if any(done):
            log_.info("runs_deleted", count=sum(done))
        return any(len(members) == AT_ONCE_MAX for members in found)

    async def _due(self, partition: int, now_ms: int) -> list[str]:
        """Return what is to go of a partition, without what could not: those would stand before all others."""
        passed = self._passed[partition]
        if len(passed) >= PASSED_MAX:
            return []
        found = await self._store.sorted_range(keys.ended(partition), AT_ONCE_MAX + len(passed), score_max=now_ms)
        members = [member for member, _ in found]
        passed.intersection_update(members)
        return [member for member in members if member not in passed][:AT_ONCE_MAX]

    async def _drop(self, partition: int, member: str) -> bool:
        """Delete a run. Returns whether it is gone."""
        try:
            log = _run_of(partition, member)
            if log is None:
                return await self._strike(partition, member)
            return await self._forget(log, member)
        except StoreUnavailable as fault:
            if fault.full:  # what can go without a commit does
                return False
            raise

    async def _strike(self, partition: int, member: str) -> bool:
        """Take away a note that is of no run at all. Returns whether it is gone."""
        note = SortedRemove(keys.ended(partition), member)
        await settle(self._line, Commit(self._line.new_commit_id(), partition, ops=(note,)))
        log_.error("note_dropped", member=member, reason="it names no run of its partition")
        return True

    async def _forget(self, log: LogName, member: str) -> bool:
        try:
            fields = await self._store.meta(log)
            if fields is None:
                note = SortedRemove(keys.ended(partition_of(log)), member)
                return await self._store.delete(log, also=(note,))
            return await self._delete(RunMeta.parse(log, fields))
        except StoreUnavailable:
            raise
        except (StoreError, ValueError, LookupError) as fault:  # this one cannot be read; the others can
            await settle(self._line, keeping.set_aside(self._line.new_commit_id(), log))
            log_.error("run_not_deleted", run=log.name, namespace=log.namespace, reason=repr(fault))
            return False

    async def _delete(self, meta: RunMeta) -> bool:
        """Delete a run, with all that is stored of it, unless it is needed. Returns whether it is gone."""
        if await self._is_needed(meta):
            await settle(self._line, keeping.put_off(self._line.new_commit_id(), meta))
            return False
        if meta.continues and meta.continued_as and not await self._unlink(meta):
            return False
        for artifact in artifact_logs(meta):  # before the run, which alone knows of them
            await self._store.delete(artifact)
        key = await self._key(meta.log)
        gone = await self._store.delete(meta.log, keeping.unchanged(meta), keeping.forgotten(meta, key))
        self._line.tails.look(meta.log)
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


def _run_of(partition: int, member: str) -> LogName | None:
    """Return the run that a note is of; None where it is of none of this partition."""
    namespace, _, run = member.partition("/")
    try:
        log = LogName.parse(f"{LogKind.RUN}/{run}", namespace)
    except InvalidName:
        return None
    return log if partition_of(log) == partition else None
