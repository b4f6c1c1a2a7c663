"""Subscriptions: continuity, credit, resets, and what is said about them."""

from __future__ import annotations

import pytest

from agent.errors import Reset, SubscriptionRefused
from agent.sinks import Batch
from agent.subscriptions import Subscription, Subscriptions
from protocol.codec import pack_record
from protocol.entry import Entry, Position, next_tag, origin
from protocol.errors import FleetlineError
from protocol.frames import (
    Ack,
    Entries,
    Lost,
    Probe,
    ResetReason,
    Resumption,
    Start,
    Subscribe,
    SubscriptionVerdict,
    Unsubscribe,
    Window,
)
from protocol.frames import Reset as ResetFrame

LOG = "topic/room"


class Sink:
    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.live: list[int] = []
        self.resets: list[Reset] = []
        self.ended: list[FleetlineError] = []

    def on_batch(self, batch: Batch) -> None:
        self.batches.append(batch)

    def on_live(self, head: int) -> None:
        self.live.append(head)

    def on_reset(self, reset: Reset, generation: int) -> None:
        self.resets.append(reset)

    def on_end(self, error: FleetlineError) -> None:
        self.ended.append(error)

    @property
    def offsets(self) -> list[int]:
        return [entry.offset for batch in self.batches for entry in batch.entries]


class History:
    """A log to send frames of."""

    def __init__(self, epoch: str = "e", count: int = 20) -> None:
        self.positions = [origin(epoch)]
        self.entries: list[Entry] = []
        for offset in range(1, count + 1):
            packed = pack_record("k", "client:c", str(offset).encode())
            self.entries.append(Entry(offset, offset, packed))
            self.positions.append(Position(epoch, offset, next_tag(self.positions[-1].tag, offset, offset, packed)))

    def frame(self, prev: int, upto: int, *, live: bool = False, skip: bool = False) -> Entries:
        return Entries(
            log=LOG,
            prev=prev,
            prev_tag=self.positions[prev].tag,
            upto=upto,
            tag=self.positions[upto].tag,
            entries=() if skip else tuple(self.entries[prev:upto]),
            caught_up=live,
        )


def follow(
    start: Position | Start = Start.EARLIEST,
    window: int = 10,
    kinds: tuple[str, ...] | None = None,
    durable: str | None = None,
) -> tuple[Subscriptions, Subscription, Sink]:
    sink, subscriptions = Sink(), Subscriptions()
    subscription = Subscription(LOG, start, sink, window=Window(entries=window), kinds=kinds, durable=durable)
    subscriptions.add(subscription)
    (wish,) = subscriptions.take(0)
    assert isinstance(wish, Subscribe)
    return subscriptions, subscription, sink


def resumed(at: Position, head: int = 20) -> SubscriptionVerdict:
    return SubscriptionVerdict(log=LOG, verdict=Resumption.RESUMED, at=at, head=head)


def gone() -> SubscriptionVerdict:
    """Return what a hub says of a log that was deleted while it was followed."""
    return SubscriptionVerdict(log=LOG, verdict=Resumption.REFUSED, code="not_found", message="the log is gone")


def test_entries_reach_the_sink_with_their_verified_tags() -> None:
    history = History()
    subscriptions, _, sink = follow()
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 3), 0)
    subscriptions.on_entries(history.frame(3, 4, live=True), 0)
    assert sink.offsets == [1, 2, 3, 4]
    assert [tag for batch in sink.batches for tag in batch.tags] == [at.tag for at in history.positions[1:5]]
    assert sink.live == [4]


def test_a_frame_that_does_not_continue_leads_to_a_new_subscription_from_the_position() -> None:
    history = History()
    subscriptions, _, sink = follow()
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 3), 0)
    subscriptions.on_entries(history.frame(5, 6), 0)
    given_up, wish = [frame for frame in subscriptions.take(0) if not isinstance(frame, Ack)]
    assert isinstance(given_up, Unsubscribe)
    assert isinstance(wish, Subscribe)
    assert wish.from_ == history.positions[3]
    subscriptions.on_entries(history.frame(6, 7), 0)
    subscriptions.on_verdict(resumed(history.positions[3]), 0)
    subscriptions.on_entries(history.frame(3, 5), 0)
    assert sink.offsets == [1, 2, 3, 4, 5]


def test_a_new_connection_asks_for_what_follows_the_verified_position() -> None:
    history = History()
    subscriptions, _, _ = follow()
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 7), 0)
    subscriptions.disconnected()
    (wish,) = subscriptions.take_wanted(0)
    assert wish.from_ == history.positions[7]


