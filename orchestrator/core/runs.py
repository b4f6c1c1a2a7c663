"""What to do about a run: pure proposals of commits, from what was read of it.

Every function here and in `orchestrator.core.attempts` turns (what the run's meta said, what happened) into
one `Commit` whose guards hold exactly as long as that is still so. A refused guard means that somebody else
was first: read again, decide again. Nothing here knows the clock, the network or the store.

A run's meta keeps what decisions need; the log is what is true. `tests/` folds logs and compares.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha1

from orchestrator.core.run_meta import RunMeta
from orchestrator.store import keys
from orchestrator.store.base import (
    ABSENT,
    Append,
    Commit,
    Guard,
    HashSet,
    Op,
    SetAdd,
    SortedAdd,
    SortedRemove,
)
from protocol.control import Cancel, Cancelled, Kind, Submitted, pack_control
from protocol.ids import LogName, partition_of
from protocol.requests import RunSubmit
from protocol.run import RunState

__all__ = [
    "Ids",
    "cancel",
    "dequeue",
    "enqueue",
    "input_digest",
    "member",
    "queue_hint",
    "requeue",
    "submit",
]

_PRIORITY_STEP = 10**13


@dataclass(frozen=True, slots=True)
class Ids:
    """What a commit is to be called, who makes it, and the epoch of a log that it makes."""

    commit: str
    src: str
    epoch: str = ""


def member(log: LogName) -> str:
    """Return what a run is called in a partition's leases and timers."""
    return f"{log.namespace}/{log.name}"


def queue_hint(namespace: str, queue: str) -> str:
    """Return the word that tells hubs that a queue has work."""
    return f"queue:{namespace}/{queue}"


def input_digest(handler: str, packed_input: bytes) -> str:
    """Return what tells two submits with the same key apart."""
    return sha1(handler.encode() + b"\0" + packed_input, usedforsecurity=False).hexdigest()


def enqueue(log: LogName, queue: str, handler: str, priority: int) -> SortedAdd:
    """Let a run wait. Higher priorities first, then older runs: a run's id holds the time it was made."""
    made_ms = int(log.name[3:14], 16)
    score = (9 - priority) * _PRIORITY_STEP + made_ms
    return SortedAdd(keys.queue(partition_of(log), log.namespace, queue, handler), log.name, score)


def dequeue(meta: RunMeta) -> tuple[Op, ...]:
    """Let a run wait no more, neither on its queue nor for its next try."""
    return (
        SortedRemove(keys.queue(meta.partition, meta.log.namespace, meta.queue, meta.handler), meta.log.name),
        SortedRemove(keys.timers(meta.partition), member(meta.log)),
    )


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
        appends=(Append(log, (pack_control(Kind.SUBMITTED, ids.src, body),), ids.epoch),),
        ops=(
            HashSet(keys.meta(log), fields),
            HashSet(mapping, {params.key: f"{log.name} {digest}"}),
            SetAdd(keys.buckets(partition, namespace, params.queue), params.handler),
            enqueue(log, params.queue, params.handler, params.priority),
        ),
        hints=(queue_hint(namespace, params.queue),),
    )


def cancel(ids: Ids, meta: RunMeta, hub: str, params: Cancel, answer: HashSet | None) -> Commit:
    """Propose a cancel: a run that waits ends with it, a running one is told.

    `ids.src` is whoever asked; `answer` stores the request's result with what it changes.
    """
    entries = [pack_control(Kind.CANCEL, ids.src, params)]
    fields = {"cancel": "1"}
    ops: tuple[Op, ...] = ()
    if meta.state is RunState.QUEUED:
        entries.append(pack_control(Kind.CANCELLED, hub, Cancelled(reason=params.reason)))
        fields["state"] = RunState.CANCELLED.value
        ops = dequeue(meta)
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), meta.cancel_unchanged()),
        appends=(Append(meta.log, tuple(entries), ""),),
        ops=(HashSet(keys.meta(meta.log), fields), *ops, *((answer,) if answer else ())),
    )


def requeue(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run whose wait before a retry is over goes back to its queue."""
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=meta.unchanged(),
        ops=(
            SortedRemove(keys.timers(meta.partition), member(meta.log)),
            enqueue(meta.log, meta.queue, meta.handler, meta.priority),
        ),
        hints=(queue_hint(meta.log.namespace, meta.queue),),
    )
