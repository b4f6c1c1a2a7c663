"""What to do about a run: pure proposals of commits, from what was read of it.

Every function here and in `orchestrator.core.attempts` turns (what the run's meta said, what happened) into
one `Commit` whose guards hold exactly as long as that is still so. A refused guard means that somebody else
was first: read again, decide again. Nothing here knows the clock, the network or the store.

A run's meta keeps what decisions need; the log is what is true. `tests/` folds logs and compares.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from hashlib import sha1
from typing import NamedTuple

from orchestrator.core import keeping
from orchestrator.core.meta_suspension import SUSPENDED, encode_suspended
from orchestrator.core.queues import Queue
from orchestrator.core.run_meta import RunMeta, newborn
from orchestrator.core.timers import family_timer, run_timer
from orchestrator.store import keys
from orchestrator.store.commits import (
    ABSENT,
    Append,
    Commit,
    Guard,
    HashDelete,
    HashSet,
    Op,
    SetAdd,
    SetPrune,
    SortedAdd,
    SortedPrune,
    SortedRemove,
)
from protocol.control import Cancel, Cancelled, Expired, Kind, Submitted, pack_control
from protocol.ids import LogName, run_made_ms
from protocol.requests import RunSubmit
from protocol.run import RunState
from protocol.selector import canonical

__all__ = [
    "AS_ASKED",
    "OWN_KEYS",
    "ChildOf",
    "Ids",
    "Keeping",
    "again",
    "arrive",
    "back_hints",
    "cancel",
    "come_back",
    "coming",
    "dequeue",
    "ended",
    "enqueue",
    "expire",
    "expired",
    "input_digest",
    "look_again",
    "place",
    "put_off",
    "rank",
    "requeue",
    "served",
    "stirs",
    "strayed",
    "struck",
    "submit",
    "submitted",
    "unpark",
    "withdraw",
]

_PRIORITY_STEP = 10**13

OWN_KEYS = ("child/", "continued/", "dead/", "retry/", "schedule/")
"""What the keys begin with that hubs submit runs under; whoever took one before would be taken for that run."""
_NEVER_MS = 2**52
"""When a run comes to its queue that waits for no time, but for somebody."""


class Ids(NamedTuple):
    """What a commit is to be called, who makes it, and the epoch of a log that it makes."""

    commit: str
    src: str
    epoch: str = ""


class ChildOf(NamedTuple):
    """Whose child a run is, what it is called among the children of that run, and whom both count for."""

    parent: str
    slot: str
    by: str = ""


def input_digest(handler: str, packed_input: bytes) -> str:
    """Return what tells two submits with the same key apart."""
    return sha1(handler.encode() + b"\0" + packed_input, usedforsecurity=False).hexdigest()


def enqueue(log: LogName, queue: Queue, bucket: str, priority: int) -> tuple[Op, ...]:
    """Let a run wait. Higher priorities first, then older runs: a run's id holds the time it was made.

    A bucket that was empty takes its turn after those of its priority that are there.
    """
    bands = (9 - priority) * _PRIORITY_STEP
    return (
        SortedAdd(queue.waiting(bucket), log.name, rank(log, priority)),
        SortedAdd(queue.buckets, bucket, bands, from_now=True, absent=True),
    )


def rank(log: LogName, priority: int) -> int:
    """Return where a run stands among others that wait."""
    return (9 - priority) * _PRIORITY_STEP + run_made_ms(log.name)


def dequeue(meta: RunMeta) -> tuple[Op, ...]:
    """Let a run wait on its queue no more; a bucket that is empty then is forgotten."""
    waiting = meta.place.waiting(meta.bucket)
    return SortedRemove(waiting, meta.log.name), SortedPrune(meta.place.buckets, meta.bucket, waiting)


def served(meta: RunMeta) -> tuple[Op, ...]:
    """Let a run wait no more since it is claimed: its bucket has had its turn, and comes after the others now."""
    left, pruned = dequeue(meta)
    bands = (9 - meta.priority) * _PRIORITY_STEP
    return left, SortedAdd(meta.place.buckets, meta.bucket, bands, from_now=True), pruned


def strayed(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run which is over is on its queue no more."""
    return Commit(id=ids.commit, partition=meta.partition, guards=meta.unchanged(), ops=(*dequeue(meta), *unpark(meta)))


def put_off(log: LogName, queue: Queue, until_ms: int) -> Op:
    """Note that a run comes to its queue later; with 0, nobody knows when."""
    return SortedAdd(queue.later, log.name, until_ms or _NEVER_MS)


