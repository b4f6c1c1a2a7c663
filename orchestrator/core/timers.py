"""What has the timekeeper look at something, at its time. What is due is done by whichever hub comes first.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from orchestrator.store import keys
from orchestrator.store.commits import Op, SortedAdd, SortedRemove
from protocol.ids import LogName, partition_of

__all__ = ["family_member", "family_of", "family_timer", "member", "run_timer", "timer"]

_FAMILY = "family/"
"""What a run's id follows in the timers where something is to be done for its parent or its children."""


def member(log: LogName) -> str:
    """Return what a run is called in a partition's leases and timers."""
    return f"{log.namespace}/{log.name}"


def timer(partition: int, member: str, due_ms: int | None) -> Op:
    """Have the timekeeper look at something at this time, or not at all."""
    timers = keys.timers(partition)
    return SortedRemove(timers, member) if due_ms is None else SortedAdd(timers, member, due_ms)


def run_timer(log: LogName, due_ms: int | None) -> Op:
    """Have the timekeeper look at a run at this time, or not at all."""
    return timer(partition_of(log), member(log), due_ms)


def family_member(log: LogName) -> str:
    """Return what a run is called in a partition's timers where something is to be done for its family."""
    return f"{log.namespace}/{_FAMILY}{log.name}"


def family_timer(log: LogName, *, due: bool) -> Op:
    """Have something done for the parent or the children of a run at once, or nothing any more."""
    timers, name = keys.timers(partition_of(log)), family_member(log)
    return SortedAdd(timers, name, 0, from_now=True) if due else SortedRemove(timers, name)


def family_of(word: str) -> str | None:
    """Return the run whose family a timer is about, from what follows its namespace; None where it is of another."""
    return word.removeprefix(_FAMILY) if word.startswith(_FAMILY) else None
