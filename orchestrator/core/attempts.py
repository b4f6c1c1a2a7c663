"""What to do about an attempt of a run: claimed, kept with a lease, written by its agent, and ended.

Pure proposals of commits, as in `orchestrator.core.runs`. An attempt is its agent's while the run's meta has its
fence and its session; that is what every guard here says.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.core import keeping, questions, runs
from orchestrator.core.artifacts import Attaching
from orchestrator.core.children import Handing
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta, as_read
from orchestrator.core.runs import Ids
from orchestrator.core.timers import member, run_timer
from orchestrator.store import keys
from orchestrator.store.commits import (
    Append,
    Commit,
    Guard,
    HashDelete,
    HashSet,
    Op,
    ProducerClaim,
    SortedAdd,
    SortedRemove,
)
from orchestrator.store.producer import ProducerRecord
from protocol.backoff import backoff_ms
from protocol.control import (
    AttemptLost,
    Cancelled,
    Claimed,
    Dead,
    Errored,
    Failed,
    Kind,
    Released,
    Retry,
    RunError,
    TimedOut,
    pack_control,
)
from protocol.frames import HandlerSpec
from protocol.ids import LogName, partition_of
from protocol.run import FINAL, RunState, timeout_error

__all__ = [
    "LOSSES_MAX",
    "Ending",
    "Holder",
    "back",
    "claim",
    "conclude",
    "conclude_error",
    "expire",
    "fail",
    "lets_go",
    "lose",
    "on_due",
    "parting",
    "producer_name",
    "publish",
    "rebind",
    "release",
    "renew",
    "time_out",
]

LOSSES_MAX = 10
"""Attempts whose agent was lost before a run counts as dead."""
RETRY_FIRST_MS = 1_000
RETRY_CAP_MS = 60_000


class Holder(NamedTuple):
    """The session of an agent that has an attempt, or is to have it; `instance` is the process."""

    agent: str
    instance: str
    session: str
    session_fence: int


class Ending(NamedTuple):
    """What ends an attempt: the run's state after it, and what changes or must be so besides.

    Attributes:
        state: the run's, from now on.
        entries: the hub's own, after the attempt's last.
        fields: of the run's meta.
        guards: what must be so for it.
        ops: index entries to change, besides that the attempt is let go.
        due_ms: when the timekeeper is to look at the run again.
        beside: what else happens with it.
    """

    state: RunState
    entries: tuple[bytes, ...] = ()
    fields: Mapping[str, str] = MappingProxyType({})
    guards: tuple[Guard, ...] = ()
    ops: tuple[Op, ...] = ()
    due_ms: int | None = None
    beside: Commit | None = None


def producer_name(attempt: int) -> str:
    """Return the producer that an attempt publishes as."""
    return f"attempt/{attempt}"


# Holding


def claim(
    ids: Ids, meta: RunMeta, holder: Holder, spec: HandlerSpec, terms: Terms, *, store_ms: int, lease_ms: int
) -> tuple[Commit, RunMeta]:
    """Propose that this session gets the run's next attempt, with a lease, under the terms of its queue.

    Returns also the meta after it.
    """
    log, place = meta.log, meta.head + 1
    timeout_ms = meta.timeout_ms or spec.timeout_ms
    after = meta._replace(
        state=RunState.RUNNING,
        head=place,
        attempt=meta.attempt + 1,
        fence=max(meta.fence + 1, store_ms),
        agent=holder.agent,
        instance=holder.instance,
        session=holder.session,
        session_fence=holder.session_fence,
        recover=spec.recover.value,
        retries=spec.retries if meta.retries is None else meta.retries,
        started=meta.started or place,
        claimed_at=place,
        timeout_ms=timeout_ms,
        times_out_ms=store_ms + timeout_ms if timeout_ms else None,
        backoff_ms=meta.backoff_ms or spec.backoff_ms,
        backoff_max_ms=meta.backoff_max_ms or spec.backoff_max_ms,
    )
    assert after.retries is not None
    body = Claimed(
        attempt=after.attempt,
        fence=after.fence,
        agent=after.agent,
        instance=after.instance,
        lease_ms=lease_ms,
        recover=spec.recover,
        retries=after.retries,
        timeout_ms=timeout_ms,
    )
    queue = meta.place
    record = ProducerRecord(fence=after.fence, ts_ms=store_ms).encode()
    commit = Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), terms.unchanged(queue)),
        appends=(
            Append(log, (pack_control(Kind.CLAIMED, ids.src, body, attempt=after.attempt),), "", expect=meta.head),
        ),
        ops=(
            HashSet(keys.meta(log), after.attempt_fields()),
            *runs.served(meta),
            *runs.unpark(meta),  # another hub may have set it aside since it was listed
            *(() if meta.due_ms == after.due_ms else (run_timer(log, after.due_ms),)),
            _lease(log, lease_ms),
            HashSet(keys.held(meta.partition, log.namespace, after.agent), {log.name: str(after.fence)}),
            *queue.enter(log.name, after.fence, meta.concurrency_key),
            *terms.spent(queue),
            HashSet(keys.producers(log), {producer_name(after.attempt): record}),
        ),
        below=terms.room(queue, meta.concurrency_key),
    )
    return commit, after


def renew(ids: Ids, log: LogName, fence: int, session: str, lease_ms: int) -> Commit:
    """Propose that an attempt's lease runs anew from now."""
    guards = as_read(log, fence, RunState.RUNNING, session)
    return Commit(id=ids.commit, partition=partition_of(log), guards=guards, ops=(_lease(log, lease_ms),))


