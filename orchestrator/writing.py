"""What an attempt publishes, as one commit: proposed, and proposed anew where the run changed meanwhile.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence

from orchestrator.core import artifacts, attempts, children, questions, runs, suspension
from orchestrator.core import publish as publishing
from orchestrator.core.continuing import conclude_continue
from orchestrator.core.meta_questions import ASKED_DUE, FIELD
from orchestrator.core.publish import ENDINGS, Prepared
from orchestrator.core.queues import Queue, queue_of
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, Guard, Outcome, Refusal, Refused
from protocol.codec import unpack_record
from protocol.codes import ErrorCode
from protocol.control import Errored, Kind, Submitted, read_control
from protocol.conversation import Suspended
from protocol.family import ChildCancel, Continue, Spawn
from protocol.frames import Nack, Publish
from protocol.ids import LogName, make_run_id, queue_partition
from protocol.run import FINAL, RunState

__all__ = ["new_run_id", "read_last", "read_run", "refused", "write"]

TRIES_MAX = 100
"""How often a publish is proposed anew since somebody else changed the run."""
OPEN_RETRY_MS = 1_000
"""When to try again to hand work to a child, where as many as may be have not ended."""

_DECIDED = frozenset({Kind.ERRORED, Kind.SUSPENDED, Kind.CONTINUE})
"""Endings after which it is for the hub to say what becomes of the run."""


async def read_run(line: Line, log: LogName) -> RunMeta | None:
    """Return a run as the store has it; None where there is none.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    fields = await line.store.meta(log)
    return RunMeta.parse(log, fields) if fields else None


async def read_last(line: Line, log: LogName) -> RunMeta | None:
    """Return the run that a run went on as, and that one, up to the one that did not: it itself, mostly; None: gone.

    One in between may be deleted after it was named. Those beside it name each other by then, so it is begun anew.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    at, gone = log, log
    while True:
        meta = await read_run(line, at)
        if meta is None:
            if at in (log, gone):
                return None
            at, gone = log, at
        elif meta.continued_as:
            at = LogName(log.namespace, log.kind, meta.continued_as)
        else:
            return meta


async def write(line: Line, peer: Peer, log: LogName, frame: Publish, prepared: Prepared) -> Outcome | Nack:
    """Append what an attempt publishes, with what follows from it; or say why it is refused.

    Raises:
        RequestError: the run has asked as much as it may, or had as many children, or cannot be suspended.
        StoreUnavailable: the store does not answer.
    """
    for _ in range(TRIES_MAX):
        commit = await _proposal(line, peer, log, frame, prepared)
        result = await line.commit(commit)
        if isinstance(result, Outcome):
            return result
        if not _changed_meanwhile(frame.entries[-1][0], commit, result):
            return refused(frame, commit, result)
    raise StoreUnavailable(f"{log.path} was changed by others {TRIES_MAX} times while it was written")


async def _proposal(line: Line, peer: Peer, log: LogName, frame: Publish, prepared: Prepared) -> Commit:
    """Propose the commit of a publish.

    Only one that errored, is suspended, asks, attaches, has to do with children or continues costs a read of the run.
    """
    kind, ids = frame.entries[-1][0], _ids(line)
    asked, about_children = questions.asked_in(frame.entries), _about_children(frame)
    attached = artifacts.attached_in(frame.entries)
    held = peer.held.get(log.name)
    if held is not None and about_children:  # before anything is waited for: the end may be close behind
        peer.held[log.name] = held._replace(related=True)
    meta = await read_run(line, log) if asked or about_children or attached else None
    asking, handing = None, None
    attaching = None if meta is None or not attached else artifacts.attaching(meta, attached)
    if meta is not None and asked:
        asking = questions.opened(meta, asked, line.now_ms())
        meta = asking.after
    if meta is not None and about_children:
        handing = await _handing(line, ids, meta, frame)
        meta = handing.after
    ending, queue, key = None, None, ""
    if kind in ENDINGS:
        ending, queue, key = await _ending(line, peer, log, frame, meta, handing)
    claim, packed = prepared.claim, prepared.packed
    return attempts.publish(
        ids,
        log,
        peer.holder,
        claim,
        packed,
        expect=frame.expect,
        ending=ending,
        queue=queue,
        key=key,
        asking=asking,
        handing=handing,
        attaching=attaching,
    )


def _about_children(frame: Publish) -> bool:
    return any(kind in (Kind.SPAWN, Kind.CHILD_CANCEL) for kind, _, _, _ in frame.entries)


async def _handing(line: Line, ids: runs.Ids, meta: RunMeta, frame: Publish) -> children.Handing:
    """Decide what comes with entries about children."""
    numbered = enumerate(frame.entries, frame.seq)
    spawns = [(seq, each[2] or 0, read_control(Spawn, each[1])) for seq, each in numbered if each[0] == Kind.SPAWN]
    cancels = [read_control(ChildCancel, each[1]) for each in frame.entries if each[0] == Kind.CHILD_CANCEL]
    slots = [children.slot_of(index, spawn.digest) for _, index, spawn in spawns]
    slots += [children.slot_of(cancel.index, cancel.digest) for cancel in cancels]
    found = await line.store.hash_get(keys.children(meta.log), *slots)
    known = {
        slot: children.MetaChild.parse(slot, text.decode()) for slot, text in zip(slots, found, strict=True) if text
    }
    return children.handed(ids, meta, spawns, cancels, known)


async def _ending(
    line: Line, peer: Peer, log: LogName, frame: Publish, meta: RunMeta | None, handing: children.Handing | None
) -> tuple[attempts.Ending, Queue, str] | tuple[None, None, str]:
    """Decide what follows an attempt's last entry, and which queue and key its run has; without one, nothing.

    With `meta`, that is what the run is as entries before it leave it; `handing` is what they do about children.
    """
    kind, body, _, _ = frame.entries[-1]
    known = peer.held.get(log.name)
    if known is not None and known.fence and not known.related and kind in (Kind.SUCCEEDED, Kind.CANCELLED):
        return attempts.conclude(log, Kind(kind), known.keep_ms), queue_of(log.namespace, known.queue), known.key
    meta = meta or await read_run(line, log)
    if meta is None:
        return None, None, ""
    ids = _ids(line)
    if kind == Kind.ERRORED:
        errored, store_ms = read_control(Errored, body), line.now_ms()
        ending = attempts.conclude_error(ids, meta, errored, random.random(), store_ms)
    elif kind == Kind.SUSPENDED:
        asked = read_control(Suspended, body)
        open_children = await _open_children(line, log, asked.children, handing)
        ending = suspension.suspend(ids, meta, asked, line.now_ms(), open_children)
    elif kind == Kind.CONTINUE:
        submitted = await _submitted(line, log)
        wish, successor = read_control(Continue, body), LogName(log.namespace, log.kind, new_run_id(line, meta.place))
        ending = conclude_continue(ids, meta, submitted, wish, successor, peer.principal)
    else:
        ending = attempts.conclude(log, Kind(kind))
    return attempts.parting(ids, meta, ending), meta.place, meta.concurrency_key


async def _open_children(
    line: Line, log: LogName, slots: Sequence[str], handing: children.Handing | None
) -> dict[str, str]:
    """Return the records of those of a run's children that have not ended, as entries before this leave them."""
    found = await line.store.hash_get(keys.children(log), *slots) if slots else []
    records = {slot: record.decode() for slot, record in zip(slots, found, strict=True) if record}
    made = handing.records if handing is not None else {}
    return records | {slot: made[slot] for slot in slots if slot in made}


