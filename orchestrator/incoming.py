"""What one connection was sent: carried out in order, as far as it goes.

A frame may have to wait: for the session to open, for room, or since its principal has sent too much of late. Then
everything behind it waits too, and as soon as more comes the socket is not read on. So what is kept here is bound by
what one read of the socket brings.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from orchestrator.line import monotonic_ms
from orchestrator.pace import Pace
from protocol.effects import Deliver, Fail
from protocol.frames import Frame
from protocol.session import Session

__all__ = ["Incoming", "Source"]


class Source(Protocol):
    """The socket, as far as it is read."""

    @property
    def congested(self) -> bool:
        """Whether it holds as much as it should of what is to be sent."""

    @property
    def buffered(self) -> int:
        """How many bytes it holds."""

    def pause_reading(self) -> None:
        """Leave what comes to the peer's socket."""

    def resume_reading(self) -> None:
        """Take what comes again."""


class Incoming:
    """The receiving half of a connection.

    Args:
        session: says what may be received.
        source: not read while something waits.
        act: carries out a frame, or what is wrong with a message; returns False where the frame has to wait.
        wake: called when a rest is over, to `go_on` if there is room.

    Attributes:
        waits: what comes next has to wait; `go_on` tries again.
        pace: of the session, where its rate is limited.
    """

    __slots__ = (
        "_act",
        "_held",
        "_over",
        "_rest",
        "_resting",
        "_session",
        "_source",
        "_unread",
        "_wake",
        "pace",
        "waits",
    )

    def __init__(
        self, session: Session, source: Source, act: Callable[[Frame | Fail], bool], wake: Callable[[], None]
    ) -> None:
        self._session = session
        self._source = source
        self._act = act
        self._wake = wake
        self._rest: list[Deliver | Fail] = []
        self._unread: deque[bytes] | None = None
        self._held = 0
        self._over = False
        self._resting: asyncio.TimerHandle | None = None
        self.pace: Pace | None = None
        self.waits = False

    def take(self, message: bytes) -> None:
        """Take a message."""
        if not self.waits:
            self._receive(message)
        elif not self._over:
            self._unread = self._unread or deque()
            self._unread.append(message)
            self._source.pause_reading()

    def hold(self) -> None:
        """Let everything after the frame that is being carried out wait."""
        self.waits = True

    def go_on(self) -> None:
        """Carry out what waits, as far as it goes; read on where that is all of it."""
        if self._resting is not None:
            return
        rest, self._rest = self._rest, []
        self.waits = False
        self._carry_out(rest)
        while not self.waits and self._unread:
            self._receive(self._unread.popleft())
        if not self.waits:
            self._unread = None
            self._source.resume_reading()

    def excuse(self, now_ms: int) -> None:
        """Do not count a silence that is the hub's own: it is not reading on, for want of room.

        It is the peer's own after all where the room is missing because the peer takes nothing that was sent.
        """
        if not self.waits:
            return
        if self._resting is not None and self.pace is not None:
            self._session.receive(b"", now_ms)
            beat = self.pace.beat(now_ms)
            if beat is not None:
                self._act(beat)
            return
        held = self._source.buffered if self._source.congested else 0
        if held == 0 or held < self._held:
            self._session.receive(b"", now_ms)
        self._held = held

    def end(self) -> None:
        """Carry out nothing more."""
        self._over = True
        self._rest, self._unread = [], None
        if self._resting is not None:
            self._resting.cancel()

    def _receive(self, message: bytes) -> None:
        now_ms = monotonic_ms()
        effects = self._session.receive(message, now_ms)
        self._carry_out(effects)
        if self.pace is not None:
            self._relax(self.pace.charge(message, effects, now_ms))

    def _relax(self, rest_ms: int) -> None:
        """Read nothing more for a while, where the principal has sent more than its rate."""
        if rest_ms and not self._over and self._resting is None:
            self.waits = True
            self._source.pause_reading()
            self._resting = asyncio.get_running_loop().call_later(rest_ms / 1000, self._rested)

    def _rested(self) -> None:
        self._resting = None
        if self.pace is not None:
            self._relax(self.pace.rest_ms(monotonic_ms()))
        if self._resting is None:
            self._wake()

    def _carry_out(self, effects: list[Deliver | Fail]) -> None:
        for at, effect in enumerate(effects):
            if self._over:
                return
            if not self._act(effect if isinstance(effect, Fail) else effect.frame):
                self.waits = True
                self._rest = effects[at:]
                return
            if self.waits:
                self._rest = effects[at + 1 :]
                return
