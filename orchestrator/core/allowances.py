"""How many of a thing one principal may make in a day, whichever hubs it asks: a token bucket in the store. Pure.

The bucket of a principal is one field: when it would be full again. A day's worth may be made at once, and each one
that is made comes back a day divided by their number later. A hub takes a few of them at a time, in a commit that is
guarded on the field, and gives them out from memory: so two hubs never give out the same one, most things that are
made cost no commit, and a hub that is killed takes with it what it had not given out.

Specification: docs/protocol.md, section "Limits"; docs/decisions/0025-logs-made-in-a-day.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Commit, Guard, HashSet
from protocol.ids import PARTITIONS

__all__ = ["DAY_US", "FIELD", "SHARES", "Allowance", "Taken"]

DAY_US = 24 * 3600 * 1_000_000
SHARES = 1_000
"""A hub takes one part in so many of a day's worth at once: that is lost with it at most."""
CLOCK_US = 3600 * 1_000_000
"""How far hubs may be apart in what they take for the store's clock."""
FIELD = "next_us"
"""Of a bucket: when it would be full again, in µs by the store's clock. One that is not there is full."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a hub may take of an allowance now.

    Attributes:
        count: how many; 0 where there is none.
        retry_ms: when there is the next one, where there is none.
        commit: takes them.
    """

    count: int
    retry_ms: int
    commit: Commit | None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What each principal may make of one thing.

    Attributes:
        thing: what, as the key in the store is called.
        day_max: how many in a day, and at once.
    """

    thing: str
    day_max: int

    @property
    def every_us(self) -> int:
        """How long it takes until one more may be made."""
        return -(-DAY_US // self.day_max)

    def key(self, account: str) -> str:
        """The key of a principal's bucket; `account` is `namespace/name`."""
        return keys.made(_partition(account), self.thing, account)

    def take(self, commit_id: str, account: str, value: bytes | None, wanted: int, store_ms: int) -> Taken:
        """Decide how many may be taken now: at least as many as are wanted, or none.

        Args:
            commit_id: of the commit.
            account: whose.
            value: what the field holds, as it was read.
            wanted: how many are needed at once; of more than a day's worth, a day's.
            store_ms: the store's clock.
        """
        now_us, every_us = store_ms * 1000, self.every_us
        whole_us = self.day_max * every_us
        full_us = int(value or 0)
        if not now_us <= full_us <= now_us + whole_us + CLOCK_US:  # it is full, or the clock was set back
            full_us = now_us
        left = (now_us + whole_us - full_us) // every_us
        wanted = min(wanted, self.day_max)
        if left < wanted:
            missing_us = full_us + wanted * every_us - (now_us + whole_us)
            return Taken(0, -(-missing_us // 1000), None)
        count = min(left, max(wanted, self.day_max // SHARES))
        key, after_us = self.key(account), full_us + count * every_us
        commit = Commit(
            id=commit_id,
            partition=_partition(account),
            guards=(Guard(key, FIELD, value.decode() if value is not None else ABSENT),),
            ops=(HashSet(key, {FIELD: str(after_us)}, ttl_ms=(after_us - now_us) // 1000 + 1),),
        )
        return Taken(count, 0, commit)


def _partition(account: str) -> int:
    return crc32(account.encode()) % PARTITIONS
