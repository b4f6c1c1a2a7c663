"""Bytes: what is said comes out as it went in, and what is not allowed is refused with its code.

Every malformed form is in docs/protocol-vectors.json (see test_vectors.py); here are the limits and the values.
"""

from __future__ import annotations

import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest

from protocol.codec import (
    decode,
    encode,
    pack_record,
    pack_records,
    pack_script_arguments,
    pack_value,
    unpack_record,
    unpack_value,
)
from protocol.codes import CloseCode
from protocol.control import Progress
from protocol.entry import Entry, Position, Record
from protocol.errors import RemoteProtocolError
from protocol.frames import Ack, Bye, Entries, Heartbeat, Part, Publish, Request, Response, Start, Subscribe, Tags
from protocol.limits import ARRAYS_MAX, DEFAULT_LIMITS, ITEMS_MAX, MAPS_MAX, MESSAGE_FRAMES_MAX, NESTING_MAX
from tests.support.samples import SAMPLES, TOPIC_LOG, position, story

BYTES_MAX = DEFAULT_LIMITS.message_bytes_max
KIB_A_MIB = 1024


def read(message: bytes) -> list[Any]:
    return list(decode(message, BYTES_MAX))


def code_of(message: bytes, bytes_max: int = BYTES_MAX) -> CloseCode:
    with pytest.raises(RemoteProtocolError) as raised:
        list(decode(message, bytes_max))
    return raised.value.code


