"""Sessions: who is there, what continues, and that both sides live.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from protocol.frames.following import Subscribe, SubscriptionVerdict
from protocol.frames.part import Name, Part, UInt
from protocol.frames.work import AttemptClaim, AttemptVerdict, HandlerSpec, HeldAttempt
from protocol.limits import Limits
from protocol.selector import LABELS_MAX

__all__ = [
    "PUBLIC_KEY_BYTES",
    "SIGNATURE_BYTES",
    "Bye",
    "Error",
    "Goaway",
    "Heartbeat",
    "Hello",
    "Identify",
    "Proof",
    "Ready",
    "Refresh",
    "Refreshed",
    "Role",
]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
"""Of Ed25519."""


class Role(StrEnum):
    """What a peer is."""

    AGENT = "agent"
    CLIENT = "client"


WireRole = Annotated[Role, Field(strict=False)]
Load = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
"""How busy an agent says it is, whatever its slots: from 0 to 1, where it is given nothing."""


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


class Proof(Part):
    """That a peer holds a key: what it signs is in `protocol.proof`.

    `name` is whose key it is: the agent's id, or the client's name.
    """

    namespace: Name
    name: Name
    key: Annotated[bytes, Field(min_length=PUBLIC_KEY_BYTES, max_length=PUBLIC_KEY_BYTES)]
    signature: Annotated[bytes, Field(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class Identify(Part):
    """peer -> hub: who it is, what it follows and what it holds.

    `id` names the agent or client, `instance` the process (random, new for each process), `session`
    the session before. Queues, slots, labels (`protocol.selector.check_labels`) and handlers are an agent's.
    """

    t: Literal["identify"] = "identify"
    version: int
    role: WireRole
    id: Name
    instance: Name
    token: str | None = None
    proof: Proof | None = None
    session: Name | None = None
    labels: Annotated[dict[Name, Name], Field(max_length=LABELS_MAX)] = {}
    queues: Annotated[tuple[Name, ...], Field(max_length=256)] = ()
    slots: UInt = 0
    handlers: Annotated[tuple[HandlerSpec, ...], Field(max_length=1024)] = ()
    subscriptions: tuple[Subscribe, ...] = ()
    attempts: tuple[AttemptClaim, ...] = ()
    load: Load | None = None


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
    """Either way, when nothing else was sent for an interval. An agent's renews its leases.

    A hub's with `drain` tells an agent to finish, within `drain_ms` where it says so, and to leave. One with
    `refresh_ms` says that the token has expired, and that without a newer one the session ends after that time.
    """

    t: Literal["heartbeat"] = "heartbeat"
    store_ms: UInt | None = None
    attempts: tuple[HeldAttempt, ...] | None = None
    slots_free: UInt | None = None
    load: Load | None = None
    drain: bool | None = None
    drain_ms: UInt | None = None
    refresh_ms: UInt | None = None


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
