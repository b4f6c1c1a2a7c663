"""The queues of a deployment, as people see and set them.

Claims are `orchestrator.dispatch`'s; here is what they must heed, and what waits.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

import asyncio

from orchestrator.core import runs
from orchestrator.core.queues import Queue, Terms, set_terms, who_takes
from orchestrator.core.run_meta import RunMeta, parse_bucket
from orchestrator.line import Line
from orchestrator.registry import Registry
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.commits import Outcome
from protocol.codes import ErrorCode
from protocol.control import Cancel
from protocol.errors import RequestError
from protocol.ids import PARTITIONS, LogKind, LogName
from protocol.requests import Bucket, QueueInfo, QueueSet
from protocol.run import RunState

__all__ = ["Queueing"]

PURGED_AT_ONCE_MAX = 200
PURGED_REASON = "its queue was purged"


class Queueing:
    """What this hub tells of queues and does to them.

    Args:
        line: where commits go.
        registry: knows which agents could take what waits.
    """

    def __init__(self, line: Line, registry: Registry) -> None:
        self._line = line
        self._store = line.store
        self._registry = registry

    async def list(self, namespace: str, limit: int) -> tuple[QueueInfo, ...]:
        """Return queues, by name."""
        found = await asyncio.gather(
            *(self._store.set_members(keys.queues(partition, namespace)) for partition in range(PARTITIONS))
        )
        names = sorted(name for names in found for name in names)[:limit]
        infos = await asyncio.gather(*(self._info(Queue(namespace, name)) for name in names))
        return tuple(info.model_copy(update={"buckets": ()}) for info in infos)

    async def get(self, queue: Queue) -> QueueInfo:
        """Return one queue, with why nobody takes what waits.

        Raises:
            RequestError: `not_found`.
        """
        if queue.name not in await self._store.set_members(keys.queues(queue.partition, queue.namespace)):
            message = f"no run was ever submitted to a queue {queue.name!r}, and nothing was ever said of it"
            raise RequestError(ErrorCode.NOT_FOUND, message)
        info = await self._info(queue)
        if not info.buckets:
            return info
        agents = await self._registry.agents(queue.namespace)
        takers = [who_takes(agents, queue.name, bucket.handler, bucket.where) for bucket in info.buckets]
        buckets = (
            bucket.model_copy(update={"reason": why}) if isinstance(why, str) else bucket
            for bucket, why in zip(info.buckets, takers, strict=True)
        )
        return info.model_copy(update={"buckets": tuple(buckets)})

    async def _info(self, queue: Queue) -> QueueInfo:
        fields, active, later, buckets = await asyncio.gather(
            self._store.hash_all(queue.terms),
            self._store.hash_size(queue.active),
            self._store.sorted_size(queue.later),
            self._buckets(queue),
        )
        terms = Terms.parse(fields)
        return QueueInfo(
            queue=queue.name,
            paused=terms.paused,
            limit=terms.limit,
            waiting=sum(bucket.waiting for bucket in buckets),
            later=later,
            active=active,
            buckets=buckets,
        )

    async def set(self, queue: Queue, asked: QueueSet) -> QueueInfo:
        """Say something of a queue, and return what holds from now on."""
        await settle(self._line, set_terms(self._line.new_commit_id(), queue, asked.paused, asked.limit))
        return await self.get(queue)

    async def purge(self, queue: Queue, principal: str, reason: str | None) -> int:
        """Cancel every run that waits, or comes later. Returns how many there were."""
        reason = reason or PURGED_REASON
        purged = await self._purge(queue.namespace, queue.later, principal, reason)
        for bucket in await self._bucket_names(queue):  # read now: what came from there meanwhile is in them
            purged += await self._purge(queue.namespace, queue.waiting(bucket), principal, reason)
        return purged

    async def _purge(self, namespace: str, waiting: str, principal: str, reason: str) -> int:
        """Cancel as many runs as wait in one place when this begins; those that come meanwhile are not chased."""
        purged, left = 0, await self._store.sorted_size(waiting)
        while left > 0:
            members = await self._store.sorted_range(waiting, min(left, PURGED_AT_ONCE_MAX))
            logs = [LogName(namespace, LogKind.RUN, run) for run, _ in members]
            done = sum(await asyncio.gather(*(self._cancel(log, principal, reason) for log in logs)))
            if not done:
                break  # others took them meanwhile; what they left is looked at by whoever asks again
            purged += done
            left -= len(members)
        return purged

    async def _cancel(self, log: LogName, principal: str, reason: str) -> bool:
        """Cancel a run if it waits. Returns whether it did."""
        fields = await self._store.meta(log)
        meta = RunMeta.parse(log, fields) if fields else None
        if meta is None or meta.state is not RunState.QUEUED:
            return False
        commit = runs.cancel(self._ids(principal), meta, self._line.src, Cancel(reason=reason), None)
        return isinstance(await settle(self._line, commit), Outcome)

    async def _buckets(self, queue: Queue) -> tuple[Bucket, ...]:
        names = sorted(await self._bucket_names(queue))
        sizes = await asyncio.gather(*(self._store.sorted_size(queue.waiting(name)) for name in names))
        parsed = map(parse_bucket, names)
        return tuple(
            Bucket(handler=handler, where=str(where), waiting=size)
            for (handler, where), size in zip(parsed, sizes, strict=True)
            if size
        )

    async def _bucket_names(self, queue: Queue) -> frozenset[str]:
        return await self._store.set_members(queue.buckets)

    def _ids(self, src: str) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), src)
