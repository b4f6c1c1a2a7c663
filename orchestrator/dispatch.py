"""Claims runs that wait for agents of this hub that have a free slot.

A queue is looked at when something was put on it, when a slot became free, and every second in case a
hint was lost. Hubs compete: each proposes claims, and the store lets one through for each run.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Set

import structlog

from orchestrator.core import attempts, runs
from orchestrator.core.run_meta import RunMeta, parse_bucket
from orchestrator.line import Line
from orchestrator.peers import Held, Peer, Peers
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import Refused, StoreError, StoreUnavailable
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.entry import Position
from protocol.frames import Assign, Recover
from protocol.ids import LogKind, LogName, queue_partition
from protocol.run import RunState

__all__ = ["Dispatch", "assignment"]

POLL_S = 1.0
CLAIMS_AT_ONCE_MAX = 64

Queue = tuple[str, str]
"""Namespace and name."""

log_ = structlog.get_logger()


class Dispatch:
    """The claims of one hub.

    Args:
        line: where commits go.
        peers: the agents that are connected here.
        lease_ms: how long a claim holds without being renewed.
    """

    def __init__(self, line: Line, peers: Peers, lease_ms: int) -> None:
        self._line = line
        self._peers = peers
        self._lease_ms = lease_ms
        self._dirty: set[Queue] = set()
        self._busy: set[Queue] = set()
        self._woken = asyncio.Event()

    def hint(self, word: str) -> None:
        """Take a hint of a commit: a queue may have work."""
        kind, _, place = word.partition(":")
        namespace, _, queue = place.partition("/")
        if kind == "queue":
            self._mark((namespace, queue))

    def offer(self, peer: Peer) -> None:
        """An agent has a free slot, or a new one."""
        if peer.slots_free:
            for queue in peer.queues:
                self._mark((peer.namespace, queue))

    async def run(self) -> None:
        """Claim until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    await asyncio.wait_for(self._woken.wait(), POLL_S)
                except TimeoutError:
                    self._dirty.update(self._wanted())
                self._woken.clear()
                ready = self._dirty - self._busy
                self._dirty -= ready
                for queue in filter(self._is_wanted, ready):
                    self._busy.add(queue)
                    tasks.create_task(self._serve(queue))

    def _mark(self, queue: Queue) -> None:
        self._dirty.add(queue)
        self._woken.set()

    def _wanted(self) -> set[Queue]:
        """The queues that an agent here would take a run from now."""
        return {(peer.namespace, queue) for peer in self._peers if peer.slots_free for queue in peer.queues}

    def _is_wanted(self, queue: Queue) -> bool:
        """Whether an agent here would take a run from this queue now."""
        namespace, name = queue
        return any(peer.slots_free and peer.namespace == namespace and name in peer.queues for peer in self._peers)

    async def _serve(self, queue: Queue) -> None:
        try:
            while await self._round(queue):
                pass
        except StoreError as fault:
            log_.warning("dispatch_paused", queue=queue[1], reason=str(fault))
        finally:
            self._busy.discard(queue)
            if queue in self._dirty:
                self._woken.set()

    async def _round(self, queue: Queue) -> bool:
        """Claim what waits, as far as slots go. Returns whether it is worth looking again."""
        namespace, name = queue
        buckets = await self._line.store.set_members(keys.buckets(queue_partition(namespace, name), namespace, name))
        if not buckets:  # found out before the agents are counted: thousands may have come at once
            return False
        able = [peer for peer in self._peers if peer.slots_free and name in peer.queues]
        able = [peer for peer in able if peer.namespace == namespace]
        offered = {bucket for bucket in buckets if any(_takes(peer, bucket) for peer in able)}
        waiting = await self._waiting(queue, offered, _slots(able))
        claims = list(self._match(queue[0], waiting, able))
        if not claims:
            return False
        made = await asyncio.gather(*(self._claim(log, peer, handler) for log, peer, handler in claims))
        return any(made)

    async def _waiting(self, queue: Queue, buckets: Set[str], limit: int) -> list[tuple[int, str, str]]:
        """Return what waits in these buckets, as (score, run, bucket), in order."""
        namespace, name = queue
        partition, store = queue_partition(namespace, name), self._line.store
        limit = min(limit, CLAIMS_AT_ONCE_MAX)
        ranges = await asyncio.gather(
            *(store.sorted_range(keys.queue(partition, namespace, name, bucket), limit) for bucket in buckets)
        )
        found = [
            (score, run, bucket) for bucket, members in zip(buckets, ranges, strict=True) for run, score in members
        ]
        return sorted(found)[:limit]

    @staticmethod
    def _match(
        namespace: str, waiting: Iterable[tuple[int, str, str]], able: list[Peer]
    ) -> Iterator[tuple[LogName, Peer, str]]:
        """Give each run to the least loaded agent that may take it, and hold a slot for it."""
        for _, run, bucket in waiting:
            fit = [peer for peer in able if peer.slots_free and run not in peer.held and _takes(peer, bucket)]
            if fit:
                peer = min(fit, key=lambda one: len(one.held) / one.slots)
                peer.held[run] = Held(attempt=0, fence=0)
                yield LogName(namespace, LogKind.RUN, run), peer, parse_bucket(bucket)[0]

    async def _claim(self, log: LogName, peer: Peer, handler: str) -> bool:
        """Claim one run for an agent whose slot is held for it. Returns whether it was claimed."""
        claimed = False
        try:
            claimed = await self._try_claim(log, peer, handler)
        except StoreUnavailable:
            raise
        except StoreError as fault:  # this one run cannot be read; the others can
            log_.error("run_unreadable", run=log.name, reason=str(fault))
        finally:
            if not claimed:
                peer.held.pop(log.name, None)
        return claimed

    async def _try_claim(self, log: LogName, peer: Peer, handler: str) -> bool:
        line = self._line
        fields = await line.store.meta(log)
        meta = RunMeta.parse(log, fields) if fields else None
        if meta is None or meta.state is not RunState.QUEUED:
            return False
        ids = runs.Ids(line.new_commit_id(), line.src)
        spec = peer.handlers[handler]
        commit, run = attempts.claim(ids, meta, peer.holder, spec, store_ms=line.now_ms(), lease_ms=self._lease_ms)
        result = await settle(line, commit)
        if isinstance(result, Refused) or result.repeated:
            fields = await line.store.meta(log)
            after = RunMeta.parse(log, fields) if fields else meta
            if (after.state, after.fence, after.session) != (RunState.RUNNING, run.fence, run.session):
                return False
        if peer.leaving:  # its session ended meanwhile: nobody would work on it until its lease ran out
            await settle(line, attempts.release(runs.Ids(line.new_commit_id(), line.src), run, "its session ended"))
            return False
        assign = await assignment(line, run, self._lease_ms)
        if assign is None:
            return False
        peer.held[log.name] = Held(run.attempt, run.fence)
        peer.send(assign)
        return True


