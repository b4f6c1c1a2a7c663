"""The children of a run, as its log tells of them. A part of the fold of a run.

    asked for (`$spawn`) -> open (`$child`) -> ended (`$child_ended`)

Specification: docs/protocol.md, section "Parents and children".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from protocol.control import Kind, read_control
from protocol.entry import Record
from protocol.family import ChildEnded, ChildRun, Spawn

__all__ = ["Child", "ChildKey", "children_after"]

ChildKey = tuple[int, str]
"""Index and digest of a child."""


@dataclass(frozen=True, slots=True)
class Child:
    """A child of a run.

    Attributes:
        again: the child that it is in the place of, where that did not succeed.
        abandon: it goes on when its parent ends.
        offset: of the entry that asks for it.
        run: its id, once it is submitted.
        ended: what it came to.
    """

    index: int
    digest: str
    handler: str
    queue: str
    again: str | None
    abandon: bool
    offset: int
    run: str | None = None
    ended: ChildEnded | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended without a result."""
        return self.ended is not None and self.ended.state != "succeeded"


def children_after(children: Mapping[ChildKey, Child], offset: int, record: Record) -> Mapping[ChildKey, Child]:
    """Return the children after one more entry about them. One that was asked for before stays as it is.

    Raises:
        ValueError: the entry is malformed.
    """
    match record.kind:
        case Kind.SPAWN:
            spawn, index = read_control(Spawn, record.body), record.index or 0
            if (index, spawn.digest) in children:
                return children
            child = Child(index, spawn.digest, spawn.handler, spawn.queue, spawn.again, spawn.abandon, offset)
            return {**children, (index, spawn.digest): child}
        case Kind.CHILD:
            made = read_control(ChildRun, record.body)
            known = children.get((made.index, made.digest))
            return children if known is None else {**children, (made.index, made.digest): replace(known, run=made.run)}
        case Kind.CHILD_ENDED:
            ended = read_control(ChildEnded, record.body)
            known = children.get((ended.index, ended.digest))
            return children if known is None else {**children, (ended.index, ended.digest): replace(known, ended=ended)}
        case _:
            return children
