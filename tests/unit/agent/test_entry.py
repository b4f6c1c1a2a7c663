"""Entries as their readers see them."""

from __future__ import annotations

import json

from agent.entry import read_entry
from protocol.codec import pack_record, pack_value
from protocol.control import Succeeded
from protocol.entry import Entry as StoredEntry

FIELDS = ["log", "offset", "epoch", "ts_ms", "kind", "src", "attempt", "seq", "index", "cause", "body", "tag"]


def entry(kind: str, body: bytes):  # type: ignore[no-untyped-def]
    packed = pack_record(kind, "agent:a", body, attempt=1, seq=2, index=3, cause=4)
    return read_entry("run/r", "e", StoredEntry(5, 6, packed), "0" * 16)


def test_the_entry_object_has_exactly_its_fields_in_their_order() -> None:
    shown = entry("found", pack_value({"a": [1, 2.5], "b": None})).to_json()
    assert list(shown) == FIELDS
    assert json.loads(json.dumps(shown))["body"] == {"a": [1, 2.5], "b": None}
    assert (shown["attempt"], shown["seq"], shown["index"], shown["cause"]) == (1, 2, 3, 4)


def test_a_body_that_is_no_msgpack_is_its_bytes() -> None:
    assert entry("raw", b"\xc1\xff").body == b"\xc1\xff"
    json.dumps(entry("raw", b"\xc1\xff").to_json())


def test_packed_values_inside_control_bodies_are_shown_decoded() -> None:
    assert entry("$succeeded", pack_value(Succeeded(result=pack_value([1, 2])))).body == {"result": [1, 2]}


def test_an_entry_is_a_position_to_go_on_after() -> None:
    one = entry("k", b"")
    assert one.position is not None
    assert (one.position.epoch, one.position.offset, one.position.tag) == ("e", 5, "0" * 16)
    one.ack()
