"""Acts on what is due: leases that ran out, runs that waited long enough or took too long, families, and schedules.

Hubs share the work out by rendezvous hashing (Thaler and Ravishankar, 1998) over the hubs that are
live; two of them acting at once is harmless, since a guard lets one through.

A timer is acted on at its time: the hub that sets it, and the one that looks after its partition, keep in mind what
is due before the next look. Where both are gone, another hub comes to it within `PERIOD_S`.

Leases are judged by the store's clock. After anything that could have kept every agent from renewing
(this hub's start, an outage or change of the store, a step of its clock) none is judged until a full
lease time has passed.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import structlog

from orchestrator.core.schedules import scheduled
from orchestrator.core.timers import family_of
from orchestrator.families import Families
from orchestrator.line import Line
from orchestrator.registry import Registry
from orchestrator.schedules import Schedules
from orchestrator.store import keys
from orchestrator.store.base import DueAt, StoreError, StoreUnavailable
from orchestrator.together import together
from orchestrator.work import Work
from protocol.ids import PARTITIONS, LogKind, LogName

__all__ = ["Timekeeper", "owner_of", "partitions_of"]

PERIOD_S = 0.5
PERIOD_MS = 500
NOTED_MAX = 16_384
"""Timers that are kept in mind; more are done when they are found due."""
ROUNDING_MS = 1
"""The store's clock is known here in whole ms."""
BUSY_PERIOD_S = 0.02
"""While more is due than is looked at at once: of 100,000 runs that were delayed to one time, say."""
DUE_AT_ONCE_MAX = 256
"""Of the partitions that are this hub's: what another has yet to do is not in the way."""
CLOCK_STEP_MS = 1_000
STALL_MS = 3_000
"""A hub that did not get to act for this long, or half a lease, did not hear heartbeats either."""
STALL_LEAST_MS = 1_000

log_ = structlog.get_logger()


def owner_of(partition: int, hubs: frozenset[str]) -> str:
    """Return the hub that looks after a partition, the same for every hub that asks."""
    return max(hubs, key=lambda hub: blake2b(f"{partition}:{hub}".encode(), digest_size=8).digest())


@lru_cache(maxsize=16)
def partitions_of(hub: str, hubs: frozenset[str]) -> tuple[int, ...]:
    """Return the partitions that a hub looks after while these are live."""
    return tuple(partition for partition in range(PARTITIONS) if owner_of(partition, hubs) == hub)