def test_what_is_handled_is_acknowledged_at_half_the_window_or_a_little_later() -> None:
    history = History()
    subscriptions, subscription, _ = follow(window=10)
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 10), 0)
    subscriptions.handled(subscription, 0, 2, 100)
    assert subscriptions.take(100) == []
    due = subscriptions.due_ms()
    assert due is not None
    assert subscriptions.take(due) == [Ack(log=LOG, offset=2)]
    subscriptions.handled(subscription, 0, 7, 200)
    assert subscriptions.take(200) == [Ack(log=LOG, offset=7)]


def test_a_range_of_left_out_kinds_is_acknowledged_when_all_before_it_is_handled() -> None:
    history = History()
    subscriptions, subscription, _ = follow(kinds=("k",))
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 2), 0)
    subscriptions.on_entries(history.frame(2, 9, skip=True), 0)
    assert subscriptions.due_ms() is None
    subscriptions.handled(subscription, 0, 2, 0)
    assert subscriptions.take(1000) == [Ack(log=LOG, offset=9)]


def test_a_reset_is_told_and_old_entries_are_not_acknowledged_in_the_new_history() -> None:
    old, new = History("e1"), History("e2")
    subscriptions, subscription, sink = follow()
    subscriptions.on_verdict(resumed(old.positions[0]), 0)
    subscriptions.on_entries(old.frame(0, 9), 0)
    lost = Lost(from_=6, to=9, exact=True)
    subscriptions.on_reset(ResetFrame(log=LOG, reason=ResetReason.DIVERGED, lost=lost, at=new.positions[5]))
    assert sink.resets == [Reset(LOG, ResetReason.DIVERGED, 6, 9, True, "e2", 5)]
    subscriptions.handled(subscription, 0, 9, 0)
    assert subscriptions.take(1000) == []
    subscriptions.on_entries(new.frame(5, 6), 0)
    subscriptions.handled(subscription, 1, 6, 0)
    assert subscriptions.take(1000) == [Ack(log=LOG, offset=6, resets=1)]


def test_a_probe_is_answered_with_the_tags_that_are_known_and_ends_in_a_reset() -> None:
    old, new = History("e"), History("e", count=3)
    subscriptions, _, sink = follow()
    subscriptions.on_verdict(resumed(old.positions[0]), 0)
    subscriptions.on_entries(old.frame(0, 8), 0)
    subscriptions.disconnected()
    subscriptions.take(0)
    subscriptions.on_verdict(SubscriptionVerdict(log=LOG, verdict=Resumption.PROBING), 0)
    answer = subscriptions.on_probe(Probe(log=LOG, offsets=(2, 8, 40)))
    assert answer is not None
    assert answer.tags == (old.positions[2].tag, old.positions[8].tag, None)
    lost = Lost(from_=4, to=8, exact=True)
    subscriptions.on_reset(ResetFrame(log=LOG, reason=ResetReason.DIVERGED, lost=lost, at=new.positions[3]))
    assert (sink.resets[0].first, sink.resets[0].last) == (4, 8)


def test_a_verdict_can_be_the_reset() -> None:
    history = History()
    subscriptions, _, sink = follow(Position("gone", 5, "0" * 16))
    verdict = SubscriptionVerdict(
        log=LOG,
        verdict=Resumption.RESET,
        at=history.positions[0],
        reason=ResetReason.UNKNOWN,
        lost=Lost(from_=1, to=5, exact=False),
    )
    subscriptions.on_verdict(verdict, 0)
    subscriptions.on_entries(history.frame(0, 1), 0)
    assert sink.resets[0].reason is ResetReason.UNKNOWN
    assert sink.offsets == [1]


def test_a_refusal_ends_the_subscription_unless_it_passes() -> None:
    subscriptions, _, sink = follow()
    busy = SubscriptionVerdict(log=LOG, verdict=Resumption.REFUSED, code="unavailable", message="later")
    subscriptions.on_verdict(busy, 0)
    assert subscriptions.take(0) == []
    due = subscriptions.due_ms()
    assert due is not None
    assert len(subscriptions.take(due)) == 1
    no = SubscriptionVerdict(log=LOG, verdict=Resumption.REFUSED, code="forbidden", message="no")
    subscriptions.on_verdict(no, 0)
    assert "forbidden" in str(sink.ended[0])
    assert LOG not in subscriptions


