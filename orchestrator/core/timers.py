"""What has the timekeeper look at something, at its time. What is due is done by whichever hub comes first.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from orchestrator.store import keys
from orchestrator.store.commits import Op, SortedAdd, SortedRemove
from protocol.ids import LogName, partition_of

__all__ = ["member", "run_timer", "timer"]


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
