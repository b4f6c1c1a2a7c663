"""The first frame of every connection: encoded once, but for what is different each time.

Specification: docs/protocol.md, section "Frames", `hello`.
"""

from __future__ import annotations

from orchestrator.core.sessions import VERSIONS
from orchestrator.line import Line
from orchestrator.settings import Settings
from orchestrator.websocket import NONCE_BYTES
from protocol.codec import encode
from protocol.frames import Hello

__all__ = ["Greeting"]

_NONCE = b"\xc1" * NONCE_BYTES
_STORE_MS = 0x7AF3_59C1_2E84_D6B7
"""What stands for the nonce and for the time in the encoded frame; neither is in the rest of it."""


class Greeting:
    """What a hub says first.

    Args:
        settings: of the hub.
        line: for its id and the store's clock.
    """

    __slots__ = ("_after", "_before", "_between", "_line")

    def __init__(self, settings: Settings, line: Line) -> None:
        self._line = line
        hello = Hello(
            versions=VERSIONS,
            hub=line.hub_id,
            nonce=_NONCE,
            heartbeat_ms=settings.interval_ms,
            limits=settings.limits,
            durability=line.level,
            store_ms=_STORE_MS,
        )
        self._before, rest = encode(hello).split(_NONCE)
        self._between, self._after = rest.split(_uint64(_STORE_MS))

    def frame(self, nonce: bytes) -> bytes:
        """Return the encoded `hello` of a connection."""
        return b"".join((self._before, nonce, self._between, _uint64(self._line.now_ms()), self._after))


def _uint64(number: int) -> bytes:
    return number.to_bytes(8, "big")
