"""Following a log: what a peer wishes for, what it is told, and what it is sent.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from protocol.entry import Entry, Position, Tag
from protocol.frames.part import Name, Part, UInt

__all__ = [
    "Ack",
    "Entries",
    "Lost",
    "Probe",
    "Reset",
    "ResetReason",
    "Resumption",
    "Start",
    "Subscribe",
    "Subscribed",
    "SubscriptionVerdict",
    "Tags",
    "Unsubscribe",
    "Window",
]


class Start(StrEnum):
    """Where a subscription starts when it has no position."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ACKED = "acked"


class ResetReason(StrEnum):
    """Why a subscription cannot go on where its position says."""

    UNKNOWN = "unknown"
    """The log is not there, or is another one by the same name (its epoch differs)."""
    TRIMMED = "trimmed"
    """The entries after the position are not kept any more."""
    DIVERGED = "diverged"
    """The log lost entries that the peer has, and may hold others at their offsets."""


class Resumption(StrEnum):
    """What a hub says to the wish to follow a log."""

    RESUMED = "resumed"
    """The entries after `at` follow."""
    RESET = "reset"
    """As a `reset` frame: `reason`, `lost`, and delivery restarts after `at`."""
    PROBING = "probing"
    """The histories parted; `probe` frames and then a `reset` follow."""
    REFUSED = "refused"
    """`code` and `message` say why."""


WireStart = Annotated[Start, Field(strict=False)]
WireResetReason = Annotated[ResetReason, Field(strict=False)]
WireResumption = Annotated[Resumption, Field(strict=False)]


class Window(Part):
    """How much a hub may send on a subscription before it is acknowledged."""

    entries: Annotated[int, Field(ge=1)] = 1024
    bytes: Annotated[int, Field(ge=1)] = 1024 * 1024


class Lost(Part):
    """The range of offsets, both ends included, that a subscriber will not see, or saw in vain.

    `exact` is False where the first of them could not be pinned: none is lost before `from`.
    """

    model_config = ConfigDict(populate_by_name=True)

    from_: UInt = Field(alias="from")
    to: UInt
    exact: bool


class SubscriptionVerdict(Part):
    """The answer to a wish to follow a log; `head` is its last offset when it was answered."""

    log: Name
    verdict: WireResumption
    at: Position | None = None
    head: UInt | None = None
    reason: WireResetReason | None = None
    lost: Lost | None = None
    code: str | None = None
    message: str | None = None


class Subscribe(Part):
    """peer -> hub: follow a log from a position or a named start.

    `kinds` leaves out all entries of other kinds. `durable` names the place where acks are stored.
    Inside `identify` it stands for a subscription of the session before.
    """

    model_config = ConfigDict(populate_by_name=True)

    t: Literal["subscribe"] = "subscribe"
    log: Name
    from_: Position | WireStart = Field(alias="from")
    window: Window = Window()
    kinds: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)] | None = None
    durable: Name | None = None


class Subscribed(Part):
    """hub -> peer: the answer to `subscribe`."""

    t: Literal["subscribed"] = "subscribed"
    subscription: SubscriptionVerdict


class Entries(Part):
    """hub -> peer: all there is between `prev` and `upto`, less the kinds that were not asked for."""

    t: Literal["entries"] = "entries"
    log: Name
    prev: UInt
    prev_tag: Tag
    upto: UInt
    tag: Tag
    entries: tuple[Entry, ...]
    caught_up: bool = False


class Reset(Part):
    """hub -> peer: the position cannot be resumed. Delivery restarts after `at`."""

    t: Literal["reset"] = "reset"
    log: Name
    reason: WireResetReason
    lost: Lost
    at: Position


class Probe(Part):
    """hub -> peer: which tags do you have at these offsets?"""

    t: Literal["probe"] = "probe"
    log: Name
    offsets: Annotated[tuple[UInt, ...], Field(max_length=256)]


class Tags(Part):
    """peer -> hub: the tags at the offsets of the probe; None where it has none."""

    t: Literal["tags"] = "tags"
    log: Name
    tags: Annotated[tuple[Tag | None, ...], Field(max_length=256)]


class Ack(Part):
    """peer -> hub: everything up to `offset` is handled. Cumulative.

    `resets` counts the `reset` frames that came on this subscription: an ack that crosses a reset is of
    another history, and means nothing.
    """

    t: Literal["ack"] = "ack"
    log: Name
    offset: UInt
    resets: UInt = 0


class Unsubscribe(Part):
    """peer -> hub: follow the log no more."""

    t: Literal["unsubscribe"] = "unsubscribe"
    log: Name
