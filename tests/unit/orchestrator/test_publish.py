"""From a publish frame to a commit, and from what the store says to the answer."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.publish import (
    check_kind,
    check_size,
    nack,
    prepare,
    prepare_attempt,
    propose,
    puback,
    unavailable,
)
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Appended, Outcome, Refusal, Refused
from protocol.codec import pack_value, unpack_record
from protocol.control import CONTROL, Progress, Succeeded, Writer
from protocol.entry import Position, Record
from protocol.errors import RequestError
from protocol.frames import Nack, Publish
from protocol.ids import LogKind, LogName
from protocol.limits import Limits
from tests.support.permits import agent_permit

PERMIT = agent_permit()

TOPIC = LogName("default", LogKind.TOPIC, "a")


def frame(*entries: tuple[str, bytes], producer: str = "p", seq: int = 5, expect: int | None = None) -> Publish:
    rows = tuple((kind, body, None, None) for kind, body in entries)
    return Publish(log="topic/a", producer=producer, seq=seq, fence=7, entries=rows, expect=expect)


def outcome(last_seq: int, last_offset: int) -> Outcome:
    place = Position("e", last_offset, "0" * 16)
    return Outcome((Appended(place, place, 0, 0, last_offset, last_seq),), 0)


def refusal(refused: Refused, acked: int = 0, expect: int | None = None) -> tuple[str, int | None, int | None]:
    answer = nack(frame(("x", b""), expect=expect), refused, acked)
    return answer.code, answer.last, answer.head


def test_entries_are_packed_once_with_their_source_and_numbers() -> None:
    asked = Publish(log="topic/a", producer="p", seq=5, fence=7, entries=(("x", b"1", 3, 4), ("y", b"2", None, None)))
    prepared = prepare(asked, "client:ann")
    assert not isinstance(prepared, Nack)
    assert [unpack_record(packed) for packed in prepared.packed] == [
        Record("x", "client:ann", None, 5, 3, 4, b"1"),
        Record("y", "client:ann", None, 6, None, None, b"2"),
    ]
    claim = prepared.claim
    assert (claim.producer, claim.fence, claim.seq, claim.count) == ("client:ann/p", 7, 5, 2)
    append = propose("c", TOPIC, prepared, 9).appends[0]
    assert (append.log, append.entries, append.producer, append.expect) == (TOPIC, prepared.packed, claim, 9)


def test_the_digest_tells_frames_apart_and_knows_a_retry() -> None:
    digests = []
    for body in (b"1", b"1", b"2"):
        prepared = prepare(frame(("x", body)), "client:ann")
        assert not isinstance(prepared, Nack)
        digests.append(prepared.claim.digest)
    assert digests[0] == digests[1] != digests[2]


def test_an_attempts_entries_carry_its_number() -> None:
    prepared = prepare_attempt(frame(("x", b""), producer="attempt/3"), "agent:a1", PERMIT)
    assert not isinstance(prepared, Nack)
    assert prepared.claim.producer == "attempt/3"
    assert unpack_record(prepared.packed[0]).attempt == 3


@pytest.mark.parametrize("producer", ["p", "attempt/0", "attempt/-1", "attempt/x", "attempt/", "attempt/1/2"])
def test_a_runs_log_has_no_other_producers(producer: str) -> None:
    answer = prepare_attempt(frame(("x", b""), producer=producer), "agent:a1", PERMIT)
    assert isinstance(answer, Nack)
    assert answer.code == "producer_unknown"


@pytest.mark.parametrize("kind", CONTROL)
def test_control_kinds_are_their_writers_alone(kind: str) -> None:
    row = CONTROL[kind]
    topic = prepare(frame((kind, b"")), "client:ann")
    assert isinstance(topic, Nack)
    attempt = prepare_attempt(frame((kind, b"\xc1"), producer="attempt/1"), "agent:a1", PERMIT)
    assert isinstance(attempt, Nack)
    mine = row.writer is Writer.ATTEMPT
    assert (f"{kind}: " in attempt.message) is mine, "its body was read only where it may be written"


def test_control_entries_of_an_attempt_must_fit_their_schema() -> None:
    good = prepare_attempt(
        frame(("$progress", pack_value(Progress(current=1.0))), producer="attempt/1"), "agent:a1", agent_permit()
    )
    assert not isinstance(good, Nack)
    bad = prepare_attempt(
        frame(("$progress", pack_value({"current": "x"})), producer="attempt/1"), "agent:a1", agent_permit()
    )
    assert isinstance(bad, Nack)
    assert bad.code == "invalid_entry"


@pytest.mark.parametrize(
    ("wrong", "index"),
    [
        ({}, None),
        ({}, 0),
        ({"queue": "No"}, 1),
        ({"handler": "a/b"}, 1),
        ({"where": "gpu="}, 1),
        ({"delay_ms": 2, "deadline_ms": 1}, 1),
        ({"priority": 10}, 1),
    ],
    ids=str,
)
def test_a_child_that_could_never_be_is_refused(wrong: dict[str, Any], index: int | None) -> None:
    body = {"queue": "q", "handler": "h", "input": b"", "digest": "d"}

    def asks(body: dict[str, Any], index: int | None) -> Publish:
        entries = (("$spawn", pack_value(body), index, None),)
        return Publish(log="run/r", producer="attempt/1", seq=1, fence=1, entries=entries)

    assert not isinstance(prepare_attempt(asks(body, 1), "agent:a", PERMIT), Nack)
    refused = prepare_attempt(asks(body | wrong, index), "agent:a", PERMIT)
    assert isinstance(refused, Nack)
    assert refused.code == "invalid_entry"


def test_what_ends_an_attempt_is_its_last_entry() -> None:
    done = ("$succeeded", pack_value(Succeeded(result=b"")))
    assert not isinstance(prepare_attempt(frame(("x", b""), done, producer="attempt/1"), "agent:a1", PERMIT), Nack)
    assert isinstance(prepare_attempt(frame(done, ("x", b""), producer="attempt/1"), "agent:a1", PERMIT), Nack)


@pytest.mark.parametrize("kind", ["", "$x", "A", "ü", "a b", "a/b", "x" * 129])
def test_kinds_are_names(kind: str) -> None:
    with pytest.raises(RequestError):
        check_kind(kind)
    check_kind("tool.call_2-b")


def test_limits_are_kept_to() -> None:
    limits = Limits(body_bytes_max=10, frame_entries_max=2)
    assert check_size(frame(("x", b"1" * 10), ("x", b"")), limits) is None
    too_large, too_many = check_size(frame(("x", b"1" * 11)), limits), check_size(frame(*[("x", b"")] * 3), limits)
    assert too_large is not None
    assert too_many is not None
    assert (too_large.code, too_many.code) == ("entry_too_large", "invalid_entry")


def test_a_puback_stands_for_the_whole_frame() -> None:
    answer = puback(frame(("x", b""), ("y", b"")), outcome(6, 40), "local")
    assert (answer.seq, answer.offset, answer.level) == (6, 40, "local")


def test_a_puback_names_an_entry_and_its_own_offset_where_later_ones_were_accepted_before() -> None:
    answer = puback(frame(("x", b""), ("y", b"")), outcome(9, 44), "local")
    assert (answer.seq, answer.offset) == (9, 44)


def test_refusals_of_the_store_have_their_codes() -> None:
    assert refusal(Refused(Refusal.FENCED)) == ("fenced", None, None)
    assert refusal(Refused(Refusal.GUARD)) == ("fenced", None, None)
    assert refusal(Refused(Refusal.OUT_OF_ORDER, last=2)) == ("out_of_order", 2, None)
    assert refusal(Refused(Refusal.CONFLICT, last=5)) == ("producer_conflict", 5, None)
    assert refusal(Refused(Refusal.PRODUCER_UNKNOWN)) == ("producer_unknown", 0, None)
    assert refusal(Refused(Refusal.PRODUCER_UNKNOWN, last=4)) == ("producer_unknown", 4, None)
    assert refusal(Refused(Refusal.EXPECT, head=8), expect=3) == ("expect_failed", None, 8)


def test_lost_acknowledged_entries_are_told_as_such() -> None:
    assert refusal(Refused(Refusal.OUT_OF_ORDER, last=2), acked=4) == ("publisher_lost", 2, None)
    assert refusal(Refused(Refusal.PRODUCER_UNKNOWN), acked=4) == ("publisher_lost", 0, None)
    assert refusal(Refused(Refusal.OUT_OF_ORDER, last=4), acked=4) == ("out_of_order", 4, None)
    assert refusal(Refused(Refusal.PRODUCER_UNKNOWN, last=4), acked=4) == ("producer_unknown", 4, None)


def test_what_the_store_did_not_answer_is_worth_another_try() -> None:
    away, full = StoreUnavailable("away", unknown=True), StoreUnavailable("full", full=True)
    for fault, code in ((away, "unavailable"), (full, "store_full")):
        answer = unavailable(frame(("x", b"")), fault)
        assert (answer.code, answer.retry_ms, answer.message) == (code, 500, str(fault))
