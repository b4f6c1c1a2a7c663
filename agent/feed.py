"""What one producer of one log has to say, as the outbox sees it; and what is common to all kinds of it.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING

from agent.errors import FleetlineError, ProducerFenced, PublisherLost, PublishRefused
from protocol.codes import ErrorCode
from protocol.errors import InvalidName
from protocol.frames import Nack, Publish
from protocol.ids import check_name

if TYPE_CHECKING:
    from agent.outbox import Outbox

__all__ = [
    "ENTRY_OVERHEAD_BYTES",
    "FENCED",
    "FRAME_BYTES_MAX",
    "PASSING",
    "RETRY_MS",
    "Feed",
    "WireEntry",
    "check_kind",
    "check_offset",
    "refusal",
    "too_large",
]

WireEntry = tuple[str, bytes, int | None, int | None]
"""kind, body, journal index, cause."""

ENTRY_OVERHEAD_BYTES = 48
"""What an entry counts for in the publish window besides its body."""

FRAME_BYTES_MAX = 256 * 1024
"""Frames are closed when they reach this; an entry may exceed it by itself."""

RETRY_MS = 1000
"""How long to wait where the hub says that it cannot take an entry now, but not how long."""

FENCED = frozenset({ErrorCode.FENCED, ErrorCode.SUPERSEDED, ErrorCode.RUN_FINISHED, ErrorCode.PRODUCER_CONFLICT})
"""Codes that end a producer, whatever number they name: it is not ours any more."""

_FORGOTTEN = frozenset({ErrorCode.PUBLISHER_LOST, ErrorCode.PRODUCER_UNKNOWN})
"""Codes of a log that may know less of a producer than it acknowledged."""

PASSING = frozenset({ErrorCode.UNAVAILABLE, ErrorCode.STORE_FULL, ErrorCode.TOO_MANY, ErrorCode.INTERNAL})
"""Codes after which the same publish can succeed later."""


def refusal(log: str, frame: Nack, acked: int) -> PublishRefused:
    """Return the error for a refusal that will not pass, of a producer whose entries up to `acked` were taken."""
    if frame.code in _FORGOTTEN and frame.last is not None and frame.last < acked:
        return PublisherLost(log, frame.last + 1, acked)
    if frame.code in FENCED:
        return ProducerFenced(log, frame.code, f"{frame.message}; nothing more of this producer will be taken")
    return PublishRefused(log, frame.code, frame.message)


def too_large(log: str, size: int, most: int) -> PublishRefused:
    """Return the error for a body that the hub would refuse."""
    message = f"it takes {size} bytes packed; the hub takes {most}; nothing was sent; split it up, or keep it elsewhere"
    return PublishRefused(log, ErrorCode.ENTRY_TOO_LARGE, message)


@lru_cache(maxsize=1024)
def check_kind(kind: str) -> str:
    """Return `kind` where a program may publish entries of it. Raises `ValueError` where the hub would refuse it."""
    try:
        return check_name(kind)
    except InvalidName:
        raise ValueError(
            f"{kind!r:.140} is no kind for an entry: it is 1 to 128 of a-z 0-9 . _ - and begins with a letter or digit"
        ) from None


def check_offset(name: str, offset: int | None) -> None:
    """Raise `ValueError` where that cannot be an offset in a `publish`: the hub would end the session for it."""
    if offset is not None and (type(offset) is not int or not 0 <= offset < 2**63):
        raise ValueError(f"{name} is {offset!r:.140}, which is no offset of an entry")


class Feed(ABC):
    """One producer of one log: an `agent.stream.Stream`, or `agent.offers.Offers`.

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
    def next_frame(self, entries_max: int, now_ms: int) -> Publish | None:
        """Take entries, at most so many, and return their frame."""

    def not_before_ms(self) -> int:
        """Return when it is next to send something, if it has any."""
        return self.hold_until_ms

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
        self.box.let_in()
