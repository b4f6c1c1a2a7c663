"""Control kinds: entries that begin with `$`, the schema of each body, and who may write it.

A body is a msgpack map that fits the kind's model. `CONTROL` is the one table; a peer that publishes
a control kind that is not its to write is refused.

Specification: docs/protocol.md, section "Control entries".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import Field, ValidationError

from protocol.agent_story import Connected, Cordoned, Disconnected, Drained, Draining, Superseded
from protocol.artifacts import Attached
from protocol.codec import pack_record, pack_value, unpack_value
from protocol.conversation import Answered, Asked, Received, Steer, Steered, Suspended
from protocol.errors import misfit
from protocol.family import ChildCancel, ChildEnded, ChildRun, Continue, Continued, Spawn
from protocol.frames import Name, Part, Span, UInt, WireRecover
from protocol.ids import LogKind
from protocol.refusals import Refusals
from protocol.run_error import RunError

__all__ = [
    "COMMANDS",
    "CONTROL",
    "PACKED_FIELDS",
    "AttemptLost",
    "Call",
    "Cancel",
    "Cancelled",
    "Checkpoint",
    "Claimed",
    "Connected",
    "Control",
    "Cordoned",
    "Dead",
    "Disconnected",
    "Drained",
    "Draining",
    "Errored",
    "Expired",
    "Failed",
    "Kind",
    "Marker",
    "MarkerOp",
    "Progress",
    "Refusals",
    "Released",
    "Retry",
    "RunError",
    "Submitted",
    "Succeeded",
    "Superseded",
    "TimedOut",
    "Writer",
    "is_control",
    "pack_control",
    "read_control",
]

Model = TypeVar("Model", bound=Part)


class Kind(StrEnum):
    """Every control kind."""

    SUBMITTED = "$submitted"
    CLAIMED = "$claimed"
    LOST = "$lost"
    RELEASED = "$released"
    SUSPENDED = "$suspended"
    PROGRESS = "$progress"
    CALL = "$call"
    MARKER = "$marker"
    CHECKPOINT = "$checkpoint"
    ERRORED = "$errored"
    TIMED_OUT = "$timed_out"
    RETRY = "$retry"
    CANCEL = "$cancel"
    STEER = "$steer"
    RECEIVED = "$received"
    STEERED = "$steered"
    ASKED = "$asked"
    ANSWERED = "$answered"
    SPAWN = "$spawn"
    CHILD = "$child"
    CHILD_CANCEL = "$child_cancel"
    CHILD_ENDED = "$child_ended"
    CONTINUE = "$continue"
    CONTINUED = "$continued"
    ATTACHED = "$attached"
    SUCCEEDED = "$succeeded"
    FAILED = "$failed"
    CANCELLED = "$cancelled"
    EXPIRED = "$expired"
    DEAD = "$dead"
    CONNECTED = "$connected"
    DISCONNECTED = "$disconnected"
    SUPERSEDED = "$superseded"
    CORDONED = "$cordoned"
    UNCORDONED = "$uncordoned"
    DRAINING = "$draining"
    DRAINED = "$drained"
    REFUSED = "$refused"


class Writer(StrEnum):
    """Who may write a kind: the hub alone, or also the agent that holds the current attempt."""

    HUB = "hub"
    ATTEMPT = "attempt"


class MarkerOp(StrEnum):
    """The operations of a journal that leave a `$marker`, and what its value is."""

    NOW = "now"
    """The time: ms since the epoch of Unix."""
    RANDOM = "random"
    """A number in [0, 1)."""
    UUID = "uuid"
    """A random UUID, as text."""
    SLEEP = "sleep"
    """When the sleep is over: ms since the epoch of Unix. `name` is the seconds that were asked for."""
    EFFECT = "effect"
    """None: the effect of this name may have gone out from here on, under the key that its index gives it."""
    VERSION = "version"
    """The version of the change of this name that the run keeps to."""


class Submitted(Part):
    """The first entry of a run: what is to be done. `input` is a packed value.

    `not_before_ms` and `deadline_ms` are times by the store's clock; `retry_of` is the run that is done again, `parent`
    the run that this one is a child of, `continues` the one that ended in this one.
    """

    queue: Name
    handler: Name
    input: bytes
    key: str | None = None
    retries: UInt | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    where: str = ""
    not_before_ms: UInt | None = None
    deadline_ms: UInt | None = None
    timeout_ms: Span | None = None
    backoff_ms: Span | None = None
    backoff_max_ms: Span | None = None
    keep_ms: Span | None = None
    retry_of: Name | None = None
    parent: Name | None = None
    continues: Name | None = None
    concurrency_key: str | None = None
    by: str | None = None


class Claimed(Part):
    """An attempt begins: it belongs to this process of this agent until its lease ends."""

    attempt: UInt
    fence: UInt
    agent: Name
    instance: Name
    lease_ms: UInt
    recover: WireRecover
    retries: UInt
    timeout_ms: Span | None = None


class AttemptLost(Part):
    """An attempt's agent is gone: `lease` ran out, or another process took the agent's id."""

    attempt: UInt
    reason: str
    losses: UInt


class Released(Part):
    """An agent handed an attempt back; it does not count as spent."""

    attempt: UInt
    reason: str


class Progress(Part):
    """How far an attempt is."""

    current: float
    total: float | None = None
    message: str | None = None


class Call(Part):
    """What a call that a handler made through its journal came to: a packed `result`, or an `error`.

    `digest` is that of the arguments: the same call of another attempt has the same. `begun` is the last index
    that was given out when a call failed, where that is not its own: what began beside it did so without
    knowing of the failure.
    """

    name: str
    digest: str
    result: bytes | None = None
    error: RunError | None = None
    begun: UInt | None = None


class Marker(Part):
    """What an operation of the context came to that the next attempt must not ask anew: a packed `value`."""

    op: Annotated[MarkerOp, Field(strict=False)]
    name: Name | None = None
    value: bytes | None = None


class Checkpoint(Part):
    """Where a handler is: a packed `value`, for the next attempt to begin with."""

    value: bytes


class Errored(Part):
    """An attempt ended with an error. `retryable` is False where another try cannot help.

    `begun` is as of `Call`, where the error is that of a child: its record says nothing of when that was known.
    """

    error: RunError
    retryable: bool = True
    begun: UInt | None = None


class TimedOut(Part):
    """An attempt took longer than it may; it counts as one that failed."""

    attempt: UInt
    timeout_ms: Span


class Retry(Part):
    """The run goes back to its queue after `after_ms`, having failed `failures` times."""

    failures: UInt
    after_ms: UInt


class Cancel(Part):
    """A command: stop this run."""

    reason: str | None = None


class Succeeded(Part):
    """Terminal: the handler returned. `result` is a packed value."""

    result: bytes


class Failed(Part):
    """Terminal: the handler raised, and another try was not asked for or cannot help."""

    error: RunError


class Cancelled(Part):
    """Terminal: the run was cancelled and its handler, if it ran, has stopped or was given up on."""

    reason: str | None = None


class Expired(Part):
    """Terminal: the run's deadline passed."""

    reason: str


