"""Claims runs that wait for agents of this hub that have a free slot.

A queue is looked at when something was put on it, when a slot became free while something waited, and every
second in case a hint was lost. Hubs compete: each proposes claims, and the store lets one through for each run.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import structlog

from orchestrator.claiming import Claiming, Tried
from orchestrator.core.matching import Refusals, free_part
from orchestrator.core.queues import NO_TERMS, Queue, Terms, queue_of
from orchestrator.core.run_meta import RunMeta, parse_bucket
from orchestrator.core.standing import Standing
from orchestrator.line import Line, monotonic_ms
from orchestrator.parking import FREED_AT_ONCE_MAX, Parking
from orchestrator.peers import Held, Peer, Peers
from orchestrator.store.base import StoreError
from protocol.frames import Heartbeat
from protocol.ids import LogKind, LogName

__all__ = ["Dispatch", "Waiting"]

POLL_S = 1.0
CLAIMS_AT_ONCE_MAX = 64
LOOKED_PAST_MAX = 1024
"""Runs that wait and were refused by agents which could take others: these are looked past."""
BUCKETS_AT_ONCE_MAX = 64
"""Buckets of which runs are read for one round of claims: of the highest priority, those served longest ago."""
NAMES_FIRST, NAMES_FACTOR = 64, 8
"""How many buckets' names are read, and how many times more where too few of them are for agents here."""

log_ = structlog.get_logger()


class Waiting(NamedTuple):
    """A run that waits: `turn` says when it is its turn, among others."""

    turn: tuple[int, int, int]
    run: str
    bucket: str


