"""What to do about a run: pure proposals of commits, from what was read of it.

Every function here turns (what the run's meta said, what happened) into one `Commit` whose guards hold
exactly as long as that is still so. A refused guard means that somebody else was first: read again, decide
again. Nothing here knows the clock, the network or the store.

A run's meta keeps what decisions need; the log is what is true. `tests/` folds logs and compares.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha1

from orchestrator.core.run_meta import RunMeta
from orchestrator.peers import Held, Peer
from orchestrator.store import keys
from orchestrator.store.base import (
    ABSENT,
    Append,
    Commit,
    Guard,
    HashDelete,
    HashSet,
    Op,
    ProducerClaim,
    SetAdd,
    SortedAdd,
    SortedRemove,
)
from orchestrator.store.producer import ProducerRecord
from protocol.backoff import backoff_ms
from protocol.codec import pack_record, pack_value
from protocol.control import (
    AttemptLost,
    Cancel,
    Cancelled,
    Claimed,
    Dead,
    Errored,
    Failed,
    Kind,
    Released,
    Retry,
    RunError,
    Submitted,
)
from protocol.frames import HandlerSpec, Part
from protocol.ids import LogName, partition_of
from protocol.requests import RunSubmit
from protocol.run import RunState

__all__ = [
    "LOSSES_MAX",
    "Ending",
    "Ids",
    "attempt_producer",
    "cancel",
    "claim",
    "claimed",
    "conclude",
    "conclude_error",
    "fail",
    "input_digest",
    "lose",
    "member",
    "publish",
    "queue_hint",
    "rebind",
    "release",
    "renew",
    "requeue",
    "submit",
]

LOSSES_MAX = 10
"""Attempts whose agent was lost before a run counts as dead."""
RETRY_FIRST_MS = 1_000
RETRY_CAP_MS = 60_000
_PRIORITY_STEP = 10**13


@dataclass(frozen=True, slots=True)
class Ids:
    """What a commit is to be called, who makes it, and the epoch of a log that it makes."""

    commit: str
    src: str
    epoch: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """What ends an attempt: what must be so, the hub's own entries, the state after, index changes."""

    guards: tuple[Guard, ...]
    entries: tuple[bytes, ...]
    state: RunState
    fields: Mapping[str, str]
    ops: tuple[Op, ...]
    hints: tuple[str, ...] = ()


def member(log: LogName) -> str:
    """Return what a run is called in a partition's leases and timers."""
    return f"{log.namespace}/{log.name}"


def queue_hint(namespace: str, queue: str) -> str:
    """Return the word that tells hubs that a queue has work."""
    return f"queue:{namespace}/{queue}"


def attempt_producer(attempt: int) -> str:
    """Return the producer that an attempt publishes as."""
    return f"attempt/{attempt}"


def input_digest(handler: str, packed_input: bytes) -> str:
    """Return what tells two submits with the same key apart."""
    return sha1(handler.encode() + b"\0" + packed_input, usedforsecurity=False).hexdigest()


def submit(ids: Ids, log: LogName, params: RunSubmit) -> Commit:
    """Propose a new run. Refused by its first guard where the key is taken."""
    namespace, partition = log.namespace, partition_of(log)
    mapping = keys.idempotency(partition, namespace, params.queue)
    body = Submitted(
        queue=params.queue,
        handler=params.handler,
        input=params.input,
        key=params.key,
        retries=params.retries,
        priority=params.priority,
    )
    fields = {
        "state": RunState.QUEUED.value,
        "queue": params.queue,
        "handler": params.handler,
        "priority": str(params.priority),
        "attempt": "0",
        "fence": "0",
        "failures": "0",
        "losses": "0",
    }
    if params.retries is not None:
        fields["retries"] = str(params.retries)
    digest = input_digest(params.handler, params.input)
    return Commit(
        id=ids.commit,
        partition=partition,
        guards=(Guard(mapping, params.key, ABSENT),),
        appends=(Append(log, (_pack(Kind.SUBMITTED, ids.src, body),), ids.epoch),),
        ops=(
            HashSet(keys.meta(log), fields),
            HashSet(mapping, {params.key: f"{log.name} {digest}"}),
            SetAdd(keys.buckets(partition, namespace, params.queue), params.handler),
            _enqueue(log, params.queue, params.handler, params.priority),
        ),
        hints=(queue_hint(namespace, params.queue),),
    )


