"""Publishes of which each learns its own offset.

An acknowledgement is cumulative and names one offset. To know the offset of every entry, `Offers` sends one
frame and waits for its answer before it sends the next, with everything that came up meanwhile: a frame is
in the log as a whole and without a gap, so its offsets follow from the last one. A frame that is sent again
on a new connection is the very same, for the same reason. A conditional entry travels alone.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

from agent.errors import ExpectFailed, FleetlineError, PublishRefused
from agent.feed import ENTRY_OVERHEAD_BYTES, FRAME_BYTES_MAX, PASSING, RETRY_MS, Feed, refusal
from agent.outbox import Outbox
from agent.threads import reject, resolve
from protocol.codes import ErrorCode
from protocol.frames import Nack, Publish

__all__ = ["Offers"]

_ITS_OWN_FAULT = frozenset(
    {ErrorCode.EXPECT_FAILED, ErrorCode.ENTRY_TOO_LARGE, ErrorCode.INVALID_ENTRY, ErrorCode.FORBIDDEN}
)
"""Codes that concern the entries of the frame and not their producer."""


@dataclass(slots=True, eq=False)
class _Offer:
    entry: tuple[str, bytes, int | None, int | None]
    expect: int | None
    offset: Future[int]


class Offers(Feed):
    """A producer whose publishes each learn their offset."""

    def __init__(self, box: Outbox, log: str, producer: str) -> None:
        super().__init__(box, log, producer)
        self._waiting: deque[_Offer] = deque()
        self._flight: list[_Offer] = []
        self._sent: Publish | None = None
        self._again = False
        self._alone = 0

    def offer(self, kind: str, body: bytes, cause: int | None, expect: int | None) -> Future[int] | None:
        """Add an entry, from any thread. Returns its offset to come, or None where the window is full.

        Raises:
            FleetlineError: the producer is dead.
        """
        box = self.box
        size = len(body) + ENTRY_OVERHEAD_BYTES
        with box.lock:
            if self.dead is not None:
                raise self.dead
            if box.full(size):
                return None
            box.entries += 1
            box.bytes += size
            offer = _Offer((kind, body, None, cause), expect, Future())
            self._waiting.append(offer)
            box.enqueue(self)
            wake, box.awake = not box.awake, True
        if wake:
            box.wake()
        return offer.offset

    def has_waiting(self) -> bool:
        """See `Feed`."""
        if self.shut or self.dead is not None:
            return False
        return self._again or (bool(self._waiting) and not self._flight)

    def next_frame(self, entries_max: int, now_ms: int) -> Publish | None:
        """See `Feed`."""
        del now_ms
        if self._again and self._sent is not None:
            self._again = False
            self.box.flying += len(self._flight)
            return self._sent.model_copy(update={"fence": self.fence})
        taken = self._take(1 if self._alone else entries_max)
        self._alone = max(0, self._alone - len(taken))
        self._flight = taken
        self.box.flying += len(taken)
        self._sent = Publish.model_construct(
            log=self.log,
            producer=self.producer,
            seq=self.acked + 1,
            fence=self.fence or 0,
            entries=tuple(offer.entry for offer in taken),
            expect=taken[0].expect,
        )
        return self._sent

    def settle(self, seq: int, offset: int | None) -> None:
        """See `Feed`."""
        flight = self._flight
        if offset is None or seq != self.acked + len(flight):
            return
        if not self._again:
            self.box.flying -= len(flight)
        self._flight = []
        self._sent = None
        self._again = False
        self.acked = seq
        first = offset - len(flight) + 1
        for place, offer in enumerate(flight):
            self.box.forget(offer.entry)
            resolve(offer.offset, first + place)

    def refused(self, frame: Nack, now_ms: int) -> None:
        """See `Feed`."""
        if not self._flight or self._again or frame.seq != self.acked + 1:
            return
        if frame.code in _ITS_OWN_FAULT and len(self._flight) > 1:
            self._split()
        elif frame.code in _ITS_OWN_FAULT:
            self._give_up_one(frame)
        elif frame.code == ErrorCode.OUT_OF_ORDER and frame.last is not None:
            self.resume(frame.last)
        elif frame.retry_ms is not None or frame.code in PASSING:
            self.rewind()
            self.hold_until_ms = now_ms + (RETRY_MS if frame.retry_ms is None else frame.retry_ms)
        else:
            self.kill(refusal(self.log, frame, self.acked))
        self.box.enqueue(self)

    def rewind(self) -> None:
        """See `Feed`."""
        if self._flight and not self._again:
            self._again = True
            self.box.flying -= len(self._flight)

    def kill(self, error: FleetlineError) -> None:
        """See `Feed`."""
        if self.dead is None:
            self.dead = error
        self.rewind()
        for offer in (*self._flight, *self._waiting):
            self.box.forget(offer.entry)
            reject(offer.offset, error)
        self._flight = []
        self._waiting.clear()
        self._sent = None
        self._again = False

    def _take(self, entries_max: int) -> list[_Offer]:
        waiting = self._waiting
        taken = [waiting.popleft()]
        size = len(taken[0].entry[1])
        while (
            taken[0].expect is None
            and waiting
            and waiting[0].expect is None
            and len(taken) < entries_max
            and size + len(waiting[0].entry[1]) <= FRAME_BYTES_MAX
        ):
            size += len(waiting[0].entry[1])
            taken.append(waiting.popleft())
        return taken

    def _split(self) -> None:
        """One entry of several is at fault: send each alone, so that the others are not refused with it."""
        self.box.flying -= len(self._flight)
        self._alone = len(self._flight)
        self._waiting.extendleft(reversed(self._flight))
        self._flight = []
        self._sent = None

    def _give_up_one(self, frame: Nack) -> None:
        self.box.flying -= 1
        (offer,) = self._flight
        self._flight = []
        self._sent = None
        self.box.forget(offer.entry)
        if frame.code == ErrorCode.EXPECT_FAILED and offer.expect is not None:
            reject(offer.offset, ExpectFailed(self.log, offer.expect, frame.head))
        else:
            reject(offer.offset, PublishRefused(self.log, frame.code, frame.message))
