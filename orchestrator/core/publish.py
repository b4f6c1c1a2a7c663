"""From a `publish` frame to the commit that appends it, and back to the answer: pure decisions.

The hub packs an entry once, here; store, wire, export and tag use those bytes.

Specification: docs/protocol.md, section "Publishing".
"""

from __future__ import annotations

import re
from hashlib import sha1
from typing import NamedTuple

from orchestrator.core.permissions import Permit
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Append, Commit, Outcome, ProducerClaim, Refusal, Refused
from protocol.codec import pack_records
from protocol.codes import ErrorCode
from protocol.control import CONTROL, Kind, Writer, is_control, read_control
from protocol.errors import InvalidName, RequestError
from protocol.family import Spawn, check_spawn
from protocol.frames import Nack, Puback, Publish
from protocol.ids import LogKind, LogName, check_name, partition_of
from protocol.limits import Limits

__all__ = [
    "ENDINGS",
    "RETRY_MS",
    "Prepared",
    "check_body",
    "check_kind",
    "check_size",
    "nack",
    "prepare",
    "prepare_attempt",
    "prepare_chunks",
    "propose",
    "puback",
    "refuse",
    "unavailable",
    "unavailable_code",
]

RETRY_MS = 500
"""When to try again what the store could not take."""

_ATTEMPT = re.compile(r"attempt/([1-9][0-9]{0,9})")
ENDINGS = frozenset({Kind.SUCCEEDED, Kind.CANCELLED, Kind.ERRORED, Kind.SUSPENDED, Kind.CONTINUE})
_INDEXED = {Kind.ASKED: "a question", Kind.SPAWN: "a child"}


class Prepared(NamedTuple):
    """What a publish comes to: the packed values of its entries, and who claims to publish them."""

    packed: tuple[bytes, ...]
    claim: ProducerClaim


def check_kind(kind: str) -> None:
    """Do nothing where a kind is one that peers may choose: it is a name.

    Raises:
        RequestError: `invalid_entry`, where it is not.
    """
    try:
        check_name(kind)
    except InvalidName:
        message = f"{kind[:160]!r} is not a kind that a peer may write here; a kind is 1 to 128 of a-z 0-9 . _ -"
        raise RequestError(ErrorCode.INVALID_ENTRY, message) from None


def check_body(body: bytes, bytes_max: int) -> None:
    """Do nothing where what a request puts into an entry is not too large.

    Raises:
        RequestError: `entry_too_large`, where it is.
    """
    if len(body) > bytes_max:
        raise RequestError(ErrorCode.ENTRY_TOO_LARGE, f"{len(body)} bytes; the limit is {bytes_max}")


def check_size(frame: Publish, limits: Limits) -> Nack | None:
    """Decide whether a publish keeps to the limits that the hub announced."""
    if len(frame.entries) > limits.frame_entries_max:
        message = f"a frame of {len(frame.entries)} entries; the limit is {limits.frame_entries_max}"
        return refuse(frame, ErrorCode.INVALID_ENTRY, message)
    largest = max([len(body) for _, body, _, _ in frame.entries])
    if largest > limits.body_bytes_max:
        return refuse(
            frame, ErrorCode.ENTRY_TOO_LARGE, f"a body of {largest} bytes; the limit is {limits.body_bytes_max}"
        )
    return None


def prepare(frame: Publish, principal: str) -> Prepared | Nack:
    """Prepare what a peer publishes to a topic or to an agent's log, as `principal`."""
    try:
        for kind in dict.fromkeys([kind for kind, _, _, _ in frame.entries]):
            check_kind(kind)
    except RequestError as fault:
        return refuse(frame, ErrorCode(fault.code), fault.message)
    return _prepared(frame, principal, None, f"{principal}/{frame.producer}")


def prepare_attempt(frame: Publish, principal: str, permit: Permit) -> Prepared | Nack:
    """Prepare what an attempt publishes to its run's log; the producer is `attempt/<number>`."""
    match = _ATTEMPT.fullmatch(frame.producer)
    if match is None:
        return refuse(frame, ErrorCode.PRODUCER_UNKNOWN, "the producers of a run's log are attempt/1, attempt/2, ...")
    try:
        for kind, body, index, _ in frame.entries:
            if is_control(kind):
                _check_control(kind, body, permit)
                if kind in _INDEXED and not index:
                    raise RequestError(ErrorCode.INVALID_ENTRY, f"{kind}: {_INDEXED[Kind(kind)]} has an index, from 1")
            else:
                check_kind(kind)
    except RequestError as fault:
        return refuse(frame, ErrorCode(fault.code), fault.message)
    if any(kind in ENDINGS for kind, _, _, _ in frame.entries[:-1]):
        return refuse(frame, ErrorCode.INVALID_ENTRY, "the entry that ends an attempt is its last")
    return _prepared(frame, principal, int(match[1]), frame.producer)


