"""Work: what an agent serves, and the attempts that it is given, holds and hands back.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from protocol.entry import Position
from protocol.frames.part import Name, Part, Span, UInt

__all__ = [
    "Assign",
    "AttemptClaim",
    "AttemptVerdict",
    "HandlerSpec",
    "HeldAttempt",
    "Recover",
    "Release",
    "ReleaseReason",
    "Verdict",
    "WireRecover",
]


class Recover(StrEnum):
    """How a handler's next attempt picks up after a lost one."""

    RESTART = "restart"
    JOURNAL = "journal"
    CHECKPOINT = "checkpoint"


class Verdict(StrEnum):
    """What a hub says to an attempt that an agent lists."""

    CONTINUE = "continue"
    FENCED = "fenced"
    FINISHED = "finished"


class ReleaseReason(StrEnum):
    """Why an agent hands an attempt back."""

    NO_SLOT = "no_slot"
    REFUSED = "refused"
    DRAIN = "drain"


WireRecover = Annotated[Recover, Field(strict=False)]
WireVerdict = Annotated[Verdict, Field(strict=False)]
WireReleaseReason = Annotated[ReleaseReason, Field(strict=False)]


class HandlerSpec(Part):
    """A handler that an agent serves.

    `retries` is how often a failed attempt is tried again, after a wait that begins at `backoff_ms` and doubles up to
    `backoff_max_ms`; `timeout_ms` is how long one attempt may take. A run may say otherwise.
    """

    name: Name
    recover: WireRecover = Recover.RESTART
    retries: UInt = 0
    timeout_ms: Span | None = None
    backoff_ms: Span = 1_000
    backoff_max_ms: Span = 60_000


class HeldAttempt(Part):
    """An attempt that an agent works on, as its heartbeats list it.

    With its number the hub can tell the agent of one that it does not know itself.
    """

    run: Name
    fence: UInt
    attempt: UInt | None = None


class AttemptClaim(Part):
    """An attempt that an agent holds when it comes back, with the last seq that it made."""

    run: Name
    fence: UInt
    seq: UInt


class AttemptVerdict(Part):
    """The answer to an attempt: with `continue`, `seq` is the last that the log has."""

    run: Name
    fence: UInt
    verdict: WireVerdict
    seq: UInt | None = None


class Assign(Part):
    """hub -> agent: this attempt is yours. A notification: the lease in the store is what counts.

    `position` is that of the attempt's `$claimed` entry; `seq` is the last that the log has of this
    attempt, 0 for a new one. `time_left_ms` is how long it has, where its run or handler says. Where the run was
    told or asked something before, or had children, nothing of that stands before the offset `talk_from`.
    """

    t: Literal["assign"] = "assign"
    run: Name
    queue: Name
    handler: Name
    attempt: Annotated[int, Field(ge=1)]
    fence: UInt
    input: bytes
    lease_ms: Annotated[int, Field(ge=1)]
    position: Position
    recover: WireRecover
    seq: UInt = 0
    time_left_ms: UInt | None = None
    talk_from: UInt | None = None


class Release(Part):
    """agent -> hub: hand an attempt back without spending it."""

    t: Literal["release"] = "release"
    run: Name
    fence: UInt
    reason: WireReleaseReason
