"""The one way into the store: every commit of the hub goes through here, and feeds the hub's own tails.

    connection -> core (pure) -> Line.commit -> store -> Line -> tails -> connections

Nothing about a log is shown before `Store.commit` returned for it.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from itertools import count

import structlog

from orchestrator.store import keys
from orchestrator.store.base import Store, StoreError, StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refused, SortedAdd
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from protocol.ids import LogKind, LogName

__all__ = ["Line", "monotonic_ms"]

CLOCK_SYNC_S = 60.0
CLOCK_STEP_MS = 1_000
"""No reply is thought to be later than this: the store's clock was set back."""
_CUT = frozenset({LogKind.AGENT, LogKind.TOPIC})
"""The kinds of logs that are cut when they grow too long."""

log_ = structlog.get_logger()


def monotonic_ms() -> int:
    """Return this machine's clock that never steps, in ms."""
    return time.monotonic_ns() // 1_000_000


class Line:
    """Commits to one store, for one hub.

    Attributes:
        store: for reads; commits go through `commit`.
        tails: the logs that this hub's peers follow.
        hub_id: random, new for each process.
        level: the durability that acknowledgements name.
        on_timer: told of each timer that a commit of this hub set: its partition, what it is of, and in how many ms.
    """

    def __init__(self, store: Store, tails: Tails, hub_id: str, level: str, counters: Counters) -> None:
        self.store = store
        self.tails = tails
        self.hub_id = hub_id
        self.level = level
        self.on_timer: Callable[[int, str, int], object] | None = None
        self._counters = counters
        self._clock_gap_ms = time.time_ns() // 1_000_000 - monotonic_ms()
        self._numbers = count(1)
        self._grown: set[LogName] = set()

    @property
    def src(self) -> str:
        """What the hub's own entries carry as `src`."""
        return f"hub:{self.hub_id}"

    def new_commit_id(self) -> str:
        """Return the id of a new proposal: unique, since the hub's id is new for each process."""
        return f"{self.hub_id}.{next(self._numbers):x}"

    def new_epoch(self) -> str:
        """Return the epoch for a log that a commit may make."""
        return secrets.token_hex(8)

    def now_ms(self) -> int:
        """Return what the store's clock says now, as far as this hub knows."""
        return monotonic_ms() + self._clock_gap_ms

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, and let the hub's own tails see what it appended.

        Raises:
            StoreUnavailable: as `Store.commit`.
        """
        try:
            outcome = await self.store.commit(commit)
        except StoreUnavailable:
            self._counters.store_failures += 1
            raise
        if isinstance(outcome, Outcome):
            self._counters.commits += 1
            self._hear_clock(outcome.now_ms)
            self.tails.take(commit, outcome)
            if self.on_timer is not None:
                timers = keys.timers(commit.partition)
                for op in commit.ops:
                    if type(op) is SortedAdd and op.key == timers:
                        in_ms = op.score if op.from_now else op.score - outcome.now_ms
                        self.on_timer(commit.partition, op.member, in_ms)
            for append in commit.appends:
                if append.log.kind in _CUT:
                    self._grown.add(append.log)
        return outcome

    def _hear_clock(self, store_ms: int) -> None:
        """Take what a reply says of the store's clock. It comes late, never early, so the one that is ahead counts."""
        gap_ms = store_ms - monotonic_ms()
        if not self._clock_gap_ms - CLOCK_STEP_MS < gap_ms < self._clock_gap_ms:
            self._clock_gap_ms = gap_ms

    def take_grown(self) -> set[LogName]:
        """Return the logs of the kinds that are cut, which commits of this hub appended to since the last call."""
        grown, self._grown = self._grown, set()
        return grown

    async def run(self) -> None:
        """Keep the store's clock in mind until cancelled."""
        while True:
            try:
                self._clock_gap_ms = await self.store.now_ms() - monotonic_ms()
            except StoreError as fault:
                log_.debug("clock_not_synced", reason=str(fault))
            await asyncio.sleep(CLOCK_SYNC_S)
