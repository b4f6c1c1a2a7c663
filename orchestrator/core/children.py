"""What to do about the children of a run: pure proposals of commits, as in `orchestrator.core.runs`.

A parent and its children lie with their queues, in partitions of their own. So what one means for the other is two
commits or more. The parent's partition keeps a record of each child that has not ended; a record leaves it with the
entry that says so in the parent's log:

    `$spawn` + record, asked  ->  the child is submitted  ->  `$child` + record, open  ->  `$child_ended`, no record

Whatever is still to be done has a timer that is due at once, committed with its cause: the family's timer of the parent
(a child to be submitted or cancelled), or of the child (its end to be told). Whoever acts on it reads, acts, and takes
the timer away, guarded on nothing having stirred the run since. What is done twice changes nothing: the key of the
submit, and the record as it was read, let one through.

Specification: docs/protocol.md, section "Parents and children"; docs/decisions/0015-parents-and-children.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from orchestrator.core import runs
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.runs import Ids
from orchestrator.core.timers import family_timer
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Append, Below, Commit, Guard, HashDelete, HashSet, Op
from protocol.codes import ErrorCode
from protocol.control import Kind, pack_control
from protocol.errors import RequestError
from protocol.family import CHILDREN_MAX, CHILDREN_OPEN_MAX, ChildCancel, ChildEnded, ChildRun, Spawn
from protocol.ids import LogName
from protocol.requests import RunSubmit

__all__ = [
    "Asked",
    "CancelPhase",
    "Handing",
    "MetaChild",
    "child_run",
    "forget",
    "handed",
    "is_due",
    "marked",
    "noted",
    "rest",
    "slot_of",
    "to_cancel",
    "told",
]

_NONE, _ABANDON = "-", "abandon"


class CancelPhase(StrEnum):
    """How far a child is on its way to be cancelled."""

    NO = "no"
    WANTED = "wanted"
    TOLD = "told"


@dataclass(frozen=True, slots=True)
class Asked:
    """Where the `$spawn` of a child stands: somewhere after this offset, with this attempt and seq."""

    after: int
    attempt: int
    seq: int


@dataclass(frozen=True, slots=True)
class MetaChild:
    """A child of a run that has not ended, as the parent's partition keeps it.

    Attributes:
        run: its id; "" until it is submitted.
        reason: why the handler wants it cancelled.
    """

    index: int
    digest: str
    asked: Asked
    queue: str
    handler: str
    abandon: bool
    run: str = ""
    cancel: CancelPhase = CancelPhase.NO
    reason: str = ""

    @classmethod
    def parse(cls, slot: str, text: str) -> MetaChild:
        """Read a field of the record."""
        index, _, digest = slot.partition(".")
        after, attempt, seq, queue, handler, abandon, run, cancel, reason = text.split(" ", 8)
        place = Asked(int(after), int(attempt), int(seq))
        made = "" if run == _NONE else run
        return cls(int(index), digest, place, queue, handler, abandon == _ABANDON, made, CancelPhase(cancel), reason)

    @property
    def slot(self) -> str:
        """What it is called among the children of its parent."""
        return slot_of(self.index, self.digest)

    def encode(self) -> str:
        """Return what `parse` reads."""
        asked, abandon = self.asked, _ABANDON if self.abandon else _NONE
        words = (asked.after, asked.attempt, asked.seq, self.queue, self.handler, abandon, self.run or _NONE)
        return " ".join((*map(str, words), self.cancel.value, self.reason))


def slot_of(index: int, digest: str) -> str:
    """Return what a child is called among the children of its parent."""
    return f"{index}.{digest}"


@dataclass(frozen=True, slots=True)
class Handing:
    """What comes with a frame that hands work to children, or has some cancelled: what must be so, what changes.

    Attributes:
        after: the run's meta after it.
        records: of the children that it is about and that have not ended, after it, by slot.
    """

    after: RunMeta
    guards: tuple[Guard, ...] = ()
    below: tuple[Below, ...] = ()
    ops: tuple[Op, ...] = ()
    records: Mapping[str, str] = field(default_factory=dict)


def handed(
    ids: Ids,
    meta: RunMeta,
    spawns: Sequence[tuple[int, int, Spawn]],
    cancels: Sequence[ChildCancel],
    known: Mapping[str, MetaChild],
) -> Handing:
    """Decide what comes with entries about children of the attempt that runs.

    A child that is known and asked for again, by a new attempt say, stays as it is; so does one that is told to
    cancel and has ended.

    Args:
        ids: of the commit.
        meta: of the parent.
        spawns: seq, index and body of each `$spawn`.
        cancels: bodies of the `$child_cancel` entries.
        known: by slot, those of the children named that have not ended.

    Raises:
        RequestError: the run has had as many children as it may.
    """
    new: dict[str, MetaChild] = {}
    for seq, index, spawn in spawns:
        place = Asked(meta.head, meta.attempt, seq)
        child = MetaChild(index, spawn.digest, place, spawn.queue, spawn.handler, spawn.abandon)
        if child.slot not in known:
            new[child.slot] = child
    if meta.children + len(new) > CHILDREN_MAX:
        message = f"the run has had {meta.children} children, and may have {CHILDREN_MAX}; continue as another run"
        raise RequestError(ErrorCode.INVALID_ENTRY, message)
    changed = dict(new)
    for cancel in cancels:
        slot = slot_of(cancel.index, cancel.digest)
        there = changed.get(slot, known.get(slot))
        if there is not None and there.cancel is CancelPhase.NO:
            changed[slot] = replace(there, cancel=CancelPhase.WANTED, reason=" ".join((cancel.reason or "").split()))
    if not changed:
        return Handing(meta)
    after = meta._replace(children=meta.children + len(new), talk_from=meta.talk_from or meta.head + 1)
    records, encoded = keys.children(meta.log), {slot: child.encode() for slot, child in changed.items()}
    fields = {"children": str(after.children), "talk_from": str(after.talk_from)}
    unchanged = (Guard(records, slot, known[slot].encode() if slot in known else ABSENT) for slot in changed)
    return Handing(
        after,
        (meta.children_unchanged(), *unchanged),
        (Below(records, CHILDREN_OPEN_MAX - len(new) + 1),) if new else (),
        (
            HashSet(keys.meta(meta.log), fields),
            HashSet(records, encoded),
            *runs.stirs(ids, after),
        ),
        encoded,
    )


def is_due(meta: RunMeta, child: MetaChild) -> bool:
    """Whether there is something to do about a child."""
    return not child.run or meta.final or to_cancel(meta, child)


def to_cancel(meta: RunMeta, child: MetaChild) -> bool:
    """Whether a child is to be cancelled: its handler wants it, or its parent is cancelled or over."""
    over = (meta.final or meta.cancelling) and not child.abandon
    return child.cancel is CancelPhase.WANTED or (over and child.cancel is CancelPhase.NO)


def child_run(parent: LogName, child: MetaChild, spawn: Spawn) -> RunSubmit:
    """Return what submits a child: the same run, however often it is submitted."""
    return RunSubmit(
        queue=spawn.queue,
        handler=spawn.handler,
        input=spawn.input,
        key=f"child/{parent.name}/{child.index}/{child.digest}",
        retries=spawn.retries,
        priority=spawn.priority,
        where=spawn.where,
        delay_ms=spawn.delay_ms,
        deadline_ms=spawn.deadline_ms,
        timeout_ms=spawn.timeout_ms,
        backoff_ms=spawn.backoff_ms,
        backoff_max_ms=spawn.backoff_max_ms,
        concurrency_key=spawn.concurrency_key,
    )


def noted(ids: Ids, meta: RunMeta, child: MetaChild, run: str) -> Commit:
    """Propose that a child is submitted, and that the parent, unless it is over, is told."""
    after = replace(child, run=run)
    entries = () if meta.final else (_child(ids, after),)
    return _changed(ids, meta, child, entries, HashSet(keys.children(meta.log), {child.slot: after.encode()}))


def marked(ids: Ids, meta: RunMeta, child: MetaChild) -> Commit:
    """Propose that a child was told to cancel."""
    after = replace(child, cancel=CancelPhase.TOLD, reason="")
    return _changed(ids, meta, child, (), HashSet(keys.children(meta.log), {child.slot: after.encode()}))


def told(ids: Ids, meta: RunMeta, child: MetaChild, ended: ChildEnded) -> Commit:
    """Propose that the parent, unless it is over, is told the end of a child; there is no more to do about it."""
    entries: tuple[bytes, ...] = ()
    if not meta.final:
        made = () if child.run else (_child(ids, replace(child, run=ended.run)),)
        entries = (*made, pack_control(Kind.CHILD_ENDED, ids.src, ended))
    waiting = () if meta.suspended is None else meta.suspended.children
    after = runs.struck(meta, children=tuple(slot for slot in waiting if slot != child.slot))
    gone = HashDelete(keys.children(meta.log), (child.slot,))
    commit = _changed(ids, meta, child, entries, gone, *runs.coming(meta, after))
    return commit._replace(guards=(*commit.guards, *meta.put_off_unchanged()), hints=runs.back_hints(meta, after))


def forget(ids: Ids, meta: RunMeta, child: MetaChild) -> Commit:
    """Propose that there is no more to do about a child of a run that is over."""
    return _changed(ids, meta, child, (), HashDelete(keys.children(meta.log), (child.slot,)))


def rest(ids: Ids, meta: RunMeta) -> Commit:
    """Propose that there is nothing to do about a run's parent and children, unless it was stirred since."""
    guard = Guard(keys.meta(meta.log), "stirred", meta.stirred)
    return Commit(ids.commit, meta.partition, guards=(guard,), ops=(family_timer(meta.log, due=False),))


def _child(ids: Ids, child: MetaChild) -> bytes:
    said = ChildRun(index=child.index, digest=child.digest, run=child.run, queue=child.queue, handler=child.handler)
    return pack_control(Kind.CHILD, ids.src, said)


def _changed(ids: Ids, meta: RunMeta, child: MetaChild, entries: tuple[bytes, ...], *ops: Op) -> Commit:
    """Change a record that is as it was read, of a run that is over or not as it was read."""
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(
            Guard(keys.children(meta.log), child.slot, child.encode()),
            Guard(keys.meta(meta.log), "state", meta.state.value),
        ),
        appends=(Append(meta.log, entries, ""),) if entries else (),
        ops=ops,
    )
