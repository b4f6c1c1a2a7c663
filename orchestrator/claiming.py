"""Claims runs, one for one agent whose slot is held for it, and tells the agent.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto

import structlog

from orchestrator.assigning import input_of, make_assign
from orchestrator.core import attempts, runs
from orchestrator.core.at_once import submit_claimed
from orchestrator.core.queues import Terms
from orchestrator.core.run_meta import RunMeta, parse_bucket
from orchestrator.line import Line
from orchestrator.newborn import Known, Newborn
from orchestrator.parking import Parking
from orchestrator.peers import Held, Peer
from orchestrator.settle import settle
from orchestrator.store.base import StoreError, StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refusal, Refused
from protocol.entry import Position
from protocol.ids import LogName
from protocol.run import RunState

__all__ = ["Claiming", "Tried"]

log_ = structlog.get_logger()


class Tried(Enum):
    """What became of a try to claim a run."""

    CLAIMED = auto()
    MOVED = auto()
    """It does not wait there any more: others may be seen now."""
    KEY_FULL = auto()
    """As many with its concurrency key are worked on as may."""
    MISSED = auto()


class Claiming:
    """The claims of one hub, each for an agent that has noted the run among what it holds.

    Args:
        line: where commits go.
        parking: knows whose concurrency keys are full.
        lease_ms: how long a claim holds without being renewed.

    Attributes:
        newborn: runs that this hub has just submitted.
    """

    def __init__(self, line: Line, parking: Parking, lease_ms: int) -> None:
        self._line = line
        self._parking = parking
        self._lease_ms = lease_ms
        self.newborn = Newborn()

    async def claim(self, log: LogName, peer: Peer, bucket: str, terms: Terms) -> Tried:
        """Claim a run that waits in a bucket. The agent's slot is free again where that fails.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        tried = Tried.MISSED
        try:
            tried = await self._try(log, peer, parse_bucket(bucket).handler, terms)
        except StoreUnavailable:
            raise
        except (StoreError, ValueError, LookupError) as fault:  # this one run cannot be read; the others can
            log_.error("run_unreadable", run=log.name, reason=repr(fault))
        finally:
            if tried is not Tried.CLAIMED:
                peer.held.pop(log.name, None)
        return tried

    async def submit(self, commit: Commit, known: Known, peer: Peer, terms: Terms) -> Outcome | Refused | None:
        """Submit a run and claim it at once; `known` is what it is after `commit`, which submits it.

        Returns what came of the submit; None where the run is not submitted, since its queue's terms are in the way.
        The agent's slot is free again where the claim fails.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        line, meta, tried = self._line, known.meta, Tried.MISSED
        log = meta.log
        claim, run = self._proposal(commit.id, meta, peer, meta.handler, terms)
        try:
            result = await settle(line, submit_claimed(commit, claim, meta))
            if isinstance(result, Refused):
                if result.reason is not Refusal.GUARD or result.guard:  # its first guard says that the key is new
                    return None
                if (result.actual or "").split(" ")[0] != log.name:
                    return result
            position = await self._position(run, result)
            if position is not None:
                tried = await self._hand_over(peer, run, known.input, position)
        finally:
            if tried is not Tried.CLAIMED:
                peer.held.pop(log.name, None)
        return result

    def _proposal(
        self, commit_id: str, meta: RunMeta, peer: Peer, handler: str, terms: Terms
    ) -> tuple[Commit, RunMeta]:
        line = self._line
        return attempts.claim(
            runs.Ids(commit_id, line.src),
            meta,
            peer.holder,
            peer.handlers[handler],
            terms,
            store_ms=line.now_ms(),
            lease_ms=self._lease_ms,
        )

    async def _try(self, log: LogName, peer: Peer, handler: str, terms: Terms, *, at_hand: bool = True) -> Tried:
        """Claim a run; with `at_hand` from what this hub has of it, where it has just submitted it."""
        line = self._line
        known = self.newborn.take(log) if at_hand else None
        meta, first = (known.meta, b"") if known else await self._read(log)
        if meta is not None and meta.final:  # it waits for nothing, and is in the way of others
            await settle(line, runs.strayed(runs.Ids(line.new_commit_id(), line.src), meta))
            return Tried.MOVED
        if meta is None or first is None or meta.state is not RunState.QUEUED or meta.put_off:
            return Tried.MISSED  # it was taken since it was listed, and may wait for its next try
        if meta.deadline_ms is not None and meta.deadline_ms <= line.now_ms():
            expired = await settle(line, runs.expire(runs.Ids(line.new_commit_id(), line.src), meta))
            return Tried.MISSED if isinstance(expired, Refused) else Tried.MOVED
        if await self._parking.full(meta, terms):
            return Tried.KEY_FULL
        commit, run = self._proposal(line.new_commit_id(), meta, peer, handler, terms)
        result = await settle(line, commit)
        position = await self._position(run, result)
        if position is not None:
            return await self._hand_over(peer, run, known.input if known else input_of(first), position)
        if isinstance(result, Outcome) or result.reason is not Refusal.EXPECT:
            return Tried.MISSED
        # It was only spoken to since it was read.
        return await self._try(log, peer, handler, terms, at_hand=False) if at_hand else Tried.MOVED

    async def _position(self, run: RunMeta, result: Outcome | Refused) -> Position | None:
        """Return where the log has the `$claimed` of a claim; None where the run is not what the claim made it."""
        if isinstance(result, Outcome) and not result.repeated:
            return result.appended[0].after
        line, log = self._line, run.log
        if (tail := line.tails.get(log)) is not None:
            line.tails.check_soon(tail)  # what is known here of the run may not be so any more
        fields, tags = await asyncio.gather(line.store.meta(log), line.store.tags(log, (run.claimed_at,)))
        after, tag = RunMeta.parse(log, fields) if fields else None, tags[0]
        if fields is None or after is None or tag is None:
            return None
        if (after.state, after.fence, after.session) != (RunState.RUNNING, run.fence, run.session):
            return None
        return Position(fields["epoch"], run.claimed_at, tag)

    async def _hand_over(self, peer: Peer, run: RunMeta, given: bytes, position: Position) -> Tried:
        """Tell the agent of an attempt; one that is shut since would not work on it until its lease ran out."""
        line = self._line
        if peer.shut:
            why = "its session ended" if peer.leaving else "its agent is given no more work"
            await settle(line, attempts.release(runs.Ids(line.new_commit_id(), line.src), run, why))
            return Tried.MOVED
        held = Held(run.attempt, run.fence, run.queue, run.related, run.keep_ms, run.concurrency_key)
        peer.held[run.log.name] = held
        peer.send(make_assign(line, run, given, position, self._lease_ms))
        return Tried.CLAIMED

    async def _read(self, log: LogName) -> tuple[RunMeta | None, bytes | None]:
        store = self._line.store
        fields, page = await asyncio.gather(store.meta(log), store.read(log, 0, 1))
        first = page.entries[0].packed if page is not None and page.entries else None
        return RunMeta.parse(log, fields) if fields else None, first