def claim(
    ids: Ids, meta: RunMeta, peer: Peer, spec: HandlerSpec, *, store_ms: int, lease_ms: int
) -> tuple[Commit, Held]:
    """Propose that this session gets the run's next attempt, with a lease."""
    log = meta.log
    held = Held(attempt=meta.attempt + 1, fence=max(meta.fence + 1, store_ms))
    retries = spec.retries if meta.retries is None else meta.retries
    body = Claimed(
        attempt=held.attempt,
        fence=held.fence,
        agent=peer.id,
        instance=peer.instance,
        lease_ms=lease_ms,
        recover=spec.recover,
        retries=retries,
    )
    fields = {
        "state": RunState.RUNNING.value,
        "attempt": str(held.attempt),
        "fence": str(held.fence),
        "agent": peer.id,
        "instance": peer.instance,
        "session": peer.session,
        "session_fence": str(peer.fence),
        "recover": spec.recover.value,
        "retries": str(retries),
        "started": str(meta.started or meta.head + 1),
        "claimed_at": str(meta.head + 1),
    }
    record = ProducerRecord(fence=held.fence, ts_ms=store_ms).encode()
    commit = Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=_unchanged(meta),
        appends=(Append(log, (_pack(Kind.CLAIMED, ids.src, body, attempt=held.attempt),), ""),),
        ops=(
            HashSet(keys.meta(log), fields),
            SortedRemove(_queue_key(meta), log.name),
            SortedRemove(keys.timers(meta.partition), member(log)),
            SortedAdd(keys.leases(meta.partition), member(log), lease_ms, from_now=True),
            HashSet(keys.held(meta.partition, log.namespace, peer.id), {log.name: str(held.fence)}),
            HashSet(keys.producers(log), {attempt_producer(held.attempt): record}),
        ),
    )
    return commit, held


def claimed(meta: RunMeta, peer: Peer, spec: HandlerSpec, held: Held) -> RunMeta:
    """Return what a run's meta says once `claim` has happened."""
    return replace(
        meta,
        state=RunState.RUNNING,
        head=meta.head + 1,
        attempt=held.attempt,
        fence=held.fence,
        agent=peer.id,
        instance=peer.instance,
        session=peer.session,
        session_fence=peer.fence,
        recover=spec.recover.value,
        started=meta.started or meta.head + 1,
        claimed_at=meta.head + 1,
    )


def publish(
    ids: Ids,
    log: LogName,
    peer: Peer,
    producer: ProducerClaim,
    packed: tuple[bytes, ...],
    *,
    expect: int | None = None,
    ending: Ending | None = None,
) -> Commit:
    """Propose entries of an attempt; with `ending` they are its last."""
    key = keys.meta(log)
    guards = (
        Guard(key, "fence", str(producer.fence)),
        Guard(key, "state", RunState.RUNNING.value),
        Guard(key, "session", peer.session),
    )
    if ending is None:
        appends = (Append(log, packed, "", producer, expect),)
        return Commit(id=ids.commit, partition=partition_of(log), guards=guards, appends=appends)
    state = HashSet(key, {"state": ending.state.value, **ending.fields})
    return Commit(
        id=ids.commit,
        partition=partition_of(log),
        guards=guards + ending.guards,
        appends=(Append(log, packed + ending.entries, "", producer, expect),),
        ops=(state, *ending.ops),
        hints=ending.hints,
    )


def conclude(log: LogName, agent: str, kind: Kind) -> Ending:
    """Decide what follows when an attempt says that it succeeded, or stopped since it was told to."""
    done = _let_go(log, agent)
    if kind is Kind.SUCCEEDED:
        return Ending((), (), RunState.SUCCEEDED, {}, done)
    assert kind is Kind.CANCELLED, kind
    told = Guard(keys.meta(log), "cancel", "1")
    return Ending((told,), (), RunState.CANCELLED, {}, done)


