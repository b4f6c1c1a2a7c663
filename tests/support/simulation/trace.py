"""What happened, as a digest that tells two runs apart, and as lines for whoever looks for the cause."""

from __future__ import annotations

from collections import deque
from hashlib import blake2b

from protocol.codec import decode
from protocol.errors import RemoteProtocolError
from protocol.limits import DEFAULT_LIMITS

__all__ = ["Trace", "shown"]

LINES_KEPT = 200_000
SHOWN_CHARS = 220


class Trace:
    """Events in their order. Their digest is the same for the same seed, whatever process it runs in."""

    def __init__(self, *, keep: bool = False) -> None:
        self.events = 0
        self.lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._keep = keep
        self._digest = blake2b(digest_size=16)

    def note(self, now_s: float, who: str, what: str, data: bytes = b"") -> None:
        """Take down an event; `data` is a message with its frames."""
        self.events += 1
        self._digest.update(f"{now_s:.6f}|{who}|{what}|".encode() + data)
        if self._keep:
            self.lines.append(f"{now_s:10.4f} {who:<28} {what} {shown(data) if data else ''}"[: SHOWN_CHARS * 3])

    @property
    def digest(self) -> str:
        """What tells two traces apart."""
        return self._digest.hexdigest()


def shown(message: bytes) -> str:
    """Return the frames of a message, each cut to a readable length."""
    try:
        return " ; ".join(str(frame)[:SHOWN_CHARS] for frame in decode(message, DEFAULT_LIMITS.message_bytes_max))
    except RemoteProtocolError:
        return repr(message[:SHOWN_CHARS])
