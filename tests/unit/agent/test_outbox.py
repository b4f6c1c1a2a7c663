"""The outbox: what is sent, what counts as sent, and who is told."""

from __future__ import annotations

import pytest

from agent.errors import ProducerFenced, PublisherLost, PublishRefused
from agent.outbox import Outbox
from agent.stream import Stream
from protocol.frames import Nack, Puback, Publish
from protocol.limits import Limits

LOG = "run/01-00000000001-0000000000000001"


def make(**limits: int) -> tuple[Outbox, Stream]:
    box = Outbox(Limits(**limits))
    stream = Stream(box, LOG, "attempt/1", 7)
    box.add(stream)
    return box, stream


def fill(stream: Stream, count: int) -> None:
    for number in range(count):
        assert stream.offer("k", str(number).encode())


def ack(box: Outbox, seq: int, stream: Stream | None = None) -> None:
    producer = stream.producer if stream else "attempt/1"
    box.on_puback(Puback(log=LOG, producer=producer, seq=seq, offset=seq, level="local"))


def nack(box: Outbox, seq: int, code: str, *, last: int | None = None, retry_ms: int | None = None) -> None:
    frame = Nack(log=LOG, producer="attempt/1", seq=seq, code=code, message="no", last=last, retry_ms=retry_ms)
    box.on_nack(frame, 1000)


def sent(frames: list[Publish]) -> list[tuple[int, int]]:
    return [(frame.seq, frame.seq + len(frame.entries) - 1) for frame in frames]


def test_what_waits_goes_out_together_in_frames_of_the_announced_size() -> None:
    box, stream = make(frame_entries_max=64)
    fill(stream, 150)
    assert sent(box.take(0, 1 << 20)) == [(1, 64), (65, 128), (129, 150)]
    assert box.take(0, 1 << 20) == []
    box.validate()


def test_an_acknowledgement_is_cumulative_and_gives_the_window_back() -> None:
    box, stream = make(publish_entries_max=10)
    fill(stream, 10)
    assert stream.offer("k", b"") == 0
    box.take(0, 1 << 20)
    ack(box, 7)
    assert (stream.acked, box.entries) == (7, 3)
    ack(box, 3)
    assert stream.acked == 7
    ack(box, 10)
    assert (box.entries, box.bytes, box.flying) == (0, 0, 0)
    box.validate()


def test_a_full_window_makes_its_publishers_wait_until_a_part_of_it_is_free() -> None:
    box, stream = make(publish_entries_max=8)
    fill(stream, 8)
    room = stream.room(1)
    box.take(0, 1 << 20)
    ack(box, 1)
    assert not room.done()
    ack(box, 2)
    assert room.done()


def test_an_entry_larger_than_the_window_passes_when_nothing_else_is_there() -> None:
    _, stream = make(publish_bytes_max=1024, body_bytes_max=4096)
    assert stream.offer("k", bytes(4000)) == 1
    assert stream.offer("k", b"") == 0


def test_an_entry_larger_than_the_hub_takes_is_refused_here() -> None:
    _, stream = make(body_bytes_max=10)
    with pytest.raises(PublishRefused, match="11 bytes"):
        stream.offer("k", bytes(11))


def test_behind_the_last_entry_of_an_attempt_nothing_goes_out() -> None:
    box, stream = make()
    fill(stream, 1)
    assert stream.offer("$succeeded", b"", last=True) == 2
    with pytest.raises(PublishRefused) as refused:
        stream.offer("late", b"")
    assert refused.value.code == "run_finished"
    assert sent(box.take(0, 1 << 20)) == [(1, 2)]
    ack(box, 2, stream)
    box.validate()


def test_a_new_connection_sends_all_that_is_not_acknowledged_again() -> None:
    box, stream = make()
    fill(stream, 5)
    box.take(0, 1 << 20)
    ack(box, 2)
    box.disconnected()
    assert sent(box.take(0, 1 << 20)) == [(3, 5)]
    box.validate()


def test_an_acknowledgement_of_what_waits_again_after_a_rewind_counts() -> None:
    box, stream = make()
    fill(stream, 5)
    box.take(0, 1 << 20)
    box.disconnected()
    ack(box, 4)
    assert sent(box.take(0, 1 << 20)) == [(5, 5)]
    assert (box.entries, box.flying) == (1, 1)


def test_a_stream_whose_fate_is_not_told_yet_says_nothing_on_a_new_connection() -> None:
    box, stream = make()
    fill(stream, 3)
    box.disconnected(frozenset({(LOG, "attempt/1")}))
    assert box.take(0, 1 << 20) == []
    with box.lock:
        stream.resume(1)
    assert sent(box.take(0, 1 << 20)) == [(2, 3)]


def test_a_log_with_less_than_it_acknowledged_has_lost_entries_and_says_which() -> None:
    box, stream = make()
    fill(stream, 5)
    box.take(0, 1 << 20)
    ack(box, 5)
    with box.lock:
        stream.resume(2)
    assert isinstance(stream.dead, PublisherLost)
    assert (stream.dead.first, stream.dead.last) == (3, 5)


@pytest.mark.parametrize("code", ["publisher_lost", "producer_unknown"])
def test_a_log_that_knows_less_of_a_producer_than_it_acknowledged_has_lost_that_range(code: str) -> None:
    box, stream = make()
    fill(stream, 9)
    box.take(0, 1 << 20)
    ack(box, 6)
    nack(box, 7, code, last=0)
    assert isinstance(stream.dead, PublisherLost)
    assert (stream.dead.first, stream.dead.last) == (1, 6)