class Dispatch:
    """The claims of one hub.

    Args:
        line: where commits go.
        peers: the agents that are connected here.
        lease_ms: how long a claim holds without being renewed.

    Attributes:
        claiming: the claims themselves.
    """

    def __init__(self, line: Line, peers: Peers, lease_ms: int) -> None:
        self._line = line
        self._peers = peers
        self._refusals = Refusals()
        self._dirty: set[Queue] = set()
        self._busy: set[Queue] = set()
        self._empty: dict[Queue, Terms] = {}
        """Queues on which nothing was left to wait when they were last looked at, and nothing was put since."""
        self._woken = asyncio.Event()
        self._parking = Parking(line)
        self.claiming = Claiming(line, self._parking, lease_ms)
        self._tokens: dict[Queue, asyncio.TimerHandle] = {}

    def hint(self, word: str) -> None:
        """Take a word of another hub's commit: a queue may have work."""
        queue = Queue.hinted(word)
        if queue is not None:
            self.look(queue)

    def look(self, queue: Queue) -> None:
        """See soon whether an agent here can take a run from this queue."""
        self._empty.pop(queue, None)
        self._dirty.add(queue)
        self._woken.set()

    def freed(self, queue: Queue) -> None:
        """A run of this queue is worked on no more: there may be room for one that waits."""
        if queue in self._busy or queue not in self._empty:  # whoever looks now may have seen that there was none
            self.look(queue)

    def taker(self, meta: RunMeta) -> tuple[Peer, Terms] | None:
        """Return the agent that may take a new run at once, with a slot held for it, and the terms of its queue.

        None where something may wait there, which comes first, or the run is put off.
        """
        queue = meta.place
        terms = self._empty.get(queue)
        if terms is None or terms.paused or queue in self._busy or queue in self._dirty or meta.put_off:
            return None
        able = list(self._able(queue))
        if not able:
            return None
        one = Waiting((0, 0, 0), meta.log.name, meta.bucket)
        found = next(self._match(queue, (one,), able), None)
        return None if found is None else (found[1], terms)

    def offer(self, peer: Peer) -> None:
        """An agent has a free slot, or a new one."""
        if peer.slots_free:
            for name in peer.queues:
                self.freed(queue_of(peer.namespace, name))

    def refused(self, peer: Peer, run: str) -> None:
        """Note that an agent does not want a run: it is not given it for a while, others are."""
        wait_ms = self._refusals.note((peer.namespace, peer.id), run, monotonic_ms())
        log_.info("run_refused", run=run, agent=peer.id, not_again_for_ms=wait_ms)

    def told(self, log: LogName, standing: Standing) -> None:
        """Heed what this hub has just said of the agent whose log this is."""
        self._peers.miss(log.namespace, log.name, monotonic_ms())
        peer = self._peers.agent(log.namespace, log.name)
        if peer is not None:
            self.heed(peer, standing)

    def heed(self, peer: Peer, standing: Standing) -> None:
        """Take note of what is said of an agent, and tell it where it is to finish; an older word changes nothing."""
        if standing.told > peer.standing.told:
            peer.standing = standing
            self.tell_drain(peer)
            self.offer(peer)

    def tell_drain(self, peer: Peer) -> None:
        """Tell an agent that it is to finish, where that is so."""
        if peer.draining:
            now_ms, until_ms = self._line.now_ms(), peer.standing.drain_until_ms
            left_ms = None if until_ms is None else max(0, until_ms - now_ms)
            peer.send(Heartbeat(store_ms=now_ms, drain=True, drain_ms=left_ms))

    async def run(self) -> None:
        """Claim until cancelled."""
        loop = asyncio.get_running_loop()
        poll_s = loop.time() + POLL_S
        async with asyncio.TaskGroup() as tasks:
            while True:
                due = loop.time() >= poll_s  # however often hints came meanwhile
                try:
                    async with asyncio.timeout_at(poll_s):  # before Python 3.12, `wait_for` can lose a cancellation
                        await self._woken.wait()
                except TimeoutError:
                    due = True
                if due:
                    poll_s = loop.time() + POLL_S
                    self._empty.clear()
                    self.claiming.newborn.age(loop.time())
                    self._dirty.update(self._wanted())
                self._woken.clear()
                ready = self._dirty - self._busy
                self._dirty -= ready
                for queue in (queue for queue in ready if any(self._able(queue))):
                    self._busy.add(queue)
                    tasks.create_task(self._serve(queue))

    def _wanted(self) -> set[Queue]:
        """The queues that an agent here would take a run from now."""
        return {Queue(peer.namespace, name) for peer in self._peers if peer.slots_free for name in peer.queues}

    def _able(self, queue: Queue) -> Iterator[Peer]:
        """The agents here that would take a run from this queue now."""
        for peer in self._peers:
            if peer.slots_free and peer.namespace == queue.namespace and queue.name in peer.queues:
                yield peer

    async def _serve(self, queue: Queue) -> None:
        try:
            while await self._round(queue):
                pass
        except StoreError as fault:
            self._left(queue)
            log_.warning("dispatch_paused", queue=queue.name, reason=str(fault))
        finally:
            self._busy.discard(queue)
            if queue in self._dirty:
                self._woken.set()

    async def _round(self, queue: Queue) -> bool:
        """Claim what waits, as far as slots and the queue's terms go. Returns whether it is worth looking again."""
        store = self._line.store
        self._empty[queue] = NO_TERMS  # until `look` is told of something, or this finds what it leaves there
        names, fields = await asyncio.gather(
            store.sorted_range(queue.buckets, NAMES_FIRST), store.hash_all(queue.terms)
        )
        terms = Terms.parse(fields)
        if queue in self._empty:
            self._empty[queue] = terms
        if not names and not terms.keyed:  # found out before the agents are counted: thousands may have come at once
            return False
        if terms.paused:
            return self._left(queue)
        freed = await store.sorted_range(queue.freed, FREED_AT_ONCE_MAX) if terms.keyed else []
        able = list(self._able(queue))
        room = await self._room(queue, terms, sum(peer.slots_free for peer in able))
        if room <= 0:
            return self._left(queue)
        if freed:
            if await self._parking.bring_back(queue, [key for key, _ in freed], terms):
                return True
            names = await store.sorted_range(queue.buckets, NAMES_FIRST)
        offered = await self._offered(queue, names, able)
        limit = min(room, CLAIMS_AT_ONCE_MAX) + min(self._refused_by(able), LOOKED_PAST_MAX)
        waiting = await self._waiting(queue, offered, limit)
        claims = list(islice(self._match(queue, waiting, able), min(room, CLAIMS_AT_ONCE_MAX)))
        tried = await asyncio.gather(*(self.claiming.claim(log, peer, bucket, terms) for log, peer, bucket in claims))
        all_claimed = tried.count(Tried.CLAIMED) == len(waiting)
        if len(waiting) < limit and len(offered) == len(names) and all_claimed and not terms.keyed:
            return False
        self._left(queue)
        full = [(log, bucket) for (log, _, bucket), what in zip(claims, tried, strict=True) if what is Tried.KEY_FULL]
        if full:
            await self._parking.park(queue, full, terms)
        if any(what is not Tried.MISSED for what in tried):
            return any(self._able(queue))
        if claims:
            await self._room(queue, terms, 1)  # others may have had the tokens: it is looked at when there are more
        return False

    def _left(self, queue: Queue) -> bool:
        """Note that something waits on a queue: whoever has a free slot looks at it. Looking at once is no use."""
        self._empty.pop(queue, None)
        return False

    async def _room(self, queue: Queue, terms: Terms, room: int) -> int:
        """Return how many runs may be claimed now; where the queue's rate is in the way, look again when it is not."""
        store = self._line.store
        if terms.limit is not None and room > 0:
            room = min(room, terms.limit - await store.hash_size(queue.active))
        if terms.rate is not None and room > 0:
            stored, now_ms = (await store.hash_get(queue.tokens, "next_us"))[0], self._line.now_ms()
            next_us = None if stored is None else int(stored)
            room = min(room, terms.tokens(next_us, now_ms))
            if room <= 0:
                self._look_in(queue, terms.token_in_ms(next_us, now_ms))
        return room

    def _look_in(self, queue: Queue, wait_ms: int) -> None:
        """Look at a queue when its next token is there."""
        before = self._tokens.pop(queue, None)
        if before is not None:
            before.cancel()

        def come() -> None:
            del self._tokens[queue]
            self.look(queue)

        self._tokens[queue] = asyncio.get_running_loop().call_later(wait_ms / 1000, come)

    async def _offered(self, queue: Queue, names: Sequence[tuple[str, int]], able: list[Peer]) -> list[str]:
        """Return buckets of which agents here take runs, in the order of their turns; more are read if need be."""
        limit = NAMES_FIRST
        while True:
            offered = [bucket for bucket, _ in names if any(_takes(peer, bucket) for peer in able)]
            if len(names) < limit or len(offered) >= BUCKETS_AT_ONCE_MAX:
                return offered[:BUCKETS_AT_ONCE_MAX]
            if len(offered) >= sum(peer.slots_free for peer in able) and not self._refusals:
                return offered
            limit *= NAMES_FACTOR
            names = await self._line.store.sorted_range(queue.buckets, limit)

    def _refused_by(self, able: list[Peer]) -> int:
        """Return how many runs these agents refused lately, at most: those may be the first that wait."""
        if not self._refusals:
            return 0
        now_ms = monotonic_ms()
        return sum(self._refusals.count((peer.namespace, peer.id), now_ms) for peer in able)

    async def _waiting(self, queue: Queue, buckets: Sequence[str], limit: int) -> list[Waiting]:
        """Return the first that wait in these buckets, in the order of turns.

        Of each priority, the first runs of all buckets come before the second ones.
        """
        ranges = await asyncio.gather(
            *(self._line.store.sorted_range(queue.waiting(bucket), limit) for bucket in buckets)
        )
        found = [
            Waiting((-parse_bucket(bucket).priority, depth, place), run, bucket)
            for place, (bucket, members) in enumerate(zip(buckets, ranges, strict=True))
            for depth, (run, _) in enumerate(members)
        ]
        return sorted(found)[:limit]

    def _match(self, queue: Queue, waiting: Iterable[Waiting], able: list[Peer]) -> Iterator[tuple[LogName, Peer, str]]:
        """Give each run to the least loaded agent that may take it, and hold a slot for it."""
        now_ms = monotonic_ms()
        for one in waiting:
            run, bucket = one.run, one.bucket
            fit = [
                peer
                for peer in able
                if peer.slots_free
                and run not in peer.held
                and _takes(peer, bucket)
                and not (self._refusals and self._refusals.holds((peer.namespace, peer.id), run, now_ms))
            ]
            if fit:
                peer = max(fit, key=_free) if len(fit) > 1 else fit[0]
                peer.held[run] = Held(attempt=0, fence=0, queue=queue.name)
                yield LogName(queue.namespace, LogKind.RUN, run), peer, bucket


def _free(peer: Peer) -> tuple[float, int]:
    """How free an agent is: the part of it, then the slots."""
    return free_part(len(peer.held), peer.slots, peer.load or 0), peer.slots_free


def _takes(peer: Peer, bucket: str) -> bool:
    """Whether an agent has the handler and the labels that the runs of a bucket ask for."""
    _, _, handler, where = parse_bucket(bucket)
    return handler in peer.handlers and where.fits(peer.labels)
