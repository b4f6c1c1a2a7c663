"""Every check passes what is right and catches the bug planted for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.codec import pack_value
from protocol.entry import Position
from protocol.frames import ResetReason
from tests.support.checkers import (
    Acknowledged,
    Began,
    Dump,
    Given,
    Rule,
    Story,
    Violation,
    WasReset,
    assert_kept,
    check_absent,
    check_acknowledged,
    check_delivered,
    check_log,
    check_sequence,
    check_unchanged,
)
from tests.unit.support.logs import EPOCH, dump_of, rechained, topic

LINES = [pack_value(f"line {number}") for number in range(10)]


def rules(found: list[Violation]) -> set[Rule]:
    return {violation.rule for violation in found}


def without(dump: Dump, offset: int) -> Dump:
    return replace(dump, entries=tuple(entry for entry in dump.entries if entry.offset != offset))


def twice(dump: Dump, offset: int) -> Dump:
    """The entry at an offset again at the end, as a retry that was not recognised would be."""
    return dump_of(dump.log, [*(entry.packed for entry in dump.entries), dump.entries[offset - 1].packed])


def swapped(dump: Dump, offset: int) -> Dump:
    entries = list(dump.entries)
    entries[offset - 1], entries[offset] = entries[offset], entries[offset - 1]
    return replace(dump, entries=tuple(entries))


def altered(dump: Dump, offset: int) -> Dump:
    entries = list(dump.entries)
    entries[offset - 1] = entries[offset - 1]._replace(packed=topic(1, prefix="other").entries[0].packed)
    return replace(dump, entries=tuple(entries))


def aged(dump: Dump, offset: int) -> Dump:
    entries = list(dump.entries)
    entries[offset - 1] = entries[offset - 1]._replace(ts_ms=1)
    return rechained(replace(dump, entries=tuple(entries)))


def shortened(dump: Dump, offset: int) -> Dump:
    """The tail is gone, and the log does not know it."""
    return replace(dump, entries=dump.entries[: offset - 1])


# Logs


def test_a_right_log_passes() -> None:
    assert_kept(check_log(topic(10)), check_log(topic(0)), check_unchanged(topic(5), topic(10)))


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (lambda dump: rechained(without(dump, 4)), {Rule.DENSE}),
        (lambda dump: without(dump, 4), {Rule.DENSE, Rule.CHAIN}),
        (lambda dump: swapped(dump, 4), {Rule.DENSE, Rule.CHAIN}),
        (lambda dump: rechained(swapped(dump, 4)), {Rule.DENSE}),
        (lambda dump: altered(dump, 4), {Rule.CHAIN}),
        (lambda dump: aged(dump, 4), {Rule.DENSE}),
        (lambda dump: shortened(dump, 4), {Rule.DENSE, Rule.CHAIN}),
        (lambda dump: replace(dump, after=dump.after._replace(tag="0" * 16)), {Rule.CHAIN}),
        (lambda dump: replace(dump, after=dump.after._replace(epoch="other")), {Rule.CHAIN}),
        (lambda dump: rechained(replace(dump, before=Position(EPOCH, 0, "0" * 16))), {Rule.CHAIN}),
    ],
)
def test_a_wrong_log_is_caught(plant: Callable[[Dump], Dump], expected: set[Rule]) -> None:
    assert rules(check_log(plant(topic(10)))) == expected


@pytest.mark.parametrize(
    "plant",
    [
        lambda dump: altered(dump, 2),
        lambda dump: without(dump, 2),
        lambda dump: topic(10, epoch="other"),
        lambda dump: aged(dump, 2),
    ],
)
def test_a_log_that_was_changed_after_it_was_read_is_caught(plant: Callable[[Dump], Dump]) -> None:
    assert rules(check_unchanged(topic(5), plant(topic(10)))) == {Rule.UNCHANGED}


def test_a_trimmed_log_is_no_changed_one() -> None:
    whole = topic(10)
    before = Position(EPOCH, 4, whole.tags()[4])
    assert check_unchanged(topic(5), replace(whole, before=before, entries=whole.entries[4:])) == []


# Publishers


LEDGER = [Acknowledged("said", body, offset) for offset, body in enumerate(LINES, 1)]


def test_a_ledger_that_fits_passes() -> None:
    dump = topic(10)
    assert_kept(check_acknowledged(dump, LEDGER), check_sequence(dump, "said", LINES))
    assert_kept(check_acknowledged(dump, [replace(said, offset=None) for said in LEDGER]))
    assert_kept(check_absent(dump, [("said", pack_value("never"))]))


@pytest.mark.parametrize(
    ("plant", "count"),
    [
        (lambda dump: without(dump, 4), 1),
        (lambda dump: twice(dump, 4), 1),
        (lambda dump: shortened(dump, 7), 4),
        (lambda dump: altered(dump, 4), 1),
        (lambda dump: dump_of(dump.log, [entry.packed for entry in swapped(dump, 4).entries]), 2),
    ],
)
def test_an_acknowledged_entry_that_is_lost_or_repeated_or_moved_is_caught(
    plant: Callable[[Dump], Dump], count: int
) -> None:
    found = check_acknowledged(plant(topic(10)), LEDGER)
    assert rules(found) == {Rule.ACKNOWLEDGED}
    assert len(found) == count


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (lambda dump: without(dump, 4), "line 3' is lost"),
        (lambda dump: shortened(dump, 9), "line 9' is lost"),
        (lambda dump: twice(dump, 4), "line 3' is there 1 times too often"),
        (lambda dump: swapped(dump, 4), "line 4' stands where said b'\\xa6line 3' was due"),
        (lambda dump: topic(11), "line 10' is there 1 times too often"),
    ],
)
def test_a_sequence_with_a_fault_is_caught(plant: Callable[[Dump], Dump], says: str) -> None:
    found = check_sequence(plant(topic(10)), "said", LINES)
    assert rules(found) == {Rule.SEQUENCE}
    assert any(says in violation.message for violation in found), found


def test_what_should_have_been_refused_is_caught() -> None:
    (found,) = check_absent(topic(10), [("said", LINES[3]), ("other", LINES[4])])
    assert (found.rule, found.offset) == (Rule.ABSENT, 4)


# Subscribers


def given(dump: Dump, first: int, last: int) -> list[Given]:
    tags = dump.tags()
    return [Given(offset, tags[offset]) for offset in range(first, last + 1)]


def trimmed(dump: Dump, upto: int) -> Dump:
    return replace(dump, before=Position(EPOCH, upto, dump.tags()[upto]), entries=dump.entries[upto:])


WHOLE = topic(10)
OLD = topic(4, prefix="lost", after=topic(6))
"""What a subscriber saw of offsets 7 to 10 before the store went back to offset 6."""
NEW = topic(5, prefix="new", after=topic(6))
OTHER = topic(3, epoch="other")
DIVERGED = WasReset(ResetReason.DIVERGED, 7, 10, True, EPOCH, 6)
TRIMMED = WasReset(ResetReason.TRIMMED, 4, 6, True, EPOCH, 6)
UNKNOWN = WasReset(ResetReason.UNKNOWN, 1, 10, False, "other", 0)


@pytest.mark.parametrize(
    ("dump", "story"),
    [
        (WHOLE, [Began(0), *given(WHOLE, 1, 10)]),
        (WHOLE, [Began(7), *given(WHOLE, 8, 10)]),
        (WHOLE, [Began(0), *given(WHOLE, 1, 6), Began(4), *given(WHOLE, 5, 10)]),
        (trimmed(WHOLE, 6), [Began(0), *given(WHOLE, 1, 3), TRIMMED, *given(WHOLE, 7, 10)]),
        (NEW, [Began(0), *given(OLD, 1, 10), DIVERGED, *given(NEW, 7, 11)]),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, first=3, exact=False, at=2), *given(NEW, 3, 11)]),
        (NEW, [Began(0), *given(OLD, 1, 8), replace(TRIMMED, first=9, last=9, at=9), *given(NEW, 10, 11)]),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, first=1, exact=False, at=8), *given(NEW, 9, 11)]),
        (OTHER, [Began(0), *given(WHOLE, 1, 10), UNKNOWN, *given(OTHER, 1, 3)]),
    ],
)
def test_a_story_without_a_gap_or_with_the_right_reset_passes(dump: Dump, story: Story) -> None:
    assert_kept(check_delivered(dump, story))


@pytest.mark.parametrize(
    ("dump", "story", "says"),
    [
        (WHOLE, [Began(0), *given(WHOLE, 1, 3), *given(WHOLE, 5, 10)], "was given 5 after 3"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 5), *given(WHOLE, 5, 10)], "was given 5 after 5"),
        (WHOLE, [Began(0), *given(WHOLE, 2, 10)], "was given 2 after 0"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 9)], "stands at 9, the log ends at 10"),
        (WHOLE, given(WHOLE, 1, 10), "before it had a position"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 3), Began(5), *given(WHOLE, 6, 10)], "came back after 5"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 3), TRIMMED, *given(WHOLE, 8, 10)], "was given 8 after 6"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 2), TRIMMED, *given(WHOLE, 7, 10)], "it is 3 to 6"),
        (WHOLE, [Began(0), *given(WHOLE, 1, 3), replace(TRIMMED, last=5), *given(WHOLE, 7, 10)], "it is 4 to 6"),
        (NEW, [Began(0), *given(OLD, 1, 10), *given(NEW, 11, 11)], "another entry than the log has"),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, first=8), *given(NEW, 7, 11)], "it is 7 to 10"),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, last=9), *given(NEW, 7, 11)], "it is 7 to 10"),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, at=5), *given(NEW, 6, 11)], "goes on after 5"),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, at=7), *given(NEW, 8, 11)], "goes on after 7"),
        (NEW, [Began(0), *given(OLD, 1, 10), replace(DIVERGED, first=8, exact=False), *given(NEW, 7, 11)], "7 to 10"),
        (OTHER, [Began(0), *given(WHOLE, 1, 10), replace(UNKNOWN, epoch=EPOCH), *given(OTHER, 1, 3)], "not the log's"),
        (OTHER, [Began(0), *given(WHOLE, 1, 10), replace(UNKNOWN, last=3), *given(OTHER, 1, 3)], "it is 1 to 10"),
    ],
)
def test_a_gap_or_a_reset_that_says_something_else_is_caught(dump: Dump, story: Story, says: str) -> None:
    found = check_delivered(dump, story)
    assert rules(found) == {Rule.DELIVERED}
    assert any(says in violation.message for violation in found), found


def test_a_story_that_need_not_be_complete_may_end_early() -> None:
    assert_kept(check_delivered(WHOLE, [Began(0), *given(WHOLE, 1, 4)], complete=False))


def test_violations_are_shown() -> None:
    with pytest.raises(AssertionError, match=r"1 violations:\ntopic/feed at 4: said .* is there"):
        assert_kept(check_absent(topic(10), [("said", LINES[3])]))
