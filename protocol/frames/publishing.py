"""Publishing: entries for a log, and whether they are in it.

Specification: docs/protocol.md, section "Frames".
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from protocol.frames.part import Name, Part, UInt

__all__ = ["Nack", "Puback", "Publish"]


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