def prepare_chunks(frame: Publish, principal: str, attempt: int) -> Prepared | Nack:
    """Prepare what an attempt publishes to the log of an artifact of its own, whose entries were checked."""
    if frame.producer != f"attempt/{attempt}":
        return refuse(frame, ErrorCode.PRODUCER_UNKNOWN, f"the producer of this artifact is attempt/{attempt}")
    return _prepared(frame, principal, attempt, frame.producer)


def propose(commit_id: str, log: LogName, prepared: Prepared, expect: int | None) -> Commit:
    """Propose to append what was prepared to a topic or to an agent's log; opening the producer made the log."""
    append = Append(log, prepared.packed, "", prepared.claim, expect)
    return Commit(id=commit_id, partition=partition_of(log), appends=(append,))


def puback(frame: Publish, outcome: Outcome, level: str) -> Puback:
    """Return the answer to a publish that happened, now or before: what was accepted last of its producer.

    Of what was accepted before that the log remembers no offsets.
    """
    done = outcome.appended[0]
    return Puback(log=frame.log, producer=frame.producer, seq=done.last_seq, offset=done.last_offset, level=level)


def nack(frame: Publish, refused: Refused, acked: int = 0) -> Nack:
    """Return the answer to a publish that the store refused.

    Args:
        frame: the publish.
        refused: why.
        acked: the highest seq of this producer that was acknowledged before; where the store now says
            less, it lost entries that the peer need not hold any more.
    """
    last = refused.last
    if refused.reason in (Refusal.OUT_OF_ORDER, Refusal.PRODUCER_UNKNOWN) and (last or 0) < acked:
        message = f"entries {(last or 0) + 1} to {acked} were acknowledged, and the store has lost them"
        return refuse(frame, ErrorCode.PUBLISHER_LOST, message, last=last or 0)
    match refused.reason:
        case Refusal.FENCED:
            return refuse(frame, ErrorCode.FENCED, "the producer was opened again since", last=last)
        case Refusal.OUT_OF_ORDER:
            return refuse(frame, ErrorCode.OUT_OF_ORDER, f"the next entry's number is {(last or 0) + 1}", last=last)
        case Refusal.CONFLICT:
            message = f"other entries were accepted with the numbers up to {last}"
            return refuse(frame, ErrorCode.PRODUCER_CONFLICT, message, last=last)
        case Refusal.PRODUCER_UNKNOWN:
            known = last is not None
            message = "the producer was not used for long" if known else "the log knows no such producer (any more)"
            return refuse(frame, ErrorCode.PRODUCER_UNKNOWN, message, last=last or 0)
        case Refusal.EXPECT:
            message = f"the log's head is {refused.head}, not {frame.expect}"
            return refuse(frame, ErrorCode.EXPECT_FAILED, message, head=refused.head)
        case Refusal.GUARD:
            return refuse(frame, ErrorCode.FENCED, "the log has another owner now")


def unavailable(frame: Publish, fault: StoreUnavailable) -> Nack:
    """Return the answer to a publish that the store did not answer; the same publish can succeed later."""
    return refuse(frame, unavailable_code(fault), str(fault), retry_ms=RETRY_MS)


def unavailable_code(fault: StoreUnavailable) -> ErrorCode:
    """Return the code for what the store did not take; after `RETRY_MS` it may."""
    return ErrorCode.STORE_FULL if fault.full else ErrorCode.UNAVAILABLE


def refuse(
    frame: Publish,
    code: ErrorCode,
    message: str,
    *,
    last: int | None = None,
    head: int | None = None,
    retry_ms: int | None = None,
) -> Nack:
    """Return the refusal of a publish."""
    return Nack(
        log=frame.log,
        producer=frame.producer,
        seq=frame.seq,
        code=code.value,
        message=message,
        last=last,
        head=head,
        retry_ms=retry_ms,
    )


def _prepared(frame: Publish, principal: str, attempt: int | None, producer: str) -> Prepared:
    packed = pack_records(frame.entries, principal, attempt, frame.seq)
    digest = sha1(b"".join(packed), usedforsecurity=False).hexdigest()
    return Prepared(packed, ProducerClaim(producer, frame.fence, frame.seq, len(packed), digest))


def _check_control(kind: str, body: bytes, permit: Permit) -> None:
    row = CONTROL.get(kind)
    if row is None or row.log is not LogKind.RUN or row.writer is not Writer.ATTEMPT:
        raise RequestError(ErrorCode.INVALID_ENTRY, f"{kind[:160]!r} is not an attempt's to write")
    try:
        said = read_control(row.body, body)
        if isinstance(said, Spawn):
            check_spawn(said)
    except ValueError as fault:
        raise RequestError(ErrorCode.INVALID_ENTRY, f"{kind}: {fault}") from fault
    if isinstance(said, Spawn) and not permit.child_on(said.queue):
        raise RequestError(ErrorCode.FORBIDDEN, f"the token does not permit children on queue {said.queue!r}")
