"""Attempts: how agents keep them, write to them, hand them back and lose them.

The store's word counts: an attempt is an agent's while the run's meta says so. What this hub knows of it
(`Peer.held`) saves asking, for the queue of a run that ends as well. Every change is a proposal of
`orchestrator.core.attempts`; where its guard is refused, somebody else was first, and the run is read again.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio
import random

import structlog

from orchestrator.assigning import assignment
from orchestrator.core import attempts, runs
from orchestrator.core import publish as publishing
from orchestrator.core.queues import queue_of
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.standing import Standing
from orchestrator.core.timers import member
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.making import Making
from orchestrator.peers import Held, Peer, Peers
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Outcome, Refused
from orchestrator.store.producer import ProducerRecord
from orchestrator.together import together
from orchestrator.writing import read_run, write
from protocol.codes import ErrorCode
from protocol.control import Kind, RunError
from protocol.errors import InvalidName, RequestError
from protocol.frames import (
    AttemptClaim,
    AttemptVerdict,
    HeldAttempt,
    Nack,
    Puback,
    Publish,
    Release,
    ReleaseReason,
    Verdict,
)
from protocol.ids import LogKind, LogName, queue_partition
from protocol.run import RunState

__all__ = ["Work"]

RUN_ENTRIES_MAX = 1_000_000
"""A run whose log reaches this many entries is ended as failed, with `RUN_LOG_FULL` for its error's type."""

RUN_LOG_FULL = "run_log_full"

LEASE_OVER = "its lease ran out"


_PUTS_ON_QUEUE = frozenset({Kind.SUSPENDED, Kind.CONTINUE})
"""Endings that may leave a run on the queue: one that all it waits for has come to, or the one that it goes on as."""

_MAKES_RUNS = frozenset({Kind.SPAWN, Kind.CONTINUE})

log_ = structlog.get_logger()


