"""Group commit: one lane for each partition, one call of the script at a time in each.

What arrives while a lane's call is under way goes out together as the next one, within the bounds of a call.
That is where the speed comes from: the longer a call takes, the more the next one carries.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import COMMIT_BYTES_MAX, COMMIT_ENTRIES_MAX, Commit, Outcome, Refused
from orchestrator.store.redis_encoding import decode_outcomes, encode_batch
from orchestrator.store.redis_line import ServerRefused, to_store_error
from orchestrator.store.redis_scripts import COMMIT
from orchestrator.store.shape import check_commit

__all__ = ["CALL_COMMITS_MAX", "CALL_ENTRIES_MAX", "WAITING_COMMITS_MAX", "Lane"]

CALL_ENTRIES_MAX = 4 * COMMIT_ENTRIES_MAX
"""Entries of one call. Each call costs a sync to disk, and keeps the server to itself for some 5 µs an entry."""

CALL_COMMITS_MAX = 256
"""Commits of one call. Their checks cost as much as a few entries each."""

WAITING_COMMITS_MAX = 16_384
"""Commits of one partition that wait for their call; more are refused as unavailable."""


class _Waiting:
    __slots__ = ("commit", "entries", "future", "size")

    def __init__(self, commit: Commit, future: asyncio.Future[Outcome | Refused]) -> None:
        self.entries, self.size = check_commit(commit)
        self.commit = commit
        self.future = future


class Lane:
    """The commits of one partition, in order. Not for use from more than one event loop."""

    def __init__(
        self,
        partition: int,
        hub: str,
        send: Callable[[bytes], asyncio.Future[list[Any]]],
        listens: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make a lane.

        Args:
            partition: whose commits it takes.
            hub: named in the wake hints.
            send: sends a packed call; `Line.send`.
            listens: tells whether this hub hears the wake hints, its own among them.
        """
        self._partition = partition
        self._hub = hub
        self._send = send
        self._listens = listens
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._batch: list[_Waiting] = []
        self._keys: list[bytes] = []
        self._payload = b""
        self.calls = 0
        """Calls made so far."""

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, with whatever others wait.

        Raises:
            StoreError: as `Store.commit` has it.
            ValueError: the commit is not one (see `shape.check_commit`).
        """
        loop = asyncio.get_running_loop()
        if len(self._waiting) >= WAITING_COMMITS_MAX:
            raise StoreUnavailable(f"{WAITING_COMMITS_MAX} commits of partition {self._partition} wait already")
        waiting = _Waiting(commit, loop.create_future())
        self._waiting.append(waiting)
        if not self._busy:
            self._busy = True
            loop.call_soon(self._start)  # not at once: what else is asked for in this tick goes along
        return await waiting.future

    def _start(self) -> None:
        """Begin a call with what waits, or rest."""
        self._batch = self._take()
        if not self._batch:
            self._busy = False
            return
        commits = [waiting.commit for waiting in self._batch]
        try:
            self._keys, self._payload = encode_batch(commits, self._hub, self._listens(), self._partition)
        except (TypeError, ValueError, OverflowError) as fault:  # a bug of a caller's; the lane must go on
            self._fail(fault)
            self._start()
            return
        self._call(whole=False)

    def _call(self, *, whole: bool) -> None:
        self.calls += 1
        self._send(COMMIT.pack(self._keys, (self._payload,), whole=whole)).add_done_callback(self._answered)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        entries = size = 0
        while self._waiting:
            waiting = self._waiting[0]
            entries += waiting.entries
            size += waiting.size
            if batch and (entries > CALL_ENTRIES_MAX or size > COMMIT_BYTES_MAX or len(batch) == CALL_COMMITS_MAX):
                break
            self._waiting.popleft()
            if not waiting.future.done():  # a caller that was cancelled asks for nothing
                batch.append(waiting)
        return batch

    def _answered(self, future: asyncio.Future[list[Any]]) -> None:
        fault = future.exception()
        if fault is not None:
            self._fail(fault)
        else:
            [reply] = future.result()
            if isinstance(reply, ServerRefused):
                if reply.code == "NOSCRIPT":
                    self._call(whole=True)
                    return
                self._fail(to_store_error(reply))
            else:
                self._succeed(reply)
        self._start()

    def _succeed(self, reply: bytes) -> None:
        for waiting, outcome in zip(self._batch, decode_outcomes(reply), strict=True):
            if not waiting.future.done():
                waiting.future.set_result(outcome)

    def _fail(self, fault: BaseException) -> None:
        for waiting in self._batch:
            if waiting.future.done():
                continue
            if isinstance(fault, StoreUnavailable):  # one each: an exception that is raised collects its traceback
                waiting.future.set_exception(StoreUnavailable(str(fault), unknown=fault.unknown, full=fault.full))
            else:
                waiting.future.set_exception(fault)
