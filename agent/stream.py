"""A producer whose entries are sent one frame after the other, without waiting for answers.

The number of an entry is its place after the last acknowledged one, so that nothing is renumbered.

    waiting --next_frame--> flight --settle--> gone        flight --rewind--> waiting

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from agent.errors import FleetlineError, PublishRefused
from agent.feed import ENTRY_OVERHEAD_BYTES, FRAME_BYTES_MAX, PASSING, RETRY_MS, Feed, WireEntry, refusal, too_large
from agent.threads import reject, resolve
from protocol.codes import ErrorCode
from protocol.frames import Nack, Publish

if TYPE_CHECKING:
    from agent.outbox import Outbox

__all__ = ["Stream"]


class Stream(Feed):
    """A producer whose entries are sent one frame after the other without waiting for answers.

    Attributes:
        made: number of the last entry that was added.
        on_acked: told the last acknowledged number, with the lock held; must not block.
    """

    def __init__(self, box: Outbox, log: str, producer: str, fence: int | None = None, acked: int = 0) -> None:
        super().__init__(box, log, producer, fence, acked)
        self.made = acked
        self.on_acked: Callable[[int], object] | None = None
        self._waiting: deque[WireEntry] = deque()
        self._flight: deque[WireEntry] = deque()
        self._waiters: list[tuple[int, int, Future[None]]] = []
        self._probing: int | None = None
        self._ended = False

    def offer(
        self, kind: str, body: bytes, index: int | None = None, cause: int | None = None, *, last: bool = False
    ) -> int:
        """Add an entry, from any thread. Returns its number, or 0 where the window is full.

        The hub takes nothing behind the `last` entry of an attempt, and refuses what it comes with.

        Raises:
            PublishRefused: the entry is larger than the hub takes, the stream is dead, or had its last entry.
        """
        box = self.box
        size = len(body) + ENTRY_OVERHEAD_BYTES
        if len(body) > box.body_bytes_max:
            raise too_large(self.log, len(body), box.body_bytes_max)
        with box.lock:
            if self.dead is not None:
                raise self.dead
            if self._ended:
                raise PublishRefused(self.log, ErrorCode.RUN_FINISHED, "the attempt's last entry is on its way")
            if box.entries and (box.entries >= box.entries_max or box.bytes + size > box.bytes_max):
                return 0
            self._ended = last
            box.entries += 1
            box.bytes += size
            self._waiting.append((kind, body, index, cause))
            self.made = made = self.made + 1
            if not self.queued and not self.shut:
                box.enqueue(self)
            wake, box.awake = not box.awake, True
        if wake:
            box.wake()
        return made

    def acknowledged(self, seq: int) -> Future[None]:
        """Return what is done when entry `seq` is acknowledged; it fails where the stream dies before."""
        future: Future[None] = Future()
        with self.box.lock:
            if seq <= self.acked:
                future.set_result(None)
            elif self.dead is not None:
                future.set_exception(self.dead)
            else:
                heappush(self._waiters, (seq, id(future), future))
        return future

    def room(self, body_bytes: int) -> Future[None]:
        """Return what is done when there is room for an entry of that size; then offer it again."""
        return self.box.room(body_bytes)

    @property
    def body_bytes_max(self) -> int:
        """The largest body that the hub takes."""
        return self.box.body_bytes_max

    @property
    def unacknowledged(self) -> int:
        """How many entries are not acknowledged."""
        return self.made - self.acked

    def has_waiting(self) -> bool:
        """See `Feed`."""
        return bool(self._waiting) and not self.shut and self.dead is None and not (self._probing and self._flight)

    def next_frame(self, entries_max: int) -> Publish | None:
        """See `Feed`."""
        waiting, flight = self._waiting, self._flight
        taken: list[WireEntry] = []
        size = 0
        while waiting and len(taken) < entries_max and (not taken or size + len(waiting[0][1]) <= FRAME_BYTES_MAX):
            entry = waiting.popleft()
            size += len(entry[1])
            taken.append(entry)
        if not taken:
            return None
        seq = self.acked + len(flight) + 1
        flight.extend(taken)
        self.box.flying += len(taken)
        if self._probing is not None:
            self._probing = seq
        return Publish.model_construct(
            log=self.log, producer=self.producer, seq=seq, fence=self.fence or 0, entries=tuple(taken)
        )

    def settle(self, seq: int, offset: int | None) -> None:
        """See `Feed`. The offset names the last entry's place only; nobody here asks for one."""
        del offset
        for _ in range(min(seq, self.made) - self.acked):
            if self._flight:
                self.box.flying -= 1
                self.box.forget(self._flight.popleft())
            else:  # sent before a rewind, and taken by the hub after all
                self.box.forget(self._waiting.popleft())
            self.acked += 1
        self._probing = None
        while self._waiters and self._waiters[0][0] <= self.acked:
            resolve(heappop(self._waiters)[2], None)
        if self.on_acked is not None:
            self.on_acked(self.acked)

    def refused(self, frame: Nack, now_ms: int) -> None:
        """See `Feed`."""
        if not self.acked < frame.seq <= self.acked + len(self._flight):
            return
        if self._probing not in (None, frame.seq):
            return
        if frame.code == ErrorCode.OUT_OF_ORDER and frame.last is not None:
            self.resume(frame.last)
            self._probing = self.acked + 1
        elif frame.retry_ms is not None or frame.code in PASSING:
            self.rewind()
            self._probing = self.acked + 1
            self.hold_until_ms = now_ms + (RETRY_MS if frame.retry_ms is None else frame.retry_ms)
            self.box.enqueue(self)
        else:
            self.kill(refusal(self.log, frame, self.acked))

    def rewind(self) -> None:
        """See `Feed`."""
        self.box.flying -= len(self._flight)
        self._waiting.extendleft(reversed(self._flight))
        self._flight.clear()
        self._probing = None

    def kill(self, error: FleetlineError) -> None:
        """See `Feed`."""
        if self.dead is None:
            self.dead = error
        self.rewind()
        for entry in self._waiting:
            self.box.forget(entry)
        self._waiting.clear()
        while self._waiters:
            reject(heappop(self._waiters)[2], error)