def conclude_error(ids: Ids, meta: RunMeta, errored: Errored, draw: float) -> Ending:
    """Decide what follows `$errored`: another try, or the end where that cannot help or was not asked.

    `draw` is a random number in [0, 1), for the wait before the next try.
    """
    error, failures, retries = errored.error, meta.failures + 1, meta.retries or 0
    entries: tuple[bytes, ...]
    ops = _let_go(meta.log, meta.agent)
    if meta.cancelling:
        state, entries = RunState.CANCELLED, (_cancelled(ids, "failed while it was being cancelled"),)
    elif not errored.retryable or retries == 0:
        state, entries = RunState.FAILED, (_pack(Kind.FAILED, ids.src, Failed(error=error)),)
    elif failures > retries:
        reason = f"failed {failures} times; {retries} {'retry was' if retries == 1 else 'retries were'} allowed"
        state, entries = RunState.DEAD, (_pack(Kind.DEAD, ids.src, Dead(reason=reason, error=error)),)
    else:
        wait_ms = backoff_ms(failures, draw, first_ms=RETRY_FIRST_MS, cap_ms=RETRY_CAP_MS)
        retry = Retry(failures=failures, after_ms=wait_ms)
        state, entries = RunState.QUEUED, (_pack(Kind.RETRY, ids.src, retry),)
        timer = SortedAdd(keys.timers(meta.partition), member(meta.log), wait_ms, from_now=True)
        ops = (*ops, timer)
    return Ending((_cancel_guard(meta),), entries, state, {"failures": str(failures)}, ops)


def lose(ids: Ids, meta: RunMeta, reason: str) -> Commit:
    """Propose that the current attempt's agent is gone."""
    losses = meta.losses + 1
    entry = _pack(Kind.LOST, ids.src, AttemptLost(attempt=meta.attempt, reason=reason, losses=losses))
    fields = {"losses": str(losses)}
    if not meta.cancelling and losses >= LOSSES_MAX:
        dead = Dead(reason=f"its agent was lost {losses} times; {LOSSES_MAX} are allowed")
        ending = Ending((), (_pack(Kind.DEAD, ids.src, dead),), RunState.DEAD, fields, ())
    else:
        ending = _back(ids, meta, fields)
    return _end_attempt(ids, meta, entry, ending)


def release(ids: Ids, meta: RunMeta, reason: str) -> Commit:
    """Propose that the current attempt is handed back, unspent."""
    entry = _pack(Kind.RELEASED, ids.src, Released(attempt=meta.attempt, reason=reason))
    return _end_attempt(ids, meta, entry, _back(ids, meta, {}))


def fail(ids: Ids, meta: RunMeta, error: RunError) -> Commit:
    """Propose that the hub itself ends a running run as failed."""
    entry = _pack(Kind.FAILED, ids.src, Failed(error=error))
    return _end_attempt(ids, meta, entry, Ending((), (), RunState.FAILED, {}, ()))


def cancel(ids: Ids, meta: RunMeta, hub: str, params: Cancel, answer: HashSet | None) -> Commit:
    """Propose a cancel: a run that waits ends with it, a running one is told.

    `ids.src` is whoever asked; `answer` stores the request's result with what it changes.
    """
    command = _pack(Kind.CANCEL, ids.src, params)
    fields = {"cancel": "1"}
    entries: tuple[bytes, ...] = (command,)
    extra: tuple[Op, ...] = ()
    if meta.state is RunState.QUEUED:
        entries = (command, _cancelled(Ids(ids.commit, hub), params.reason))
        fields["state"] = RunState.CANCELLED.value
        extra = (
            SortedRemove(_queue_key(meta), meta.log.name),
            SortedRemove(keys.timers(meta.partition), member(meta.log)),
        )
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*_unchanged(meta), _cancel_guard(meta)),
        appends=(Append(meta.log, entries, ""),),
        ops=(HashSet(keys.meta(meta.log), fields), *extra, *((answer,) if answer else ())),
    )


