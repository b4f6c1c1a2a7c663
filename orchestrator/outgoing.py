"""What one connection sends: frames are gathered, and leave as one message at the end of the event loop's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.line import monotonic_ms
from orchestrator.telemetry import Counters
from protocol.codec import encode
from protocol.frames import Part, Puback
from protocol.limits import MESSAGE_FRAMES_MAX
from protocol.session import Phase, Session

__all__ = ["Outgoing"]

MESSAGE_BYTES_TARGET = 256 * 1024
"""Frames are gathered into one message up to about this size."""


class Outgoing:
    """The sending half of a connection.

    Args:
        session: says what may be sent; once it has ended, nothing is.
        write: hands a message to the transport at once.
        counters: of the hub.
    """

    __slots__ = ("_bytes", "_counters", "_frames", "_pubacks", "_session", "_write")

    def __init__(self, session: Session, write: Callable[[bytes], None], counters: Counters) -> None:
        self._session = session
        self._write = write
        self._counters = counters
        self._frames: list[bytes] | None = None
        self._bytes = 0
        self._pubacks: dict[tuple[str, str], Puback] | None = None

    def send(self, frame: Part) -> None:
        """Put a frame on its way, in order. Nothing happens where the session is over."""
        if self._session.phase is Phase.ENDED:
            return
        if self._pubacks:
            self._put_pubacks()
        self._session.step_sent(frame.t)  # type: ignore[attr-defined]
        self.put(encode(frame))

    def send_encoded(self, kind: str, frame: bytes) -> None:
        """Put a frame of this type on its way that was encoded elsewhere."""
        if self._session.phase is not Phase.ENDED:
            self._session.step_sent(kind)
            self.put(frame)

    def send_puback(self, puback: Puback) -> None:
        """Put a puback on its way; of several of a producer only the last is sent, since it stands for all."""
        if self._session.phase is Phase.ENDED:
            return
        self._begin()
        if self._pubacks is None:
            self._pubacks = {}
        producer = puback.log, puback.producer
        before = self._pubacks.get(producer)
        if before is None or puback.seq > before.seq:
            self._pubacks[producer] = puback

    def put(self, frame: bytes) -> None:
        """Gather an encoded frame whose step was taken."""
        frames = self._begin()
        if frames and (self._bytes + len(frame) > MESSAGE_BYTES_TARGET or len(frames) == MESSAGE_FRAMES_MAX):
            self._leave(frames)
        frames.append(frame)
        self._bytes += len(frame)

    def flush(self) -> None:
        """Let everything that was gathered leave now."""
        if self._frames is not None:
            if self._pubacks and self._session.phase is not Phase.ENDED:
                self._put_pubacks()
            frames, self._frames = self._frames, None
            self._leave(frames)

    def _begin(self) -> list[bytes]:
        if self._frames is None:
            self._frames = []
            asyncio.get_running_loop().call_soon(self.flush)
        return self._frames

    def _put_pubacks(self) -> None:
        pubacks, self._pubacks = self._pubacks, None
        for puback in (pubacks or {}).values():
            self._session.step_sent("puback")
            self.put(encode(puback))

    def _leave(self, frames: list[bytes]) -> None:
        if frames:
            self._counters.frames_out += len(frames)
            self._write(frames[0] if len(frames) == 1 else b"".join(frames))
            self._session.said(monotonic_ms())
            frames.clear()
            self._bytes = 0
