"""The logs that this hub's peers follow: one tail a log, many subscribers.

A tail is where a log ends, as far as this hub knows, and a short ring of what came last. It is fed by the
hub's own commits as they return, and by reads of the store: when another hub hints at a new head, and every
so often in case a hint was lost. What was fed within one turn of the event loop becomes one chunk, whose
`entries` frame is encoded once, for every subscriber at the same place.

What is fed must continue what is there, tag for tag. Where it does not, the history has changed (a failover
lost a tail, a backup was restored): every subscriber is verified anew. A log that nobody follows has no tail.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

import structlog

from orchestrator.chunks import CHUNK_BYTES_MAX, CHUNK_ENTRIES_MAX, Chunk, cut
from orchestrator.core.resume import LogState
from orchestrator.lingering import Lingering
from orchestrator.store.base import Page, Store, StoreError
from orchestrator.store.commits import Commit, Outcome
from protocol.entry import Entry, Position, chain
from protocol.ids import LogKind, LogName

__all__ = ["Filtered", "Subscriber", "Tail", "Tails"]

RING_CHUNKS_MAX = 64
RING_BYTES_MAX = 1024 * 1024
CHECKS_AT_ONCE_MAX = 32
AGE_S = 1.0
"""What all could have taken for this long leaves the ring; who comes later reads the store."""

_Grown = tuple[Position, Position, tuple[Entry, ...]]
"""Entries that came, with the positions before and after them."""

log_ = structlog.get_logger()


class Subscriber(Protocol):
    """What a tail tells."""

    def pump(self) -> None:
        """There may be more to send."""

    def reverify(self) -> None:
        """The history may not be what it was."""


class Filtered(Protocol):
    """A subscriber that passes over entries that it was not asked for."""

    def close_range(self) -> None:
        """Tell the peer how far the log was scanned."""


class _Fit(Enum):
    TAKEN = "taken"
    GAP = "gap"
    CHANGED = "changed"


class Tail:
    """Where one log ends.

    Attributes:
        log: the log; `path` as it is written on the wire.
        epoch: empty until the tail is primed.
        head: offset and `tag` of the last entry known.
        subscribers: who follows it, in the order in which they came; thousands may leave at once.
        busy: it is being compared with the store; `again` asks for another look after that.
    """

    __slots__ = (
        *("_aged", "_ring", "_ring_bytes", "_waiting"),
        *("again", "busy", "epoch", "head", "log", "path", "subscribers", "tag"),
    )

    def __init__(self, log: LogName) -> None:
        self.log = log
        self.path = log.path
        self.epoch = ""
        self.head = 0
        self.tag = ""
        self.subscribers: dict[Subscriber, None] = {}
        self.busy = self.again = False
        self._ring: list[Chunk] | None = None
        self._ring_bytes = 0
        self._waiting: list[_Grown] | None = None
        self._aged = 0

    @property
    def position(self) -> Position:
        """Where the log ends."""
        return Position(self.epoch, self.head, self.tag)

    def whole(self) -> LogState | None:
        """Return what is known of a run's log, where it is all here from the first entry on; these are not trimmed."""
        if not self._ring or self._ring[0].prev or self.log.kind is not LogKind.RUN:
            return None
        ts_ms = self._ring[-1].entries[-1].ts_ms
        return LogState(self.epoch, self.head, self.tag, 1, self._ring[0].prev_tag, ts_ms)

    def prime(self, state: LogState) -> bool:
        """Take over what the store says of the log. Returns False where that contradicts what is known."""
        if not self.epoch:
            self.epoch, self.head, self.tag = state.end
            return True
        if state.epoch != self.epoch:
            return False
        return state.head != self.head or state.tag == self.tag

    def forget(self) -> None:
        """Know nothing any more: the history changed."""
        self.epoch, self.head, self.tag = "", 0, ""
        self._ring = self._waiting = None
        self._ring_bytes = 0

    def chunk_after(self, offset: int) -> Chunk | None:
        """Return the chunk that holds the entry after `offset`, where it is in the ring."""
        for chunk in reversed(self._ring or ()):
            if chunk.prev <= offset < chunk.upto:
                return chunk
        return None

    def queue(self, grown: _Grown) -> None:
        """Keep what was appended until the end of this turn of the event loop."""
        if self._waiting is None:
            self._waiting = [grown]
        else:
            self._waiting.append(grown)

    def absorb(self) -> _Fit:
        """Take in what is queued. Stops at the first that does not fit."""
        waiting, self._waiting = self._waiting or (), None
        fresh: list[Entry] = []
        prev, prev_tag = self.head, self.tag
        fit = _Fit.TAKEN
        for before, after, entries in waiting:
            if not self.epoch:
                self.epoch, self.head, self.tag = before
                prev, prev_tag = self.head, self.tag
            new: Sequence[Entry] = entries
            if before != (self.epoch, self.head, self.tag):
                fit, new = self._fit(before, after, entries)
                if fit is not _Fit.TAKEN:
                    break
            if new:
                fresh.extend(new)
                self.head, self.tag = after.offset, after.tag
        if fresh:
            self._keep(cut(prev, prev_tag, fresh, self.tag))
        return fit

    def age(self) -> bool:
        """Drop what has been in the ring for long. Returns whether anything is left there."""
        while self._ring and self._ring[0].upto <= self._aged:
            self._ring_bytes -= self._ring.pop(0).size
        self._aged = self.head
        if not self._ring:
            self._ring = None
        return self._ring is not None

    def _fit(self, before: Position, after: Position, entries: tuple[Entry, ...]) -> tuple[_Fit, Sequence[Entry]]:
        """Return how entries fit that do not begin just where the log ends, and those of them that are new."""
        if before.epoch != self.epoch:
            return _Fit.CHANGED, ()
        if before.offset > self.head:
            return _Fit.GAP, ()
        if after.offset <= self.head:
            same = after.offset < self.head or after.tag == self.tag
            return (_Fit.TAKEN if same else _Fit.CHANGED), ()
        known = self.head - before.offset
        if chain(before.tag, entries[:known]) != self.tag:
            return _Fit.CHANGED, ()
        return _Fit.TAKEN, entries[known:]

    def _keep(self, chunks: list[Chunk]) -> None:
        ring = self._ring = chunks if self._ring is None else self._ring + chunks
        for chunk in chunks:
            self._ring_bytes += chunk.size
        while len(ring) > RING_CHUNKS_MAX or (self._ring_bytes > RING_BYTES_MAX and len(ring) > 1):
            self._ring_bytes -= ring.pop(0).size


