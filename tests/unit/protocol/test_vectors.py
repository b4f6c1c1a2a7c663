"""docs/protocol-vectors.json is what the code does, and covers all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from protocol.codec import decode, encode, unpack_record
from protocol.codes import CloseCode
from protocol.effects import Fail
from protocol.entry import Entry, Record, first_tag, next_tag
from protocol.frames import FRAMES
from protocol.limits import DEFAULT_LIMITS
from protocol.session import Phase, Session, Side
from tests.support.samples import SAMPLES
from tests.support.vectors import render_vectors

FILE = Path(__file__).parents[3] / "docs" / "protocol-vectors.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
BYTES_MAX = DEFAULT_LIMITS.message_bytes_max


def test_the_file_is_what_the_code_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == render_vectors(), "run scripts/vectors"


def test_every_frame_has_a_vector() -> None:
    assert {row["frame"]["t"] for row in VECTORS["frames"]} == set(FRAMES)


@pytest.mark.parametrize("row", VECTORS["frames"], ids=lambda row: row["name"])
def test_frames_decode_to_what_they_were_made_from(row: dict[str, Any]) -> None:
    (frame,) = decode(bytes.fromhex(row["hex"]), BYTES_MAX)
    assert frame == SAMPLES[row["name"]]
    assert encode(frame).hex() == row["hex"]


@pytest.mark.parametrize("row", VECTORS["messages"], ids=lambda row: row["what"])
def test_messages_decode_to_their_frames(row: dict[str, Any]) -> None:
    frames = list(decode(bytes.fromhex(row["hex"]), BYTES_MAX))
    assert [frame.t for frame in frames] == [frame["t"] for frame in row["frames"]]


@pytest.mark.parametrize("row", VECTORS["lenient"], ids=lambda row: row["what"])
def test_other_ways_to_say_the_same_are_understood(row: dict[str, Any]) -> None:
    assert row["hex"] != row["same_as"]
    said, same = (list(decode(bytes.fromhex(row[key]), BYTES_MAX)) for key in ("hex", "same_as"))
    assert said == same


@pytest.mark.parametrize("row", VECTORS["invalid"], ids=lambda row: row["what"])
def test_invalid_messages_end_the_session_with_their_code(row: dict[str, Any]) -> None:
    hub = Session(Side.HUB, 0, heartbeat_ms=1000)
    hub.phase, hub.bytes_max = Phase.READY, BYTES_MAX
    last = hub.receive(bytes.fromhex(row["hex"]), 0)[-1]
    assert isinstance(last, Fail)
    assert last.code is CloseCode(row["code"])
    assert hub.phase is Phase.ENDED


@pytest.mark.parametrize("row", VECTORS["records"], ids=lambda row: row["kind"])
def test_records_unpack(row: dict[str, Any]) -> None:
    said = {**row, "body": bytes.fromhex(row["body"]["hex"])}
    assert unpack_record(bytes.fromhex(said.pop("packed"))) == Record(**said)


@pytest.mark.parametrize("row", VECTORS["chains"], ids=lambda row: row["what"])
def test_chains_verify(row: dict[str, Any]) -> None:
    tag = first_tag(row["epoch"])
    assert tag == row["tag_0"]
    for entry in row["entries"]:
        tag = next_tag(tag, *Entry(entry["offset"], entry["ts_ms"], bytes.fromhex(entry["packed"])))
        assert tag == entry["tag"]
