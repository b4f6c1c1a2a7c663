"""Credit and acknowledgement on the hub's side, continuity on the peer's."""

from __future__ import annotations

import pytest

from protocol.codes import CloseCode
from protocol.entry import Entry, Position, chain, origin
from protocol.errors import RemoteProtocolError
from protocol.frames import Entries, Window
from protocol.limits import KEPT_TAGS_MAX
from protocol.window import Cursor, Mismatch, SendWindow
from tests.support.samples import EPOCH, TOPIC_LOG, position, story

STORY = story(12)


def entries(prev: int, upto: int, *, only: range | None = None, tag: str | None = None) -> Entries:
    kept = tuple(entry for entry in STORY[prev:upto] if only is None or entry.offset in only)
    return Entries(
        log=TOPIC_LOG,
        prev=prev,
        prev_tag=position(prev).tag,
        upto=upto,
        tag=tag or position(upto).tag,
        entries=kept,
    )


def window(entries_max: int = 10, bytes_max: int = 1000, start: int = 0) -> SendWindow:
    return SendWindow(Window(entries=entries_max, bytes=bytes_max), start)


def test_what_is_sent_takes_room_and_what_is_acknowledged_gives_it_back() -> None:
    one = window()
    one.on_sent(3, 3, 300)
    one.on_sent(5, 2, 200)
    assert one.room() == (5, 500)
    assert one.on_ack(3)
    assert one.room() == (8, 800)
    assert one.on_ack(5)
    assert one.room() == (10, 1000)
    one.validate()


def test_a_frame_gives_its_room_back_only_as_a_whole() -> None:
    one = window()
    one.on_sent(5, 5, 500)
    assert not one.on_ack(4)
    assert one.room() == (5, 500)
    assert one.acked == 4


@pytest.mark.parametrize(("count", "size"), [(10, 10), (1, 1000), (1, 5000)])
def test_a_full_window_is_shut(count: int, size: int) -> None:
    one = window()
    one.on_sent(count, count, size)
    assert one.room() == (0, 0)
    assert one.on_ack(count)
    assert one.room() == (10, 1000)


def test_empty_ranges_cost_nothing() -> None:
    one = window()
    one.on_sent(50, 0, 0)
    assert one.room() == (10, 1000)
    assert not one.on_ack(50)
    assert one.acked == 50


def test_acks_are_cumulative_and_never_go_back() -> None:
    one = window()
    one.on_sent(5, 5, 50)
    one.on_ack(5)
    one.on_ack(2)
    assert one.acked == 5


def test_an_ack_of_what_was_never_sent_is_the_peers_fault() -> None:
    one = window(start=7)
    one.on_sent(8, 1, 10)
    with pytest.raises(RemoteProtocolError) as raised:
        one.on_ack(9)
    assert raised.value.code is CloseCode.ACK_AHEAD


def test_after_a_reset_going_back_nothing_is_open_and_only_what_is_sent_again_may_be_acknowledged() -> None:
    one = window()
    one.on_sent(8, 8, 80)
    one.restart(3)
    assert (one.acked, one.sent) == (3, 3)
    assert one.room() == (10, 1000)
    with pytest.raises(RemoteProtocolError):
        one.on_ack(8)
    one.validate()


def test_a_reset_going_forward_moves_the_window() -> None:
    one = window()
    one.on_sent(2, 2, 20)
    one.restart(40)
    assert not one.on_ack(40)
    assert one.room() == (10, 1000)
    one.validate()


def test_a_dense_cursor_takes_what_continues_and_keeps_every_tag() -> None:
    cursor = Cursor(origin(EPOCH))
    assert cursor.accept(entries(0, 2)) == STORY[:2]
    assert cursor.accept(entries(2, 5)) == STORY[2:5]
    assert cursor.position == position(5)
    assert cursor.tags_at(range(7)) == (*(position(at).tag for at in range(6)), None)


def test_an_empty_frame_at_the_position_changes_nothing() -> None:
    for filtered in (False, True):
        cursor = Cursor(position(2), filtered=filtered)
        assert cursor.accept(entries(2, 2)) == ()
        assert cursor.position == position(2)


def forged(at: int) -> tuple[Entry, ...]:
    changed = list(STORY[:3])
    changed[at] = changed[at]._replace(packed=changed[at].packed + b"!")
    return tuple(changed)


