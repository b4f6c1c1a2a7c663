"""What one connection was sent: carried out in order, as far as it goes.

A frame may have to wait: for the session to open, or for room. Then everything behind it waits too, and as soon as
more comes the socket is not read on. So what is kept here is bound by what one read of the socket brings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from orchestrator.line import monotonic_ms
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

    Attributes:
        waits: what comes next has to wait; `go_on` tries again.
    """

    __slots__ = ("_act", "_held", "_over", "_rest", "_session", "_source", "_unread", "waits")

    def __init__(self, session: Session, source: Source, act: Callable[[Frame | Fail], bool]) -> None:
        self._session = session
        self._source = source
        self._act = act
        self._rest: list[Deliver | Fail] = []
        self._unread: deque[bytes] | None = None
        self._held = 0
        self._over = False
        self.waits = False

    def take(self, message: bytes) -> None:
        """Take a message."""
        if not self.waits:
            self._carry_out(self._session.receive(message, monotonic_ms()))
        elif not self._over:
            self._unread = self._unread or deque()
            self._unread.append(message)
            self._source.pause_reading()

    def hold(self) -> None:
        """Let everything after the frame that is being carried out wait."""
        self.waits = True

    def go_on(self) -> None:
        """Carry out what waits, as far as it goes; read on where that is all of it."""
        rest, self._rest = self._rest, []
        self.waits = False
        self._carry_out(rest)
        while not self.waits and self._unread:
            self._carry_out(self._session.receive(self._unread.popleft(), monotonic_ms()))
        if not self.waits:
            self._unread = None
            self._source.resume_reading()

    def excuse(self, now_ms: int) -> None:
        """Do not count a silence that is the hub's own: it is not reading on, for want of room.

        It is the peer's own after all where the room is missing because the peer takes nothing that was sent.
        """
        if not self.waits:
            return
        held = self._source.buffered if self._source.congested else 0
        if held == 0 or held < self._held:
            self._session.receive(b"", now_ms)
        self._held = held

    def end(self) -> None:
        """Carry out nothing more."""
        self._over = True
        self._rest, self._unread = [], None

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
