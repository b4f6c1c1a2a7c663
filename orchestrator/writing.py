"""What an attempt publishes, as one commit: proposed, and proposed anew where the run changed meanwhile.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

import random

from orchestrator.core import attempts, questions, runs
from orchestrator.core import publish as publishing
from orchestrator.core.meta_questions import ASKED_DUE, FIELD
from orchestrator.core.publish import ENDINGS, Prepared
from orchestrator.core.queues import Queue
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store.commits import Commit, Outcome, Refusal, Refused
from protocol.codes import ErrorCode
from protocol.control import Errored, Kind, read_control
from protocol.frames import Nack, Publish
from protocol.ids import LogName
from protocol.run import FINAL, RunState

__all__ = ["read_run", "write"]


async def read_run(line: Line, log: LogName) -> RunMeta | None:
    """Return a run as the store has it; None where there is none.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    fields = await line.store.meta(log)
    return RunMeta.parse(log, fields) if fields else None


async def write(line: Line, peer: Peer, log: LogName, frame: Publish, prepared: Prepared) -> Outcome | Nack:
    """Append what an attempt publishes, with what follows from it; or say why it is refused.

    Raises:
        RequestError: the run has asked as much as it may.
        StoreUnavailable: the store does not answer.
    """
    while True:
        commit = await _proposal(line, peer, log, frame, prepared)
        result = await line.commit(commit)
        if isinstance(result, Outcome):
            return result
        if not _changed_meanwhile(frame.entries[-1][0], commit, result):
            return _refused(frame, commit, result)


async def _proposal(line: Line, peer: Peer, log: LogName, frame: Publish, prepared: Prepared) -> Commit:
    """Propose the commit of a publish. Only an attempt that errored, or asks, costs a read of the run."""
    kind, body, _, _ = frame.entries[-1]
    asked = questions.asked_in(frame.entries)
    meta = await read_run(line, log) if asked else None
    asking = None if meta is None else questions.opened(meta, asked, line.now_ms())
    ending, queue = None, None
    if kind in ENDINGS:
        ending, queue = await _ending(line, peer, log, kind, body, asking.after if asking else None)
    ids, claim, packed = _ids(line), prepared.claim, prepared.packed
    return attempts.publish(
        ids, log, peer.holder, claim, packed, expect=frame.expect, ending=ending, queue=queue, asking=asking
    )


async def _ending(
    line: Line, peer: Peer, log: LogName, kind: str, body: bytes, meta: RunMeta | None
) -> tuple[attempts.Ending, Queue] | tuple[None, None]:
    """Decide what follows an attempt's last entry, and of which queue its run is; without a run, nothing.

    With `meta`, that is what the run is as entries before it leave it.
    """
    known = peer.held.get(log.name)
    if known is not None and kind != Kind.ERRORED:
        return attempts.conclude(log, Kind(kind)), Queue(log.namespace, known.queue)
    meta = meta or await read_run(line, log)
    if meta is None:
        return None, None
    if kind != Kind.ERRORED:
        return attempts.conclude(log, Kind(kind)), meta.place
    errored, store_ms = read_control(Errored, body), line.now_ms()
    return attempts.conclude_error(_ids(line), meta, errored, random.random(), store_ms), meta.place


def _ids(line: Line) -> runs.Ids:
    return runs.Ids(line.new_commit_id(), line.src)


def _changed_meanwhile(kind: str, commit: Commit, refused: Refused) -> bool:
    """Whether a cancel, or a question or its answer, came between reading the run and what was decided of it."""
    if refused.reason is not Refusal.GUARD:
        return False
    field = commit.guards[refused.guard].field
    return (field == "cancel" and kind == Kind.ERRORED) or field.startswith((ASKED_DUE, FIELD))


def _refused(frame: Publish, commit: Commit, refused: Refused) -> Nack:
    """Say why an attempt's entries were refused."""
    if refused.reason is Refusal.PRODUCER_UNKNOWN:
        return publishing.refuse(frame, ErrorCode.FENCED, "the run has no such attempt (any more)")
    if refused.reason is not Refusal.GUARD:
        return publishing.nack(frame, refused)
    field = commit.guards[refused.guard].field
    code, message = ErrorCode.FENCED, "the attempt is over"
    if field == "cancel":
        code, message = ErrorCode.INVALID_ENTRY, "the run was not told to cancel"
    elif field == "session":
        code, message = ErrorCode.SUPERSEDED, "the attempt goes on in a newer session"
    elif field == "state" and refused.actual is not None and RunState(refused.actual) in FINAL:
        code, message = ErrorCode.RUN_FINISHED, f"the run is {refused.actual}"
    return Nack(log=frame.log, producer=frame.producer, seq=frame.seq, code=code, message=message)