def rebind(ids: Ids, meta: RunMeta, holder: Holder, lease_ms: int) -> Commit:
    """Propose that the attempt goes on in a newer session of the same process.

    Refused once another session has taken it up: whoever opened last has the last word. Refused, too, where the older
    session has handed work to a child since the run was read: who holds an attempt knows whether it has any.
    """
    fields = {"session": holder.session, "session_fence": str(holder.session_fence)}
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), meta.children_unchanged()),
        ops=(HashSet(keys.meta(meta.log), fields), _lease(meta.log, lease_ms)),
    )


# Writing


def publish(
    ids: Ids,
    log: LogName,
    holder: Holder,
    producer: ProducerClaim,
    packed: tuple[bytes, ...],
    *,
    expect: int | None = None,
    ending: Ending | None = None,
    queue: Queue | None = None,
    key: str = "",
    asking: questions.Asking | None = None,
    handing: Handing | None = None,
    attaching: Attaching | None = None,
) -> Commit:
    """Propose entries of an attempt; with `ending` they are its last, and `queue` and `key` are those of its run."""
    partition = partition_of(log)
    guards = as_read(log, producer.fence, RunState.RUNNING, holder.session)
    ops: tuple[Op, ...] = ()
    for part in (asking, handing, attaching):
        if part is not None:
            guards, ops = guards + part.guards, ops + part.ops
    below = handing.below if handing is not None else ()
    if ending is None:
        appends = (Append(log, packed, "", producer, expect),)
        return Commit(id=ids.commit, partition=partition, guards=guards, appends=appends, ops=ops, below=below)
    assert queue is not None, ending
    decided = {(guard.key, guard.field) for guard in guards}  # an ending is decided on what precedes it in the frame
    ended_as = tuple(guard for guard in ending.guards if (guard.key, guard.field) not in decided)
    beside = ending.beside or Commit("", partition)
    return Commit(
        id=ids.commit,
        partition=partition,
        guards=guards + ended_as + beside.guards,
        appends=(Append(log, packed + ending.entries, "", producer, expect), *beside.appends),
        ops=ops + _ended(log, holder.agent, queue, key, ending) + beside.ops,
        hints=tuple(dict.fromkeys((queue.hint, *beside.hints))),
        below=below,
    )