async def assignment(line: Line, meta: RunMeta, lease_ms: int, seq: int = 0) -> Assign | None:
    """Return the frame that tells an agent of an attempt that is its own; None where the store lost it since.

    `meta` is the run's while the attempt runs; `seq` the last that the log has of the attempt.
    """
    log, claimed_at = meta.log, meta.claimed_at
    page, tags = await asyncio.gather(line.store.read(log, 0, 1), line.store.tags(log, (claimed_at,)))
    if page is None or not page.entries or tags[0] is None:
        return None
    submitted = read_control(Submitted, unpack_record(page.entries[0].packed).body)
    now_ms = line.now_ms()
    until_ms = min((each for each in (meta.times_out_ms, meta.deadline_ms) if each), default=None)
    return Assign(
        run=log.name,
        queue=meta.queue,
        handler=meta.handler,
        attempt=meta.attempt,
        fence=meta.fence,
        input=submitted.input,
        lease_ms=lease_ms,
        position=Position(page.before.epoch, claimed_at, tags[0]),
        recover=Recover(meta.recover),
        seq=seq,
        time_left_ms=None if until_ms is None else max(0, until_ms - now_ms),
    )


def _takes(peer: Peer, bucket: str) -> bool:
    """Whether an agent has the handler and the labels that the runs of a bucket ask for."""
    handler, where = parse_bucket(bucket)
    return handler in peer.handlers and where.fits(peer.labels)


def _slots(peers: Iterable[Peer]) -> int:
    return sum(peer.slots_free for peer in peers)