class Timekeeper:
    """What one hub does when time passes.

    Args:
        line: for the store and its clock.
        work: does what is due about runs, and
        schedules: about schedules,
        families: about parents and children.
        registry: knows the live hubs.
        lease_ms: how long leases are left alone after an interruption.
        monotonic_ms: this machine's clock, which never steps.
        spawn: runs something beside everything else.
    """

    def __init__(
        self,
        line: Line,
        work: Work,
        schedules: Schedules,
        families: Families,
        registry: Registry,
        lease_ms: int,
        monotonic_ms: Callable[[], int],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._line = line
        self._work = work
        self._schedules = schedules
        self._families = families
        self._registry = registry
        self._lease_ms = lease_ms
        self._stall_ms = max(STALL_LEAST_MS, min(STALL_MS, lease_ms // 2))
        self._monotonic_ms = monotonic_ms
        self._judge_from_ms = monotonic_ms() + lease_ms
        self._acted_ms = monotonic_ms()
        self._clock_gap_ms: int | None = None
        self._identity = ""
        self._spawn = spawn
        self._noted: dict[str, asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Act on what is due until cancelled."""
        while True:
            more = False
            try:
                more = await self._act()
            except StoreError as fault:
                self._hold("store_unavailable", reason=str(fault))
            await asyncio.sleep(BUSY_PERIOD_S if more else PERIOD_S)

    def note(self, partition: int, member: str, in_ms: int) -> None:
        """Act on a timer of a partition at its time, where that comes before the next look."""
        if in_ms <= 0:
            self._spawn(self._hurry(member))
        elif in_ms < PERIOD_MS:
            loop = asyncio.get_running_loop()
            at_s, known = loop.time() + (in_ms + ROUNDING_MS) / 1000, self._noted.get(member)
            if known is not None and at_s < known.when():
                known.cancel()
                known = None
            if known is None and len(self._noted) < NOTED_MAX:
                self._noted[member] = loop.call_at(at_s, self._come, partition, member)

    def _come(self, partition: int, member: str) -> None:
        del self._noted[member]
        self._spawn(self._look_at(partition, member))

    async def _look_at(self, partition: int, member: str) -> None:
        """Act on a timer whose time has come, unless it was moved or taken away."""
        try:
            due_ms = await self._line.store.sorted_score(keys.timers(partition), member)
        except StoreUnavailable:
            return  # whoever looks next finds it
        if due_ms is not None:
            self.note(partition, member, due_ms - self._line.now_ms())

    async def _hurry(self, member: str) -> None:
        fault = await self._do(member, self._work.wake)
        if fault is not None:  # it is due still, and whoever looks next comes to it
            log_.warning("due_put_off", about=member, reason=str(fault))

    def _hold(self, why: str, **facts: str | int) -> None:
        """Judge no lease for a full lease time."""
        self._judge_from_ms = self._monotonic_ms() + self._lease_ms
        log_.info("leases_held", why=why, for_ms=self._lease_ms, **facts)

    async def _act(self) -> bool:
        """Do what is due, up to a bound. Returns whether there may be more."""
        store_ms = await self._line.store.now_ms()
        self._watch_clock(store_ms)
        mine = partitions_of(self._line.hub_id, self._registry.live_hubs())
        leases, timers = await self._line.store.due(store_ms, DUE_AT_ONCE_MAX, mine, PERIOD_MS)
        if self._monotonic_ms() >= self._judge_from_ms:
            await self._each(leases, self._work.expire)
        for each in timers:
            if each.at_ms > store_ms:
                self.note(each.partition, each.member, each.at_ms - store_ms)
        due = [each for each in timers if each.at_ms <= store_ms]
        await self._each(due, self._work.wake)
        return len(due) >= DUE_AT_ONCE_MAX

    def _watch_clock(self, store_ms: int) -> None:
        now_ms = self._monotonic_ms()
        if now_ms - self._acted_ms > self._stall_ms:
            self._hold("hub_stalled", stall_ms=now_ms - self._acted_ms)
        self._acted_ms = now_ms
        gap_ms = store_ms - now_ms
        before_ms, self._clock_gap_ms = self._clock_gap_ms, gap_ms
        if before_ms is not None and abs(gap_ms - before_ms) > CLOCK_STEP_MS:
            self._hold("clock_step", step_ms=gap_ms - before_ms)
        identity = self._line.store.identity()
        if self._identity and identity != self._identity:
            self._hold("store_changed", identity=identity)
        self._identity = identity

    async def _each(self, due: list[DueAt], act: Callable[[LogName], Awaitable[None]]) -> None:
        """Do all that is due at once: one after the other, many would keep the clock from being watched."""
        for fault in await together(self._do(each.member, act) for each in due):
            if fault is not None:
                raise fault

    async def _do(self, member: str, act: Callable[[LogName], Awaitable[None]]) -> StoreUnavailable | None:
        """Do what one that is due is about; `act` is for a run. Returns why the store kept it from that, if it did."""
        namespace, _, about = member.partition("/")
        schedule, run = scheduled(about), family_of(about)
        try:
            if schedule is not None:
                await self._schedules.fire(namespace, schedule)
            elif run is not None:
                await self._families.tend(LogName(namespace, LogKind.RUN, run))
            else:
                await act(LogName(namespace, LogKind.RUN, about))
        except StoreUnavailable as fault:
            return fault
        except (StoreError, ValueError, LookupError) as fault:  # this one cannot be read; the others can
            log_.error("due_unreadable", about=about, reason=repr(fault))
        return None
