"""What was published and is not acknowledged yet.

Theory of operation
-------------------
A `Feed` is one producer of one log. Feeds are filled by any thread and emptied by the link's, so everything
here happens under the outbox's one lock, for microseconds. All feeds share the publish window that the hub
announces: what does not fit makes the publisher wait. Nothing is delayed to make frames fuller; what waits
when the link looks goes out together, in as few frames as the limits allow. Output alone waits for a few
milliseconds when there was some just before, so that what is written in small pieces makes few entries.

A frame is refused whole, and with it everything that was sent after it. So a feed that was refused goes
back to the refused number and sends one frame alone (`probing`) until it is answered; refusals of anything
else are echoes of the past. A new connection rewinds every feed as well: what the hub already has is
recognised by its number.

A feed is `shut` until its producer is open (its owner fence known), and while its fate on a new connection
is not known. A feed that the hub will never take again is `dead`, with the reason.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from agent.errors import FleetlineError, ProducerFenced
from agent.feed import ENTRY_OVERHEAD_BYTES, FENCED, Feed, WireEntry, refusal
from agent.stream import Stream
from agent.threads import resolve
from protocol.codes import ErrorCode
from protocol.frames import Nack, Puback, Publish
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import ProducerOpened

__all__ = ["FLIGHT_CHUNKS", "Outbox"]

FLIGHT_CHUNKS = 4
"""Chunks of files, of 256 KiB, that are read and not acknowledged: most of the window is left to everything else,
and heartbeats do not stand behind much."""

ROOM_PARTS = 4
"""Waiting publishers are let go on when one part in this many of the window is free again."""


class Outbox:
    """All that one link has to publish.

    Attributes:
        lock: held around every use of a stream.
        entries: unacknowledged entries of all streams.
        bytes: what they count for.
        flying: how many of them were sent on this connection.
        chunks: permits for chunks of files to be in flight, all files together.
        awake: the link was told that something waits, and has not looked yet.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self.lock = threading.RLock()
        self.entries = 0
        self.bytes = 0
        self.flying = 0
        self.chunks = threading.BoundedSemaphore(FLIGHT_CHUNKS)
        self.awake = False
        self.frame_entries_max = self.entries_max = self.bytes_max = self.body_bytes_max = 0
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
            self.body_bytes_max = limits.body_bytes_max
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
                return
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
                self._forget_dead(feed)
                self.let_in()
            self.wake()

        asked.add_done_callback(answered)

    def remove(self, feed: Feed, why: FleetlineError | None = None) -> None:
        """Forget a producer, and what it still had. Who waits for it, or comes later, is told `why`."""
        given_up = ProducerFenced(feed.log, ErrorCode.FENCED, "this producer was given up by its own program")
        with self.lock:
            feed.kill(why or given_up)
            self._forget_dead(feed)
            self.let_in()

    def enqueue(self, feed: Feed) -> None:
        """Put a feed in the queue of those with something to send. Call with the lock held."""
        if not feed.queued and feed.has_waiting():
            feed.queued = True
            self._queue.append(feed)

    def full(self, size: int) -> bool:
        """Whether an entry of that size has to wait. Call with the lock held."""
        return bool(self.entries) and (self.entries >= self.entries_max or self.bytes + size > self.bytes_max)

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
                if feed.not_before_ms() > now_ms:
                    self._held.append(feed)
                    continue
                feed.queued = False
                entries_max = min(self.frame_entries_max, self.entries_max - self.flying)
                frame = feed.next_frame(entries_max, now_ms) if feed.has_waiting() else None
                if frame is not None:
                    frames.append(frame)
                    bytes_max -= sum(len(entry[1]) + ENTRY_OVERHEAD_BYTES for entry in frame.entries)
                self.enqueue(feed)
        return frames

    def due_ms(self) -> int | None:
        """Return when `take` next has something that it held back."""
        with self.lock:
            return min((feed.not_before_ms() for feed in self._held), default=None)

    def on_puback(self, frame: Puback) -> None:
        """Take an acknowledgement."""
        with self.lock:
            feed = self._feeds.get((frame.log, frame.producer))
            if feed is not None and frame.seq > feed.acked:
                feed.settle(frame.seq, frame.offset)
                self.enqueue(feed)
                self.let_in()

    def on_nack(self, frame: Nack, now_ms: int) -> FleetlineError | None:
        """Take a refusal. Returns why the producer is dead, where it now is."""
        with self.lock:
            feed = self._feeds.get((frame.log, frame.producer))
            if feed is None:
                return None
            if frame.code in FENCED:
                feed.kill(refusal(feed.log, frame, feed.acked))
            else:
                feed.refused(frame, now_ms)
            self._forget_dead(feed)
            self.let_in()
            return feed.dead

    def close(self, error: FleetlineError) -> None:
        """Give everything up: the link has ended."""
        with self.lock:
            self._closed = error
            for feed in self._feeds.values():
                feed.kill(error)
            self._feeds.clear()
            self._queue.clear()
            self.let_in()

    def validate(self) -> None:
        """Check what must hold at any time. A failure is a bug of ours."""
        with self.lock:
            assert all(feed.dead is None for feed in self._feeds.values())
            streams = [feed for feed in self._feeds.values() if isinstance(feed, Stream)]
            assert self.entries >= sum(stream.unacknowledged for stream in streams)
            assert (self.entries == 0) <= (self.bytes == 0), (self.entries, self.bytes)

    def _forget_dead(self, feed: Feed) -> None:
        """Listen no more to what the hub says of a feed that is dead: it has nothing left to settle or refuse."""
        if feed.dead is not None and self._feeds.get((feed.log, feed.producer)) is feed:
            del self._feeds[feed.log, feed.producer]

    def _has_room(self, size: int) -> bool:
        if not self.entries:
            return True
        entries_free = self.entries_max - self.entries
        bytes_free = self.bytes_max - self.bytes
        wanted = max(size, self.bytes_max // ROOM_PARTS)
        return entries_free * ROOM_PARTS >= self.entries_max and bytes_free >= wanted

    def let_in(self) -> None:
        """Let publishers go on for whom there is room now. Call with the lock held."""
        if not self._room:
            return
        waiting, self._room = self._room, []
        for size, future in waiting:
            if self._closed is not None or self._has_room(size):
                resolve(future, None)
            else:
                self._room.append((size, future))
