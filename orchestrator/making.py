"""Sees to it that no principal makes logs, or runs, without bound.

What may be made is counted in the store, over all hubs (`orchestrator.core.allowances`); here is what this hub has
taken of it and not given out yet. A log that is there is not asked about: only who looked and found none asks.

Specification: docs/protocol.md, section "Limits".
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from orchestrator.audit import Audit
from orchestrator.core.allowances import FIELD, Allowance
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome
from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.limits import Limits
from protocol.refusals import What

__all__ = ["Making"]

PURSES_MAX = 4_096
"""Principals of whom it is known what was taken for them; of others, it is lost."""
RETRY_MS_MAX = 60_000
"""Nobody is told to wait for longer: the limit may have been raised meanwhile."""


@dataclass(slots=True)
class _Purse:
    """What this hub has taken for one principal. Only one asks the store for more at a time."""

    left: int = 0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class Making:
    """What the principals of this hub's sessions may make.

    Args:
        line: where commits go.
        limits: how many of each thing in a day.
        audit: told of whoever asks for more.
    """

    def __init__(self, line: Line, limits: Limits, audit: Audit) -> None:
        self._audit = audit
        self._logs = _Allowed(line, "logs", limits.logs_per_day_max)
        self._runs = _Allowed(line, "runs", limits.runs_per_day_max)

    async def log(self, peer: Peer) -> None:
        """Let a session make the log of a topic or an agent, which is not there.

        Raises:
            RequestError: `too_many`, its principal has made as many as may be.
            StoreUnavailable: the store does not answer.
        """
        await self._spend(peer, self._logs, 1, What.LOG)

    async def runs(self, peer: Peer, count: int = 1) -> None:
        """Let a session make runs.

        Raises:
            RequestError: `too_many`, its principal has made as many as may be.
            StoreUnavailable: the store does not answer.
        """
        await self._spend(peer, self._runs, count, What.RUN)

    async def _spend(self, peer: Peer, allowed: _Allowed, count: int, what: What) -> None:
        try:
            await allowed.spend(peer.account, count)
        except RequestError:
            self._audit.limited(peer, what, f"{allowed.thing}_per_day_max")
            raise


class _Allowed:
    """What may be made of one thing."""

    def __init__(self, line: Line, thing: str, day_max: int) -> None:
        self.thing = thing
        self._line = line
        self._allowance = Allowance(thing, day_max) if day_max else None
        self._purses: OrderedDict[str, _Purse] = OrderedDict()

    async def spend(self, account: str, count: int) -> None:
        allowance = self._allowance
        if allowance is None:
            return
        count = min(count, allowance.day_max)
        purse = self._purse(account)
        while purse.left < count:
            async with purse.asking:
                if purse.left < count:
                    purse.left += await self._take(allowance, account, count - purse.left)
        purse.left -= count

    def _purse(self, account: str) -> _Purse:
        purse = self._purses.pop(account, None) or _Purse()
        self._purses[account] = purse
        if len(self._purses) > PURSES_MAX:
            self._purses.popitem(last=False)
        return purse

    async def _take(self, allowance: Allowance, account: str, wanted: int) -> int:
        while True:
            (value,) = await self._line.store.hash_get(allowance.key(account), FIELD)
            taken = allowance.take(self._line.new_commit_id(), account, value, wanted, self._line.now_ms())
            if taken.commit is None:
                name = account.partition("/")[2]
                message = f"{name} has made as many {allowance.thing} as may be made in a day: {allowance.day_max}"
                retry_ms = min(taken.retry_ms, RETRY_MS_MAX)
                raise RequestError(ErrorCode.TOO_MANY, message, retry_ms=retry_ms)
            if isinstance(await settle(self._line, taken.commit), Outcome):
                return taken.count