class Dead(Part):
    """Terminal: the run failed or was lost as often as is allowed."""

    reason: str
    error: RunError | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """One row of the table: the log that a kind belongs in, its body, its writer."""

    log: LogKind
    body: type[Part]
    writer: Writer
    terminal: bool = False


CONTROL: dict[str, Control] = {
    Kind.SUBMITTED: Control(LogKind.RUN, Submitted, Writer.HUB),
    Kind.CLAIMED: Control(LogKind.RUN, Claimed, Writer.HUB),
    Kind.LOST: Control(LogKind.RUN, AttemptLost, Writer.HUB),
    Kind.RELEASED: Control(LogKind.RUN, Released, Writer.HUB),
    Kind.SUSPENDED: Control(LogKind.RUN, Suspended, Writer.ATTEMPT),
    Kind.PROGRESS: Control(LogKind.RUN, Progress, Writer.ATTEMPT),
    Kind.CALL: Control(LogKind.RUN, Call, Writer.ATTEMPT),
    Kind.MARKER: Control(LogKind.RUN, Marker, Writer.ATTEMPT),
    Kind.CHECKPOINT: Control(LogKind.RUN, Checkpoint, Writer.ATTEMPT),
    Kind.ERRORED: Control(LogKind.RUN, Errored, Writer.ATTEMPT),
    Kind.TIMED_OUT: Control(LogKind.RUN, TimedOut, Writer.HUB),
    Kind.RETRY: Control(LogKind.RUN, Retry, Writer.HUB),
    Kind.CANCEL: Control(LogKind.RUN, Cancel, Writer.HUB),
    Kind.STEER: Control(LogKind.RUN, Steer, Writer.HUB),
    Kind.RECEIVED: Control(LogKind.RUN, Received, Writer.ATTEMPT),
    Kind.STEERED: Control(LogKind.RUN, Steered, Writer.ATTEMPT),
    Kind.ASKED: Control(LogKind.RUN, Asked, Writer.ATTEMPT),
    Kind.ANSWERED: Control(LogKind.RUN, Answered, Writer.HUB),
    Kind.SPAWN: Control(LogKind.RUN, Spawn, Writer.ATTEMPT),
    Kind.CHILD: Control(LogKind.RUN, ChildRun, Writer.HUB),
    Kind.CHILD_CANCEL: Control(LogKind.RUN, ChildCancel, Writer.ATTEMPT),
    Kind.CHILD_ENDED: Control(LogKind.RUN, ChildEnded, Writer.HUB),
    Kind.CONTINUE: Control(LogKind.RUN, Continue, Writer.ATTEMPT),
    Kind.CONTINUED: Control(LogKind.RUN, Continued, Writer.HUB, terminal=True),
    Kind.ATTACHED: Control(LogKind.RUN, Attached, Writer.ATTEMPT),
    Kind.SUCCEEDED: Control(LogKind.RUN, Succeeded, Writer.ATTEMPT, terminal=True),
    Kind.FAILED: Control(LogKind.RUN, Failed, Writer.HUB, terminal=True),
    Kind.CANCELLED: Control(LogKind.RUN, Cancelled, Writer.ATTEMPT, terminal=True),
    Kind.EXPIRED: Control(LogKind.RUN, Expired, Writer.HUB, terminal=True),
    Kind.DEAD: Control(LogKind.RUN, Dead, Writer.HUB, terminal=True),
    Kind.CONNECTED: Control(LogKind.AGENT, Connected, Writer.HUB),
    Kind.DISCONNECTED: Control(LogKind.AGENT, Disconnected, Writer.HUB),
    Kind.SUPERSEDED: Control(LogKind.AGENT, Superseded, Writer.HUB),
    Kind.CORDONED: Control(LogKind.AGENT, Cordoned, Writer.HUB),
    Kind.UNCORDONED: Control(LogKind.AGENT, Cordoned, Writer.HUB),
    Kind.DRAINING: Control(LogKind.AGENT, Draining, Writer.HUB),
    Kind.DRAINED: Control(LogKind.AGENT, Drained, Writer.HUB),
    Kind.REFUSED: Control(LogKind.AGENT, Refusals, Writer.HUB),
}

