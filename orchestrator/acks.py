"""The acks of durable subscriptions: noted in memory, stored every second and when a session ends.

What is stored only grows, save after a reset. It says how far a peer that lost its memory may resume from
`acked`; storing it late costs such a peer entries twice, never an entry.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

import structlog

from orchestrator.line import Line
from orchestrator.store import keys
from orchestrator.store.base import Store, StoreError, StoreUnavailable
from orchestrator.store.commits import Commit, Guard, HashSet, Refused
from protocol.entry import Entry, Position, next_tag
from protocol.ids import LogName, partition_of

__all__ = ["DURABLES_MAX", "Acks", "DurableAck", "acknowledged"]

PERIOD_S = 1.0
DURABLES_MAX = 256
"""Durable subscriptions of one principal to one log. What is stored of each is kept for as long as the log is."""

POSITIONS_MAX = 16_384
"""Positions of one subscription that may be acknowledged: more than a window of entries."""

log_ = structlog.get_logger()


class DurableAck:
    """What one durable subscription acknowledged, as positions: an ack is of the history that was sent.

    Attributes:
        log: the log that is followed.
        field: `principal/name`.
        stored: the position that the store has, or None.
        acked: the highest that is to be stored, or None.
    """

    __slots__ = ("_lower", "_sent", "acked", "field", "log", "stored")

    def __init__(self, log: LogName, field: str, stored: Position | None) -> None:
        self.log = log
        self.field = field
        self.stored = stored
        self.acked: Position | None = None
        self._sent: deque[Position] = deque(maxlen=POSITIONS_MAX)
        self._lower = False

    @classmethod
    async def load(cls, store: Store, log: LogName, principal: str, name: str) -> DurableAck | None:
        """Return what the store has of a durable subscription; None where its principal may have no other.

        Those of which nothing is stored yet do not count: there may be one more for each session that is open.
        """
        key, field = keys.acks(log), f"{principal}/{name}"
        value = (await store.hash_get(key, field))[0]
        if value:
            return cls(log, field, _read(value.decode()))
        names = [known for known in await store.hash_all(key) if known.startswith(f"{principal}/")]
        return cls(log, field, None) if len(names) < DURABLES_MAX else None

    @property
    def pending(self) -> bool:
        """Whether there is something to store."""
        if self.acked is None:
            return False
        return self._lower or self.stored is None or self.acked.offset > self.stored.offset

    def sent(self, position: Position) -> None:
        """Note a position that the peer may acknowledge, each after the one before.

        Of those that it leaves unacknowledged only so many are kept: an ack further back stores nothing.
        """
        self._sent.append(position)

    def sending(self, prev: int, entries: Sequence[Entry], at: Position) -> None:
        """Note the positions of entries that follow offset `prev`, but for those up to `at`, which are noted."""
        if self._sent and self._sent[-1].offset > at.offset:
            at = self._sent[-1]
        for offset, ts_ms, packed in entries[at.offset - prev :]:
            at = Position(at.epoch, offset, next_tag(at.tag, offset, ts_ms, packed))
            self.sent(at)

    def note(self, offset: int) -> None:
        """Take an acknowledgement of everything up to `offset`."""
        while self._sent and self._sent[0].offset <= offset:
            self.acked = self._sent.popleft()

    def begin(self, at: Position) -> None:
        """Begin here, where nothing is stored yet: from now on a cut past this place is told of."""
        if self.stored is None and self.acked is None:
            self.acked = at

    def reset(self, at: Position) -> None:
        """Go on from here: what was sent after it, and acknowledged, is of another history."""
        self._sent.clear()
        if self.stored is not None and self.stored.offset > at.offset:
            self.acked, self._lower = at, True
        elif self.acked is not None and self.acked.offset > at.offset:
            self.acked = at

    async def save(self, line: Line) -> None:
        """Store the position that was acknowledged, unless a later one is stored, or the log has lost it.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        while self.pending:
            acked = self.acked
            assert acked is not None
            if not await _holds(line.store, self.log, acked):
                if self.acked == acked:  # its history is gone; the subscription is about to be reset
                    self.acked, self._lower = None, False
                continue
            key, old = keys.acks(self.log), None if self.stored is None else _write(self.stored)
            commit = Commit(
                id=line.new_commit_id(),
                partition=partition_of(self.log),
                guards=(Guard(key, self.field, old), Guard(keys.meta(self.log), "epoch", acked.epoch)),
                ops=(HashSet(key, {self.field: _write(acked)}),),
            )
            result = await line.commit(commit)
            if isinstance(result, Refused) and result.guard:
                continue  # the log was deleted since
            if isinstance(result, Refused):
                self.stored = None if result.actual is None else _read(result.actual)
            else:
                self.stored = acked
                self._lower = self.acked is not None and self.acked.offset < acked.offset  # it was reset meanwhile


async def acknowledged(store: Store, log: LogName) -> list[int]:
    """Return the offsets that the durable subscriptions of a log have acknowledged."""
    return [_read(value.decode()).offset for value in (await store.hash_all(keys.acks(log))).values()]


async def _holds(store: Store, log: LogName, position: Position) -> bool:
    """Whether the log has this position in its history."""
    meta, tags = await asyncio.gather(store.meta(log), store.tags(log, (position.offset,)))
    return meta is not None and (meta["epoch"], tags[0]) == (position.epoch, position.tag)


def _write(position: Position) -> str:
    return f"{position.offset} {position.epoch} {position.tag}"


def _read(text: str) -> Position:
    offset, epoch, tag = text.split()
    return Position(epoch, int(offset), tag)


class Acks:
    """Stores the acks of this hub's durable subscriptions."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._noted: set[DurableAck] = set()

    def note(self, ack: DurableAck) -> None:
        """Store this one soon."""
        self._noted.add(ack)

    async def flush(self) -> None:
        """Store everything that was noted."""
        noted, self._noted = self._noted, set()
        await asyncio.gather(*(self._save(ack) for ack in noted))

    async def run(self) -> None:
        """Store what is noted until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            await self.flush()

    async def _save(self, ack: DurableAck) -> None:
        try:
            await ack.save(self._line)
        except StoreUnavailable as fault:
            self._noted.add(ack)
            log_.debug("ack_not_stored", log=ack.log.path, reason=str(fault))
        except StoreError as fault:  # this one log cannot be read; the others can
            log_.error("ack_not_stored", log=ack.log.path, reason=str(fault))
