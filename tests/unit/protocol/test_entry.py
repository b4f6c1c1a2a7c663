"""The tag chain: what it is made of, and what it finds."""

from __future__ import annotations

from hashlib import sha1

import pytest

from protocol.entry import Entry, Position, chain, first_tag, next_tag, origin
from tests.support.samples import story


def test_the_first_tag_is_of_the_epoch_alone() -> None:
    assert first_tag("abc") == sha1(b"fleetline1abc").hexdigest()[:16]
    assert origin("abc") == Position("abc", 0, first_tag("abc"))


def test_a_tag_covers_the_one_before_and_all_of_the_entry() -> None:
    assert next_tag("0" * 16, 7, 99, b"\x00\xff") == sha1(b"0" * 16 + b"7:99:\x00\xff").hexdigest()[:16]


def test_the_chain_is_that_of_its_links() -> None:
    entries = story(5)
    tag = first_tag("abc")
    for entry in entries:
        tag = next_tag(tag, *entry)
    assert chain(first_tag("abc"), entries) == tag
    assert chain(chain(first_tag("abc"), entries[:2]), entries[2:]) == tag
    assert chain("f" * 16, ()) == "f" * 16


@pytest.mark.parametrize("field", ["offset", "ts_ms", "packed"])
@pytest.mark.parametrize("at", range(5))
def test_any_change_anywhere_changes_the_last_tag(at: int, field: str) -> None:
    entries = list(story(5))
    good = chain(first_tag("abc"), entries)
    offset, ts_ms, packed = entries[at]
    changed = {"offset": (offset + 1, ts_ms, packed), "ts_ms": (offset, ts_ms + 1, packed)}
    entries[at] = Entry(*changed.get(field, (offset, ts_ms, packed + b".")))
    assert chain(first_tag("abc"), entries) != good


def test_numbers_do_not_run_into_each_other() -> None:
    assert chain("0" * 16, [Entry(1, 11, b"")]) != chain("0" * 16, [Entry(11, 1, b"")])
    assert next_tag("0" * 16, 1, 2, b"3:") != next_tag("0" * 16, 1, 23, b":")
