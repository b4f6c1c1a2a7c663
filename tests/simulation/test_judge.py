"""What the judge makes of a subscriber's story before it is compared with the log."""

from __future__ import annotations

from protocol.entry import Entry, Position, chain, origin
from tests.support.checkers import Began, Dump, Given, WasReset
from tests.support.simulation.judge import _from_what_is_kept, _told_in_time

ENTRIES = (Entry(1, 1, b"one"), Entry(2, 2, b"two"))
START = origin("e")
DUMP = Dump("topic/a", START, Position("e", 2, chain(START.tag, ENTRIES)), ENTRIES)
TAGS = DUMP.tags()


def test_a_process_that_was_killed_is_not_asked_for_what_the_store_lost_after() -> None:
    remembered: list[Began | Given | WasReset] = [Began(0), Given(1, TAGS[1]), Given(2, "lost")]

    assert _told_in_time(DUMP, [*remembered, Began(2), Given(3, "lost")]) == [Began(0), Given(1, TAGS[1])]
    assert _told_in_time(DUMP, [*remembered, Given(2, TAGS[2])]) == [*remembered, Given(2, TAGS[2])]
    assert _told_in_time(DUMP, [Began(0)]) == []


def test_the_earliest_entry_is_the_first_that_is_kept() -> None:
    assert _from_what_is_kept([Began(0), Given(3, "x")], {1, 2}) == [Began(2), Given(3, "x")]
    assert _from_what_is_kept([Began(0), Given(3, "x")], {1}) == [Began(0), Given(3, "x")]
    assert _from_what_is_kept([Began(0), Given(1, "x")], {1, 2}) == [Began(0), Given(1, "x")]
