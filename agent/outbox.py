"""What was published and is not acknowledged yet.

Theory of operation
-------------------
A `Stream` is one producer of one log. Its entries are numbered densely; the number of an entry is its place
after the last acknowledged one, so that an entry which is refused on its own does not use a number up.

    waiting --take--> flight --puback--> gone        flight --rewind--> waiting

Streams are filled by any thread and emptied by the link's, so everything here happens under the outbox's one
lock, for microseconds. All streams share the publish window that the hub announces: what does not fit makes
the publisher wait. Nothing is delayed to make frames fuller; what waits when the link looks goes out
together, in as few frames as the limits allow.

A frame is refused whole, and with it everything that was sent after it. So a stream that was refused goes
back to the refused number and sends one frame alone (`probing`) until it is answered; refusals of anything
else are echoes of the past. A new connection rewinds every stream as well: what the hub already has is
recognised by its number.

A stream is `shut` until its producer is open (its owner fence known), and while its fate on a new connection
is not known. A stream that the hub will never take again is `dead`, with the reason.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from heapq import heappop, heappush

from agent.errors import FleetlineError, ProducerFenced, PublisherLost, PublishRefused
from agent.threads import reject, resolve
from protocol.codes import ErrorCode
from protocol.frames import Nack, Puback, Publish
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import ProducerOpened

__all__ = ["ENTRY_OVERHEAD_BYTES", "FRAME_BYTES_MAX", "PASSING", "RETRY_MS", "Feed", "Outbox", "Stream", "refusal"]

WireEntry = tuple[str, bytes, int | None, int | None]
"""kind, body, journal index, cause."""

ENTRY_OVERHEAD_BYTES = 48
"""What an entry counts for in the publish window besides its body."""

FRAME_BYTES_MAX = 256 * 1024
"""Frames are closed when they reach this; an entry may exceed it by itself."""

RETRY_MS = 1000
"""How long to wait where the hub says that it cannot take an entry now, but not how long."""

ROOM_PARTS = 4
"""Waiting publishers are let go on when one part in this many of the window is free again."""

_FENCED = frozenset({ErrorCode.FENCED, ErrorCode.SUPERSEDED, ErrorCode.RUN_FINISHED, ErrorCode.PRODUCER_CONFLICT})
PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.STORE_FULL, ErrorCode.TOO_MANY, ErrorCode.INTERNAL})
"""Codes after which the same publish can succeed later."""


def refusal(log: str, frame: Nack, acked: int) -> PublishRefused:
    """Return the error for a refusal that will not pass, of a producer whose entries up to `acked` were taken."""
    if frame.code == ErrorCode.PUBLISHER_LOST and frame.last is not None and frame.last < acked:
        return PublisherLost(log, frame.last + 1, acked)
    if frame.code in _FENCED:
        return ProducerFenced(log, frame.code, f"{frame.message}; nothing more of this producer will be taken")
    return PublishRefused(log, frame.code, frame.message)


class Feed(ABC):
    """What one producer of one log has to say: `Stream` here, and `Offers` in `agent.offers`.

    Attributes:
        log: on the wire `kind/name`.
        producer: its name.
        fence: the owner fence, None until the producer is open.
        acked: the last acknowledged number.
        dead: why the hub will never take another entry; None while it may.
        shut: nothing is sent for now.
        queued: it stands in the outbox's queue of those with something to say.
    """

    def __init__(self, box: Outbox, log: str, producer: str, fence: int | None = None, acked: int = 0) -> None:
        self.box = box
        self.log = log
        self.producer = producer
        self.fence = fence
        self.acked = acked
        self.dead: FleetlineError | None = None
        self.shut = fence is None
        self.queued = False
        self.hold_until_ms = 0

    @abstractmethod
    def has_waiting(self) -> bool:
        """Whether something could be sent now, but for the window."""

    @abstractmethod
    def next_frame(self, entries_max: int) -> Publish | None:
        """Take entries, at most so many, and return their frame."""

    @abstractmethod
    def settle(self, seq: int, offset: int | None) -> None:
        """Everything up to `seq` is in the log."""

    @abstractmethod
    def refused(self, frame: Nack, now_ms: int) -> None:
        """The frame that began at `frame.seq` was refused."""

    @abstractmethod
    def rewind(self) -> None:
        """Nothing that was sent counts any more: all of it waits again."""

    @abstractmethod
    def kill(self, error: FleetlineError) -> None:
        """The hub will never take another entry: give up what is there."""

    def resume(self, last: int, fence: int | None = None) -> None:
        """Go on after `last`, the number that the log has. Call with the lock held.

        A log that has less than it acknowledged has lost entries, and the feed is dead.
        """
        if self.dead is not None:
            return
        self.fence = fence if fence is not None else self.fence
        self.rewind()
        if last < self.acked:
            self.kill(PublisherLost(self.log, last + 1, self.acked))
            return
        self.settle(last, None)
        self.shut = False
        self.hold_until_ms = 0
        self.box.enqueue(self)


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

    def offer(self, kind: str, body: bytes, index: int | None = None, cause: int | None = None) -> int:
        """Add an entry, from any thread. Returns its number, or 0 where the window is full.

        Raises:
            PublishRefused: the stream is dead.
        """
        box = self.box
        size = len(body) + ENTRY_OVERHEAD_BYTES
        with box.lock:
            if self.dead is not None:
                raise self.dead
            if box.entries and (box.entries >= box.entries_max or box.bytes + size > box.bytes_max):
                return 0
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


class Outbox:
    """All that one link has to publish.

    Attributes:
        lock: held around every use of a stream.
        entries: unacknowledged entries of all streams.
        bytes: what they count for.
        flying: how many of them were sent on this connection.
        awake: the link was told that something waits, and has not looked yet.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.lock = threading.RLock()
        self.entries = 0
        self.bytes = 0
        self.flying = 0
        self.awake = False
        self.frame_entries_max = self.entries_max = self.bytes_max = 0
        self.announce(limits)
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._queue: deque[Feed] = deque()
        self._held: list[Feed] = []
        self._room: list[tuple[int, Future[None]]] = []
        self._closed: FleetlineError | None = None
        self._wake_link: Callable[[], object] | None = None

    def announce(self, limits: Limits) -> None:
        """Take over what the hub allows."""
        with self.lock:
            self.entries_max = limits.publish_entries_max
            self.bytes_max = limits.publish_bytes_max
            self.frame_entries_max = min(limits.frame_entries_max, limits.publish_entries_max)

    def on_wake(self, wake_link: Callable[[], object]) -> None:
        """Have `wake_link` called when something is to be sent and the link does not know it yet."""
        self._wake_link = wake_link

    def wake(self) -> None:
        """Tell the link to look."""
        if self._wake_link is not None:
            self._wake_link()

    def room(self, body_bytes: int) -> Future[None]:
        """Return what is done when there is room for an entry of that size; then offer it again."""
        future: Future[None] = Future()
        size = body_bytes + ENTRY_OVERHEAD_BYTES
        with self.lock:
            if self._closed is not None or self._has_room(size):
                future.set_result(None)
            else:
                self._room.append((size, future))
        return future

    def add(self, feed: Feed) -> None:
        """Add a producer."""
        with self.lock:
            if self._closed is not None:
                feed.kill(self._closed)
            self._feeds[feed.log, feed.producer] = feed
            self.enqueue(feed)

    def opens(self, feed: Feed, asked: Future[ProducerOpened]) -> None:
        """Let a feed go when its producer is open; where that is refused, it is dead."""

        def answered(future: Future[ProducerOpened]) -> None:
            error = future.exception()
            with self.lock:
                if error is None:
                    feed.resume(future.result().last, future.result().fence)
                else:
                    feed.kill(error if isinstance(error, FleetlineError) else FleetlineError(str(error)))
            self.wake()

        asked.add_done_callback(answered)

    def remove(self, feed: Feed) -> None:
        """Forget a producer, and what it still had."""
        with self.lock:
            if self._feeds.get((feed.log, feed.producer)) is feed:
                del self._feeds[feed.log, feed.producer]
            feed.kill(ProducerFenced(feed.log, ErrorCode.FENCED, "this producer was given up by its own program"))
            self._let_in()

    def enqueue(self, feed: Feed) -> None:
        """Put a feed in the queue of those with something to send. Call with the lock held."""
        if not feed.queued and feed.has_waiting():
            feed.queued = True
            self._queue.append(feed)

    def forget(self, entry: WireEntry) -> None:
        """Give an entry's part of the window back. Call with the lock held."""
        self.entries -= 1
        self.bytes -= len(entry[1]) + ENTRY_OVERHEAD_BYTES

    def disconnected(self, keep_shut: frozenset[tuple[str, str]] = frozenset()) -> None:
        """Begin a new connection: all that is not acknowledged waits again.

        Args:
            keep_shut: the producers whose fate the hub has yet to tell, by (log, producer).
        """
        with self.lock:
            for key, feed in self._feeds.items():
                feed.rewind()
                feed.shut = feed.fence is None or key in keep_shut
                self.enqueue(feed)

    def take(self, now_ms: int, bytes_max: int) -> list[Publish]:
        """Return the frames to send now, round robin over the producers, until they reach `bytes_max`."""
        frames: list[Publish] = []
        with self.lock:
            self.awake = False
            self._queue.extend(self._held)
            self._held.clear()
            while self._queue and bytes_max > 0 and self.flying < self.entries_max:
                feed = self._queue.popleft()
                if feed.hold_until_ms > now_ms:
                    self._held.append(feed)
                    continue
                feed.queued = False
                entries_max = min(self.frame_entries_max, self.entries_max - self.flying)
                frame = feed.next_frame(entries_max) if feed.has_waiting() else None
                if frame is not None:
                    frames.append(frame)
                    bytes_max -= sum(len(entry[1]) + ENTRY_OVERHEAD_BYTES for entry in frame.entries)
                self.enqueue(feed)
        return frames

    def due_ms(self) -> int | None:
        """Return when `take` next has something that it held back."""
        with self.lock:
            return min((feed.hold_until_ms for feed in self._held), default=None)

    def on_puback(self, frame: Puback) -> None:
        """Take an acknowledgement."""
        with self.lock:
            feed = self._feeds.get((frame.log, frame.producer))
            if feed is not None and frame.seq > feed.acked:
                feed.settle(frame.seq, frame.offset)
                self.enqueue(feed)
                self._let_in()

    def on_nack(self, frame: Nack, now_ms: int) -> FleetlineError | None:
        """Take a refusal. Returns why the producer is dead, where it now is."""
        with self.lock:
            feed = self._feeds.get((frame.log, frame.producer))
            if feed is None or feed.dead is not None:
                return None
            feed.refused(frame, now_ms)
            self._let_in()
            return feed.dead

    def close(self, error: FleetlineError) -> None:
        """Give everything up: the link has ended."""
        with self.lock:
            self._closed = error
            for feed in self._feeds.values():
                feed.kill(error)
            self._feeds.clear()
            self._queue.clear()
            self._let_in()

    def validate(self) -> None:
        """Check what must hold at any time. A failure is a bug of ours."""
        with self.lock:
            streams = [feed for feed in self._feeds.values() if isinstance(feed, Stream)]
            assert self.entries >= sum(stream.unacknowledged for stream in streams if stream.dead is None)
            assert (self.entries == 0) <= (self.bytes == 0), (self.entries, self.bytes)

    def _has_room(self, size: int) -> bool:
        if not self.entries:
            return True
        entries_free = self.entries_max - self.entries
        bytes_free = self.bytes_max - self.bytes
        wanted = max(size, self.bytes_max // ROOM_PARTS)
        return entries_free * ROOM_PARTS >= self.entries_max and bytes_free >= wanted

    def _let_in(self) -> None:
        if not self._room:
            return
        waiting, self._room = self._room, []
        for size, future in waiting:
            if self._closed is not None or self._has_room(size):
                resolve(future, None)
            else:
                self._room.append((size, future))