def nested(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("frame", SAMPLES.values(), ids=SAMPLES.keys())
def test_a_frame_cut_short_anywhere_is_malformed(frame: Part) -> None:
    message = encode(frame)
    for length in range(1, len(message)):
        assert code_of(message[:length]) is CloseCode.MALFORMED


def test_an_empty_message_says_nothing() -> None:
    assert read(b"") == []


def test_frames_stand_one_after_the_other() -> None:
    frames = [Ack(log=TOPIC_LOG, offset=1), Heartbeat(), Ack(log=TOPIC_LOG, offset=2)]
    assert read(b"".join(map(encode, frames))) == frames


def test_keys_that_are_none_are_left_out_and_none_within_arrays_is_kept() -> None:
    assert msgpack.unpackb(encode(Heartbeat())) == {"t": "heartbeat"}
    assert msgpack.unpackb(encode(Tags(log=TOPIC_LOG, tags=(None,))))["tags"] == [None]


def test_nil_for_a_key_means_that_it_is_left_out() -> None:
    assert read(msgpack.packb({"t": "heartbeat", "store_ms": None})) == [Heartbeat()]


def test_positions_and_entries_are_named_tuples_again() -> None:
    (frame,) = read(encode(SAMPLES["subscribe: from a position"]))
    assert isinstance(frame, Subscribe)
    assert isinstance(frame.from_, Position)
    (frame,) = read(encode(SAMPLES["entries"]))
    assert isinstance(frame, Entries)
    assert all(isinstance(entry, Entry) for entry in frame.entries)


def test_a_named_start_is_no_position() -> None:
    (frame,) = read(encode(Subscribe(log=TOPIC_LOG, from_=Start.EARLIEST)))
    assert frame.from_ is Start.EARLIEST


def test_a_message_may_be_as_large_as_the_limit_and_no_larger() -> None:
    message = encode(Heartbeat())
    assert list(decode(message, len(message))) == [Heartbeat()]
    assert code_of(message, len(message) - 1) is CloseCode.TOO_LARGE


def test_arrays_and_maps_hold_so_many_items_and_no_more() -> None:
    for value in ([0] * ITEMS_MAX, {str(number): 0 for number in range(ITEMS_MAX)}):
        assert read(encode(Response(id=1, result=value)))
    for value in ([0] * (ITEMS_MAX + 1), {str(number): 0 for number in range(ITEMS_MAX + 1)}):
        assert code_of(msgpack.packb({"t": "response", "id": 1, "result": value})) is CloseCode.MALFORMED


def test_open_parts_may_be_nested_so_deep_and_no_deeper() -> None:
    inside = NESTING_MAX - 2  # the frame and its params are the first two
    assert read(encode(Request(id=1, method="m", params={"x": nested(inside)})))
    assert code_of(encode(Request(id=1, method="m", params={"x": nested(inside + 1)}))) is CloseCode.TOO_LARGE
    deep: Any = 0
    for _ in range(NESTING_MAX):
        deep = {"x": deep}
    assert code_of(encode(Response(id=1, result=deep))) is CloseCode.TOO_LARGE


@pytest.mark.parametrize("levels", [100, 1000, 5000, 100_000])
def test_nesting_beyond_reason_is_refused_whatever_the_frame(levels: int) -> None:
    message = b"\x82\xa1t\xa8response\xa2id" + b"\x91" * levels + b"\xc0"
    assert code_of(message) in {CloseCode.MALFORMED, CloseCode.TOO_LARGE, CloseCode.INVALID_FRAME}


def peak_kib() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform != "darwin" else peak // 1024


@pytest.mark.parametrize("header", [b"\xdd\x00\x3f\xff\x00", b"\xdf\x00\x3f\xff\x00", b"\xdd\x00\x00\x0f\xff"])
def test_headers_that_claim_more_than_they_bring_cost_no_memory(header: bytes) -> None:
    before = peak_kib()
    assert code_of(header * 1000) is CloseCode.MALFORMED
    with pytest.raises(ValueError, match="not one msgpack value"):
        unpack_value(header * 1000)
    assert peak_kib() - before < 64 * KIB_A_MIB


def test_what_cannot_be_said_is_a_mistake_of_the_caller() -> None:
    for value in (object(), {1, 2}, 1j):
        with pytest.raises(TypeError):
            pack_value(value)
    with pytest.raises(OverflowError):
        pack_value(2**64)
    with pytest.raises(ValueError, match="recursion"):
        pack_value(nested(5000))


def test_values_come_out_as_they_went_in() -> None:
    value = {"a": [1, -1, 2.5, None, True, "ü", b"\xff"], "b": {"c": []}, 3: "numbers are keys too"}
    assert unpack_value(pack_value(value)) == value


def test_models_are_packed_as_maps() -> None:
    assert unpack_value(pack_value(Progress(current=1.0))) == {"current": 1.0}


def test_an_empty_body_is_none() -> None:
    assert unpack_value(b"") is None


@pytest.mark.parametrize("body", [b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa2\xff\xff", b"\x81\x80\x01", b"\x91" * 5000])
def test_a_body_that_is_not_one_value_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not one msgpack value"):
        unpack_value(body)


def test_records_come_out_as_they_went_in() -> None:
    packed = pack_record("said", "client:ada", b"\x00", attempt=1, seq=2, index=3, cause=4)
    assert msgpack.unpackb(packed) == ["said", "client:ada", 1, 2, 3, 4, b"\x00"]
    assert unpack_record(packed) == Record("said", "client:ada", 1, 2, 3, 4, b"\x00")
    assert unpack_record(pack_record("said", "client:ada", b"")) == Record(
        "said", "client:ada", None, None, None, None, b""
    )


GOOD = ["said", "client:ada", None, 1, None, None, b""]


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb(GOOD) + b"\x00",
        msgpack.packb(GOOD)[:-1],
        *(
            msgpack.packb(value)
            for value in (
                7,
                GOOD[:-1],
                [*GOOD, 1],
                {str(number): number for number in range(7)},
                [1, *GOOD[1:]],
                [*GOOD[:3], "1", *GOOD[4:]],
                [*GOOD[:3], True, *GOOD[4:]],
                [*GOOD[:-1], "text"],
                [*GOOD[:-1], None],
            )
        ),
    ],
    ids=repr,
)
def test_what_is_not_a_record_is_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="not the packed value of an entry"):
        unpack_record(packed)