def renew(ids: Ids, log: LogName, fence: int, session: str, lease_ms: int) -> Commit:
    """Propose that an attempt's lease runs anew from now."""
    key = keys.meta(log)
    partition = partition_of(log)
    return Commit(
        id=ids.commit,
        partition=partition,
        guards=(
            Guard(key, "fence", str(fence)),
            Guard(key, "state", RunState.RUNNING.value),
            Guard(key, "session", session),
        ),
        ops=(SortedAdd(keys.leases(partition), member(log), lease_ms, from_now=True),),
    )


def rebind(ids: Ids, meta: RunMeta, peer: Peer, lease_ms: int) -> Commit:
    """Propose that the attempt goes on in a newer session of the same process.

    Refused once another session has taken it up: whoever opened last has the last word.
    """
    key = keys.meta(meta.log)
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=_unchanged(meta),
        ops=(
            HashSet(key, {"session": peer.session, "session_fence": str(peer.fence)}),
            SortedAdd(keys.leases(meta.partition), member(meta.log), lease_ms, from_now=True),
        ),
    )


def requeue(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run whose wait before a retry is over goes back to its queue."""
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=_unchanged(meta),
        ops=(
            SortedRemove(keys.timers(meta.partition), member(meta.log)),
            _enqueue(meta.log, meta.queue, meta.handler, meta.priority),
        ),
        hints=(queue_hint(meta.log.namespace, meta.queue),),
    )


def _pack(kind: Kind, src: str, body: Part, *, attempt: int | None = None) -> bytes:
    return pack_record(kind, src, pack_value(body), attempt=attempt)


def _cancelled(ids: Ids, reason: str | None) -> bytes:
    return _pack(Kind.CANCELLED, ids.src, Cancelled(reason=reason))


def _unchanged(meta: RunMeta) -> tuple[Guard, ...]:
    """Guards that hold while the run is in the state, the attempt and the session that were read."""
    key = keys.meta(meta.log)
    return (
        Guard(key, "state", meta.state.value),
        Guard(key, "fence", str(meta.fence)),
        Guard(key, "session", meta.session or ABSENT),
    )


def _cancel_guard(meta: RunMeta) -> Guard:
    return Guard(keys.meta(meta.log), "cancel", "1" if meta.cancelling else ABSENT)


def _queue_key(meta: RunMeta) -> str:
    return keys.queue(meta.partition, meta.log.namespace, meta.queue, meta.handler)


def _enqueue(log: LogName, queue: str, handler: str, priority: int) -> SortedAdd:
    """Higher priorities first, then older runs: a run's id holds the time it was made."""
    partition = partition_of(log)
    made_ms = int(log.name[3:14], 16)
    score = (9 - priority) * _PRIORITY_STEP + made_ms
    return SortedAdd(keys.queue(partition, log.namespace, queue, handler), log.name, score)


def _let_go(log: LogName, agent: str) -> tuple[Op, ...]:
    partition = partition_of(log)
    return (
        SortedRemove(keys.leases(partition), member(log)),
        HashDelete(keys.held(partition, log.namespace, agent), (log.name,)),
    )


def _back(ids: Ids, meta: RunMeta, fields: Mapping[str, str]) -> Ending:
    """The attempt is over without a result: back to the queue, or cancelled if that was asked for."""
    if meta.cancelling:
        return Ending((), (_cancelled(ids, None),), RunState.CANCELLED, fields, ())
    waiting = _enqueue(meta.log, meta.queue, meta.handler, meta.priority)
    hint = queue_hint(meta.log.namespace, meta.queue)
    return Ending((), (), RunState.QUEUED, fields, (waiting,), (hint,))


def _end_attempt(ids: Ids, meta: RunMeta, entry: bytes, ending: Ending) -> Commit:
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*_unchanged(meta), _cancel_guard(meta)),
        appends=(Append(meta.log, (entry, *ending.entries), ""),),
        ops=(
            HashSet(keys.meta(meta.log), {"state": ending.state.value, **ending.fields}),
            *_let_go(meta.log, meta.agent),
            *ending.ops,
        ),
        hints=ending.hints,
    )
