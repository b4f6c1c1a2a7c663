"""The life of a run: a fold over the entries of its log, and nothing else.

    queued -> running -> succeeded | failed | cancelled | expired | dead
       ^---------|  retry, lost, released, suspended

Entries move the state only as `TRANSITIONS` has it; a pair that is not in the table is a broken log,
and an error, never a guess. A `$cancel` moves nothing by itself: it is a command, pending until the
attempt ends, whichever way. So does none of what the run is told and asks (`protocol.talk`).

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from protocol.codec import unpack_record
from protocol.control import (
    AttemptLost,
    Claimed,
    Dead,
    Errored,
    Failed,
    Kind,
    Progress,
    Retry,
    RunError,
    Submitted,
    Succeeded,
    TimedOut,
    is_control,
    read_control,
)
from protocol.conversation import Suspended
from protocol.entry import Entry, Record
from protocol.errors import FleetlineError
from protocol.family import Continued
from protocol.talk import Talk, talk_after

__all__ = ["FINAL", "TRANSITIONS", "BrokenLog", "RunState", "RunView", "apply", "fold", "timeout_error"]


class RunState(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DEAD = "dead"

    __hash__ = str.__hash__  # as it would be, but made in C


FINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.EXPIRED, RunState.DEAD})

TRANSITIONS: dict[tuple[RunState | None, Kind], RunState] = {
    (None, Kind.SUBMITTED): RunState.QUEUED,
    (RunState.QUEUED, Kind.CLAIMED): RunState.RUNNING,
    (RunState.QUEUED, Kind.CANCEL): RunState.QUEUED,
    (RunState.QUEUED, Kind.STEER): RunState.QUEUED,
    (RunState.QUEUED, Kind.ANSWERED): RunState.QUEUED,
    (RunState.QUEUED, Kind.CHILD): RunState.QUEUED,
    (RunState.QUEUED, Kind.CHILD_ENDED): RunState.QUEUED,
    (RunState.QUEUED, Kind.CANCELLED): RunState.CANCELLED,
    (RunState.QUEUED, Kind.EXPIRED): RunState.EXPIRED,
    (RunState.QUEUED, Kind.FAILED): RunState.FAILED,
    (RunState.QUEUED, Kind.DEAD): RunState.DEAD,
    (RunState.QUEUED, Kind.RETRY): RunState.QUEUED,
    (RunState.RUNNING, Kind.PROGRESS): RunState.RUNNING,
    (RunState.RUNNING, Kind.CALL): RunState.RUNNING,
    (RunState.RUNNING, Kind.MARKER): RunState.RUNNING,
    (RunState.RUNNING, Kind.CHECKPOINT): RunState.RUNNING,
    (RunState.RUNNING, Kind.CANCEL): RunState.RUNNING,
    (RunState.RUNNING, Kind.STEER): RunState.RUNNING,
    (RunState.RUNNING, Kind.RECEIVED): RunState.RUNNING,
    (RunState.RUNNING, Kind.STEERED): RunState.RUNNING,
    (RunState.RUNNING, Kind.ASKED): RunState.RUNNING,
    (RunState.RUNNING, Kind.ANSWERED): RunState.RUNNING,
    (RunState.RUNNING, Kind.SPAWN): RunState.RUNNING,
    (RunState.RUNNING, Kind.CHILD): RunState.RUNNING,
    (RunState.RUNNING, Kind.CHILD_CANCEL): RunState.RUNNING,
    (RunState.RUNNING, Kind.CHILD_ENDED): RunState.RUNNING,
    (RunState.RUNNING, Kind.CONTINUE): RunState.RUNNING,
    (RunState.RUNNING, Kind.ATTACHED): RunState.RUNNING,
    (RunState.RUNNING, Kind.LOST): RunState.QUEUED,
    (RunState.RUNNING, Kind.RELEASED): RunState.QUEUED,
    (RunState.RUNNING, Kind.SUSPENDED): RunState.QUEUED,
    (RunState.RUNNING, Kind.ERRORED): RunState.QUEUED,
    (RunState.RUNNING, Kind.TIMED_OUT): RunState.QUEUED,
    (RunState.RUNNING, Kind.SUCCEEDED): RunState.SUCCEEDED,
    (RunState.RUNNING, Kind.CONTINUED): RunState.SUCCEEDED,
    (RunState.RUNNING, Kind.FAILED): RunState.FAILED,
    (RunState.RUNNING, Kind.CANCELLED): RunState.CANCELLED,
    (RunState.RUNNING, Kind.EXPIRED): RunState.EXPIRED,
}
"""(state, control kind) -> state. `$lost`, `$suspended`, `$errored` and `$timed_out` leave the run without an attempt;
what the hub decides about it ($retry, $failed, $dead, $cancelled) stands next to them in the same commit, as
`$continued` or `$cancelled` does next to `$continue`."""


def timeout_error(timed_out: TimedOut) -> RunError:
    """Return what a run failed with of which an attempt took longer than it may."""
    return RunError(type="TimeoutError", message=f"the attempt took longer than {timed_out.timeout_ms} ms")


class BrokenLog(FleetlineError, ValueError):
    """An entry that cannot follow the ones before it."""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run as its log tells it.

    Attributes:
        state: None before the first entry.
        attempt: number of the latest attempt, 0 before the first.
        fence: of the latest attempt.
        agent: who holds the attempt, while one is held.
        failures: attempts that ended with an error.
        losses: attempts whose agent was lost.
        cancelling: a cancel was asked for.
        result: the packed result of a run that succeeded.
        error: what the run last failed with; None once it succeeded.
        continued_as: the run that it ended in, where it did.
        started_ms: when the first attempt began.
        suspended: what it waited for when its handler was put away; None once another attempt began, or it is over.
        talk: what it was told, what it asked, and its children.
        head: offset of the last entry folded.
    """

    state: RunState | None = None
    queue: str = ""
    handler: str = ""
    input: bytes = b""
    attempt: int = 0
    fence: int = 0
    agent: str | None = None
    failures: int = 0
    losses: int = 0
    cancelling: bool = False
    progress: Progress | None = None
    result: bytes | None = None
    error: RunError | None = None
    continued_as: str | None = None
    submitted_ms: int = 0
    started_ms: int | None = None
    finished_ms: int | None = None
    suspended: Suspended | None = None
    talk: Talk = field(default_factory=Talk)
    head: int = 0