@pytest.mark.parametrize("last", [None, 6])
def test_a_producer_that_was_forgotten_for_being_idle_has_lost_nothing(last: int | None) -> None:
    box, stream = make()
    fill(stream, 9)
    box.take(0, 1 << 20)
    ack(box, 6)
    nack(box, 7, "producer_unknown", last=last)
    assert isinstance(stream.dead, PublishRefused)
    assert (type(stream.dead), stream.dead.code) == (PublishRefused, "producer_unknown")


def test_a_gap_is_closed_from_the_last_accepted_number_one_frame_first() -> None:
    box, stream = make(frame_entries_max=2)
    fill(stream, 6)
    assert sent(box.take(0, 1 << 20)) == [(1, 2), (3, 4), (5, 6)]
    nack(box, 3, "out_of_order", last=1)
    assert sent(box.take(0, 1 << 20)) == [(2, 3)]
    nack(box, 5, "out_of_order", last=1)
    assert box.take(0, 1 << 20) == []
    ack(box, 3)
    assert sent(box.take(0, 1 << 20)) == [(4, 5), (6, 6)]
    box.validate()


def test_what_the_hub_cannot_take_now_is_sent_later_in_order() -> None:
    box, stream = make(frame_entries_max=2)
    fill(stream, 4)
    box.take(0, 1 << 20)
    nack(box, 1, "unavailable", retry_ms=500)
    nack(box, 3, "out_of_order", last=0)
    assert box.take(1100, 1 << 20) == []
    assert box.due_ms() == 1500
    assert sent(box.take(1500, 1 << 20)) == [(1, 2)]
    ack(box, 2)
    assert sent(box.take(1500, 1 << 20)) == [(3, 4)]


@pytest.mark.parametrize("code", ["fenced", "superseded", "run_finished", "producer_conflict"])
def test_a_fenced_producer_is_dead_and_everybody_who_waits_is_told(code: str) -> None:
    box, stream = make()
    fill(stream, 3)
    box.take(0, 1 << 20)
    waiting = stream.acknowledged(3)
    nack(box, 1, code)
    with pytest.raises(ProducerFenced):
        waiting.result(0)
    with pytest.raises(ProducerFenced):
        stream.offer("k", b"")
    assert (box.entries, box.flying) == (0, 0)


def test_a_fence_counts_whatever_number_it_names() -> None:
    box, stream = make()
    nack(box, 0, "fenced")
    assert isinstance(stream.dead, ProducerFenced)


def test_who_waits_for_a_number_is_told_when_it_is_acknowledged_whatever_was_asked_first() -> None:
    box, stream = make()
    fill(stream, 4)
    last, first = stream.acknowledged(4), stream.acknowledged(2)
    box.take(0, 1 << 20)
    ack(box, 2)
    assert (first.done(), last.done()) == (True, False)
    ack(box, 4)
    assert last.done()


def test_producers_take_turns() -> None:
    box, stream = make(frame_entries_max=2)
    other = Stream(box, LOG, "other", 7)
    box.add(other)
    fill(stream, 4)
    fill(other, 4)
    assert [frame.producer for frame in box.take(0, 1 << 20)] == ["attempt/1", "other", "attempt/1", "other"]


def test_no_more_flies_than_a_new_hub_allows() -> None:
    box, stream = make()
    fill(stream, 20)
    box.announce(Limits(publish_entries_max=5))
    assert sent(box.take(0, 1 << 20)) == [(1, 5)]
    ack(box, 5)
    assert sent(box.take(0, 1 << 20)) == [(6, 10)]


def test_the_link_is_woken_once_for_a_burst() -> None:
    box, stream = make()
    wakes: list[None] = []
    box.on_wake(lambda: wakes.append(None))
    fill(stream, 3)
    assert len(wakes) == 1
    box.take(0, 1 << 20)
    fill(stream, 3)
    assert len(wakes) == 2


def test_closing_gives_everything_up_and_lets_everybody_in_to_be_told() -> None:
    box, stream = make(publish_entries_max=2)
    fill(stream, 2)
    room = stream.room(1)
    box.close(ProducerFenced(LOG, "fenced", "over"))
    assert room.done()
    with pytest.raises(ProducerFenced):
        stream.offer("k", b"")
    late = Stream(box, LOG, "late", 1)
    box.add(late)
    assert late.dead is not None


def test_a_publisher_that_waits_for_room_goes_on_when_a_reconnect_shows_that_all_was_taken() -> None:
    box, stream = make(publish_entries_max=10)
    fill(stream, 10)
    box.take(0, 1 << 20)
    room = box.room(1)
    box.disconnected()
    with box.lock:
        stream.resume(10)
    assert room.done()
    assert (stream.acked, box.entries) == (10, 0)
    box.validate()


def test_what_was_taken_before_a_refusal_can_be_acknowledged_after_it() -> None:
    box, stream = make(frame_entries_max=2)
    fill(stream, 4)
    box.take(0, 1 << 20)
    nack(box, 3, "invalid_entry")
    assert isinstance(stream.dead, PublishRefused)
    ack(box, 2)
    assert (box.entries, box.flying) == (0, 0)
    box.validate()
