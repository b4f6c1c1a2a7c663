"""A producer whose entries are sent one frame after the other, without waiting for answers.

The number of an entry is its place after the last acknowledged one, so that nothing is renumbered.

    waiting --next_frame--> flight --settle--> gone        flight --rewind--> waiting

Output that is written is joined into the last entry while that is open: nothing came after it, and it was not
sent. It has its number from the first piece on. One that is sent is closed, as is one that something follows.

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
from protocol.output import OUTPUT_ENTRY_BYTES_MAX, WRITE_OVERHEAD_BYTES, Piece, Written

if TYPE_CHECKING:
    from agent.outbox import Outbox

__all__ = ["WRITE_WAIT_MS", "Stream"]

WRITE_WAIT_MS = 5
"""How long output waits to be joined, counted from when the last of it was sent: what comes after a pause does not."""


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
        self._open: Written | None = None
        self._written_ms = 0

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
            self._check_taking()
            if box.full(size):
                return 0
            self._ended = last
            self._close()
            self._waiting.append((kind, body, index, cause))
            made, wake = self._made(size)
        if wake:
            box.wake()
        return made

    def write(self, stream: str, piece: Piece, index: int | None = None) -> int:
        """Add a piece of output, from any thread. Returns the number of its entry, or 0 where the window is full.

        Raises:
            PublishRefused: the piece is larger than the hub takes, or the stream is dead.
        """
        box, size = self.box, len(piece.data)
        most = box.body_bytes_max - WRITE_OVERHEAD_BYTES
        if size > most:
            raise too_large(self.log, size + WRITE_OVERHEAD_BYTES, box.body_bytes_max)
        with box.lock:
            self._check_taking()
            last, joined_max = self._open, min(most, OUTPUT_ENTRY_BYTES_MAX)
            if last is not None and last.takes(stream, piece, index, joined_max) and not box.full(size):
                last.add(piece, index)
                box.bytes += size
                return self.made
            size += WRITE_OVERHEAD_BYTES + ENTRY_OVERHEAD_BYTES
            if box.full(size):
                return 0
            self._close()
            self._open = Written(stream, piece, index)
            made, wake = self._made(size)
        if wake:
            box.wake()
        return made

    def close_output(self) -> None:
        """Join nothing more to what was written so far."""
        with self.box.lock:
            self._close()

    def _check_taking(self) -> None:
        if self.dead is not None:
            raise self.dead
        if self._ended:
            raise PublishRefused(self.log, ErrorCode.RUN_FINISHED, "the attempt's last entry is on its way")

    def _made(self, size: int) -> tuple[int, bool]:
        """Count an entry that was added. Returns its number, and whether the link is to be woken."""
        box = self.box
        box.entries += 1
        box.bytes += size
        self.made += 1
        if not self.queued and not self.shut:
            box.enqueue(self)
        wake, box.awake = not box.awake, True
        return self.made, wake

    def _close(self) -> None:
        """The open entry waits like any other, for what it takes."""
        if self._open is None:
            return
        last, self._open = self._open, None
        body = last.body()
        self.box.bytes += len(body) - last.size - WRITE_OVERHEAD_BYTES
        self._waiting.append((last.stream, body, last.index, None))

    def acknowledged(self, seq: int) -> Future[None]:
        """Return what is done when entry `seq` is acknowledged; it fails where the stream dies before."""
        future: Future[None] = Future()
        hurry = False
        with self.box.lock:
            if self._open is not None and seq >= self.made:
                self._close()
                self.box.enqueue(self)
                hurry, self.box.awake = not self.box.awake, True
            if seq <= self.acked:
                future.set_result(None)
            elif self.dead is not None:
                future.set_exception(self.dead)
            else:
                heappush(self._waiters, (seq, id(future), future))
        if hurry:
            self.box.wake()
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
        some = bool(self._waiting) or self._open is not None
        return some and not self.shut and self.dead is None and not (self._probing and self._flight)

    def not_before_ms(self) -> int:
        """See `Feed`. Output that nothing follows waits to be joined, if there was some just before."""
        if self._open is None or self._waiting:
            return self.hold_until_ms
        return max(self.hold_until_ms, self._written_ms + WRITE_WAIT_MS)

    def next_frame(self, entries_max: int, now_ms: int) -> Publish | None:
        """See `Feed`."""
        if self._open is not None and now_ms >= self._written_ms + WRITE_WAIT_MS:
            self._close()
            self._written_ms = now_ms
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
        self._close()
        for entry in self._waiting:
            self.box.forget(entry)
        self._waiting.clear()
        while self._waiters:
            reject(heappop(self._waiters)[2], error)
