"""The methods of `request`: what each takes and what it answers.

`METHODS` is the one table. A method that changes something takes an `op`, made by the peer and the same
on every retry, or has a key of its own (`run.submit`); the first answer is kept and given again.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from protocol import requests_tokens as tokens
from protocol.artifacts import Artifact, ArtifactOpen, ArtifactOpened
from protocol.conversation import RunAnswer, RunAnswered, RunQueried, RunQuery, RunSteer, RunSteering
from protocol.entry import Entry, Position
from protocol.frames import Name, Part, Span, UInt
from protocol.requests_agents import (
    LIST_MAX,
    AgentChange,
    AgentDrain,
    AgentGet,
    AgentInfo,
    AgentList,
    AgentListed,
    AgentSend,
    AgentStanding,
)
from protocol.requests_keys import KeyChange, KeyList, KeyListed, PeerKey, RefusedKey
from protocol.requests_queues import (
    Bucket,
    ConcurrencyKey,
    KeyInfo,
    QueueDead,
    QueueGet,
    QueueInfo,
    QueueList,
    QueueListed,
    QueuePurge,
    QueuePurged,
    QueueRetried,
    QueueRetry,
    QueueSet,
    Rate,
    Share,
)
from protocol.schedules import (
    ScheduleAdd,
    ScheduleGet,
    ScheduleInfo,
    ScheduleList,
    ScheduleListed,
    ScheduleRemove,
    ScheduleRemoved,
    ScheduleSet,
)
from protocol.selector import SELECTOR_CHARS_MAX

__all__ = [
    "METHODS",
    "AgentChange",
    "AgentDrain",
    "AgentGet",
    "AgentInfo",
    "AgentList",
    "AgentListed",
    "AgentSend",
    "AgentStanding",
    "Bucket",
    "DeadLetters",
    "KeyChange",
    "KeyInfo",
    "KeyList",
    "KeyListed",
    "LogGet",
    "LogInfo",
    "LogList",
    "LogListed",
    "LogRead",
    "LogReadPage",
    "Method",
    "PeerKey",
    "Place",
    "ProducerOpen",
    "ProducerOpened",
    "QueueDead",
    "QueueGet",
    "QueueInfo",
    "QueueList",
    "QueueListed",
    "QueuePurge",
    "QueuePurged",
    "QueueRetried",
    "QueueRetry",
    "QueueSet",
    "Rate",
    "RefusedKey",
    "RunAnswer",
    "RunAnswered",
    "RunCancel",
    "RunCancelled",
    "RunGet",
    "RunInfo",
    "RunList",
    "RunListed",
    "RunRetry",
    "RunSteer",
    "RunSteering",
    "RunSubmit",
    "RunSubmitted",
    "RunWait",
    "RunWaited",
    "Share",
    "never_starts",
]


WaitMs = Annotated[int, Field(ge=1, le=60_000)]
"""How long the answer to a request may wait for a run to end."""


class RunSubmit(Part):
    """`run.submit`: put a run on a queue. The same key with the same input is the same run.

    `delay_ms` and `deadline_ms` count from now; what an attempt may take, and the waits between tries, are the
    handler's where they are not given. The run is kept for `keep_ms` after its end; as the hub has it, where that is
    not given. With `wait_ms` the answer comes when the run is over, or after that time.

    Errors: `key_conflict` (data: run) where the key names a run with another handler or input; `invalid_params`
    where `where` is no selector, or the delay is not shorter than the deadline.
    """

    queue: Name
    handler: Name
    input: bytes
    key: Annotated[str, Field(min_length=1, max_length=512)]
    retries: UInt | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    where: Annotated[str, Field(max_length=SELECTOR_CHARS_MAX)] = ""
    delay_ms: Span | None = None
    deadline_ms: Span | None = None
    timeout_ms: Span | None = None
    backoff_ms: Span | None = None
    backoff_max_ms: Span | None = None
    keep_ms: Span | None = None
    concurrency_key: ConcurrencyKey | None = None
    wait_ms: WaitMs | None = None


def never_starts(delay_ms: int | None, deadline_ms: int | None) -> str | None:
    """Say why a run with these times could never be taken; None where it could."""
    if delay_ms is None or deadline_ms is None or delay_ms < deadline_ms:
        return None
    return f"a delay of {delay_ms} ms is not over before the deadline, after {deadline_ms} ms: it could never start"


class RunSubmitted(Part):
    """The run; `created` is False where the key had made it before, `end` its last entry where it was waited for."""

    run: Name
    created: bool
    end: Entry | None = None


class RunWait(Part):
    """`run.wait`: wait for a run to end, at most so long. Errors: `not_found`."""

    run: Name
    wait_ms: WaitMs


class RunWaited(Part):
    """The entry that ended the run; None where it is not over yet."""

    end: Entry | None = None


class RunRetry(Part):
    """`run.retry`: do again what a run that is over was to do, as a new run.

    The new one has the same queue, handler, input and terms, but for a delay and a deadline.

    Errors: `not_found`; `not_over` where the run may still end by itself.
    """

    run: Name


class RunGet(Part):
    """`run.get`: one run. Errors: `not_found`."""

    run: Name


class RunInfo(Part):
    """A run as its log folds to. `result` is a packed value, `error` what it failed with."""

    run: Name
    state: str
    handler: str
    queue: str
    attempt: UInt
    agent: str | None = None
    submitted_ms: UInt
    started_ms: UInt | None = None
    finished_ms: UInt | None = None
    result: bytes | None = None
    error: dict[str, Any] | None = None
    cancelling: bool = False
    head: UInt
    where: str = ""
    not_before_ms: UInt | None = None
    deadline_ms: UInt | None = None
    timeout_ms: UInt | None = None
    concurrency_key: str | None = None
    retry_of: str | None = None
    reason: str | None = None
    """Why a run that waits is not taken, or why one was cancelled or expired; where that is known."""
    asking: UInt = 0
    suspended: bool = False
    """Its handler was put away, and is brought back when what it waits for has come; `reason` says what that is."""
    kept_until_ms: UInt | None = None
    """When a run that is over is deleted; None: never, or it is not over."""
    talk_from: UInt | None = None
    """No `$steer`, no `$asked` and no `$spawn` of the run stands before this offset."""
    parent: str | None = None
    """The run that this one is a child of."""
    continues: str | None = None
    """The run that ended in this one."""
    continued_as: str | None = None
    """The run that this one ended in."""
    artifacts: tuple[Artifact, ...] = ()


class RunList(Part):
    """`run.list`: runs, newest first; those that come after the run `after` in that order."""

    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = 100
    after: Name | None = None
    state: str | None = None
    queue: Name | None = None
    parent: Name | None = None


class RunListed(Part):
    """Runs, newest first, without their results; `next` is what to go on after, where there may be more."""

    runs: tuple[RunInfo, ...]
    next: Name | None = None


class DeadLetters(Part):
    """The oldest dead letters of a queue, without their results, and how many there are in all."""

    runs: tuple[RunInfo, ...]
    dead: UInt


class RunCancel(Part):
    """`run.cancel`: ask a run to stop. A run that waits is cancelled at once.

    Errors: `not_found`.
    """

    run: Name
    reason: Annotated[str, Field(max_length=1024)] | None = None


class RunCancelled(Part):
    """The run's state after the command; `running` until its handler has stopped."""

    state: str


