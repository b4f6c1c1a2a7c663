"""A producer's record as text, and what it says about a claim."""

from __future__ import annotations

import pytest

from orchestrator.store.base import PRODUCER_TTL_MS
from orchestrator.store.commits import ProducerClaim, Refusal
from orchestrator.store.producer import ProducerRecord, check_claim

RECORD = ProducerRecord(fence=2, last=10, last_offset=40, first=7, digest="d", ts_ms=1_000)


@pytest.mark.parametrize(
    "record", [RECORD, ProducerRecord(1), ProducerRecord(10**14, 2**53 - 1, 10**14, 1, "", 10**14)]
)
def test_a_record_is_read_as_it_was_written(record: ProducerRecord) -> None:
    assert ProducerRecord.decode(record.encode()) == record
    assert ProducerRecord.decode(record.encode().encode()) == record


@pytest.mark.parametrize("text", ["", "1", "1 2 3 4 d", "1 2 3 4 d 5 6", "a 2 3 4 d 5"])
def test_other_text_is_no_record(text: str) -> None:
    with pytest.raises(ValueError, match=r"record|invalid literal"):
        ProducerRecord.decode(text)


@pytest.mark.parametrize(
    ("seq", "count", "digest", "verdict"),
    [
        (11, 5, "e", 0),
        (12, 1, "e", Refusal.OUT_OF_ORDER),
        (7, 4, "d", 5),
        (7, 4, "e", Refusal.CONFLICT),
        (7, 3, "e", 5),
        (1, 1, "e", 5),
        (9, 4, "e", 2),
        (7, 5, "e", 4),
        (99, 0, "e", 0),
    ],
)
def test_verdicts(seq: int, count: int, digest: str, verdict: int | Refusal) -> None:
    assert check_claim(RECORD, ProducerClaim("u/p", 2, seq, count, digest), 5, 1_000) == verdict


@pytest.mark.parametrize("fence", [1, 3])
def test_another_fence_is_fenced(fence: int) -> None:
    assert check_claim(RECORD, ProducerClaim("u/p", fence, 7, 4, "d"), 4, 1_000) is Refusal.FENCED


def test_a_record_lives_as_long_as_its_time_to_live_and_no_longer() -> None:
    claim = ProducerClaim("u/p", 2, 11, 1, "e")

    assert check_claim(RECORD, claim, 1, 1_000 + PRODUCER_TTL_MS) == 0
    assert check_claim(RECORD, claim, 1, 1_001 + PRODUCER_TTL_MS) is Refusal.PRODUCER_UNKNOWN
    assert check_claim(None, claim, 1, 1_000) is Refusal.PRODUCER_UNKNOWN
