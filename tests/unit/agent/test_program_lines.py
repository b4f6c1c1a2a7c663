"""What a program says: messages, text, what is refused, and lines however they are cut and however long."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.children import ChildOptions
from agent.executors import program_lines
from agent.executors.program_lines import (
    MESSAGE_BYTES_MAX,
    TEXT_BYTES_MAX,
    Event,
    Failure,
    LineReader,
    Mark,
    Progress,
    Refused,
    Result,
    Said,
    Submit,
    Text,
    cancel_line,
    input_line,
    start_line,
)
from protocol.codec import pack_value
from protocol.entry import Position
from protocol.frames import Assign, Recover

MESSAGES = [
    ('{"type": "event", "kind": "finding"}', Event(type="event", kind="finding")),
    ('{"type":"event","kind":"a","body":[1],"cause":7}', Event(type="event", kind="a", body=[1], cause=7)),
    ('  {"type": "progress", "current": 3}', Progress(type="progress", current=3.0)),
    (
        '{"type": "progress", "current": 1, "total": 2, "message": "x"}',
        Progress(type="progress", current=1.0, total=2.0, message="x"),
    ),
    ('{"type": "checkpoint", "value": {"at": 3}}', Mark(type="checkpoint", value={"at": 3})),
    ('{"type": "result"}', Result(type="result")),
    ('{"type": "result", "result": {"n": 1}}\r', Result(type="result", result={"n": 1})),
    ('{"type": "error", "message": "no"}', Failure(type="error", message="no")),
    (
        '{"type": "error", "message": "no", "name": "NoBranch", "trace": "t", "retryable": false}',
        Failure(type="error", message="no", name="NoBranch", trace="t", retryable=False),
    ),
]

TEXTS = [
    "",
    "plain",
    "42",
    '"type"',
    "[1, 2]",
    "{not json",
    "{}",
    '{"level": "info", "msg": "a structured log line"}',
    '{"type": 7}',
    '{"type": "event", "kind": "a", "body": NaN}',
    "{" * 100_000 + '"',
]

REFUSED = [
    (
        '{"type": "shout", "question": "may I?"}',
        (
            "is of type 'shout'; a program says event, progress, checkpoint, attach, ask, reply, submit, cancel_child, "
            "result, continue, error"
        ),
    ),
    ('{"type": "answer"}', "is of type 'answer'"),
    ('{"type": "checkpoint"}', "value: Field required"),
    ('{"type": "events", "kind": "a"}', "is of type 'events'"),
    ('{"type": "event"}', "kind: Field required"),
    ('{"type": "event", "kind": 7}', "kind: Input should be a valid string"),
    ('{"type": "event", "kind": "a", "cause": 0}', "cause: Input should be greater than or equal to 1"),
    ('{"type": "progress", "current": "3"}', "current: Input should be a valid number"),
    ('{"type": "result", "value": 1}', "value: Extra inputs are not permitted"),
    ('{"type": "error"}', "message: Field required"),
]


def said(
    data: bytes, *, messages: bool = True, size: int | None = None, text_bytes_max: int = TEXT_BYTES_MAX
) -> list[Said]:
    """Return all that a stream of these bytes says, read `size` bytes at a time."""
    reader = LineReader(messages=messages, text_bytes_max=text_bytes_max)
    size = size or len(data) or 1
    found = [one for begin in range(0, len(data), size) for one in reader.feed(data[begin : begin + size])]
    return found + reader.finish()


@pytest.mark.parametrize(("line", "message"), MESSAGES)
def test_a_message_is_read(line: str, message: Said) -> None:
    assert said(f"{line}\n".encode()) == [message]
    assert said(line.encode()) == [message], "the last line needs no end"


@pytest.mark.parametrize("line", TEXTS)
def test_a_line_that_is_no_message_is_text(line: str) -> None:
    assert "".join(part.text for part in said(f"{line}\n".encode()) if isinstance(part, Text)) == line


@pytest.mark.parametrize(("line", "why"), REFUSED)
def test_a_message_that_cannot_be_taken_is_refused_and_shown(line: str, why: str) -> None:
    [refused] = said(line.encode())
    assert isinstance(refused, Refused)
    assert why in refused.why
    assert refused.why.startswith(line)


def test_what_a_refusal_shows_is_cut() -> None:
    [refused] = said(json.dumps({"type": "shout", "long": "x" * 100_000}).encode())
    assert isinstance(refused, Refused)
    assert len(refused.why) < 400


def test_a_plain_program_says_text_only() -> None:
    lines = "\n".join([line for line, _ in MESSAGES] + [line for line, _ in REFUSED])
    assert [one.text for one in said(lines.encode(), messages=False) if isinstance(one, Text)] == [
        line.removesuffix("\r") for line in lines.split("\n")
    ]


def test_bytes_that_are_not_text_stay_readable() -> None:
    assert said(b"a\xffb\xc3\n\xe2\x82\xac\n") == [Text(r"a\xffb\xc3"), Text("€")]


def test_a_long_line_comes_in_parts_that_do_not_cut_characters() -> None:
    line = "€" * 1000
    parts = said(line.encode() + b"\nnext\n", size=7, text_bytes_max=100)
    texts = [part for part in parts if isinstance(part, Text)]
    assert texts.pop() == Text("next")
    assert "".join(part.text for part in texts) == line
    assert [part.part for part in texts] == [*range(1, len(texts) + 1)]
    assert [part.more for part in texts] == [True] * (len(texts) - 1) + [False]
    assert all(len(part.text.encode()) <= 100 for part in texts)
    assert texts[0].body == {"text": "€" * 33, "part": 1, "more": True}
    assert Text("x").body == {"text": "x"}


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    assert said(b"x" * 100 + b"\n", text_bytes_max=100) == [Text("x" * 100)]
    assert [one.part for one in said(b"x" * 101 + b"\n", text_bytes_max=100) if isinstance(one, Text)] == [1, 2]


def test_a_message_may_be_longer_than_a_line_of_text() -> None:
    line = json.dumps({"type": "event", "kind": "large", "body": "x" * 900_000}).encode()
    assert len(said(line + b"\n", size=65536)) == 1
    text = b"{" + b"x" * 200_000
    assert b"".join(part.text.encode() for part in said(text) if isinstance(part, Text)) == text


def test_no_more_is_held_than_the_limits_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_lines, "MESSAGE_BYTES_MAX", 300_000)
    for begin, most in ((b"{", 300_000), (b"x", TEXT_BYTES_MAX)):
        reader = LineReader(messages=True)
        parts = reader.feed(begin)
        for _ in range(40):
            parts += reader.feed(b"x" * 16384)
            assert len(reader._held) <= most
        parts += reader.finish()
        assert sum(len(part.text) for part in parts if isinstance(part, Text)) == 1 + 40 * 16384
    assert MESSAGE_BYTES_MAX > 1024 * 1024, "the hub's own limit is what an event may be"


@given(
    st.lists(st.sampled_from([b"a", b"\r", b"\n", b"\xff", "€".encode()])).map(b"".join),
    st.integers(1, 50),
    st.integers(4, 40),
)
def test_text_is_the_same_however_it_is_cut(data: bytes, size: int, text_bytes_max: int) -> None:
    found = said(data, messages=False, size=size, text_bytes_max=text_bytes_max)
    assert found == said(data, messages=False, text_bytes_max=text_bytes_max)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    expected = [line.removesuffix(b"\r").decode("utf-8", "backslashreplace") for line in lines]
    joined = "".join(part.text + ("" if part.more else "\n") for part in found if isinstance(part, Text))
    assert joined.split("\n")[:-1] == expected


ASSIGN = Assign(
    run="07-0190f3a2b1c-00112233aabbccdd",
    queue="default",
    handler="lint",
    attempt=2,
    fence=9,
    input=pack_value({"path": "ü", "blob": b"\x00"}),
    lease_ms=1000,
    position=Position("e", 0, "0" * 16),
    recover=Recover.RESTART,
    seq=0,
)


def test_what_a_program_is_told() -> None:
    line = start_line(ASSIGN)
    assert json.loads(line) == {
        "type": "start",
        "run": ASSIGN.run,
        "attempt": 2,
        "handler": "lint",
        "queue": "default",
        "input": {"path": "ü", "blob": {"$base64": "AA=="}},
        "checkpoint": None,
    }
    assert json.loads(start_line(ASSIGN, pack_value({"at": 3})))["checkpoint"] == {"at": 3}
    assert json.loads(input_line(ASSIGN)) == {"path": "ü", "blob": {"$base64": "AA=="}}
    assert json.loads(cancel_line("enough")) == {"type": "cancel", "reason": "enough"}
    assert all(one.count(b"\n") == 1 and one.isascii() for one in (line, input_line(ASSIGN), cancel_line(None)))


def test_a_program_submits_with_all_the_options_that_a_handler_has() -> None:
    assert Submit.model_fields.keys() - {"type", "handler", "input"} == ChildOptions.__annotations__.keys()