def fold(view: RunView, entries: tuple[Entry, ...]) -> RunView:
    """Return the view after `entries`.

    Raises:
        BrokenLog: an offset is missing or an entry cannot follow.
    """
    for entry in entries:
        view = apply(view, entry)
    return view


def apply(view: RunView, entry: Entry) -> RunView:
    """Return the view after one more entry.

    Raises:
        BrokenLog: the offset is not the next, the run is over, or the entry is malformed or cannot follow.
    """
    if entry.offset != view.head + 1:
        raise BrokenLog(f"offset {entry.offset} after {view.head}")
    try:
        return _follow(view, entry, unpack_record(entry.packed))
    except BrokenLog:
        raise
    except ValueError as fault:
        raise BrokenLog(f"entry {entry.offset}: {fault}") from fault


def _follow(view: RunView, entry: Entry, record: Record) -> RunView:
    view = replace(view, head=entry.offset)
    if not is_control(record.kind):
        if view.state is not RunState.RUNNING or record.attempt != view.attempt:
            raise BrokenLog(f"entry {entry.offset} is of attempt {record.attempt}, which does not run")
        return view
    try:
        state = TRANSITIONS[view.state, Kind(record.kind)]
    except (KeyError, ValueError):
        raise BrokenLog(f"{record.kind} at {entry.offset} cannot follow in state {view.state}") from None
    talk = talk_after(view.talk, entry, record)
    return _enter(view if talk is view.talk else replace(view, talk=talk), state, record, entry.ts_ms)


def _enter(view: RunView, state: RunState, record: Record, ts_ms: int) -> RunView:
    view = _note(replace(view, state=state), record, ts_ms)
    if state is not RunState.RUNNING:
        view = replace(view, agent=None)
    if state in FINAL:
        view = replace(view, finished_ms=ts_ms, suspended=None)
    elif record.kind == Kind.SUSPENDED:
        view = replace(view, suspended=read_control(Suspended, record.body))
    return view


def _note(view: RunView, record: Record, ts_ms: int) -> RunView:
    """Take over what a control entry says besides its state."""
    match record.kind:
        case Kind.SUBMITTED:
            asked = read_control(Submitted, record.body)
            return replace(view, queue=asked.queue, handler=asked.handler, input=asked.input, submitted_ms=ts_ms)
        case Kind.CLAIMED:
            claim = read_control(Claimed, record.body)
            started = view.started_ms if view.started_ms is not None else ts_ms
            return replace(
                view,
                attempt=claim.attempt,
                fence=claim.fence,
                agent=claim.agent,
                started_ms=started,
                suspended=None,
            )
        case Kind.ERRORED:
            error = read_control(Errored, record.body).error
            return replace(view, error=error, failures=view.failures + 1)
        case Kind.TIMED_OUT:
            return replace(view, error=timeout_error(read_control(TimedOut, record.body)), failures=view.failures + 1)
        case Kind.LOST:
            return replace(view, losses=read_control(AttemptLost, record.body).losses)
        case Kind.RETRY:
            return replace(view, failures=read_control(Retry, record.body).failures)
        case Kind.CANCEL:
            return replace(view, cancelling=True)
        case Kind.PROGRESS:
            return replace(view, progress=read_control(Progress, record.body))
        case _:
            return _end(view, record)


def _end(view: RunView, record: Record) -> RunView:
    """Take over what the entry that ends a run says of it."""
    match record.kind:
        case Kind.CONTINUED:
            return replace(view, continued_as=read_control(Continued, record.body).run, error=None)
        case Kind.SUCCEEDED:
            return replace(view, result=read_control(Succeeded, record.body).result, error=None)
        case Kind.FAILED:
            return replace(view, error=read_control(Failed, record.body).error)
        case Kind.DEAD:
            return replace(view, error=read_control(Dead, record.body).error or view.error)
        case _:
            return view
