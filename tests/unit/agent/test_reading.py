"""What a program that reads a log is given, and what it is told when there will be no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from agent.errors import SubscriptionRefused
from agent.links import Links
from agent.reading import Reader
from agent.subscriptions import Subscription, Subscriptions
from protocol.codec import pack_record, pack_value
from protocol.entry import Entry, Position, next_tag, origin
from protocol.frames import Entries, Resumption, Start, SubscriptionVerdict

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
    assert not subscriptions.follows(LOG)
    assert (await anext(reader)).offset == 1
    with pytest.raises(SubscriptionRefused, match="it is gone") as told:
        await anext(reader)
    assert told.value.code == "not_found"
    with pytest.raises(SubscriptionRefused):
        await reader.caught_up()