def test_entries_packed_together_are_packed_as_each_by_itself() -> None:
    entries = [("k", b"1", None, None), ("other", b"x" * 300_000, 7, 8), ("k", b"", 1, None)]

    assert pack_records(entries, "agent:a", 2, 5) == tuple(
        pack_record(kind, "agent:a", body, attempt=2, seq=seq, index=index, cause=cause)
        for seq, (kind, body, index, cause) in enumerate(entries, 5)
    )
    assert pack_records([], "agent:a", None, 1) == ()


@pytest.mark.parametrize(("value", "fault"), [(object(), TypeError), (2**70, OverflowError)], ids=["type", "size"])
def test_what_could_not_be_packed_leaves_nothing_behind(value: object, fault: type[Exception]) -> None:
    with pytest.raises(fault):
        pack_value(["before", value])
    assert pack_value(1) == b"\x01"


def test_threads_pack_at_the_same_time() -> None:
    frame = SAMPLES["hello"]  # packed by a callback, where threads take turns
    wanted = pack_value(frame)
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: pack_value(frame), range(400))) == {wanted}


def test_arguments_for_scripts_have_no_bin() -> None:
    assert pack_script_arguments((b"x" * 40, None, False)) == b"\x93\xda\x00\x28" + b"x" * 40 + b"\xc0\xc2"


def test_a_fault_names_the_frame_and_the_field() -> None:
    with pytest.raises(RemoteProtocolError, match=r"^publish: entries\.0\.1: "):
        read(
            msgpack.packb(
                {
                    "t": "publish",
                    "log": "topic/x",
                    "producer": "p",
                    "seq": 1,
                    "fence": 1,
                    "entries": [["k", "text", None, None]],
                }
            )
        )


def test_a_fault_quotes_only_so_much_of_what_was_sent() -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        read(msgpack.packb({"t": "x" * 100_000}))
    assert len(str(raised.value)) < 200


def test_a_publish_of_entries_keeps_their_bytes() -> None:
    body = bytes(range(256))
    frame = Publish(log=TOPIC_LOG, producer="p", seq=1, fence=1, entries=(("k", body, None, None),))
    (back,) = read(encode(frame))
    assert back.entries[0][1] == body


def test_entries_are_sent_as_the_bytes_they_were_packed_as() -> None:
    message = encode(SAMPLES["entries"])
    assert all(entry.packed in message for entry in story(2))
    assert position(2).tag.encode() in message


def _full(filler: bytes, count: int) -> bytes:
    """A frame with a key that nobody knows, under which stand `count` values in arrays of arrays."""
    rows = [min(ITEMS_MAX, count - start) for start in range(0, count, ITEMS_MAX)]
    value = b"".join(b"\xdc" + size.to_bytes(2, "big") + filler * size for size in rows)
    head = b"\x83" + b"".join(map(pack_value, ("t", "bye", "reason", "", "x")))
    return head + b"\xdc" + len(rows).to_bytes(2, "big") + value


@pytest.mark.parametrize(
    ("fits", "too_much"),
    [
        (encode(Bye(reason="")) * MESSAGE_FRAMES_MAX, encode(Bye(reason="")) * (MESSAGE_FRAMES_MAX + 1)),
        (_full(b"\x80", MAPS_MAX - 1), _full(b"\x80", MAPS_MAX)),
        (_full(b"\x90", ARRAYS_MAX - 130), _full(b"\x90", ARRAYS_MAX)),
    ],
    ids=["frames", "maps", "arrays"],
)
def test_a_message_with_too_much_in_it_is_too_large(fits: bytes, too_much: bytes) -> None:
    assert list(decode(fits, 1 << 22))
    with pytest.raises(RemoteProtocolError) as raised:
        list(decode(too_much, 1 << 22))
    assert raised.value.code is CloseCode.TOO_LARGE
