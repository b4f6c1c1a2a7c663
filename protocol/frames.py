"""The frames: everything that hub and peer can say to each other.

A frame is a msgpack map with string keys; `t` names its type. Keys that are None are left out on the
wire, and unknown keys are ignored. Arrays are tuples here. Who may send what, and when, is in
`protocol.session`; how frames become bytes is in `protocol.codec`.

Specification: docs/protocol.md, section "Frames". Times are in milliseconds since the epoch of Unix
where the name ends in `_ms` and says when, else durations in milliseconds.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from protocol.entry import Entry, Position, Tag, UInt
from protocol.limits import Limits

__all__ = [
    "FRAMES",
    "Ack",
    "Assign",
    "AttemptClaim",
    "AttemptVerdict",
    "Bye",
    "Entries",
    "Error",
    "Fault",
    "Frame",
    "Goaway",
    "HandlerSpec",
    "Heartbeat",
    "HeldAttempt",
    "Hello",
    "Identify",
    "Lost",
    "Nack",
    "Name",
    "Part",
    "Probe",
    "Puback",
    "Publish",
    "Ready",
    "Recover",
    "Refresh",
    "Refreshed",
    "Release",
    "ReleaseReason",
    "Request",
    "Reset",
    "ResetReason",
    "Response",
    "Resumption",
    "Role",
    "Start",
    "Subscribe",
    "Subscribed",
    "SubscriptionVerdict",
    "Tags",
    "UInt",
    "Unsubscribe",
    "Verdict",
    "Window",
    "WireRecover",
]

Name = Annotated[str, Field(max_length=160)]


class Part(BaseModel):
    """What frames and their parts share: frozen, strictly typed, unknown keys ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Role(StrEnum):
    """What a peer is."""

    AGENT = "agent"
    CLIENT = "client"


class Start(StrEnum):
    """Where a subscription starts when it has no position."""

    EARLIEST = "earliest"
    LATEST = "latest"
    ACKED = "acked"


class Recover(StrEnum):
    """How a handler's next attempt picks up after a lost one."""

    RESTART = "restart"
    JOURNAL = "journal"


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


WireRole = Annotated[Role, Field(strict=False)]
WireStart = Annotated[Start, Field(strict=False)]
WireRecover = Annotated[Recover, Field(strict=False)]
WireResetReason = Annotated[ResetReason, Field(strict=False)]
WireResumption = Annotated[Resumption, Field(strict=False)]
WireVerdict = Annotated[Verdict, Field(strict=False)]
WireReleaseReason = Annotated[ReleaseReason, Field(strict=False)]


# Parts


class Window(Part):
    """How much a hub may send on a subscription before it is acknowledged."""

    entries: Annotated[int, Field(ge=1)] = 1024
    bytes: Annotated[int, Field(ge=1)] = 1024 * 1024


class Lost(Part):
    """The range of offsets, both ends included, that a subscriber will not see, or saw in vain.

    `exact` is False where the first of them could not be pinned: none is lost before `from`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)

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


class HandlerSpec(Part):
    """A handler that an agent serves. `retries` is how often a failed attempt is tried again."""

    name: Name
    recover: WireRecover = Recover.RESTART
    retries: UInt = 0


class Fault(Part):
    """Why a request was refused."""

    code: str
    message: str
    retry_ms: UInt | None = None
    data: dict[str, Any] | None = None


# Session


class Hello(Part):
    """hub -> peer, first of all: who it is and what it allows."""

    t: Literal["hello"] = "hello"
    versions: tuple[int, ...]
    hub: Name
    nonce: bytes
    heartbeat_ms: Annotated[int, Field(ge=1)]
    limits: Limits
    durability: str
    store_ms: UInt


class Subscribe(Part):
    """peer -> hub: follow a log from a position or a named start.

    `kinds` leaves out all entries of other kinds. `durable` names the place where acks are stored.
    Inside `identify` it stands for a subscription of the session before.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)

    t: Literal["subscribe"] = "subscribe"
    log: Name
    from_: Position | WireStart = Field(alias="from")
    window: Window = Window()
    kinds: Annotated[tuple[Name, ...], Field(min_length=1, max_length=64)] | None = None
    durable: Name | None = None


class Identify(Part):
    """peer -> hub: who it is, what it follows and what it holds.

    `id` names the agent or client, `instance` the process (random, new for each process), `session`
    the session before. Queues, slots, labels and handlers are an agent's.
    """

    t: Literal["identify"] = "identify"
    version: int
    role: WireRole
    id: Name
    instance: Name
    token: str | None = None
    session: Name | None = None
    labels: Annotated[dict[Name, Name], Field(max_length=64)] = {}
    queues: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    slots: UInt = 0
    handlers: Annotated[tuple[HandlerSpec, ...], Field(max_length=1024)] = ()
    subscriptions: tuple[Subscribe, ...] = ()
    attempts: tuple[AttemptClaim, ...] = ()


