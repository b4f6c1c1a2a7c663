"""Output: how pieces are joined, when they are sent, and how a journal knows them again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.context import RunContext
from agent.errors import NonDeterminism, ProducerFenced, PublishRefused
from agent.feed import ENTRY_OVERHEAD_BYTES
from agent.outbox import Outbox
from agent.plain_context import PlainRunContext
from agent.stream import WRITE_WAIT_MS, Stream
from protocol.codec import unpack_value
from protocol.frames import Puback, Publish
from protocol.limits import Limits
from protocol.output import OUTPUT_ENTRY_BYTES_MAX, Piece
from tests.support.journaled import Killed, RunLog

LOG = "run/01-00000000001-0000000000000001"


def make(**limits: int) -> tuple[Outbox, Stream]:
    box = Outbox(Limits(**limits))
    stream = Stream(box, LOG, "attempt/1", 7)
    box.add(stream)
    return box, stream


def text(said: str) -> Piece:
    return Piece(said.encode(), True)


def write(stream: Stream, *said: str, index: int | None = None) -> None:
    for place, one in enumerate(said):
        assert stream.write("stdout", text(one), None if index is None else index + place)


def sent(frames: list[Publish]) -> list[tuple[str, Any, int | None]]:
    return [(kind, unpack_value(body), index) for frame in frames for kind, body, index, _ in frame.entries]


def test_what_is_written_close_together_is_one_entry_and_what_comes_after_a_pause_is_sent_at_once() -> None:
    box, stream = make()
    write(stream, "one ", "two ")
    assert sent(box.take(1000, 1 << 20)) == [("stdout", {"text": "one two ", "more": True}, None)]
    write(stream, "three ")
    assert box.take(1001, 1 << 20) == []
    assert box.due_ms() == 1000 + WRITE_WAIT_MS
    write(stream, "four\n")
    due = box.take(1000 + WRITE_WAIT_MS, 1 << 20)
    assert sent(due) == [("stdout", {"text": "three four\n", "more": True}, None)]
    assert due[0].seq == 2
    box.validate()


def test_an_entry_that_follows_takes_the_output_before_it_along() -> None:
    box, stream = make()
    write(stream, "sent")
    box.take(1000, 1 << 20)
    write(stream, "before")
    assert stream.offer("found", b"\x01")
    write(stream, "behind")
    kinds = [kind for kind, _, _ in sent(box.take(1001, 1 << 20))]
    assert kinds == ["stdout", "found"]
    assert [body["text"] for _, body, _ in sent(box.take(1000 + WRITE_WAIT_MS, 1 << 20))] == ["behind"]


def test_whoever_waits_for_output_has_it_sent() -> None:
    box, stream = make()
    write(stream, "sent")
    box.take(1000, 1 << 20)
    write(stream, "waited for")
    done = stream.acknowledged(stream.made)
    assert len(sent(box.take(1001, 1 << 20))) == 1
    box.on_puback(Puback(log=LOG, producer="attempt/1", seq=2, offset=2, level="local"))
    assert done.done()
    assert (box.entries, box.bytes, box.flying) == (0, 0, 0)


def test_streams_texts_and_bytes_are_not_joined_and_the_journal_says_how_many_pieces_there_are() -> None:
    box, stream = make()
    write(stream, "a", "b", index=1)
    stream.write("stderr", text("c"), 3)
    stream.write("stderr", Piece(b"\xff", False), 4)
    stream.write("stderr", Piece(b"\xfe", False), 6)
    assert sent(box.take(1000, 1 << 20)) == [
        ("stdout", {"text": "ab", "more": True, "writes": 2}, 2),
        ("stderr", {"text": "c", "more": True, "writes": 1}, 3),
        ("stderr", {"data": b"\xff", "more": True, "writes": 1}, 4),
        ("stderr", {"data": b"\xfe", "more": True, "writes": 1}, 6),
    ]


def test_an_entry_of_output_has_a_limit_and_the_window_counts_every_piece() -> None:
    box, stream = make(publish_bytes_max=200_000)
    half = "x" * (OUTPUT_ENTRY_BYTES_MAX // 2)
    write(stream, half, half, half)
    assert stream.made == 2
    while stream.write("stdout", text(half)):
        pass
    assert box.bytes <= 200_000 < box.bytes + len(half) + ENTRY_OVERHEAD_BYTES + 40
    room = stream.room(len(half))
    frames = box.take(1000, 1 << 20)
    assert sum(len(body["text"]) for _, body, _ in sent(frames)) == 6 * len(half)
    assert not room.done()
    box.on_puback(Puback(log=LOG, producer="attempt/1", seq=stream.made, offset=9, level="local"))
    assert room.done()
    assert (box.entries, box.bytes) == (0, 0)


def test_a_stream_that_is_given_up_gives_its_open_output_back() -> None:
    box, stream = make(body_bytes_max=1024)
    write(stream, "never sent")
    with pytest.raises(PublishRefused, match="takes 1040 bytes"):
        stream.write("stdout", text("x" * 1000))
    box.remove(stream)
    assert (box.entries, box.bytes) == (0, 0)
    with pytest.raises(ProducerFenced):
        stream.write("stdout", text("x"))


# Contexts


async def tells(ctx: RunContext, *said: str | bytes) -> None:
    for one in said:
        await ctx.write(one)


def tells_plainly(ctx: PlainRunContext, *said: str | bytes) -> None:
    for one in said:
        ctx.write(one)


TELLING = pytest.mark.parametrize("handler", [tells, tells_plainly])


def bodies(log: RunLog) -> list[Any]:
    return [unpack_value(record.body) for record in log.records]


@TELLING
def test_much_at_once_is_cut_between_characters_and_nothing_is_no_entry(handler: Callable[..., Any]) -> None:
    log = RunLog()
    log.unrecorded(handler, "ä" * 40_000, "", b"", bytes(70_000), "\udc80")
    assert [len(body.get("text", body.get("data"))) for body in bodies(log)] == [16384, 16384, 7232, 65536, 4464, 6]
    assert bodies(log)[-1] == {"text": "\\udc80", "more": True}


async def tells_nobody(ctx: RunContext) -> None:
    await ctx.write("x", stream="stdin")


def test_there_are_two_streams() -> None:
    with pytest.raises(ValueError, match="'stdin' is no stream of output"):
        RunLog().unrecorded(tells_nobody)


@TELLING
def test_what_was_written_is_known_again_however_it_was_joined(handler: Callable[..., Any]) -> None:
    log = RunLog()
    said = [f"{number} " for number in range(8)]
    with pytest.raises(Killed):
        log.attempt(handler, *said, room=2)
    written = [body["writes"] for body in bodies(log)]
    assert written == [2]
    log.attempt(handler, *said)
    log.attempt(handler, *said)
    assert "".join(body["text"] for body in bodies(log)) == "".join(said)
    assert [body["writes"] for body in bodies(log)] == [2, 3, 3]


@TELLING
@pytest.mark.parametrize(
    ("then", "why"),
    [
        (["a", "c"], "operation 2 .*write 'stdout' with another content"),
        (["a", b"b"], "operation 2 .*with another content"),
        (["ab"], "operation 2 .*the handler's return"),
    ],
)
def test_other_output_than_before_is_no_repetition(handler: Callable[..., Any], then: list[Any], why: str) -> None:
    log = RunLog()
    log.attempt(handler, "a", "b")
    with pytest.raises(NonDeterminism, match=why):
        log.attempt(handler, *then)


async def tells_and_finds(ctx: RunContext, upto: int) -> None:
    for number in range(upto):
        await ctx.write(str(number))
    await ctx.emit("found", upto)


def test_another_operation_inside_of_what_was_written_together_is_told() -> None:
    log = RunLog()
    log.attempt(tells_and_finds, 2)
    with pytest.raises(NonDeterminism, match="operation 2 was write 'stdout' and is now emit 'found'"):
        log.attempt(tells_and_finds, 1)


def refuse() -> None:
    raise ValueError("no")


async def tells_around_a_failure(ctx: RunContext) -> None:
    failing = ctx.call("refuse", refuse)
    await ctx.write("while it was not known ")
    try:
        await failing
    except ValueError:
        await ctx.write("since it failed")
        raise


def test_output_before_and_after_a_failure_is_not_joined() -> None:
    log = RunLog()
    with pytest.raises(ValueError, match="no"):
        log.attempt(tells_around_a_failure)
    with pytest.raises(ValueError, match="no"):
        log.attempt(tells_around_a_failure)
    said = [body["text"] for body in bodies(log) if "text" in body]
    assert said == ["while it was not known ", "since it failed", "since it failed"]
