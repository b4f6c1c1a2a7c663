"""Small parts of a connection: why it was dropped, what error that is, and how frames become messages."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

from agent.errors import LinkEnded, NotAuthenticated, NotPermitted, SessionSuperseded
from agent.identity import KeyRefused
from protocol.codes import CloseCode
from protocol.limits import MESSAGE_FRAMES_MAX

__all__ = ["Dropped", "first_cause", "link_ended", "messages", "now_ms"]

_ENDINGS: dict[int, type[LinkEnded]] = {
    CloseCode.UNAUTHENTICATED: NotAuthenticated,
    CloseCode.REVOKED: NotAuthenticated,
    CloseCode.FORBIDDEN: NotPermitted,
    CloseCode.SUPERSEDED: SessionSuperseded,
    CloseCode.KEY_REFUSED: KeyRefused,
    CloseCode.KEY_REVOKED: KeyRefused,
}


class Dropped(Exception):
    """The connection is no use any more; `code` is what it is closed with, or was."""

    def __init__(self, code: int, reason: str, *, by_hub: bool) -> None:
        super().__init__(reason)
        self.code = code
        self.by_hub = by_hub


def link_ended(code: int, reason: str, lacks: str = "") -> LinkEnded:
    """Return the error for a terminal close code; `lacks` is what this program had not to come with, if it knows."""
    said = f"{reason}: {lacks}" if lacks and code == CloseCode.UNAUTHENTICATED else reason
    return _ENDINGS.get(code, LinkEnded)(code, said)


def now_ms() -> int:
    """Return the time that the link counts by."""
    return time.monotonic_ns() // 1_000_000


def messages(parts: Iterable[bytes], bytes_max: int) -> Iterator[bytes]:
    """Join frames to messages of at most `bytes_max`, and of no more frames than are allowed."""
    held: list[bytes] = []
    size = 0
    for part in parts:
        if held and (size + len(part) > bytes_max or len(held) == MESSAGE_FRAMES_MAX):
            yield b"".join(held)
            held, size = [], 0
        held.append(part)
        size += len(part)
    if held:
        yield b"".join(held)


def first_cause(drops: ExceptionGroup[Dropped]) -> Dropped:
    """Return the reason that counts most: what the hub said, before what we noticed."""
    found = [drop for drop in _flat(drops) if isinstance(drop, Dropped)]
    return min(found, key=lambda drop: (not drop.by_hub, drop.code == 1006))


def _flat(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _flat(error)
        else:
            yield error