async def _submitted(line: Line, log: LogName) -> Submitted:
    page = await line.store.read(log, 0, 1)
    if page is None or not page.entries:
        raise StoreUnavailable(f"{log.path} has no first entry")
    return read_control(Submitted, unpack_record(page.entries[0].packed).body)


def new_run_id(line: Line, queue: Queue) -> str:
    """Return the id of a run that is submitted to a queue now."""
    return make_run_id(queue_partition(queue.namespace, queue.name), line.now_ms(), secrets.token_bytes(8))


def _ids(line: Line) -> runs.Ids:
    return runs.Ids(line.new_commit_id(), line.src, line.new_epoch())


def _changed_meanwhile(kind: str, commit: Commit, refused: Refused) -> bool:
    """Whether a cancel, a message, a question, an answer or a child came since that was read which decided."""
    guard = _failed(commit, refused)
    if guard is None:
        return False
    if guard.key == keys.children(commit.appends[0].log) or guard.field == "children":
        return True
    told = guard.field in ("cancel", "steers") and kind in _DECIDED
    return told or guard.field.startswith((ASKED_DUE, FIELD))


def _failed(commit: Commit, refused: Refused) -> Guard | None:
    """Return the guard that failed, where it is one that names a field."""
    guard = commit.conditions[refused.guard] if refused.reason is Refusal.GUARD else None
    return guard if isinstance(guard, Guard) else None


def refused(frame: Publish, commit: Commit, refused: Refused) -> Nack:
    """Return the answer to entries of an attempt, or chunks of its artifact, that the store refused."""
    if refused.reason is Refusal.PRODUCER_UNKNOWN:
        return publishing.refuse(frame, ErrorCode.FENCED, "the run has no such attempt (any more)")
    if refused.reason is not Refusal.GUARD:
        return publishing.nack(frame, refused)
    guard = _failed(commit, refused)
    if guard is None:
        message = f"{refused.actual} children of the run have not ended, which is as many as may be"
        return publishing.refuse(frame, ErrorCode.TOO_MANY, message, retry_ms=OPEN_RETRY_MS)
    field = guard.field
    code, message = ErrorCode.FENCED, "the attempt is over"
    if field == "cancel":
        code, message = ErrorCode.INVALID_ENTRY, "the run was not told to cancel"
    elif field == "head":
        code, message = ErrorCode.INVALID_ENTRY, "not all chunks of the artifact are in its log"
    elif field == "session":
        code, message = ErrorCode.SUPERSEDED, "the attempt goes on in a newer session"
    elif field == "state" and refused.actual is not None and RunState(refused.actual) in FINAL:
        code, message = ErrorCode.RUN_FINISHED, f"the run is {refused.actual}"
    return Nack(log=frame.log, producer=frame.producer, seq=frame.seq, code=code, message=message)
