"""The frames: everything that hub and peer can say to each other.

A frame is a msgpack map with string keys; `t` names its type. Keys that are None are left out on the
wire, and unknown keys are ignored. Arrays are tuples here. Who may send what, and when, is in
`protocol.session`; how frames become bytes is in `protocol.codec`. Everybody imports them from here.

Specification: docs/protocol.md, section "Frames". Times are in milliseconds since the epoch of Unix
where the name ends in `_ms` and says when, else durations in milliseconds.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames.asking import Fault, Query, Reply, Request, Response
from protocol.frames.following import (
    Ack,
    Entries,
    Lost,
    Probe,
    Reset,
    ResetReason,
    Resumption,
    Start,
    Subscribe,
    Subscribed,
    SubscriptionVerdict,
    Tags,
    Unsubscribe,
    Window,
)
from protocol.frames.part import Digest, Name, Part, Span, UInt
from protocol.frames.publishing import Nack, Puback, Publish
from protocol.frames.session import (
    Bye,
    Error,
    Goaway,
    Heartbeat,
    Hello,
    Identify,
    Proof,
    Ready,
    Refresh,
    Refreshed,
    Role,
)
from protocol.frames.work import (
    Assign,
    AttemptClaim,
    AttemptVerdict,
    HandlerSpec,
    HeldAttempt,
    Recover,
    Release,
    ReleaseReason,
    Verdict,
    WireRecover,
)

__all__ = [
    "FRAMES",
    "Ack",
    "Assign",
    "AttemptClaim",
    "AttemptVerdict",
    "Bye",
    "Digest",
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
    "Proof",
    "Puback",
    "Publish",
    "Query",
    "Ready",
    "Recover",
    "Refresh",
    "Refreshed",
    "Release",
    "ReleaseReason",
    "Reply",
    "Request",
    "Reset",
    "ResetReason",
    "Response",
    "Resumption",
    "Role",
    "Span",
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
    | Release
    | Query
    | Reply,
    Field(discriminator="t"),
]

FRAMES: dict[str, type[Part]] = {
    model.model_fields["t"].default: model
    for model in (
        *(Hello, Identify, Ready, Heartbeat, Refresh, Refreshed, Goaway, Bye, Error),
        *(Subscribe, Subscribed, Entries, Reset, Probe, Tags, Ack, Unsubscribe),
        *(Publish, Puback, Nack, Request, Response, Assign, Release, Query, Reply),
    )
}
"""Every frame by its type."""