class Tails:
    """The tails of one hub.

    Args:
        store: for reads.
        spawn: runs a coroutine beside everything else; the hub owns the task.
        reads_max: pages of history that subscribers read at once.

    Attributes:
        reads: held while a page of history is read.
        unclosed: subscribers that scanned further than their peers were told.
    """

    def __init__(self, store: Store, spawn: Callable[[Coroutine[Any, Any, None]], object], reads_max: int) -> None:
        self.store = store
        self.reads = asyncio.Semaphore(reads_max)
        self.unclosed: set[Filtered] = set()
        self._spawn = spawn
        self._tails: dict[LogName, Tail] = {}
        self._dirty: dict[Tail, None] = {}
        self._warm: set[Tail] = set()
        self._lingering: Lingering[Tail] = Lingering(self.leave)

    def __len__(self) -> int:
        return len(self._tails)

    def join(self, log: LogName, subscriber: Subscriber) -> Tail:
        """Return the tail of a log, which from now on tells `subscriber`. It may not be primed yet."""
        tail = self._tails.get(log)
        if tail is None:
            tail = self._tails[log] = Tail(log)
        tail.subscribers[subscriber] = None
        return tail

    def get(self, log: LogName) -> Tail | None:
        """Return the tail of a log, where there is one."""
        return self._tails.get(log)

    def linger(self, log: LogName) -> None:
        """Have a tail for a log, for a moment, whether or not anybody follows it: this hub is about to make it."""
        self._lingering.keep(self.join(log, self._lingering))

    def leave(self, tail: Tail, subscriber: Subscriber) -> None:
        """Tell `subscriber` no more."""
        tail.subscribers.pop(subscriber, None)
        if not tail.subscribers and self._tails.get(tail.log) is tail:
            del self._tails[tail.log]
            self._warm.discard(tail)

    def take(self, commit: Commit, outcome: Outcome) -> None:
        """Take what a commit of this hub appended."""
        for append, done in zip(commit.appends, outcome.appended, strict=True):
            tail = self._tails.get(append.log)
            if tail is None:
                continue
            if outcome.repeated:
                self.check_soon(tail)
            elif done.after.offset > done.before.offset:
                ts_ms = done.ts_ms
                fresh = enumerate(append.entries[done.skipped :], done.before.offset + 1)
                entries = tuple([Entry(offset, ts_ms, packed) for offset, packed in fresh])
                self._take(tail, (done.before, done.after, entries))

    def take_page(self, tail: Tail, page: Page) -> None:
        """Take what somebody read from the store."""
        if page.entries:
            self._take(tail, (page.before, page.after, page.entries))

    def hint(self, heads: Mapping[str, int]) -> None:
        """Take a hint that logs have grown, by `namespace/kind/name`."""
        for name, head in heads.items():
            namespace, kind, rest = name.split("/", 2)
            tail = self._tails.get(LogName(namespace, LogKind(kind), rest))
            if tail is not None and head > tail.head:
                self.check_soon(tail)

    def look(self, log: LogName) -> None:
        """Compare the tail of a log with the store, soon, where it is followed: it was deleted."""
        tail = self._tails.get(log)
        if tail is not None:
            self.check_soon(tail)

    def check_soon(self, tail: Tail) -> None:
        """Compare a tail with the store, soon."""
        if self._begins(tail):
            self._spawn(self._check(tail))

    def changed(self, tail: Tail) -> None:
        """Let every subscriber of a log verify its position anew."""
        log_.warning("history_changed", log=tail.path, namespace=tail.log.namespace, head=tail.head)
        tail.forget()
        self._dirty.pop(tail, None)
        for subscriber in tuple(tail.subscribers):
            subscriber.reverify()

    async def close_ranges(self, period_s: float) -> None:
        """Close the ranges that were scanned and found empty, once every period, until cancelled."""
        while True:
            await asyncio.sleep(period_s)
            unclosed, self.unclosed = self.unclosed, set()
            for subscriber in unclosed:
                subscriber.close_range()

    async def run(self, recheck_s: float) -> None:
        """Compare the tails with the store, a share of them at a time, until cancelled."""
        identity = self.store.identity()
        turn = 0
        shares = max(1, round(recheck_s / AGE_S))
        while True:
            await asyncio.sleep(min(AGE_S, recheck_s))
            before, identity = identity, self.store.identity()
            self._lingering.age()
            self._warm = {tail for tail in self._warm if tail.age()}
            turn = (turn + 1) % shares
            due = list(self._tails.values())
            if before == identity:
                due = due[turn::shares]
            for start in range(0, len(due), CHECKS_AT_ONCE_MAX):
                some = due[start : start + CHECKS_AT_ONCE_MAX]
                await asyncio.gather(*(self._check(tail) for tail in some if self._begins(tail)))

    def _take(self, tail: Tail, grown: _Grown) -> None:
        tail.queue(grown)
        if not self._dirty:
            asyncio.get_running_loop().call_soon(self._deliver)
        self._dirty[tail] = None

    def _deliver(self) -> None:
        """Tell the subscribers of every tail that was fed in this turn of the event loop."""
        dirty, self._dirty = self._dirty, {}
        for tail in dirty:
            fit = tail.absorb()
            self._warm.add(tail)
            if fit is _Fit.CHANGED:
                self.changed(tail)
                continue
            if fit is _Fit.GAP or (tail.again and not tail.busy):
                self.check_soon(tail)
            for subscriber in tuple(tail.subscribers):
                subscriber.pump()

    @staticmethod
    def _begins(tail: Tail) -> bool:
        """Whether to compare a tail now; one that is being compared, or is not primed, is compared after that."""
        if tail.busy or not tail.epoch:
            tail.again = True
            return False
        tail.busy = True
        return True

    async def _check(self, tail: Tail) -> None:
        """Read what is after the tail's head, until nothing is."""
        try:
            while tail.epoch and tail.subscribers:
                tail.again = False
                asked = tail.position
                page = await self.store.read(tail.log, asked.offset, CHUNK_ENTRIES_MAX, CHUNK_BYTES_MAX)
                if tail.epoch != asked.epoch:
                    return
                if page is None or page.before != asked:
                    self.changed(tail)
                    return
                self.take_page(tail, page)
                await asyncio.sleep(0)  # what was read is taken in at the end of this turn
                if page.after.offset >= page.head and not tail.again:
                    return
        except StoreError as fault:
            log_.debug("tail_not_checked", log=tail.path, reason=str(fault))
        finally:
            tail.busy = False