class Work:
    """The attempts of the agents that are connected to this hub.

    Args:
        line: where commits go.
        peers: the agents that are connected here.
        dispatch: told of every slot that becomes free.
        making: how many runs a principal makes.
        lease_ms: how long an attempt holds without being renewed.
        losses_max: how often a run's agent is lost before the run is given up.
    """

    def __init__(
        self,
        line: Line,
        peers: Peers,
        dispatch: Dispatch,
        making: Making,
        lease_ms: int,
        losses_max: int = attempts.LOSSES_MAX,
    ) -> None:
        self._line = line
        self._peers = peers
        self._dispatch = dispatch
        self._making = making
        self._lease_ms = lease_ms
        self._losses_max = losses_max

    # Sessions

    async def reopen(self, peer: Peer, claims: tuple[AttemptClaim, ...]) -> tuple[AttemptVerdict, ...]:
        """Decide about the attempts of an agent that opens a session, before it is told `ready`.

        Those that it lists and holds go on in the new session. Those that it holds and did not list are
        bound to the session too, to be assigned again by `opened`. Those of another process of the same
        agent are lost at once: that process may not write any more.
        """
        verdicts = await together(self._judge(peer, claim) for claim in claims)
        others = [log for log in await self._held(peer) if log.name not in peer.held]
        await together(self._take_up(peer, log) for log in others)
        return tuple(verdicts)

    def offer(self, peer: Peer) -> None:
        """Let an agent have work: it was told `ready`, and holds nothing."""
        self._dispatch.offer(peer)

    def heed(self, peer: Peer, standing: Standing) -> None:
        """Take note of what is said of an agent."""
        self._dispatch.heed(peer, standing)

    def joined(self, peer: Peer) -> None:
        """Tell an agent that comes back while it is to finish: it was told `ready`."""
        self._dispatch.tell_drain(peer)

    async def opened(self, peer: Peer, claims: tuple[AttemptClaim, ...]) -> None:
        """Assign what the agent holds and did not list, once it was told `ready`; then let it have more."""
        listed = {claim.run for claim in claims}
        for run in tuple(peer.held.keys() - listed):
            log = LogName(peer.namespace, LogKind.RUN, run)
            meta = await self._meta(log)
            if meta is None or meta.session != peer.session:
                continue
            assign = await assignment(self._line, meta, self._lease_ms, await self._last_seq(meta))
            if assign is not None:
                peer.send(assign)
        self._dispatch.offer(peer)

    async def _judge(self, peer: Peer, claim: AttemptClaim) -> AttemptVerdict:
        while True:
            meta = await self._meta_of(peer, claim.run)
            verdict = _verdict(peer, claim, meta)
            if meta is None or verdict is Verdict.FENCED:
                return AttemptVerdict(run=claim.run, fence=claim.fence, verdict=Verdict.FENCED)
            if verdict is Verdict.FINISHED or await self._bind(peer, meta):
                seq = await self._last_seq(meta)
                return AttemptVerdict(run=claim.run, fence=claim.fence, verdict=verdict, seq=seq)

    async def _take_up(self, peer: Peer, log: LogName) -> None:
        """Take over a lease of the same agent that this session did not list."""
        while True:
            meta = await self._meta(log)
            if meta is None or meta.state is not RunState.RUNNING or meta.agent != peer.id:
                return
            if meta.session_fence > peer.fence:
                return  # a newer session has it
            if meta.instance != peer.instance:
                await self._lose(meta, "its agent is a new process now: restarted, or two with one id")
                return
            if await self._bind(peer, meta):
                return

    async def _bind(self, peer: Peer, meta: RunMeta) -> bool:
        """Let an attempt go on in this session. Returns False where the run changed meanwhile."""
        result = await settle(self._line, attempts.rebind(self._ids(), meta, peer.holder, self._lease_ms))
        if isinstance(result, Refused):
            return False
        related, key = meta.related, meta.concurrency_key
        held = Held(meta.attempt, meta.fence, meta.queue, related, meta.keep_ms, key)
        peer.held[meta.log.name] = held
        return True

    async def _held(self, peer: Peer) -> list[LogName]:
        """Return the runs that the agent's leases are on, in the partitions of its queues."""
        partitions = {queue_partition(peer.namespace, queue) for queue in peer.queues}
        found = await together(self._held_in(peer, partition) for partition in partitions)
        return [LogName(peer.namespace, LogKind.RUN, run) for held in found for run in held]

    async def _held_in(self, peer: Peer, partition: int) -> dict[str, bytes]:
        return await self._line.store.hash_all(keys.held(partition, peer.namespace, peer.id))

    # While a session is open

    async def renew(self, peer: Peer, held: tuple[HeldAttempt, ...]) -> None:
        """Renew the leases that a heartbeat lists; tell the agent of those that are not its own.

        An attempt that the agent holds and does not list is on its way to it, or over: the store knows.
        """
        listed = {attempt.run for attempt in held}
        peer.doubted &= {(attempt.run, attempt.fence) for attempt in held}
        silent = [HeldAttempt(run=run, fence=known.fence) for run, known in peer.held.items() if run not in listed]
        await asyncio.gather(
            *(self._renew(peer, attempt) for attempt in held),
            *(self._reconcile(peer, attempt) for attempt in silent if attempt.fence),
        )

    async def _renew(self, peer: Peer, attempt: HeldAttempt) -> None:
        try:
            log = LogName.parse(f"run/{attempt.run}", peer.namespace)
        except InvalidName:
            return
        commit = attempts.renew(self._ids(), log, attempt.fence, peer.session, self._lease_ms)
        if isinstance(await self._line.commit(commit), Refused):
            await self._reconcile(peer, attempt)

    async def _reconcile(self, peer: Peer, attempt: HeldAttempt) -> None:
        """Bring what this hub thinks of an attempt in line with the store."""
        meta = await self._meta_of(peer, attempt.run)
        mine = meta is not None and meta.fence == attempt.fence
        if meta is not None and mine and meta.final:
            if peer.held.pop(attempt.run, None) is None:
                self._doubt(peer, attempt)
            self._dispatch.offer(peer)
        elif meta is None or not mine or (meta.state, meta.session) != (RunState.RUNNING, peer.session):
            self._tell_fenced(peer, attempt)

    def _tell_fenced(self, peer: Peer, attempt: HeldAttempt) -> None:
        """Free the slot, and tell the agent that the attempt is not its own any more."""
        held = self._free(peer, attempt.run, attempt.fence)
        if held is None:
            self._doubt(peer, attempt)
        else:
            peer.send(_over(attempt.run, held.attempt))

    def _free(self, peer: Peer, run: str, fence: int) -> Held | None:
        """Free the slot of an attempt; None where the agent does not hold it, but the run's next one perhaps."""
        held = peer.held.get(run)
        if held is None or held.fence != fence:
            return None
        del peer.held[run]
        self._dispatch.offer(peer)
        return held

    def _doubt(self, peer: Peer, attempt: HeldAttempt) -> None:
        """Tell the agent of an attempt that nobody here knows, if it lists it again.

        At first its end may be on its way to the agent: the answer to its last entry, say.
        """
        if attempt.attempt is None:
            return
        key = attempt.run, attempt.fence
        if key in peer.doubted:
            peer.doubted.remove(key)
            peer.send(_over(attempt.run, attempt.attempt))
        else:
            peer.doubted.add(key)

    async def release(self, peer: Peer, frame: Release) -> None:
        """Take back an attempt that the agent does not want."""
        while True:
            meta = await self._meta_of(peer, frame.run)
            mine = meta is not None and (meta.fence, meta.session) == (frame.fence, peer.session)
            if meta is None or not mine or meta.state is not RunState.RUNNING:
                break
            commit = attempts.release(self._ids(), meta, frame.reason.value)
            if isinstance(await settle(self._line, commit), Outcome):
                break
        if frame.reason is ReleaseReason.REFUSED:
            self._dispatch.refused(peer, frame.run)
        peer.leaving = peer.leaving or frame.reason is ReleaseReason.DRAIN  # else it would be given this run again
        self._free(peer, frame.run, frame.fence)
        if meta is not None:
            self._dispatch.look(meta.place)

    async def expire(self, log: LogName) -> None:
        """Take an attempt from an agent whose lease ran out, if it still has.

        It is tried once: where the store does not answer, the judgement must not outlive the outage.
        """
        meta = await self._meta(log)
        if meta is None or meta.state is not RunState.RUNNING:
            return
        store, leases = self._line.store, keys.leases(meta.partition)
        now_ms, until_ms = await asyncio.gather(store.now_ms(), store.sorted_score(leases, member(log)))
        if until_ms is not None and until_ms <= now_ms:
            lost = attempts.lose(self._ids(), meta, LEASE_OVER, self._losses_max)
            self._lost(meta, LEASE_OVER, await self._line.commit(lost))

    async def wake(self, log: LogName) -> None:
        """Do what is due about a run: it waited long enough, or took too long."""
        meta = await self._meta(log)
        if meta is None:
            return
        commit = attempts.on_due(self._ids(), meta, random.random(), self._line.now_ms())
        if isinstance(await settle(self._line, commit), Outcome):
            if attempts.lets_go(commit, log):
                self._taken(meta)
            self._dispatch.look(meta.place)

    async def _lose(self, meta: RunMeta, reason: str) -> None:
        lost = attempts.lose(self._ids(), meta, reason, self._losses_max)
        self._lost(meta, reason, await settle(self._line, lost))

    def _lost(self, meta: RunMeta, reason: str, result: Outcome | Refused) -> None:
        if isinstance(result, Outcome):
            log_.info("attempt_lost", run=meta.log.name, attempt=meta.attempt, agent=meta.agent, reason=reason)
            self._taken(meta)
            self._dispatch.look(meta.place)

    def _taken(self, meta: RunMeta) -> None:
        """Tell the agent, if it is connected here, that an attempt was taken from it."""
        peer = self._peers.agent(meta.log.namespace, meta.agent)
        if peer is not None:
            self._tell_fenced(peer, HeldAttempt(run=meta.log.name, fence=meta.fence))

    # Publishing

    async def publish(self, peer: Peer, log: LogName, frame: Publish) -> Puback | Nack:
        """Append what an attempt publishes; with its last entry, end it."""
        prepared = publishing.prepare_attempt(frame, peer.principal, peer.permit)
        if isinstance(prepared, Nack):
            return prepared
        kind = frame.entries[-1][0]
        made = sum(entry[0] in _MAKES_RUNS for entry in frame.entries)
        try:
            if made:
                await self._making.runs(peer, made)
            result = await write(self._line, peer, log, frame, prepared)
        except RequestError as fault:
            return publishing.refuse(frame, ErrorCode(fault.code), fault.message, retry_ms=fault.retry_ms)
        except StoreUnavailable as fault:
            return publishing.unavailable(frame, fault)
        if isinstance(result, Nack):
            return result
        if kind in publishing.ENDINGS:
            held = self._free(peer, log.name, frame.fence)
            if held is not None:
                follow = self._dispatch.look if kind in _PUTS_ON_QUEUE else self._dispatch.freed
                follow(queue_of(log.namespace, held.queue))
        elif result.appended[0].after.offset >= RUN_ENTRIES_MAX:
            await self._overflow(log)
        return publishing.puback(frame, result, self._line.level)

    async def _overflow(self, log: LogName) -> None:
        """End a run whose log is at its limit. What was published is in it, whatever becomes of that."""
        error = RunError(type=RUN_LOG_FULL, message=f"the run's log reached {RUN_ENTRIES_MAX} entries")
        try:
            meta = await self._meta(log)
            if meta is None or meta.state is not RunState.RUNNING:
                return
            if isinstance(await settle(self._line, attempts.fail(self._ids(), meta, error)), Outcome):
                self._taken(meta)
                self._dispatch.freed(meta.place)
        except StoreUnavailable as fault:
            log_.warning("run_not_ended", run=log.name, reason=str(fault))  # its next entry brings us back here

    # Reading

    async def _meta_of(self, peer: Peer, run: str) -> RunMeta | None:
        """Return a run that a peer names; None where there is none, or it cannot be one."""
        try:
            return await self._meta(LogName.parse(f"run/{run}", peer.namespace))
        except InvalidName:
            return None

    async def _meta(self, log: LogName) -> RunMeta | None:
        return await read_run(self._line, log)

    async def _last_seq(self, meta: RunMeta) -> int:
        producer = attempts.producer_name(meta.attempt)
        record = (await self._line.store.hash_get(keys.producers(meta.log), producer))[0]
        return ProducerRecord.decode(record).last if record else 0

    def _ids(self) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), self._line.src)


def _verdict(peer: Peer, claim: AttemptClaim, meta: RunMeta | None) -> Verdict:
    """Judge an attempt that an agent lists by what the store says of its run.

    An attempt that a newer session has taken up is not this session's, whatever the agent thinks.
    """
    if meta is None or meta.fence != claim.fence or meta.agent != peer.id:
        return Verdict.FENCED
    if meta.final:
        return Verdict.FINISHED
    holds = meta.state is RunState.RUNNING and meta.instance == peer.instance and meta.session_fence <= peer.fence
    return Verdict.CONTINUE if holds else Verdict.FENCED


def _over(run: str, attempt: int) -> Nack:
    """Return what tells an agent that an attempt is not its own any more."""
    return Nack(
        log=f"run/{run}",
        producer=attempts.producer_name(attempt),
        seq=0,
        code=ErrorCode.FENCED,
        message="the attempt is over: its time or its lease ran out, or its agent's id was taken over",
    )
