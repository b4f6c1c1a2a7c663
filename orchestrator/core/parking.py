"""Runs that wait for their concurrency key: set aside, and brought back.

Pure proposals, as in `orchestrator.core.runs`. A run waits in its bucket until a claim finds that its key is full.
Then it is *parked*: moved from the bucket to a place of its key, so that it is not in the way of others. Wherever runs
of a key are parked, the key is full, or it is listed as *freed*. That holds at every instant, whichever hub dies when:

- A run is parked by a commit that is refused unless the key is full (`park`).
- Every commit that ends an attempt lists the key as freed, if runs are parked for it (`Queue.leave`).
- Terms that say something else of keys list all of them (`set_terms`); what was decided under older ones is refused.
- A key is taken off the list by a commit that is refused unless the key is full (`full_again`), or which leaves it
  there while runs are parked (`nobody_left`).

Who finds a key listed brings runs back as far as there is room (`bring_back`), before it claims. One that is brought
back for nothing is parked again; nothing is lost by it but the commit.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.queues import EVERY_KEY, Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.runs import Ids, dequeue, enqueue, rank, unpark
from orchestrator.store.commits import Commit, Op, SetAdd, SetPrune, SortedAdd, SortedPrune, SortedRemove
from protocol.run import RunState

__all__ = ["bring_back", "forget", "freed", "full_again", "nobody_left", "park"]


def park(ids: Ids, meta: RunMeta, terms: Terms) -> Commit:
    """Propose that a run which waits is set aside, since as many with its concurrency key run as may."""
    queue, key = meta.place, meta.concurrency_key
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), terms.unchanged(queue)),
        below=(terms.key_full(queue, key),),
        ops=(
            *dequeue(meta),
            SortedAdd(queue.parked(key), meta.log.name, rank(meta.log, meta.priority)),
            SetAdd(queue.parked_keys, key),
        ),
    )


def bring_back(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that a run which was set aside waits in its bucket again; one that does not wait is only let go."""
    waits = meta.state is RunState.QUEUED and not meta.put_off
    back = enqueue(meta.log, meta.place, meta.bucket, meta.priority) if waits else ()
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(*meta.unchanged(), *meta.put_off_unchanged()),  # else it is parked by now, and would be nowhere
        ops=(*unpark(meta), *back),
        hints=(meta.place.hint,),
    )


def forget(ids: Ids, queue: Queue, key: str, names: Iterable[str]) -> Commit:
    """Propose that runs which are not there any more are parked no more."""
    parked = queue.parked(key)
    gone = (SortedRemove(parked, name) for name in names)
    return Commit(id=ids.commit, partition=queue.partition, ops=(*gone, SetPrune(queue.parked_keys, key, parked)))


def full_again(ids: Ids, queue: Queue, key: str, terms: Terms) -> Commit:
    """Propose that a key is taken off the list since it is full: who ends a run of it puts it back."""
    return Commit(
        id=ids.commit,
        partition=queue.partition,
        guards=(terms.unchanged(queue),),
        below=(terms.key_full(queue, key),),
        ops=(SortedRemove(queue.freed, key),),
    )


def nobody_left(ids: Ids, queue: Queue, key: str) -> Commit:
    """Propose that a key is taken off the list since no run is parked for it; where one is, it stays."""
    ops = (SortedPrune(queue.freed, key, queue.parked(key)),)
    return Commit(id=ids.commit, partition=queue.partition, ops=ops)


def freed(ids: Ids, queue: Queue, some: Iterable[str], terms: Terms, *, last: bool) -> Commit:
    """Propose that some keys are listed, in the place of `EVERY_KEY`, which goes with the `last` of them.

    Refused where something else was said of the queue since they were read: then there may be more.
    """
    listed: tuple[Op, ...] = tuple(
        SortedAdd(queue.freed, key, 0, from_now=True, given=queue.parked(key)) for key in some
    )
    over = (SortedRemove(queue.freed, EVERY_KEY),) if last else ()
    return Commit(id=ids.commit, partition=queue.partition, guards=(terms.unchanged(queue),), ops=(*listed, *over))
