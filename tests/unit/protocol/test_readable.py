"""Entries as JSON: total, deterministic, and never more than JSON can say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.codec import pack_record, pack_value
from protocol.entry import Entry
from protocol.readable import READABLE_DEPTH_MAX, entry_object, json_line, readable, readable_body


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": [1, None, True, "é"]}, {"a": [1, None, True, "é"]}),
        (b"\xff", {"$base64": "/w=="}),
        ({1: 2, "1": 3}, {"$map": [[1, 2], ["1", 3]]}),
        ([float("nan"), float("inf"), float("-inf")], ["NaN", "Infinity", "-Infinity"]),
        (nested(READABLE_DEPTH_MAX), nested(READABLE_DEPTH_MAX)),
    ],
)
def test_a_body_is_shown_as_its_value(value: Any, shown: Any) -> None:
    assert readable(pack_value(value)) == shown


@pytest.mark.parametrize(
    "body", [b"hello", b"\xc7\x01\x05\x00", b"\xd6\xff\x00\x00\x00\x00", pack_value(nested(READABLE_DEPTH_MAX + 1))]
)
def test_what_cannot_be_shown_is_bytes(body: bytes) -> None:
    assert list(readable(body)) == ["$base64"]


def test_an_empty_body_is_null() -> None:
    assert readable(b"") is None


def test_packed_values_inside_control_entries_are_decoded() -> None:
    inner = pack_value({"repo": "."})
    assert readable_body("$submitted", pack_value({"input": inner}))["input"] == {"repo": "."}
    assert readable_body("$succeeded", pack_value({"result": inner}))["result"] == {"repo": "."}
    assert readable_body("other", pack_value({"result": inner}))["result"] == {"$base64": "gaRyZXBvoS4="}


def test_the_object_of_an_entry_has_its_fields_in_order() -> None:
    entry = Entry(3, 17, pack_record("note", "client:me", pack_value([1]), attempt=1, seq=2, index=None, cause=1))
    line = json_line(entry_object("topic/a", "e", "t", entry))
    assert line == (
        '{"log":"topic/a","offset":3,"epoch":"e","ts_ms":17,"kind":"note","src":"client:me",'
        '"attempt":1,"seq":2,"index":null,"cause":1,"body":[1],"tag":"t"}'
    )


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\x97",
        pack_value([1, "s", None, None, None, None, b""]),
        pack_value(["k", "s", "1", None, None, None, b""]),
        pack_value(["k", "s", True, None, None, None, b""]),
        pack_value(["k", "s", None, None, None, None, "text"]),
        pack_value([["k"], "s", None, None, None, None, b""]),
    ],
)
def test_what_is_no_entry_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match=r"not the packed value of an entry|Unpack failed|incomplete"):
        entry_object("topic/a", "e", "t", Entry(1, 1, packed))


@given(st.binary(max_size=200))
def test_any_body_can_be_printed(body: bytes) -> None:
    for kind in ("note", "$submitted", "$succeeded"):
        assert json.loads(json_line(readable_body(kind, body))) is not ...
