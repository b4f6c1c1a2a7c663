"""How much of a log is kept: topics and the logs of agents are cut to their last entries.

A cut never goes past what a durable subscription has acknowledged, until the log is twice as long as it is to be:
then it is cut all the same, and that subscription is told `trimmed` with the range when it comes back. Runs'
logs and artifacts are never cut.

Specification: docs/protocol.md, section "Following a log".
"""

from __future__ import annotations

import asyncio

import structlog

from orchestrator.acks import acknowledged
from orchestrator.core.resume import LogState
from orchestrator.line import Line
from orchestrator.store.base import StoreError
from protocol.ids import LogKind, LogName

__all__ = ["HARD_FACTOR", "Retention", "keep_from"]

PERIOD_S = 5.0
SLACK = 0.1
"""A log is cut once it is this share longer than it is to be, so that cuts are few."""

HARD_FACTOR = 2

log_ = structlog.get_logger()


def keep_from(first: int, head: int, acked: list[int], entries_max: int) -> int:
    """Return the first offset that is to be kept; `first` where nothing is to go.

    `acked` is what the log's durable subscriptions have acknowledged.
    """
    kept = head - first + 1
    if kept <= entries_max * (1 + SLACK):
        return first
    wanted = head - entries_max + 1
    held = min(acked, default=head) + 1
    forced = head - entries_max * HARD_FACTOR + 1
    return max(first, forced, min(wanted, held))


class Retention:
    """Cuts the logs that this hub's commits made longer.

    Args:
        line: for the store, and for the heads of logs that grew.
        entries_max: how many entries of a log are kept.
    """

    def __init__(self, line: Line, entries_max: int) -> None:
        self._line = line
        self._entries_max = entries_max

    async def run(self) -> None:
        """Cut what has grown too long, until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            for log in self._line.take_grown():
                try:
                    await self.cut(log)
                except StoreError as fault:
                    log_.debug("log_not_cut", log=log.path, reason=str(fault))

    async def cut(self, log: LogName) -> None:
        """Cut one log, if it is too long."""
        store = self._line.store
        meta = await store.meta(log)
        if log.kind in (LogKind.RUN, LogKind.ARTIFACT) or meta is None:
            return
        state = LogState.parse(meta)
        first, head = state.first, state.head
        if keep_from(first, head, [], self._entries_max) == first:
            return
        start = keep_from(first, head, await acknowledged(store, log), self._entries_max)
        if start > first:
            await store.trim(log, start)
            log_.info("log_cut", log=log.path, namespace=log.namespace, dropped=start - first, kept=head - start + 1)
