"""The queues of a deployment, as people see and set them: the methods `queue.*`.

Claims are `orchestrator.dispatch`'s; here is what they must heed, what waits, and what died.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from orchestrator.core import runs
from orchestrator.core.permissions import Action
from orchestrator.core.queues import Queue, Terms, set_terms, who_takes, why_held
from orchestrator.core.run_meta import Bucket, parse_bucket
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.reading import Reading, there
from orchestrator.registry import Registry
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.commits import Outcome
from orchestrator.submitting import submit
from orchestrator.writing import read_run
from protocol.codes import ErrorCode
from protocol.control import Cancel
from protocol.errors import RequestError
from protocol.frames import Part
from protocol.ids import PARTITIONS, LogKind, LogName, check_name
from protocol.requests import Bucket as BucketInfo
from protocol.requests import (
    DeadLetters,
    KeyInfo,
    QueueDead,
    QueueGet,
    QueueInfo,
    QueueList,
    QueueListed,
    QueuePurge,
    QueuePurged,
    QueueRetried,
    QueueRetry,
    QueueSet,
    Share,
)
from protocol.run import RunState

__all__ = ["Queueing"]

PURGED_AT_ONCE_MAX = 200
RETRIED_AT_ONCE_MAX = 200
DEAD_KEY = "dead/"
"""With the id of a dead letter's run, the key of the run that does it again: whoever asks, and however often."""
PURGED_REASON = "its queue was purged"
COUNTED_AT_ONCE_MAX = 1_000
SHARES_SHOWN_MAX = 20
"""Submitters, and likewise concurrency keys, that are shown of one queue: those of most runs."""
ALL = 1 << 31


