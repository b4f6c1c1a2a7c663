"""Requests that look through much: of one principal a few are worked on at a time, the others wait for their turn.

Each of them asks the store for hundreds of things. Without turns, whoever sends many has the store and the event loop
to itself, for all of its sessions together; so they are counted by principal, over the sessions of this hub.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

__all__ = ["AT_ONCE_MAX", "SCANNING", "Scans"]

AT_ONCE_MAX = 4
SCANNING = frozenset(
    {
        "agent.list",
        "key.list",
        "log.list",
        "log.read",
        "queue.dead",
        "queue.get",
        "queue.list",
        "queue.purge",
        "queue.retry",
        "run.list",
        "schedule.list",
        "token.revoked",
    }
)
"""The methods that look through much."""


@dataclass(slots=True)
class _Row:
    """Who stands in line for one principal: those whose turn it is among them."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE_MAX))
    standing: int = 0


class Scans:
    """The requests of all principals that look through much."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def __len__(self) -> int:
        return len(self._rows)

    @asynccontextmanager
    async def turn(self, account: str) -> AsyncIterator[None]:
        """Wait for the turn of one of a principal's requests, and have it."""
        row = self._rows.setdefault(account, _Row())
        row.standing += 1
        try:
            async with row.turns:
                yield
        finally:
            row.standing -= 1
            if not row.standing:
                del self._rows[account]
