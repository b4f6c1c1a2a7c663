"""What the store says of a log that somebody wants to follow, and what follows from it.

The decisions are in `orchestrator.core.resume`; here is the reading that they ask for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from orchestrator.core.resume import (
    LogState,
    NeedsTag,
    Probing,
    ResetTo,
    Resumed,
    Search,
    resume,
)
from orchestrator.line import Line
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Append, Appended, Commit
from orchestrator.tail import Tail
from protocol.codes import ErrorCode
from protocol.entry import Position
from protocol.frames import Resumption, SubscriptionVerdict
from protocol.ids import LogKind, LogName, partition_of

__all__ = ["BeforeMaking", "Decision", "Known", "answer", "decide", "log_state", "refused"]

DECIDE_TRIES_MAX = 5

Decision = Resumed | ResetTo | Search
BeforeMaking = Callable[[], Awaitable[None]] | None
"""Asked before a topic is made; what it raises keeps it from being made. None: none is made."""


@dataclass(frozen=True, slots=True)
class Known:
    """A log as a commit of this hub has just left it: nobody need ask the store for it.

    Attributes:
        state: after the commit.
        before: where the log ended before it.
    """

    state: LogState
    before: Position

    @classmethod
    def after(cls, meta: Mapping[str, str] | None, appended: Appended) -> Known | None:
        """Return what is known of a log from its meta before a commit and from what that appended, if it fits."""
        before, after = appended.before, appended.after
        if meta is not None and meta["epoch"] != before.epoch:
            return None
        written = {"epoch": after.epoch, "head": str(after.offset), "tag": after.tag, "ts": str(appended.ts_ms)}
        return cls(LogState.parse({**(meta or {}), **written}), before)


async def log_state(line: Line, tail: Tail, make: BeforeMaking = None) -> LogState | None:
    """Return a log as the store has it, and let its tail know; with `make` a topic that is not there is made.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    log, whole = tail.log, tail.whole()
    if whole is not None:
        return whole
    meta = await line.store.meta(log)
    if meta is None and make is not None and log.kind is LogKind.TOPIC:
        await make()
        append = Append(log, (), line.new_epoch())
        await line.commit(Commit(line.new_commit_id(), partition_of(log), appends=(append,)))
        meta = await line.store.meta(log)
    if meta is None:
        return None
    state = LogState.parse(meta)
    if not tail.prime(state):
        line.tails.changed(tail)
        tail.prime(state)
    elif state.head > tail.head:
        line.tails.check_soon(tail)
    return state


async def decide(
    line: Line, log: LogName, state: LogState, place: Position | None, before: Position | None = None
) -> Decision:
    """Decide where delivery goes on after a position; without one, at the first entry that is kept.

    With `before`, the log is known to have been there a moment ago.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    if place is None:
        return Resumed(state.cut)
    tag = before.tag if before is not None and before[:2] == place[:2] else None
    for _ in range(DECIDE_TRIES_MAX):
        decision = resume(state, place, tag)
        if isinstance(decision, Probing):
            search = Search(state, decision.position)
            return search.result or search
        if not isinstance(decision, NeedsTag):
            return decision
        tag = (await line.store.tags(log, (decision.offset,)))[0]
        if tag is None:  # trimmed or replaced since
            meta = await line.store.meta(log)
            state = LogState.parse(meta) if meta else state
    raise StoreUnavailable(f"{log.path} changes faster than it can be read")


def answer(path: str, head: int, decision: Decision) -> SubscriptionVerdict:
    """Return a decision as the peer is told it."""
    match decision:
        case Resumed(at):
            return SubscriptionVerdict(log=path, verdict=Resumption.RESUMED, at=at, head=head)
        case ResetTo(reason, lost, at):
            return SubscriptionVerdict(log=path, verdict=Resumption.RESET, at=at, head=head, reason=reason, lost=lost)
        case Search():
            return SubscriptionVerdict(log=path, verdict=Resumption.PROBING, head=head)


def refused(path: str, code: ErrorCode, message: str) -> SubscriptionVerdict:
    """Return the verdict that a log may not, or cannot, be followed."""
    return SubscriptionVerdict(log=path, verdict=Resumption.REFUSED, code=code.value, message=message)
