"""Publishes that learn their offsets."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from agent.errors import ExpectFailed, ProducerFenced, PublisherLost, PublishRefused
from agent.offers import Offers
from agent.outbox import Outbox
from protocol.frames import Nack, Puback
from protocol.limits import Limits

LOG = "topic/room"


def make() -> tuple[Outbox, Offers]:
    box = Outbox(Limits())
    offers = Offers(box, LOG, "p")
    box.add(offers)
    return box, offers


def opened() -> tuple[Outbox, Offers]:
    box, offers = make()
    with box.lock:
        offers.resume(0, 5)
    return box, offers


def offer(offers: Offers, body: bytes = b"x", expect: int | None = None) -> Future[int]:
    future = offers.offer("k", body, None, expect)
    assert future is not None
    return future


def ack(box: Outbox, seq: int, offset: int) -> None:
    box.on_puback(Puback(log=LOG, producer="p", seq=seq, offset=offset, level="local"))


def nack(box: Outbox, seq: int, code: str, *, last: int | None = None, head: int | None = None) -> None:
    box.on_nack(Nack(log=LOG, producer="p", seq=seq, code=code, message="no", last=last, head=head), 0)


def test_nothing_is_sent_before_the_producer_is_open() -> None:
    box, offers = make()
    offer(offers)
    assert box.take(0, 1 << 20) == []
    with box.lock:
        offers.resume(0, 5)
    (frame,) = box.take(0, 1 << 20)
    assert (frame.seq, frame.fence) == (1, 5)


def test_each_publish_of_a_frame_learns_its_own_offset() -> None:
    box, offers = opened()
    futures = [offer(offers) for _ in range(3)]
    assert len(box.take(0, 1 << 20)) == 1
    ack(box, 3, 44)
    assert [future.result(0) for future in futures] == [42, 43, 44]
    assert (box.entries, box.bytes, box.flying) == (0, 0, 0)


def test_one_frame_is_under_way_at_a_time_and_gathers_what_comes_meanwhile() -> None:
    box, offers = opened()
    offer(offers)
    box.take(0, 1 << 20)
    offer(offers), offer(offers)
    assert box.take(0, 1 << 20) == []
    ack(box, 1, 1)
    (frame,) = box.take(0, 1 << 20)
    assert (frame.seq, len(frame.entries)) == (2, 2)


def test_the_very_same_frame_is_sent_again_on_a_new_connection() -> None:
    box, offers = opened()
    offer(offers, b"1"), offer(offers, b"2")
    (before,) = box.take(0, 1 << 20)
    later = offer(offers, b"3")
    box.disconnected()
    (again,) = box.take(0, 1 << 20)
    assert (again.seq, again.entries) == (before.seq, before.entries)
    ack(box, 2, 9)
    box.take(0, 1 << 20)
    ack(box, 3, 12)
    assert later.result(0) == 12


def test_a_failed_expectation_uses_no_number_up_and_travels_alone() -> None:
    box, offers = opened()
    conditional, plain = offer(offers, expect=7), offer(offers)
    (frame,) = box.take(0, 1 << 20)
    assert (frame.expect, len(frame.entries)) == (7, 1)
    nack(box, 1, "expect_failed", head=9)
    with pytest.raises(ExpectFailed) as failed:
        conditional.result(0)
    assert (failed.value.expected, failed.value.head) == (7, 9)
    (frame,) = box.take(0, 1 << 20)
    assert frame.seq == 1
    ack(box, 1, 10)
    assert plain.result(0) == 10


def test_one_bad_entry_of_a_frame_does_not_take_the_others_with_it() -> None:
    box, offers = opened()
    futures = [offer(offers, bytes([number])) for number in range(3)]
    box.take(0, 1 << 20)
    nack(box, 1, "invalid_entry")
    for place, fate in enumerate(("ok", "bad", "ok")):
        (frame,) = box.take(0, 1 << 20)
        assert len(frame.entries) == 1
        if fate == "bad":
            nack(box, frame.seq, "invalid_entry")
        else:
            ack(box, frame.seq, 20 + place)
    assert (futures[0].result(0), futures[2].result(0)) == (20, 22)
    with pytest.raises(PublishRefused):
        futures[1].result(0)
    assert (box.entries, box.flying) == (0, 0)


def test_a_fenced_producer_fails_everything_that_waits() -> None:
    box, offers = opened()
    sent, waiting = offer(offers), None
    box.take(0, 1 << 20)
    waiting = offer(offers)
    nack(box, 1, "fenced")
    for future in (sent, waiting):
        with pytest.raises(ProducerFenced):
            future.result(0)


def test_a_log_that_lost_acknowledged_entries_is_reported() -> None:
    box, offers = opened()
    offer(offers)
    box.take(0, 1 << 20)
    ack(box, 1, 1)
    pending = offer(offers)
    box.take(0, 1 << 20)
    nack(box, 2, "out_of_order", last=0)
    with pytest.raises(PublisherLost):
        pending.result(0)


def test_what_passes_is_tried_again_later() -> None:
    box, offers = opened()
    pending = offer(offers)
    box.take(0, 1 << 20)
    box.on_nack(Nack(log=LOG, producer="p", seq=1, code="unavailable", message="no", retry_ms=100), 50)
    assert box.take(100, 1 << 20) == []
    assert box.due_ms() == 150
    assert len(box.take(150, 1 << 20)) == 1
    ack(box, 1, 3)
    assert pending.result(0) == 3