class ProducerOpen(Part):
    """`producer.open`: own a producer of a log from now on; whoever owned it before is fenced."""

    log: Name
    producer: Name


class ProducerOpened(Part):
    """The owner fence to publish with, and the last seq that was accepted (0 for a new one)."""

    fence: UInt
    last: UInt


class LogRead(Part):
    """`log.read`: a page of a log, after an offset. Errors: `not_found`."""

    log: Name
    after: UInt = 0
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX


class LogReadPage(Part):
    """Entries between two positions, with nothing left out; `head` is the log's last offset.

    Where entries after the asked offset are not kept any more, `before` says where the page begins.
    """

    before: Position
    after: Position
    head: UInt
    entries: tuple[Entry, ...]


class LogGet(Part):
    """`log.get`: what is known of a log. Errors: `not_found`."""

    log: Name


class LogInfo(Part):
    """A log: its head as a position, and the first offset that is kept."""

    log: Name
    head: Position
    first: UInt
    ts_ms: UInt


class LogList(Part):
    """`log.list`: logs of a kind (all kinds without), newest first."""

    kind: str | None = None
    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = 100


class LogListed(Part):
    """Logs, newest first."""

    logs: tuple[LogInfo, ...]


class Place(Part):
    """Where an entry came to stand."""

    log: Name
    offset: UInt


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table: parameters, result, whether it needs an `op` to be done once however often it is sent."""

    params: type[Part]
    result: type[Part]
    needs_op: bool = False


METHODS: dict[str, Method] = {
    "run.submit": Method(RunSubmit, RunSubmitted),
    "run.retry": Method(RunRetry, RunSubmitted, needs_op=True),
    "run.get": Method(RunGet, RunInfo),
    "run.wait": Method(RunWait, RunWaited),
    "run.list": Method(RunList, RunListed),
    "run.cancel": Method(RunCancel, RunCancelled, needs_op=True),
    "run.steer": Method(RunSteer, RunSteering, needs_op=True),
    "run.answer": Method(RunAnswer, RunAnswered, needs_op=True),
    "run.query": Method(RunQuery, RunQueried),
    "queue.list": Method(QueueList, QueueListed),
    "queue.get": Method(QueueGet, QueueInfo),
    "queue.set": Method(QueueSet, QueueInfo),
    "queue.purge": Method(QueuePurge, QueuePurged),
    "queue.dead": Method(QueueDead, DeadLetters),
    "queue.retry": Method(QueueRetry, QueueRetried),
    "schedule.add": Method(ScheduleAdd, ScheduleInfo, needs_op=True),
    "schedule.list": Method(ScheduleList, ScheduleListed),
    "schedule.get": Method(ScheduleGet, ScheduleInfo),
    "schedule.set": Method(ScheduleSet, ScheduleInfo, needs_op=True),
    "schedule.remove": Method(ScheduleRemove, ScheduleRemoved, needs_op=True),
    "artifact.open": Method(ArtifactOpen, ArtifactOpened),
    "producer.open": Method(ProducerOpen, ProducerOpened, needs_op=True),
    "log.read": Method(LogRead, LogReadPage),
    "log.get": Method(LogGet, LogInfo),
    "log.list": Method(LogList, LogListed),
    "agent.list": Method(AgentList, AgentListed),
    "agent.get": Method(AgentGet, AgentInfo),
    "agent.send": Method(AgentSend, Place, needs_op=True),
    "agent.cordon": Method(AgentChange, AgentStanding, needs_op=True),
    "agent.uncordon": Method(AgentChange, AgentStanding, needs_op=True),
    "agent.drain": Method(AgentDrain, AgentStanding, needs_op=True),
    "token.revoke": Method(tokens.TokenRevoke, tokens.TokenRevoked),
    "token.unrevoke": Method(tokens.TokenUnrevoke, tokens.TokenUnrevoked),
    "token.revoked": Method(tokens.RevokedList, tokens.RevokedListed),
    "token.check": Method(tokens.TokenCheck, tokens.TokenChecked),
    "key.list": Method(KeyList, KeyListed),
    "key.accept": Method(KeyChange, PeerKey),
    "key.reject": Method(KeyChange, PeerKey),
    "key.revoke": Method(KeyChange, PeerKey),
}
"""Every method. Of those that change something and need no `op`, `run.submit` has its key, an artifact its number, and
what is said of a queue, a token or a key may be said again."""
