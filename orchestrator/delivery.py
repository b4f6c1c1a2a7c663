"""What one subscription was sent of its log, and the frames that continue it.

With `kinds` the entries of other kinds are passed over: the range is scanned, and closed with the next entry
that is sent, or with an empty frame: once a heartbeat, or when much was scanned.

Specification: docs/protocol.md, section "Following a log".
"""

from __future__ import annotations

from typing import Protocol

from orchestrator.acks import DurableAck
from orchestrator.chunks import Chunk, Part, fitting, matching, prefixes
from protocol.codec import encode_entries
from protocol.entry import Entry, Position
from protocol.frames import Subscribe, Window
from protocol.limits import Limits
from protocol.window import SendWindow

__all__ = ["Delivery", "Outlet"]

SCANNED_MAX = 4096
"""Entries passed over before the peer is told, so that a line that is cut all the time still gets ahead."""


class Outlet(Protocol):
    """The connection, as far as entries go."""

    def send_entries(self, frame: bytes, entries: int) -> None:
        """Put an encoded `entries` frame on its way."""


class Delivery:
    """How far a subscription is in its log.

    Attributes:
        at: the position up to which entries were sent, or passed over.
        window: what was sent and acknowledged.
        filtered: entries of some kinds only were asked for.
        durable: where acks are stored, for a durable subscription.
    """

    __slots__ = ("_caught_up", "_closed_tag", "_kinds", "_outlet", "_path", "at", "durable", "filtered", "window")

    def __init__(self, outlet: Outlet, frame: Subscribe, limits: Limits) -> None:
        self._outlet = outlet
        self._path = frame.log
        self._kinds = prefixes(frame.kinds) if frame.kinds else None
        self._caught_up = False
        self._closed_tag = ""
        self.at = Position("", 0, "")
        self.filtered = self._kinds is not None
        self.durable: DurableAck | None = None
        window = frame.window
        if window.entries > limits.window_entries_max or window.bytes > limits.window_bytes_max:
            entries = min(window.entries, limits.window_entries_max)
            window = Window(entries=entries, bytes=min(window.bytes, limits.window_bytes_max))
        self.window = SendWindow(window, 0)

    @property
    def closed(self) -> Position:
        """The position that the peer was told of last."""
        return Position(self.at.epoch, self.window.sent, self._closed_tag)

    @property
    def unclosed(self) -> bool:
        """Whether the log was scanned further than the peer was told."""
        return self.at.offset > self.window.sent

    def place(self, at: Position) -> None:
        """Go on after this position: the peer was told of it, and acknowledges nothing from before."""
        self.at = at
        self._closed_tag = at.tag
        self._caught_up = False
        self.window.restart(at.offset)

    def send(self, chunk: Chunk) -> None:
        """Send what fits of a chunk, from where this subscription is."""
        at = self.at
        if self.durable is not None:
            self.durable.sending(chunk.prev, chunk.entries, at)
        entries, size = self.window.room()
        if self._kinds is not None:
            self._send_part(matching(chunk, at.offset, at.tag, entries, size, self._kinds))
        elif chunk.prev == at.offset and len(chunk.entries) <= entries and chunk.size <= size:
            self._outlet.send_entries(chunk.frame(self._path), len(chunk.entries))
            self._sent(chunk.upto, chunk.tag, len(chunk.entries), chunk.size)
        else:
            self._send_part(fitting(chunk, at.offset, at.tag, entries, size))

    def catch_up(self) -> None:
        """Tell the peer, once, that it was sent all that there was."""
        if not self._caught_up:
            self._caught_up = True
            self._send((), self.at.offset, self.at.tag, 0, caught_up=True)

    def close_range(self) -> None:
        """Tell the peer how far the log was scanned."""
        if self.unclosed:
            self._send((), self.at.offset, self.at.tag, 0)

    def _send_part(self, part: Part) -> None:
        """Send a part of a chunk; where nothing in it was asked for, only note how far it was scanned."""
        if part.entries:
            self._send(part.entries, part.upto, part.tag, part.size)
            return
        self.at = Position(self.at.epoch, part.upto, part.tag)
        if part.upto - self.window.sent >= SCANNED_MAX:
            self.close_range()

    def _send(self, entries: tuple[Entry, ...], upto: int, tag: str, size: int, *, caught_up: bool = False) -> None:
        prev, prev_tag = self.window.sent, self._closed_tag
        frame = encode_entries(self._path, prev, prev_tag, upto, tag, entries, caught_up=caught_up)
        self._outlet.send_entries(frame, len(entries))
        self._sent(upto, tag, len(entries), size)

    def _sent(self, upto: int, tag: str, entries: int, size: int) -> None:
        self.window.on_sent(upto, entries, size)
        self.at = Position(self.at.epoch, upto, tag)
        self._closed_tag = tag