def arrive(meta: RunMeta) -> Op:
    """Note that a run does not come to its queue later any more."""
    return SortedRemove(meta.place.later, meta.log.name)


def come_back(meta: RunMeta, after: RunMeta) -> tuple[Op, ...]:
    """Note that something came that a run which is put off waited for; where that was all, it is on its queue.

    To be guarded by `meta.put_off_unchanged()`. Its timer is for the caller to set.
    """
    waits = after.suspended
    kept = {"not_before": str(after.not_before_ms)} if after.not_before_ms else {}
    if waits is not None:
        kept[SUSPENDED] = encode_suspended(waits)
    gone = tuple(name for name in ("not_before", SUSPENDED) if name not in kept)
    key = keys.meta(meta.log)
    if after.put_off:
        place: tuple[Op, ...] = (HashSet(key, kept), put_off(meta.log, meta.place, after.not_before_ms))
    else:
        place = (arrive(meta), *enqueue(meta.log, meta.place, meta.bucket, meta.priority))
    return (*((HashDelete(key, gone),) if gone else ()), *place)


def struck(meta: RunMeta, **left: object) -> RunMeta:
    """Return a run of which something has come that it may have been put away for; `left` is what has not."""
    if meta.suspended is None or meta.final:
        return meta
    return meta._replace(suspended=meta.suspended.model_copy(update=left)).come()


def coming(meta: RunMeta, after: RunMeta) -> tuple[Op, ...]:
    """Note what `struck` says. To be guarded as `come_back` is."""
    return () if after.suspended == meta.suspended else come_back(meta, after)


def back_hints(meta: RunMeta, after: RunMeta) -> tuple[str, ...]:
    """Return what other hubs are told where a run is on its queue again."""
    return (meta.place.hint,) if meta.put_off and not after.put_off else ()


def withdraw(meta: RunMeta) -> tuple[Op, ...]:
    """Let a run wait no more, wherever it does: it may have come to its queue since its meta was read."""
    return (*dequeue(meta), arrive(meta), *unpark(meta))


def unpark(meta: RunMeta) -> tuple[Op, ...]:
    """Let a run wait no more for its concurrency key, where it has one."""
    if not meta.concurrency_key:
        return ()
    parked = meta.place.parked(meta.concurrency_key)
    return (
        SortedRemove(parked, meta.log.name),
        SetPrune(meta.place.parked_keys, meta.concurrency_key, parked),
    )


def ended(meta: RunMeta, state: RunState) -> tuple[Op, ...]:
    """Note that a run which waited has ended so: nothing is due about it but that it is deleted some day."""
    return (run_timer(meta.log, None), *keeping.noted(meta.log, state, meta.keep_ms))


class Keeping(NamedTuple):
    """For how long new runs are kept after their ends: `keep_ms` where they do not say, `least_ms` at least."""

    keep_ms: int | None = None
    least_ms: int = 0

    def of(self, asked_ms: int | None) -> int | None:
        """Return for how long one is kept that says so; None for ever."""
        wanted_ms = self.keep_ms if asked_ms is None else asked_ms
        return None if wanted_ms is None else max(wanted_ms, self.least_ms)


AS_ASKED = Keeping()
"""Kept for as long as they say, or for ever."""


def again(before: Submitted, key: str) -> RunSubmit:
    """Return what submits once more what was submitted, as a run of its own."""
    return RunSubmit(
        queue=before.queue,
        handler=before.handler,
        input=before.input,
        key=key,
        retries=before.retries,
        priority=before.priority,
        where=before.where,
        timeout_ms=before.timeout_ms,
        backoff_ms=before.backoff_ms,
        backoff_max_ms=before.backoff_max_ms,
        keep_ms=before.keep_ms,
        concurrency_key=before.concurrency_key,
    )


def submit(
    ids: Ids,
    log: LogName,
    params: RunSubmit,
    store_ms: int,
    retry_of: str | None = None,
    child: ChildOf | None = None,
    keeping: Keeping = AS_ASKED,
) -> Commit:
    """Propose a new run. Refused by its first guard where the key is taken.

    Raises:
        InvalidSelector: `where` is none.
    """
    body = submitted(params, store_ms, retry_of, child, keeping)
    return place(ids, newborn(log, body, ids.src, child.slot if child else ""), body)