GOOD = entries(0, 3)
OTHER_TAG = "0" * 16
BROKEN = {
    "another place": entries(1, 3),
    "another tag before": GOOD.model_copy(update={"prev_tag": OTHER_TAG}),
    "another tag after": GOOD.model_copy(update={"tag": OTHER_TAG}),
    "an entry missing at the start": GOOD.model_copy(update={"entries": STORY[1:3]}),
    "an entry missing in the middle": GOOD.model_copy(update={"entries": (STORY[0], STORY[2])}),
    "an entry missing at the end": GOOD.model_copy(update={"entries": STORY[:2]}),
    "an entry too many": GOOD.model_copy(update={"entries": STORY[:4]}),
    "an entry twice": GOOD.model_copy(update={"entries": (STORY[0], STORY[0], STORY[1])}),
    "another first entry": GOOD.model_copy(update={"entries": forged(0)}),
    "another last entry": GOOD.model_copy(update={"entries": forged(2)}),
    "an empty range with another tag": entries(0, 0, tag=OTHER_TAG),
}


@pytest.mark.parametrize("frame", BROKEN.values(), ids=BROKEN.keys())
def test_a_frame_that_does_not_continue_the_history_is_refused_and_moves_nothing(frame: Entries) -> None:
    cursor = Cursor(origin(EPOCH))
    with pytest.raises(Mismatch):
        cursor.accept(frame)
    assert cursor.position == origin(EPOCH)
    assert cursor.accept(GOOD) == STORY[:3]


def test_a_range_that_goes_back_is_refused() -> None:
    for filtered in (False, True):
        cursor = Cursor(position(3), filtered=filtered)
        with pytest.raises(Mismatch):
            cursor.accept(entries(3, 3).model_copy(update={"upto": 2}))


def test_a_filtered_cursor_moves_over_what_was_left_out() -> None:
    cursor = Cursor(origin(EPOCH), filtered=True)
    assert cursor.accept(entries(0, 4, only=range(2, 3))) == (STORY[1],)
    assert cursor.accept(entries(4, 9, only=range(0))) == ()
    assert cursor.position == position(9)
    assert cursor.tags_at([0, 2, 4, 9]) == (position(0).tag, None, position(4).tag, position(9).tag)


SPARSE_BROKEN = {
    "before the range": (STORY[0],),
    "past the range": (STORY[5],),
    "not ascending": (STORY[3], STORY[2]),
    "twice": (STORY[3], STORY[3]),
}


@pytest.mark.parametrize("held", SPARSE_BROKEN.values(), ids=SPARSE_BROKEN.keys())
def test_a_filtered_cursor_refuses_entries_out_of_place(held: tuple[Entry, ...]) -> None:
    cursor = Cursor(position(2), filtered=True)
    with pytest.raises(Mismatch):
        cursor.accept(entries(2, 5).model_copy(update={"entries": held}))
    assert cursor.position == position(2)


def test_a_filtered_cursor_refuses_an_empty_range_with_another_tag() -> None:
    cursor = Cursor(position(2), filtered=True)
    with pytest.raises(Mismatch):
        cursor.accept(entries(2, 2, tag=OTHER_TAG))


def test_a_cursor_without_a_position_waits_for_the_verdict() -> None:
    cursor = Cursor(None)
    with pytest.raises(Mismatch):
        cursor.accept(entries(0, 1))
    cursor.start(origin(EPOCH))
    cursor.accept(entries(0, 1))


def test_resuming_at_the_same_position_keeps_the_tags() -> None:
    cursor = Cursor(origin(EPOCH))
    cursor.accept(entries(0, 3))
    cursor.start(position(3))
    assert cursor.tags_at([1]) == (position(1).tag,)


def test_a_reset_forgets_the_tags_of_the_other_history() -> None:
    cursor = Cursor(origin(EPOCH))
    cursor.accept(entries(0, 3))
    at = Position("f" * 16, 1, OTHER_TAG)
    cursor.start(at)
    assert cursor.position == at
    assert cursor.tags_at([0, 1, 2, 3]) == (None, OTHER_TAG, None, None)


def test_a_cursor_keeps_a_bounded_number_of_tags() -> None:
    cursor = Cursor(origin(EPOCH))
    tag = origin(EPOCH).tag
    for entry in story(KEPT_TAGS_MAX + 10):
        after = chain(tag, [entry])
        at = entry.offset
        cursor.accept(Entries(log=TOPIC_LOG, prev=at - 1, prev_tag=tag, upto=at, tag=after, entries=(entry,)))
        tag = after
    kept = [found for found in cursor.tags_at(range(KEPT_TAGS_MAX + 11)) if found]
    assert len(kept) == KEPT_TAGS_MAX
    assert kept[-1] == tag