def conclude(log: LogName, kind: Kind, keep_ms: int | None = None) -> Ending:
    """Decide what follows when an attempt says that it succeeded, or stopped since it was told to.

    `keep_ms` is how long the run is kept after that, where `parting` is not to say so.
    """
    assert kind in (Kind.SUCCEEDED, Kind.CANCELLED), kind
    state = RunState.SUCCEEDED if kind is Kind.SUCCEEDED else RunState.CANCELLED
    told = () if kind is Kind.SUCCEEDED else (Guard(keys.meta(log), "cancel", "1"),)
    return Ending(state, guards=told, ops=keeping.noted(log, state, keep_ms))


def parting(ids: Ids, meta: RunMeta, ending: Ending) -> Ending:
    """Return an ending with what it means for the run's family, and how long it is kept, if it ends the run."""
    if ending.state not in FINAL:
        return ending
    guards, kept = (*ending.guards, meta.children_unchanged()), keeping.noted(meta.log, ending.state, meta.keep_ms)
    return ending._replace(guards=guards, ops=(*ending.ops, *runs.stirs(ids, meta), *kept))


def conclude_error(ids: Ids, meta: RunMeta, errored: Errored, draw: float, store_ms: int) -> Ending:
    """Decide what follows `$errored`: another try, or the end where that cannot help or was not asked.

    `draw` is a random number in [0, 1), for the wait before the next try.
    """
    error, failures, retries = errored.error, meta.failures + 1, meta.retries or 0
    fields, due_ms = {"failures": str(failures)}, None
    ops: tuple[Op, ...] = ()
    if meta.cancelling:
        state, entry = RunState.CANCELLED, _cancelled(ids, "failed while it was being cancelled")
    elif not errored.retryable or retries == 0:
        state, entry = RunState.FAILED, pack_control(Kind.FAILED, ids.src, Failed(error=error))
    elif failures > retries:
        reason = f"failed {failures} times; {retries} {'retry was' if retries == 1 else 'retries were'} allowed"
        state, entry = RunState.DEAD, pack_control(Kind.DEAD, ids.src, Dead(reason=reason, error=error))
    else:
        first_ms, most_ms = meta.backoff_ms or RETRY_FIRST_MS, meta.backoff_max_ms or RETRY_CAP_MS
        wait_ms = backoff_ms(failures, draw, first_ms=first_ms, cap_ms=most_ms)
        retry = Retry(failures=failures, after_ms=wait_ms)
        state, entry = RunState.QUEUED, pack_control(Kind.RETRY, ids.src, retry)
        after = meta._replace(state=state, not_before_ms=store_ms + wait_ms)
        fields["not_before"], due_ms = str(after.not_before_ms), after.due_ms
        ops = (runs.put_off(meta.log, meta.place, after.not_before_ms),)
    return Ending(state, (entry,), fields, (meta.cancel_unchanged(), meta.asked_unchanged()), ops, due_ms=due_ms)


# Ended by the hub


def lose(ids: Ids, meta: RunMeta, reason: str, losses_max: int = LOSSES_MAX) -> Commit:
    """Propose that the current attempt's agent is gone; a run whose agents are lost `losses_max` times is dead."""
    losses = meta.losses + 1
    fields = {"losses": str(losses)}
    lost = AttemptLost(attempt=meta.attempt, reason=reason, losses=losses)
    if not meta.cancelling and losses >= losses_max:
        dead = Dead(reason=f"its agent was lost {losses} times; {losses_max} are allowed")
        ending = Ending(RunState.DEAD, (pack_control(Kind.DEAD, ids.src, dead),), fields)
    else:
        ending = back(ids, meta, fields)
    return _end(ids, meta, pack_control(Kind.LOST, ids.src, lost), ending)


def time_out(ids: Ids, meta: RunMeta, draw: float, store_ms: int) -> Commit:
    """Propose that the current attempt has had its time: it failed, and its agent has it no more."""
    assert meta.timeout_ms is not None, meta
    timed_out = TimedOut(attempt=meta.attempt, timeout_ms=meta.timeout_ms)
    ending = conclude_error(ids, meta, Errored(error=timeout_error(timed_out)), draw, store_ms)
    return _end(ids, meta, pack_control(Kind.TIMED_OUT, ids.src, timed_out), ending)