def test_the_answer_to_a_wish_that_was_given_up_is_not_taken_for_the_next_ones() -> None:
    history = History()
    subscriptions, subscription, sink = follow(Start.LATEST)
    subscriptions.remove(subscription)
    assert LOG in subscriptions
    subscriptions.on_verdict(resumed(history.positions[20]), 0)
    assert subscriptions.take(0) == [Unsubscribe(log=LOG)]
    assert LOG not in subscriptions
    assert sink.live == []


def test_a_second_wish_for_a_log_takes_the_place_of_the_first_and_outlives_it() -> None:
    history = History()
    subscriptions, first, ended = follow()
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    sink = Sink()
    second = Subscription(LOG, history.positions[2], sink)
    subscriptions.add(second)
    given_up, wish = subscriptions.take(0)
    assert given_up == Unsubscribe(log=LOG)
    assert isinstance(wish, Subscribe)
    assert wish.from_ == history.positions[2]
    subscriptions.remove(first)  # whoever had the first is done with it only now
    subscriptions.on_verdict(resumed(history.positions[2]), 0)
    subscriptions.on_entries(history.frame(2, 4), 0)
    assert (sink.offsets, ended.offsets) == ([3, 4], [])
    assert subscriptions.take(0) == []


def test_a_second_wish_waits_for_the_answer_to_the_first_so_as_not_to_take_it() -> None:
    history = History()
    subscriptions, _, ended = follow(Start.LATEST)
    sink = Sink()
    subscriptions.add(Subscription(LOG, Start.EARLIEST, sink))
    assert subscriptions.take(0) == []
    subscriptions.on_verdict(resumed(history.positions[20]), 0)
    given_up, wish = subscriptions.take(0)
    assert given_up == Unsubscribe(log=LOG)
    assert isinstance(wish, Subscribe)
    assert wish.from_ is Start.EARLIEST
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 2), 0)
    assert (sink.offsets, ended.live) == ([1, 2], [])


def test_a_second_wish_is_said_on_a_new_connection_where_the_first_was_never_answered() -> None:
    subscriptions, _, _ = follow(Start.LATEST)
    subscriptions.add(Subscription(LOG, Start.EARLIEST, Sink()))
    subscriptions.disconnected()
    assert [wish.from_ for wish in subscriptions.take_wanted(0)] == [Start.EARLIEST]


def test_a_log_that_is_gone_ends_its_subscription() -> None:
    history = History()
    subscriptions, _, sink = follow()
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 2), 0)
    subscriptions.on_verdict(gone(), 0)
    (error,) = sink.ended
    assert isinstance(error, SubscriptionRefused)
    assert (error.log, error.code) == (LOG, "not_found")
    assert LOG not in subscriptions


def test_a_log_that_is_gone_ends_the_search_for_where_its_histories_parted() -> None:
    subscriptions, _, sink = follow(Position("e", 5, "0" * 16))
    subscriptions.on_verdict(SubscriptionVerdict(log=LOG, verdict=Resumption.PROBING), 0)
    subscriptions.on_verdict(gone(), 0)
    assert isinstance(sink.ended[0], SubscriptionRefused)


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_what_was_handled_around_a_cut_is_acknowledged_on_the_new_connection(when: str) -> None:
    history = History()
    subscriptions, subscription, _ = follow(durable="inbox")
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 2), 0)
    if when == "before":
        subscriptions.handled(subscription, 0, 2, 0)
        assert subscriptions.take(1000) == [Ack(log=LOG, offset=2)]
    subscriptions.disconnected()
    if when == "during":
        subscriptions.handled(subscription, 0, 2, 0)
    list(subscriptions.take_wanted(0))
    subscriptions.on_verdict(resumed(history.positions[2]), 0)
    if when == "after":
        subscriptions.handled(subscription, 0, 2, 0)
    assert subscriptions.take(1000) == [Ack(log=LOG, offset=2)]


def test_what_was_handled_just_before_reading_ends_is_acknowledged() -> None:
    history = History()
    subscriptions, subscription, _ = follow(durable="inbox")
    subscriptions.on_verdict(resumed(history.positions[0]), 0)
    subscriptions.on_entries(history.frame(0, 4), 0)
    subscriptions.handled(subscription, 0, 2, 0)
    subscriptions.remove(subscription)
    assert subscriptions.take(0) == [Ack(log=LOG, offset=2), Unsubscribe(log=LOG)]
