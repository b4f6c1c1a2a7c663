"""What a program that reads a log is given, and what it is told when there will be no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from agent.errors import Reset, SubscriptionRefused
from agent.links import Links
from agent.reading import Reader
from agent.subscriptions import Subscription, Subscriptions
from protocol.codec import pack_record, pack_value
from protocol.entry import Entry, Position, next_tag, origin
from protocol.frames import Entries, Lost, ResetReason, Resumption, Start, SubscriptionVerdict
from protocol.frames import Reset as ResetFrame

LOG = "topic/room"


def reader_of(subscriptions: Subscriptions) -> Reader:
    """Return a reader whose link says nothing and hears what the test says."""

    def follow(subscription: Subscription) -> SimpleNamespace:
        subscriptions.add(subscription)
        return SimpleNamespace(handled=lambda *_: None)

    links = SimpleNamespace(follow=follow, unfollow=lambda *_: None, thread=SimpleNamespace(post=lambda *_: None))
    return Reader(cast(Links, links), LOG, Start.EARLIEST)


async def test_a_log_that_is_gone_is_told_to_its_reader_after_all_that_was_received() -> None:
    subscriptions, start = Subscriptions(), origin("e")
    reader = reader_of(subscriptions)
    assert len(subscriptions.take(0)) == 1
    subscriptions.on_verdict(SubscriptionVerdict(log=LOG, verdict=Resumption.RESUMED, at=start, head=1), 0)
    packed = pack_record("said", "client:c", pack_value("hello"))
    at = Position("e", 1, next_tag(start.tag, 1, 5, packed))
    frame = Entries(log=LOG, prev=0, prev_tag=start.tag, upto=1, tag=at.tag, entries=(Entry(1, 5, packed),))
    subscriptions.on_entries(frame, 0)
    refused = Resumption.REFUSED
    subscriptions.on_verdict(SubscriptionVerdict(log=LOG, verdict=refused, code="not_found", message="it is gone"), 0)
    assert LOG not in subscriptions
    assert (await anext(reader)).offset == 1
    with pytest.raises(SubscriptionRefused, match="it is gone") as told:
        await anext(reader)
    assert told.value.code == "not_found"
    with pytest.raises(SubscriptionRefused):
        await reader.caught_up()


class Told:
    """Readers whose link tells what it is told of their acknowledgements."""

    def __init__(self, subscriptions: Subscriptions) -> None:
        self.acks: list[tuple[int, int]] = []
        self._subscriptions = subscriptions

    @property
    def links(self) -> Links:
        thread = SimpleNamespace(post=lambda call, *args: call(*args))
        return cast(Links, SimpleNamespace(follow=self._follow, unfollow=lambda *_: None, thread=thread))

    def _follow(self, subscription: Subscription) -> SimpleNamespace:
        self._subscriptions.add(subscription)
        return SimpleNamespace(handled=lambda _, generation, offset: self.acks.append((generation, offset)))


def history(count: int, epoch: str = "e") -> tuple[list[Entry], list[Position]]:
    entries, positions = [], [origin(epoch)]
    for offset in range(1, count + 1):
        packed = pack_record("said", "client:c", pack_value(offset))
        entries.append(Entry(offset, 5, packed))
        positions.append(Position(epoch, offset, next_tag(positions[-1].tag, offset, 5, packed)))
    return entries, positions


def received(subscriptions: Subscriptions, count: int) -> list[Position]:
    """Let a subscription have so many entries."""
    entries, positions = history(count)
    subscriptions.take(0)
    subscriptions.on_verdict(SubscriptionVerdict(log=LOG, verdict=Resumption.RESUMED, at=positions[0], head=count), 0)
    first, last = positions[0], positions[count]
    frame = Entries(log=LOG, prev=0, prev_tag=first.tag, upto=count, tag=last.tag, entries=tuple(entries))
    subscriptions.on_entries(frame, 0)
    return positions


async def test_an_entry_from_before_a_reset_acknowledges_nothing_of_the_new_history() -> None:
    subscriptions = Subscriptions()
    told = Told(subscriptions)
    resets: list[Reset] = []
    reader = Reader(told.links, LOG, Start.EARLIEST, auto_ack=False, on_reset=resets.append)
    positions = received(subscriptions, 3)
    old = [await anext(reader) for _ in range(3)]
    lost = Lost(from_=2, to=3, exact=True)
    subscriptions.on_reset(ResetFrame(log=LOG, reason=ResetReason.DIVERGED, lost=lost, at=positions[1]))
    packed = pack_record("said", "client:c", pack_value("another"))
    tag = next_tag(positions[1].tag, 2, 9, packed)
    frame = Entries(log=LOG, prev=1, prev_tag=positions[1].tag, upto=2, tag=tag, entries=(Entry(2, 9, packed),))
    subscriptions.on_entries(frame, 0)
    new = await anext(reader)
    assert (new.body, len(resets)) == ("another", 1)
    old[2].ack()
    assert told.acks[-1:] in ([], [(0, 3)])
    new.ack()
    assert told.acks[-1] == (1, 2)
    old[2].ack()
    assert told.acks[-1] != (1, 3)


async def test_acknowledging_an_earlier_entry_takes_nothing_back() -> None:
    subscriptions = Subscriptions()
    told = Told(subscriptions)
    reader = Reader(told.links, LOG, Start.EARLIEST, auto_ack=False)
    received(subscriptions, 3)
    one, _, three = [await anext(reader) for _ in range(3)]
    three.ack()
    one.ack()
    assert told.acks[-1] == (0, 3)


async def test_an_entry_counts_as_handled_when_the_next_one_is_asked_for_and_not_when_reading_ends() -> None:
    subscriptions = Subscriptions()
    told = Told(subscriptions)
    async with Reader(told.links, LOG, Start.EARLIEST) as reader:
        received(subscriptions, 3)
        assert [(await anext(reader)).offset, (await anext(reader)).offset] == [1, 2]
    assert told.acks[-1] == (0, 1)