class Queueing:
    """What this hub tells of queues and does to them.

    Args:
        line: where commits go.
        registry: knows which agents could take what waits.
        reading: reads runs.
        dispatch: told of what may be claimed now.
    """

    def __init__(self, line: Line, registry: Registry, reading: Reading, dispatch: Dispatch) -> None:
        self._line = line
        self._store = line.store
        self._registry = registry
        self._reading = reading
        self._dispatch = dispatch
        self.methods: dict[str, Callable[[Peer, str, Any], Awaitable[Part]]] = {
            "queue.list": self._list,
            "queue.get": self._get,
            "queue.set": self._set,
            "queue.purge": self._purge,
            "queue.dead": self._dead,
            "queue.retry": self._retry,
        }

    async def _list(self, peer: Peer, _op: str, params: QueueList) -> QueueListed:
        namespace = peer.namespace
        found = await asyncio.gather(
            *(self._store.set_members(keys.queues(partition, namespace)) for partition in range(PARTITIONS))
        )
        every = sorted(name for names in found for name in names)
        names = [name for name in every if peer.permit.on_queue(Action.READ, name)][: params.limit]
        infos = await asyncio.gather(*(self._info(Queue(namespace, name)) for name in names))
        return QueueListed(
            queues=tuple(info.model_copy(update={"buckets": (), "shares": (), "keys": ()}) for info in infos)
        )

    async def _get(self, peer: Peer, _op: str, params: QueueGet) -> QueueInfo:
        return await self._read(_queue(peer, params.queue))

    async def _set(self, peer: Peer, _op: str, params: QueueSet) -> QueueInfo:
        queue = _queue(peer, params.queue)
        await settle(self._line, set_terms(self._line.new_commit_id(), queue, params))
        self._dispatch.look(queue)
        return await self._read(queue)

    async def _purge(self, peer: Peer, _op: str, params: QueuePurge) -> QueuePurged:
        """Cancel every run that waits, or comes later."""
        queue, reason = _queue(peer, params.queue), params.reason or PURGED_REASON
        purged = await self._purge_one(queue.namespace, queue.later, peer.principal, reason)
        for key in await self._store.set_members(queue.parked_keys):
            purged += await self._purge_one(queue.namespace, queue.parked(key), peer.principal, reason)
        for bucket in await self._buckets(queue):  # read now: what came from there meanwhile is in them
            purged += await self._purge_one(queue.namespace, queue.waiting(bucket), peer.principal, reason)
        return QueuePurged(purged=purged)

    async def _dead(self, peer: Peer, _op: str, params: QueueDead) -> DeadLetters:
        queue = _queue(peer, params.queue)
        await self._check(queue)
        members, dead = await asyncio.gather(
            self._store.sorted_range(queue.dead, params.limit), self._store.sorted_size(queue.dead)
        )
        logs = [LogName(queue.namespace, LogKind.RUN, run) for run, _ in members]
        return DeadLetters(runs=tuple(await there(self._reading.run(log) for log in logs)), dead=dead)

    async def _retry(self, peer: Peer, _op: str, params: QueueRetry) -> QueueRetried:
        queue = _queue(peer, params.queue)
        await self._check(queue)
        return QueueRetried(retried=await self._resubmit(queue, peer.principal))

    # Reading

    async def _check(self, queue: Queue) -> None:
        if queue.name not in await self._store.set_members(keys.queues(queue.partition, queue.namespace)):
            message = f"no run was ever submitted to a queue {queue.name!r}, and nothing was ever said of it"
            raise RequestError(ErrorCode.NOT_FOUND, message)

    async def _read(self, queue: Queue) -> QueueInfo:
        """Return one queue, with why nobody takes what waits."""
        await self._check(queue)
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
        store = self._store
        fields, tokens, active, later, dead = await asyncio.gather(
            store.hash_all(queue.terms),
            store.hash_get(queue.tokens, "next_us"),
            store.hash_size(queue.active),
            store.sorted_size(queue.later),
            store.sorted_size(queue.dead),
        )
        waiting, parked = await asyncio.gather(self._waiting(queue), self._parked(queue))
        terms = Terms.parse(fields)
        shown = sorted(parked.items(), key=lambda each: (-each[1], each[0]))[:SHARES_SHOWN_MAX]
        at_work = await asyncio.gather(*(store.hash_size(queue.keyed(key)) for key, _ in shown))
        return QueueInfo(
            queue=queue.name,
            paused=terms.paused,
            limit=terms.limit,
            key_limit=terms.key_limit,
            rate=terms.rate,
            waiting=sum(waiting.values()),
            parked=sum(parked.values()),
            later=later,
            active=active,
            dead=dead,
            reason=why_held(terms, active, int(tokens[0]) if tokens[0] else None, self._line.now_ms()),
            buckets=_buckets(waiting),
            shares=_shares(waiting),
            keys=tuple(
                KeyInfo(key=key, parked=count, active=active)
                for (key, count), active in zip(shown, at_work, strict=True)
            ),
        )

    async def _waiting(self, queue: Queue) -> dict[Bucket, int]:
        """Return how many runs wait in each bucket."""
        names = await self._buckets(queue)
        sizes = await self._sizes([queue.waiting(name) for name in names])
        return {parse_bucket(name): size for name, size in zip(names, sizes, strict=True) if size}

    async def _parked(self, queue: Queue) -> dict[str, int]:
        """Return how many runs are parked for each concurrency key."""
        names = sorted(await self._store.set_members(queue.parked_keys))
        sizes = await self._sizes([queue.parked(name) for name in names])
        return {name: size for name, size in zip(names, sizes, strict=True) if size}

    async def _sizes(self, sets: Sequence[str]) -> list[int]:
        sizes: list[int] = []
        for start in range(0, len(sets), COUNTED_AT_ONCE_MAX):
            some = sets[start : start + COUNTED_AT_ONCE_MAX]
            sizes += await asyncio.gather(*map(self._store.sorted_size, some))
        return sizes

    async def _buckets(self, queue: Queue) -> list[str]:
        return [name for name, _ in await self._store.sorted_range(queue.buckets, ALL)]

    # Dead letters

    async def _resubmit(self, queue: Queue, principal: str) -> int:
        """Submit the dead letters of a queue again, each once; those of runs that die meanwhile are not chased."""
        retried, left = 0, await self._store.sorted_size(queue.dead)
        while left > 0:
            members = await self._store.sorted_range(queue.dead, min(left, RETRIED_AT_ONCE_MAX))
            logs = [LogName(queue.namespace, LogKind.RUN, run) for run, _ in members]
            retried += sum(await asyncio.gather(*(self._resubmit_one(log, principal) for log in logs)))
            left = left - len(members) if members else 0
        return retried

    async def _resubmit_one(self, log: LogName, principal: str) -> bool:
        """Submit a dead letter again. Returns False where somebody else did, or it was deleted since it was listed."""
        found = await there([self._reading.submitted(log)])
        if not found:
            return False
        again = runs.again(found[0], f"{DEAD_KEY}{log.name}")
        _, result = await submit(self._line, self._dispatch, log.namespace, principal, again, retry_of=log.name)
        return isinstance(result, Outcome)

    # Purging

    async def _purge_one(self, namespace: str, waiting: str, principal: str, reason: str) -> int:
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
        meta = await read_run(self._line, log)
        if meta is None or meta.state is not RunState.QUEUED:
            return False
        ids = runs.Ids(self._line.new_commit_id(), principal)
        commit = runs.cancel(ids, meta, self._line.src, Cancel(reason=reason), None)
        return isinstance(await settle(self._line, commit), Outcome)


def _queue(peer: Peer, name: str) -> Queue:
    return Queue(peer.namespace, check_name(name))


def _buckets(waiting: dict[Bucket, int]) -> tuple[BucketInfo, ...]:
    """Return what waits by what it waits for, over priorities and submitters."""
    counts: Counter[tuple[str, str]] = Counter()
    for bucket, size in waiting.items():
        counts[bucket.handler, str(bucket.where)] += size
    return tuple(
        BucketInfo(handler=handler, where=where, waiting=size) for (handler, where), size in sorted(counts.items())
    )


def _shares(waiting: dict[Bucket, int]) -> tuple[Share, ...]:
    """Return the submitters that most runs wait of."""
    counts: Counter[str] = Counter()
    for bucket, size in waiting.items():
        counts[bucket.by] += size
    most = sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:SHARES_SHOWN_MAX]
    return tuple(Share(by=by, waiting=size) for by, size in most)
