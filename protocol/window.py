"""Credit, cumulative acknowledgement and continuity: the arithmetic of a subscription, on both ends.

The hub holds a `SendWindow` for each subscription: what it may still send. The peer holds a `Cursor`: what
it was given, checked link by link against the tag chain.

Specification: docs/protocol.md, sections "Following a log" and "Diverged histories".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from protocol.codes import CloseCode
from protocol.entry import Entry, Position, next_tag
from protocol.errors import FleetlineError, RemoteProtocolError
from protocol.frames import Entries, Window
from protocol.limits import KEPT_TAGS_MAX

__all__ = ["Cursor", "Mismatch", "SendWindow"]


class SendWindow:
    """How much of a log may be sent to a peer before it acknowledges more.

    A frame's credit comes back when all of it is acknowledged. One entry may always be sent where nothing
    is open, however large it is.

    Attributes:
        sent: the highest `upto` that was sent.
        acked: the highest offset that was acknowledged.
    """

    __slots__ = ("_bytes", "_bytes_open", "_entries", "_entries_open", "_open", "acked", "sent")

    def __init__(self, window: Window, start: int) -> None:
        self._entries = window.entries
        self._bytes = window.bytes
        self._entries_open = 0
        self._bytes_open = 0
        self._open: deque[tuple[int, int, int]] | None = None
        self.sent = start
        self.acked = start

    def room(self) -> tuple[int, int]:
        """Return how many entries and how many bytes may be sent now; (0, 0) where the window is shut."""
        entries = self._entries - self._entries_open
        size = self._bytes - self._bytes_open
        if entries <= 0 or size <= 0:
            return 0, 0
        return entries, size

    def on_sent(self, upto: int, entries: int, size: int) -> None:
        """Note a frame that closes the range up to `upto` with this many entries and bytes."""
        assert upto >= self.sent, (upto, self.sent)
        self.sent = upto
        if entries:
            if self._open is None:
                self._open = deque()
            self._open.append((upto, entries, size))
            self._entries_open += entries
            self._bytes_open += size

    def on_ack(self, offset: int) -> bool:
        """Take an acknowledgement. Returns whether it frees credit.

        Raises:
            RemoteProtocolError: the peer acknowledged what it was never sent.
        """
        if offset > self.sent:
            raise RemoteProtocolError(CloseCode.ACK_AHEAD, f"acknowledged {offset}; nothing after {self.sent} was sent")
        self.acked = max(self.acked, offset)
        freed = False
        while self._open and self._open[0][0] <= offset:
            _, entries, size = self._open.popleft()
            self._entries_open -= entries
            self._bytes_open -= size
            freed = True
        return freed

    def restart(self, offset: int) -> None:
        """Begin anew after a reset: nothing is open, and delivery goes on after `offset`."""
        self._open = None
        self._entries_open = self._bytes_open = 0
        self.sent = self.acked = offset

    def validate(self) -> None:
        """Check what must hold at any time. A failure is a bug of ours."""
        held = self._open or ()
        assert self.acked <= self.sent, (self.acked, self.sent)
        assert self._entries_open == sum(entries for _, entries, _ in held)
        assert self._bytes_open == sum(size for _, _, size in held)


class Mismatch(FleetlineError):
    """A frame does not continue the history that the peer has. It subscribes again from its position."""


class Cursor:
    """A peer's place in a log, and the tags of what it was last given.

    Attributes:
        position: after the last entry or range taken; None until the first verdict names one.
    """

    __slots__ = ("_filtered", "_offsets", "_tags", "position")

    def __init__(self, position: Position | None, *, filtered: bool = False) -> None:
        self.position = position
        self._filtered = filtered
        self._offsets: deque[int] = deque(maxlen=KEPT_TAGS_MAX)
        self._tags: deque[str] = deque(maxlen=KEPT_TAGS_MAX)
        if position is not None:
            self._keep(position)

    def start(self, position: Position) -> None:
        """Take over the position that a verdict or reset names; what was kept of another place goes."""
        if position != self.position:
            self._offsets.clear()
            self._tags.clear()
            self._keep(position)
            self.position = position

    def accept(self, frame: Entries) -> tuple[Entry, ...]:
        """Check that a frame continues the history, move the position, and return its entries.

        Raises:
            Mismatch: it does not; the position stays where it was.
        """
        position = self.position
        if position is None or (frame.prev, frame.prev_tag) != (position.offset, position.tag):
            raise Mismatch(f"{frame.log}: a frame after {frame.prev} at {position}")
        if frame.upto < frame.prev or (frame.upto == frame.prev and frame.tag != frame.prev_tag):
            raise Mismatch(f"{frame.log}: a frame from {frame.prev} to {frame.upto} does not chain")
        tags = self._check_sparse(frame) if self._filtered else self._check_dense(frame)
        for offset, tag in tags:
            self._offsets.append(offset)
            self._tags.append(tag)
        self.position = Position(position.epoch, frame.upto, frame.tag)
        return frame.entries

    def tags_at(self, offsets: Sequence[int]) -> tuple[str | None, ...]:
        """Return the tags kept at these offsets; None where none is kept."""
        kept = list(self._offsets)
        found = []
        for offset in offsets:
            place = bisect_left(kept, offset)
            found.append(self._tags[place] if place < len(kept) and kept[place] == offset else None)
        return tuple(found)

    def _keep(self, position: Position) -> None:
        self._offsets.append(position.offset)
        self._tags.append(position.tag)

    @staticmethod
    def _check_dense(frame: Entries) -> list[tuple[int, str]]:
        tags = []
        tag = frame.prev_tag
        expected = frame.prev
        for offset, ts_ms, packed in frame.entries:
            expected += 1
            if offset != expected:
                raise Mismatch(f"{frame.log}: entry {offset} where {expected} was due")
            tag = next_tag(tag, offset, ts_ms, packed)
            tags.append((offset, tag))
        if expected != frame.upto or tag != frame.tag:
            raise Mismatch(f"{frame.log}: the frame up to {frame.upto} does not chain")
        return tags

    @staticmethod
    def _check_sparse(frame: Entries) -> list[tuple[int, str]]:
        last = frame.prev
        for entry in frame.entries:
            if not last < entry.offset <= frame.upto:
                raise Mismatch(f"{frame.log}: entry {entry.offset} after {last}, up to {frame.upto}")
            last = entry.offset
        return [(frame.upto, frame.tag)] if frame.upto > frame.prev else []