def on_due(ids: Ids, meta: RunMeta, draw: float, store_ms: int) -> Commit:
    """Propose what is due about a run by the store's clock; where nothing is, to look again when something will be.

    `draw` is as for `conclude_error`.
    """
    waits, works = meta.state is RunState.QUEUED, meta.state is RunState.RUNNING
    if (waits or works) and meta.deadline_ms is not None and meta.deadline_ms <= store_ms:
        return runs.expire(ids, meta) if waits else expire(ids, meta)
    if works and meta.times_out_ms is not None and meta.times_out_ms <= store_ms:
        return time_out(ids, meta, draw, store_ms)
    unanswered = questions.time_out(ids, meta, store_ms) if waits or works else None
    if unanswered is not None:
        return unanswered
    if waits and 0 < meta.not_before_ms <= store_ms:
        return runs.requeue(ids, meta)
    return runs.look_again(ids, meta)


def lets_go(commit: Commit, log: LogName) -> bool:
    """Whether a commit takes the run's attempt from its agent."""
    return SortedRemove(keys.leases(commit.partition), member(log)) in commit.ops


def expire(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a running run whose deadline has passed ends, and its attempt with it."""
    return _end(ids, meta, runs.expired(ids, meta), Ending(RunState.EXPIRED))


def release(ids: Ids, meta: RunMeta, reason: str) -> Commit:
    """Propose that the current attempt is handed back, unspent."""
    released = Released(attempt=meta.attempt, reason=reason)
    return _end(ids, meta, pack_control(Kind.RELEASED, ids.src, released), back(ids, meta, {}))


def fail(ids: Ids, meta: RunMeta, error: RunError) -> Commit:
    """Propose that the hub itself ends a running run as failed."""
    return _end(ids, meta, pack_control(Kind.FAILED, ids.src, Failed(error=error)), Ending(RunState.FAILED))


def back(ids: Ids, meta: RunMeta, fields: Mapping[str, str]) -> Ending:
    """Decide what follows an attempt that is over without a result: back to the queue; cancelled, if that was asked."""
    if meta.cancelling:
        return Ending(RunState.CANCELLED, (_cancelled(ids, None),), fields)
    waiting = runs.enqueue(meta.log, meta.place, meta.bucket, meta.priority)
    due_ms = meta._replace(state=RunState.QUEUED, not_before_ms=0).due_ms
    return Ending(RunState.QUEUED, fields=fields, ops=waiting, due_ms=due_ms)


def _end(ids: Ids, meta: RunMeta, entry: bytes, ending: Ending) -> Commit:
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), meta.cancel_unchanged(), meta.asked_unchanged(), meta.children_unchanged()),
        appends=(Append(meta.log, (entry, *ending.entries), ""),),
        ops=_ended(meta.log, meta.agent, meta.place, meta.concurrency_key, parting(ids, meta, ending)),
        hints=(meta.place.hint,),
    )


def _ended(log: LogName, agent: str, queue: Queue, key: str, ending: Ending) -> tuple[Op, ...]:
    """Write down that an attempt is over, and let its agent have it no more."""
    partition = partition_of(log)
    return (
        HashSet(keys.meta(log), {"state": ending.state.value, **ending.fields}),
        SortedRemove(keys.leases(partition), member(log)),
        HashDelete(keys.held(partition, log.namespace, agent), (log.name,)),
        *queue.leave(log.name, key),
        *((SortedAdd(queue.dead, log.name, 0, from_now=True),) if ending.state is RunState.DEAD else ()),
        run_timer(log, ending.due_ms),
        *ending.ops,
    )


def _lease(log: LogName, lease_ms: int) -> SortedAdd:
    return SortedAdd(keys.leases(partition_of(log)), member(log), lease_ms, from_now=True)


def _cancelled(ids: Ids, reason: str | None) -> bytes:
    return pack_control(Kind.CANCELLED, ids.src, Cancelled(reason=reason))