class Ready(Part):
    """hub -> peer: the session is open. Its fence, and all that continues, are committed."""

    t: Literal["ready"] = "ready"
    session: Name
    fence: UInt
    resumed: bool
    principal: str
    namespace: str
    scopes: tuple[str, ...]
    expires_ms: UInt | None = None
    subscriptions: tuple[SubscriptionVerdict, ...] = ()
    attempts: tuple[AttemptVerdict, ...] = ()


class Heartbeat(Part):
    """Either way, when nothing else was sent for an interval. An agent's renews its leases."""

    t: Literal["heartbeat"] = "heartbeat"
    store_ms: UInt | None = None
    attempts: tuple[HeldAttempt, ...] | None = None
    slots_free: UInt | None = None


class Refresh(Part):
    """peer -> hub: a new token for this session."""

    t: Literal["refresh"] = "refresh"
    token: str


class Refreshed(Part):
    """hub -> peer: until when the session is now good."""

    t: Literal["refreshed"] = "refreshed"
    expires_ms: UInt | None = None


class Goaway(Part):
    """hub -> peer: this hub is about to close the session; come back after `after_ms`."""

    t: Literal["goaway"] = "goaway"
    after_ms: UInt
    reason: str


class Bye(Part):
    """Either way: the last frame of a session that is ended on purpose."""

    t: Literal["bye"] = "bye"
    reason: str


class Error(Part):
    """hub -> peer, before it closes with a code: what was wrong."""

    t: Literal["error"] = "error"
    code: int
    message: str
    about: str | None = None


# Following a log


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


# Publishing and asking


class Publish(Part):
    """peer -> hub: append entries, the first of which is the producer's number `seq`.

    `fence` is the owner fence from `producer.open`; for a run's attempt, whose producer is
    `attempt/<number>`, it is the attempt's. `expect` is the head that the log must have.
    """

    t: Literal["publish"] = "publish"
    log: Name
    producer: Name
    seq: Annotated[int, Field(ge=1, lt=2**53)]
    fence: UInt
    entries: Annotated[tuple[tuple[Name, bytes, UInt | None, UInt | None], ...], Field(min_length=1)]
    expect: UInt | None = None


class Puback(Part):
    """hub -> peer: everything up to `seq` is in the log, at this level of durability. Cumulative."""

    t: Literal["puback"] = "puback"
    log: Name
    producer: Name
    seq: UInt
    offset: UInt
    level: str


class Nack(Part):
    """hub -> peer: the publish that began at `seq` was refused whole.

    `last` is the producer's last accepted seq, `head` the log's head, where the code has use for them.
    With `retry_ms` the same publish can succeed later.
    """

    t: Literal["nack"] = "nack"
    log: Name
    producer: Name
    seq: UInt
    code: str
    message: str
    last: UInt | None = None
    head: UInt | None = None
    retry_ms: UInt | None = None


class Request(Part):
    """peer -> hub: do or tell something (see `protocol.requests`).

    `op` is the peer's name for one change, the same on every retry.
    """

    t: Literal["request"] = "request"
    id: UInt
    method: Name
    params: dict[str, Any] = {}
    op: Name | None = None


class Response(Part):
    """hub -> peer: the answer to the request with this id; either a result or an error."""

    t: Literal["response"] = "response"
    id: UInt
    result: Any = None
    error: Fault | None = None


# Work


class Assign(Part):
    """hub -> agent: this attempt is yours. A notification: the lease in the store is what counts.

    `position` is that of the attempt's `$claimed` entry; `seq` is the last that the log has of this
    attempt, 0 for a new one.
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


class Release(Part):
    """agent -> hub: hand an attempt back without spending it."""

    t: Literal["release"] = "release"
    run: Name
    fence: UInt
    reason: WireReleaseReason


Frame = Annotated[
    Hello
    | Identify
    | Ready
    | Heartbeat
    | Refresh
    | Refreshed
    | Goaway
    | Bye
    | Error
    | Subscribe
    | Subscribed
    | Entries
    | Reset
    | Probe
    | Tags
    | Ack
    | Unsubscribe
    | Publish
    | Puback
    | Nack
    | Request
    | Response
    | Assign
    | Release,
    Field(discriminator="t"),
]

FRAMES: dict[str, type[Part]] = {
    model.model_fields["t"].default: model
    for model in (
        *(Hello, Identify, Ready, Heartbeat, Refresh, Refreshed, Goaway, Bye, Error),
        *(Subscribe, Subscribed, Entries, Reset, Probe, Tags, Ack, Unsubscribe),
        *(Publish, Puback, Nack, Request, Response, Assign, Release),
    )
}
"""Every frame by its type."""
