"""What was refused: bodies of entries in an agent's log and in `topic/audit`.

Specification: docs/protocol.md, sections "Audit" and "Control entries".
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from protocol.frames import Name, Part, UInt

__all__ = ["AUDIT_TOPIC", "Refusals", "What"]

AUDIT_TOPIC = "audit"
"""The topic of a namespace where hubs write down what they refused; nobody else publishes to it."""


class What(StrEnum):
    """What was asked for and not permitted, or more than may be."""

    SESSION = "session"
    """To open a session, or to go on with one."""
    REQUEST = "request"
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"
    SERVE = "serve"
    """To take runs from a queue."""
    KEY = "key"
    """To be known by a key."""
    CONNECTION = "connection"
    """To be heard at all."""
    RATE = "rate"
    """To send more than its principal may; what was sent is taken later."""
    LOG = "log"
    """To make a log that is not there."""
    RUN = "run"
    """To make a run."""


class Refusals(Part):
    """The same thing was refused `count` times, from `first_ms` to `last_ms`.

    `who` is a principal that was authenticated; without, nobody was. `about` is what it was to, `network` where an
    unauthenticated peer came from: never a whole address, a token or a body.
    """

    what: Annotated[What, Field(strict=False)]
    code: Name
    count: UInt
    first_ms: UInt
    last_ms: UInt
    reason: Name | None = None
    who: Name | None = None
    about: Name | None = None
    network: Name | None = None
