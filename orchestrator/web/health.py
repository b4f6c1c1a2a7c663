"""Whether the hub does its work: a real entry goes through the store and comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from orchestrator.line import Line, monotonic_ms
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Append, Commit, Outcome
from protocol.codec import pack_record
from protocol.ids import LogKind, LogName, partition_of

__all__ = ["HEALTH_LOG", "Health", "Report"]

HEALTH_LOG = LogName("fleetline", LogKind.TOPIC, "health")
"""In a namespace of its own, so that nobody's token reaches it."""
KEEP_ENTRIES = 64
TRIM_EVERY = 64
FRESH_MS = 1_000
ANSWER_S = 5.0


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found."""

    healthy: bool
    message: str
    at_ms: int


class Health:
    """Checks that an entry can be committed; what was found counts for a second."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._last: Report | None = None
        self._asking = asyncio.Lock()

    async def report(self) -> Report:
        """Return the state of things, at most a second old."""
        async with self._asking:
            now_ms = monotonic_ms()
            if self._last is None or now_ms - self._last.at_ms >= FRESH_MS:
                self._last = await self._check(now_ms)
            return self._last

    async def _check(self, now_ms: int) -> Report:
        line = self._line
        append = Append(HEALTH_LOG, (pack_record("check", line.src, b""),), line.new_epoch())
        commit = Commit(line.new_commit_id(), partition_of(HEALTH_LOG), appends=(append,))
        try:
            async with asyncio.timeout(ANSWER_S):
                outcome = await line.commit(commit)
                assert isinstance(outcome, Outcome)
                offset = outcome.appended[0].after.offset
                if offset % TRIM_EVERY == 0:
                    await line.store.trim(HEALTH_LOG, offset - KEEP_ENTRIES + 1)
        except TimeoutError:
            return Report(False, f"the store did not answer in {ANSWER_S:g} s", now_ms)
        except StoreError as fault:
            return Report(False, str(fault), now_ms)
        return Report(True, f"ok, entry {offset} in {monotonic_ms() - now_ms} ms", now_ms)