def submitted(
    params: RunSubmit,
    store_ms: int,
    retry_of: str | None = None,
    child: ChildOf | None = None,
    keeping: Keeping = AS_ASKED,
) -> Submitted:
    """Return what the first entry of a new run says.

    Raises:
        InvalidSelector: `where` is none.
    """
    return Submitted(
        queue=params.queue,
        handler=params.handler,
        input=params.input,
        key=params.key,
        retries=params.retries,
        priority=params.priority,
        where=canonical(params.where),
        not_before_ms=store_ms + params.delay_ms if params.delay_ms else None,
        deadline_ms=store_ms + params.deadline_ms if params.deadline_ms else None,
        timeout_ms=params.timeout_ms,
        backoff_ms=params.backoff_ms,
        backoff_max_ms=params.backoff_max_ms,
        keep_ms=keeping.of(params.keep_ms),
        retry_of=retry_of,
        parent=child.parent if child else None,
        concurrency_key=params.concurrency_key,
        by=child.by if child else None,
    )


def place(ids: Ids, born: RunMeta, body: Submitted) -> Commit:
    """Propose the new run that `born` is, submitted with `body`. Refused by its first guard where the key is taken."""
    log, queue, due_ms = born.log, born.place, born.due_ms
    mapping = keys.idempotency(queue.partition, log.namespace, body.queue)
    assert body.key is not None, body
    waits = (
        (put_off(log, queue, born.not_before_ms),) if born.put_off else enqueue(log, queue, born.bucket, born.priority)
    )
    return Commit(
        id=ids.commit,
        partition=queue.partition,
        guards=(Guard(mapping, body.key, ABSENT),),
        appends=(Append(log, (pack_control(Kind.SUBMITTED, ids.src, body),), ids.epoch),),
        ops=(
            HashSet(keys.meta(log), born.born_fields()),
            HashSet(mapping, {body.key: f"{log.name} {input_digest(body.handler, body.input)}"}),
            SetAdd(keys.queues(queue.partition, log.namespace), body.queue),
            *waits,
            *(() if due_ms is None else (run_timer(log, due_ms),)),
            *((SortedRemove(queue.dead, body.retry_of),) if body.retry_of else ()),
        ),
        hints=(queue.hint,),
    )


def stirs(ids: Ids, meta: RunMeta) -> tuple[Op, ...]:
    """Have what concerns its parent and its children done at once, where a run has any."""
    if not meta.related:
        return ()
    return HashSet(keys.meta(meta.log), {"stirred": ids.commit}), family_timer(meta.log, due=True)


def cancel(ids: Ids, meta: RunMeta, hub: str, params: Cancel, answer: HashSet | None) -> Commit:
    """Propose a cancel: a run that waits ends with it, a running one is told.

    `ids.src` is whoever asked; `answer` stores the request's result with what it changes.
    """
    entries = [pack_control(Kind.CANCEL, ids.src, params)]
    fields = {"cancel": "1", "talk_from": str(meta.talk_from or meta.head + 1)}
    ops: tuple[Op, ...] = ()
    if meta.state is RunState.QUEUED:
        entries.append(pack_control(Kind.CANCELLED, hub, Cancelled(reason=params.reason)))
        fields["state"] = RunState.CANCELLED.value
        ops = (*withdraw(meta), *ended(meta, RunState.CANCELLED))
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), meta.cancel_unchanged(), meta.children_unchanged()),
        appends=(Append(meta.log, tuple(entries), ""),),
        ops=(HashSet(keys.meta(meta.log), fields), *ops, *stirs(ids, meta), *((answer,) if answer else ())),
    )


def expire(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run which waits ends, since its deadline has passed."""
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=meta.unchanged(),
        appends=(Append(meta.log, (expired(ids, meta),), ""),),
        ops=(
            HashSet(keys.meta(meta.log), {"state": RunState.EXPIRED.value}),
            *withdraw(meta),
            *ended(meta, RunState.EXPIRED),
            *stirs(ids, meta),
        ),
    )


def expired(ids: Ids, meta: RunMeta) -> bytes:
    """Return the entry that ends a run whose deadline has passed."""
    return pack_control(Kind.EXPIRED, ids.src, Expired(reason=f"its deadline passed while it was {meta.state.value}"))


def look_again(ids: Ids, meta: RunMeta) -> Commit:
    """Propose to look at a run when it is due, and not now."""
    guards = (*meta.unchanged(), meta.asked_unchanged())
    return Commit(id=ids.commit, partition=meta.partition, guards=guards, ops=(run_timer(meta.log, meta.due_ms),))


def requeue(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run whose wait is over goes to its queue, unless it was put away and waits for more than that."""
    after = meta._replace(not_before_ms=0).come()
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), *meta.put_off_unchanged(), meta.asked_unchanged()),
        ops=(*come_back(meta, after), run_timer(meta.log, after.due_ms)),
        hints=(meta.place.hint,),
    )
