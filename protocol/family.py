"""Runs that a run hands work to, and the run that it ends in: bodies of entries.

A run asks for a child (`$spawn`), and the hub says when the child is submitted (`$child`) and when it has ended
(`$child_ended`). A child is named by index and digest, as a question is. A run whose log grew long ends in another one
(`$continue`, `$continued`).

Specification: docs/protocol.md, section "Parents and children".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames import Digest, Name, Part, Span, UInt
from protocol.ids import check_name
from protocol.requests import never_starts
from protocol.requests_queues import ConcurrencyKey
from protocol.run_error import RunError
from protocol.selector import SELECTOR_CHARS_MAX, parse_selector

__all__ = [
    "CHILDREN_MAX",
    "CHILDREN_OPEN_MAX",
    "ChildCancel",
    "ChildEnded",
    "ChildRun",
    "Continue",
    "Continued",
    "Spawn",
    "check_spawn",
]

CHILDREN_OPEN_MAX = 1000
"""Children of one run that have not ended, at one time."""
CHILDREN_MAX = 10_000
"""Children of one run. One that needs more continues as another run, or has children that have children."""


class Spawn(Part):
    """The handler hands work to a child; the entry's index is the child's.

    `digest` is that of everything else in it: the same child of another attempt has the same. `input` is a packed
    value; the terms are those of `run.submit`, and times count from when the child is submitted. `again` is the child
    at this index that did not succeed, and in the place of which this one is. One with `abandon` goes on when its
    parent ends or is cancelled.
    """

    queue: Name
    handler: Name
    input: bytes
    digest: Digest
    again: Name | None = None
    abandon: bool = False
    retries: UInt | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    where: Annotated[str, Field(max_length=SELECTOR_CHARS_MAX)] = ""
    delay_ms: Span | None = None
    deadline_ms: Span | None = None
    timeout_ms: Span | None = None
    backoff_ms: Span | None = None
    backoff_max_ms: Span | None = None
    concurrency_key: ConcurrencyKey | None = None


class ChildRun(Part):
    """The child of this index and digest is submitted, and is this run."""

    index: UInt
    digest: Digest
    run: Name
    queue: Name
    handler: Name


class ChildCancel(Part):
    """The handler has a child cancelled, whose index and digest these are."""

    index: UInt
    digest: Digest
    reason: Annotated[str, Field(max_length=1024)] | None = None


class ChildEnded(Part):
    """A child has ended, as `run`: with a packed `result` where it succeeded, else with an `error` or a `reason`.

    `offset` is that of the last entry of that run. Where a child continued as another run, `run` is the last of them.
    """

    index: UInt
    digest: Digest
    run: Name
    state: str
    offset: UInt
    result: bytes | None = None
    error: RunError | None = None
    reason: str | None = None


class Continue(Part):
    """The handler is done with this run, and is to go on in another one with this packed `input`."""

    input: bytes


class Continued(Part):
    """Terminal: the run goes on as this one."""

    run: Name


def check_spawn(spawn: Spawn) -> None:
    """Do nothing where this can be a child.

    Raises:
        ValueError: it never can; the message says why.
    """
    check_name(spawn.queue)
    check_name(spawn.handler)
    parse_selector(spawn.where)
    never = never_starts(spawn.delay_ms, spawn.deadline_ms)
    if never is not None:
        raise ValueError(never)
