"""Queues, as a client shows, sets and empties them.

Specification: docs/protocol.md, section "Queues".
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any

from protocol.frames import Part
from protocol.requests import (
    DeadLetters,
    QueueDead,
    QueueGet,
    QueueInfo,
    QueueList,
    QueuePurge,
    QueueRetry,
    QueueSet,
    Rate,
)

__all__ = ["QueueMethods", "parse_rate", "rate_text"]

_RATE = re.compile(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,3})?([smh])")
_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000}


def parse_rate(text: str, burst: int = 1) -> Rate:
    """Return a rate that is written as `10/s`, `100/m` or `1/5s`; `none` is none.

    Args:
        text: so many starts in a second, minute or hour, or in so many of them.
        burst: how many may start at once.

    Raises:
        ValueError: it is not written so, or a number is out of its range.
    """
    if text == "none":
        return Rate(starts=0)
    found = _RATE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:160]!r} is no rate; a rate is written as 10/s, 100/m, 1/5s or none")
    starts, number, unit = found.groups()
    return Rate(starts=int(starts), per_ms=int(number or 1) * _UNITS_MS[unit], burst=burst)


def rate_text(rate: Rate) -> str:
    """Write a rate as `parse_rate` reads it, with its burst where there is one."""
    unit = next(unit for unit in ("h", "m", "s", "ms") if rate.per_ms % _UNITS_MS.get(unit, 1) == 0)
    number = rate.per_ms // _UNITS_MS.get(unit, 1)
    burst = f", {rate.burst} at once" if rate.burst > 1 else ""
    return f"{rate.starts}/{'' if number == 1 else number}{unit}{burst}"


class QueueMethods(ABC):
    """What a client can do with queues."""

    @abstractmethod
    async def ask(self, method: str, params: Part) -> Any:
        """Ask the hub."""

    async def queues(self, limit: int = 100) -> tuple[QueueInfo, ...]:
        """Return queues, by name."""
        queues: tuple[QueueInfo, ...] = (await self.ask("queue.list", QueueList(limit=limit))).queues
        return queues

    async def queue(self, name: str) -> QueueInfo:
        """Return a queue, with what waits on it.

        Raises:
            RequestError: `not_found` where no run was ever submitted to it, and nothing was said of it.
        """
        info: QueueInfo = await self.ask("queue.get", QueueGet(queue=name))
        return info

    async def set_queue(
        self,
        name: str,
        *,
        paused: bool | None = None,
        limit: int | None = None,
        key_limit: int | None = None,
        rate: str | None = None,
        burst: int = 1,
    ) -> QueueInfo:
        """Say something of a queue; what is not given stays.

        Args:
            name: the queue.
            paused: whether its runs are left to wait; those that are worked on go on.
            limit: how many of its runs are worked on at once, over all agents; 0 for any number.
            key_limit: how many of those with the same concurrency key are; 0 for any number.
            rate: how fast its runs start, as `10/s`, `100/m` or `1/5s`; `none` for as fast as agents take them.
            burst: how many of them may start at once, with `rate`.

        Raises:
            ValueError: the rate is none, or a number is out of its range.
        """
        asked = QueueSet(
            queue=name,
            paused=paused,
            limit=limit,
            key_limit=key_limit,
            rate=None if rate is None else parse_rate(rate, burst),
        )
        info: QueueInfo = await self.ask("queue.set", asked)
        return info

    async def purge_queue(self, name: str, reason: str | None = None) -> int:
        """Cancel every run of a queue that waits. Returns how many there were."""
        return int((await self.ask("queue.purge", QueuePurge(queue=name, reason=reason))).purged)

    async def dead_letters(self, name: str, limit: int = 100) -> DeadLetters:
        """Return the runs of a queue that ended as dead and were not submitted again, oldest first."""
        letters: DeadLetters = await self.ask("queue.dead", QueueDead(queue=name, limit=limit))
        return letters

    async def retry_dead(self, name: str) -> int:
        """Submit the dead letters of a queue again, each once. Returns how many there were."""
        return int((await self.ask("queue.retry", QueueRetry(queue=name))).retried)
