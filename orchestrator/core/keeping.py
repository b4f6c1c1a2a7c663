"""For how long a run is kept once it is over: pure proposals, as in `orchestrator.core.runs`.

The commit that ends a run notes when it is to be deleted, in an index of its own: the timers hold what has to be done
in time, which must not wait behind thousands of runs that can go. Everything of a run lies in one partition and goes
in one step, so that nobody sees a half of it.

Of a row of runs that go on as one another, the first is kept for as long as one that comes after it: people, parents
and the key know the row by it. One in the middle leaves the row, so that a row without an end does not grow.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import member
from orchestrator.store import keys
from orchestrator.store.commits import Commit, Guard, HashDelete, HashSet, Op, SortedAdd, SortedRemove
from protocol.ids import LogKind, LogName, partition_of
from protocol.run import FINAL, RunState

__all__ = ["DEAD_KEPT_MS", "forgotten", "kept_ms", "noted", "put_off", "set_aside", "unchanged", "unlinked"]

DEAD_KEPT_MS = 30 * 24 * 3600 * 1000
"""A dead letter is kept for so long at least, however soon its run was to go: somebody is to look at it."""

PUT_OFF_MS = 60_000
"""When a run is looked at again that cannot go yet."""

SET_ASIDE_MS = 24 * 3600 * 1000
"""When a run is looked at again that could not be read: a newer version of the hub may be able to."""


def kept_ms(state: RunState, keep_ms: int | None) -> int | None:
    """Return for how long a run is kept that ended so; None for ever."""
    if keep_ms is None or state is not RunState.DEAD:
        return keep_ms
    return max(keep_ms, DEAD_KEPT_MS)


def noted(log: LogName, state: RunState, keep_ms: int | None) -> tuple[Op, ...]:
    """Note when a run is to be deleted that comes to this state, where that is its last."""
    after_ms = kept_ms(state, keep_ms)
    if state not in FINAL or after_ms is None:
        return ()
    return (SortedAdd(keys.ended(partition_of(log)), member(log), after_ms, from_now=True),)


def unchanged(meta: RunMeta) -> tuple[Guard, ...]:
    """Return guards that hold while the run is there, and over as it was read."""
    return (Guard(keys.meta(meta.log), "state", meta.state.value),)


def put_off(commit_id: str, meta: RunMeta) -> Commit:
    """Propose that a run is kept for a while longer."""
    later = SortedAdd(keys.ended(meta.partition), member(meta.log), PUT_OFF_MS, from_now=True)
    return Commit(commit_id, meta.partition, guards=unchanged(meta), ops=(later,))


def set_aside(commit_id: str, log: LogName) -> Commit:
    """Propose that a run that cannot be read is kept for a while longer. Nothing of it can be guarded."""
    partition = partition_of(log)
    later = SortedAdd(keys.ended(partition), member(log), SET_ASIDE_MS, from_now=True)
    return Commit(commit_id, partition, ops=(later,))


def unlinked(commit_id: str, meta: RunMeta) -> Commit:
    """Propose that a run leaves its row: those before and after it name each other.

    Refused by its first two guards where one beside it has left since it was read; by others where it has left before.
    """
    names = meta.continues, meta.log.name, meta.continued_as
    before, own, after = (keys.meta(LogName(meta.log.namespace, LogKind.RUN, name)) for name in names)
    return Commit(
        commit_id,
        meta.partition,
        guards=(
            Guard(own, "continues", meta.continues),
            Guard(own, "continued_as", meta.continued_as),
            Guard(before, "continued_as", meta.log.name),
            Guard(after, "continues", meta.log.name),
        ),
        ops=(HashSet(before, {"continued_as": meta.continued_as}), HashSet(after, {"continues": meta.continues})),
    )


def forgotten(meta: RunMeta, key: str | None) -> tuple[HashDelete | SortedRemove, ...]:
    """Return what else goes with a run's log: its key, its place among dead letters, and that it is to go."""
    partition = meta.partition
    mapping = keys.idempotency(partition, meta.log.namespace, meta.queue)
    return (
        *((HashDelete(mapping, (key,)),) if key is not None else ()),
        SortedRemove(keys.dead(partition, meta.log.namespace, meta.queue), meta.log.name),
        SortedRemove(keys.ended(partition), member(meta.log)),
    )
