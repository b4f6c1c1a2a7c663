"""The methods of `request` that are about queues: what each takes and answers. The table is in `protocol.requests`.

Specification: docs/protocol.md, sections "Requests" and "Queues".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames import Name, Part, UInt
from protocol.requests_agents import LIST_MAX

__all__ = [
    "BURST_MAX",
    "RATE_PER_MS_MAX",
    "Bucket",
    "ConcurrencyKey",
    "KeyInfo",
    "QueueDead",
    "QueueGet",
    "QueueInfo",
    "QueueList",
    "QueueListed",
    "QueuePurge",
    "QueuePurged",
    "QueueRetried",
    "QueueRetry",
    "QueueSet",
    "Rate",
    "Share",
]

RATE_PER_MS_MAX = 24 * 3600 * 1000
RATE_STARTS_MAX = 1_000_000
BURST_MAX = 10_000

ConcurrencyKey = Annotated[str, Field(min_length=1, max_length=128)]
"""What the runs of a queue have in common of which so many are worked on at once: a customer, a repository, a host."""


class Rate(Part):
    """How fast runs of a queue may be claimed: `starts` of them in `per_ms`, spread evenly; `burst` of them at once.

    In any stretch of time so many are claimed at most as `starts` in `per_ms` make in it, and `burst`.
    """

    starts: Annotated[int, Field(ge=0, le=RATE_STARTS_MAX)]
    per_ms: Annotated[int, Field(ge=1, le=RATE_PER_MS_MAX)] = 1000
    burst: Annotated[int, Field(ge=1, le=BURST_MAX)] = 1

    @property
    def every_us(self) -> int:
        """How far apart two claims are, in µs, where many wait; never less than the rate says."""
        return -(-self.per_ms * 1000 // self.starts)


class QueueList(Part):
    """`queue.list`: queues that have had runs, or of which something was said, by name."""

    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = 100


class QueueGet(Part):
    """`queue.get`: one queue. Errors: `not_found` where none of its name was ever submitted to or set."""

    queue: Name


class Bucket(Part):
    """Runs of a queue that wait for the same: their handler, and the labels that they ask for."""

    handler: str
    where: str = ""
    waiting: UInt
    reason: str | None = None
    """Why nobody who is connected takes them, where that is known."""


class Share(Part):
    """Runs of a queue that wait and were submitted by the same principal."""

    by: str
    waiting: UInt


class KeyInfo(Part):
    """A concurrency key of which runs are held back: how many, and how many an agent works on."""

    key: str
    parked: UInt
    active: UInt


class QueueInfo(Part):
    """A queue.

    Of its runs, `waiting` wait for an agent, `parked` for their concurrency key, `later` for their time; `active` are
    with an agent, at most `limit` of these, and `key_limit` of those with one concurrency key; `dead` died, and were
    not submitted again.
    """

    queue: Name
    paused: bool = False
    limit: UInt | None = None
    key_limit: UInt | None = None
    rate: Rate | None = None
    waiting: UInt
    parked: UInt = 0
    later: UInt
    active: UInt
    dead: UInt = 0
    reason: str | None = None
    """Why none of its runs is claimed now, whoever could take them."""
    buckets: tuple[Bucket, ...] = ()
    shares: tuple[Share, ...] = ()
    keys: tuple[KeyInfo, ...] = ()


class QueueListed(Part):
    """Queues, by name, without what their runs wait for."""

    queues: tuple[QueueInfo, ...]


class QueueSet(Part):
    """`queue.set`: say something of a queue; what is not given stays.

    A `limit` or `key_limit` of 0 takes it away, and so does a `rate` of 0 `starts`.
    """

    queue: Name
    paused: bool | None = None
    limit: UInt | None = None
    key_limit: UInt | None = None
    rate: Rate | None = None


class QueuePurge(Part):
    """`queue.purge`: cancel every run of a queue that waits or comes to it later. Those that run go on."""

    queue: Name
    reason: Annotated[str, Field(max_length=1024)] | None = None


class QueuePurged(Part):
    """How many runs were cancelled."""

    purged: UInt


class QueueDead(Part):
    """`queue.dead`: the dead letters of a queue: runs that ended as dead and were not submitted again, oldest first."""

    queue: Name
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = 100


class QueueRetry(Part):
    """`queue.retry`: submit the dead letters of a queue again, each once, as `run.retry` does."""

    queue: Name


class QueueRetried(Part):
    """How many runs were submitted."""

    retried: UInt