PACKED_FIELDS: dict[str, str] = {
    Kind.SUBMITTED: "input",
    Kind.SUCCEEDED: "result",
    Kind.CALL: "result",
    Kind.MARKER: "value",
    Kind.CHECKPOINT: "value",
    Kind.STEER: "body",
    Kind.STEERED: "value",
    Kind.ASKED: "payload",
    Kind.ANSWERED: "answer",
    Kind.SPAWN: "input",
    Kind.CHILD_ENDED: "result",
    Kind.CONTINUE: "input",
}
"""Control bodies of which one field is a packed value itself."""

COMMANDS: tuple[str, ...] = (Kind.CANCEL, Kind.STEER, Kind.ANSWERED, Kind.CHILD, Kind.CHILD_ENDED)
"""The kinds that an agent follows a run's log for."""


def is_control(kind: str) -> bool:
    """Whether a kind is control, known or not."""
    return kind.startswith("$")


def pack_control(kind: Kind, src: str, body: Part, *, attempt: int | None = None) -> bytes:
    """Return the packed value of a control entry that the hub itself writes."""
    return pack_record(kind, src, pack_value(body), attempt=attempt)


def read_control(model: type[Model], body: bytes) -> Model:
    """Read the body of a control entry.

    Raises:
        ValueError: it is not msgpack, or does not fit the model.
    """
    try:
        return model.model_validate(unpack_value(body))
    except ValidationError as fault:
        raise ValueError(misfit(fault)) from None
