"""The lines that an agent and a program exchange: bytes in, what they say out. No process, no I/O, no clock.

    to the program      {"type": "start" | "steer" | "answer" | "child" | "child_ended" | "query" | "cancel", ...}
    from the program    {"type": "event" | "progress" | "checkpoint" | "attach" | "ask" | "reply" | "submit"
                         | "cancel_child" | "result" | "continue" | "error", ...}; any other line is text

A line is a message if it is a JSON object whose `type` is a string. One that is none of ours, or does not fit,
is `Refused`: what a program meant to say is never taken for text. What is held of a line that has not ended is
bounded: text is cut at `TEXT_BYTES_MAX`, and what may be a message at `MESSAGE_BYTES_MAX`.

Specification: docs/guide.md, section "Programs".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.codec import pack_value
from protocol.errors import misfit
from protocol.family import ChildEnded
from protocol.frames import Assign
from protocol.readable import json_line, readable

__all__ = [
    "MESSAGE_BYTES_MAX",
    "TEXT_BYTES_MAX",
    "Ask",
    "Attach",
    "CancelChild",
    "Continue",
    "Event",
    "Failure",
    "LineReader",
    "Mark",
    "Progress",
    "Refused",
    "Reply",
    "Result",
    "Said",
    "Submit",
    "Text",
    "answer_line",
    "cancel_line",
    "child_ended_line",
    "child_line",
    "input_line",
    "query_line",
    "start_line",
    "steer_line",
]

TEXT_BYTES_MAX = 64 * 1024
"""Bytes of a line of text in one entry; a longer line is cut into parts of this size."""

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
"""Bytes of a line that can be a message; a longer one is text. The hub takes less than this in one entry."""

SHOWN_CHARS_MAX = 200
"""Characters of a refused line that its refusal shows."""


class _Message(BaseModel):
    """A line that a program says. A field that we do not know is a mistake, and refused as one."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Event(_Message):
    """An entry of the run's log."""

    type: Literal["event"]
    kind: str
    body: Any = None
    cause: Annotated[int, Field(ge=1, lt=2**63)] | None = None


class Progress(_Message):
    """How far the program is."""

    type: Literal["progress"]
    current: float
    total: float | None = None
    message: str | None = None


class Mark(_Message):
    """Where the program is: the next attempt is told it when it starts."""

    type: Literal["checkpoint"]
    value: Any


class Attach(_Message):
    """A file to attach to the run; the path is from where the program was started."""

    type: Literal["attach"]
    path: str
    name: str | None = None


class Ask(_Message):
    """A question: for a value, or, with `approve`, for approval. `timeout` is in seconds."""

    type: Literal["ask"]
    name: str
    payload: Any = None
    approve: bool = False
    timeout: float | None = None


class Reply(_Message):
    """What the program did with a message that it was told: applied it, or `rejected` it. Or the reply to a query."""

    type: Literal["reply"]
    id: str
    value: Any = None
    rejected: bool = False


class Submit(_Message):
    """A run to submit as a child of this one. Times are in seconds."""

    type: Literal["submit"]
    handler: str
    input: Any = None
    queue: str = "default"
    where: str | dict[str, str] = ""
    priority: int = 0
    delay: float | None = None
    deadline: float | None = None
    timeout: float | None = None
    retries: int | None = None
    backoff: float | None = None
    backoff_max: float | None = None
    concurrency_key: str | None = None
    abandon: bool = False


class CancelChild(_Message):
    """A child that is to stop, by its number."""

    type: Literal["cancel_child"]
    child: int
    reason: Annotated[str, Field(max_length=1024)] | None = None


class Continue(_Message):
    """The run is to go on as another one, with this input; the last message."""

    type: Literal["continue"]
    input: Any = None


class Result(_Message):
    """The run's result; the last message."""

    type: Literal["result"]
    result: Any = None


class Failure(_Message):
    """The run, or this attempt, failed; the last message. `name` is what the error is called."""

    type: Literal["error"]
    message: str
    name: str = "ProgramError"
    trace: str | None = None
    retryable: bool = True


@dataclass(frozen=True, slots=True)
class Text:
    r"""A line that is no message, or a part of one.

    Attributes:
        text: without the end of the line; bytes that are not UTF-8 are written `\xff`.
        part: 0 for a whole line, else the number of the part, from 1.
        more: another part of the line follows.
    """

    text: str
    part: int = 0
    more: bool = False

    @property
    def body(self) -> dict[str, Any]:
        """The body of its entry."""
        return {"text": self.text, "part": self.part, "more": self.more} if self.part else {"text": self.text}


@dataclass(frozen=True, slots=True)
class Refused:
    """A message that cannot be taken."""

    why: str


Message = Event | Progress | Mark | Attach | Ask | Reply | Submit | CancelChild | Result | Continue | Failure
Said = Message | Text | Refused

_MODELS: dict[str, type[Message]] = {
    "event": Event,
    "progress": Progress,
    "checkpoint": Mark,
    "attach": Attach,
    "ask": Ask,
    "reply": Reply,
    "submit": Submit,
    "cancel_child": CancelChild,
    "result": Result,
    "continue": Continue,
    "error": Failure,
}


class LineReader:
    """What one stream of a program says, however its bytes are cut.

    Args:
        messages: its lines can be messages; else all of them are text.
        text_bytes_max: where lines of text are cut.
    """

    def __init__(self, *, messages: bool, text_bytes_max: int = TEXT_BYTES_MAX) -> None:
        self._messages = messages
        self._text_bytes_max = text_bytes_max
        self._held = bytearray()
        self._scanned = 0
        self._parts = 0

    def feed(self, data: bytes) -> list[Said]:
        """Take what was read. Returns what the lines that ended say, and the parts of one that grows too long."""
        held, begin, said = self._held, 0, []
        held += data
        while (end := held.find(b"\n", max(begin, self._scanned))) >= 0:
            said += self._line(bytes(held[begin:end]))
            begin = end + 1
        del held[:begin]
        while self._too_long():
            said.append(self._part(held, more=True))
        self._scanned = len(held)
        return said

    def finish(self) -> list[Said]:
        """The stream has ended. Returns what its last line says, if that was not ended."""
        held, self._held = bytes(self._held), bytearray()
        return self._line(held) if held or self._parts else []

    def _too_long(self) -> bool:
        """Whether a part of the line that has not ended is to go, wherever the line ends."""
        held = self._held
        may_be_message = self._messages and not self._parts and held.lstrip()[:1] == b"{"
        over = len(held) - (MESSAGE_BYTES_MAX if may_be_message else self._text_bytes_max)
        return over > 1 or (over == 1 and held[-1:] != b"\r")  # which may belong to the line's end

    def _line(self, line: bytes) -> list[Said]:
        line = line.removesuffix(b"\r")
        if self._messages and not self._parts:
            message = _read(line)
            if message is not None:
                return [message]
        rest, said = bytearray(line), list[Said]()
        while len(rest) > self._text_bytes_max:
            said.append(self._part(rest, more=True))
        said.append(self._part(rest, more=False) if self._parts else Text(_decode(bytes(rest))))
        self._parts = 0
        return said

    def _part(self, held: bytearray, *, more: bool) -> Text:
        """Take a part away from the front."""
        cut = _whole_characters(held, self._text_bytes_max) if more else len(held)
        self._parts += 1
        text = Text(_decode(bytes(held[:cut])), self._parts, more)
        del held[:cut]
        return text


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _whole_characters(data: bytearray, most: int) -> int:
    """Return how many bytes, `most` at most, do not end inside of a character."""
    for cut in range(most, max(most - 4, 0), -1):
        if data[cut] & 0xC0 != 0x80:  # the byte behind the cut begins a character
            return cut
    return most  # it is no UTF-8


def _read(line: bytes) -> Message | Refused | None:
    """Return the message of a line; None where it is text."""
    if line.lstrip()[:1] != b"{":
        return None
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    word = value.get("type")
    if not isinstance(word, str):
        return None
    model = _MODELS.get(word)
    if model is None:
        return Refused(f"{_shown(line)} is of type {word!r:.60}; a program says {', '.join(_MODELS)}")
    try:
        return model.model_validate(value)
    except ValidationError as fault:
        return Refused(f"{_shown(line)} is no message of type {word!r}: {misfit(fault)}")


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON value")


def _shown(line: bytes) -> str:
    text = _decode(line[: SHOWN_CHARS_MAX + 1])
    return text if len(line) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}..."


def start_line(assign: Assign, checkpoint: bytes | None = None) -> bytes:
    """Return the first line that a program is told: its run, and the last checkpoint of earlier attempts."""
    return _line_of(
        {
            "type": "start",
            "run": assign.run,
            "attempt": assign.attempt,
            "handler": assign.handler,
            "queue": assign.queue,
            "input": readable(assign.input),
            "checkpoint": None if checkpoint is None else readable(checkpoint),
        }
    )


def cancel_line(reason: str | None) -> bytes:
    """Return the line that tells a program to stop."""
    return _line_of({"type": "cancel", "reason": reason})


def steer_line(message: str, body: Any) -> bytes:
    """Return the line that tells a program a message to its run."""
    return _line_of({"type": "steer", "id": message, "body": readable(pack_value(body))})


def answer_line(question: int, name: str, answer: Any, *, timed_out: bool) -> bytes:
    """Return the line that tells a program the answer to a question of its own."""
    said = {"question": question, "name": name, "answer": readable(pack_value(answer)), "timed_out": timed_out}
    return _line_of({"type": "answer", **said})


def child_line(number: int, handler: str, run: str) -> bytes:
    """Return the line that tells a program that a child of its own is submitted."""
    return _line_of({"type": "child", "child": number, "handler": handler, "run": run})


def child_ended_line(number: int, handler: str, ended: ChildEnded) -> bytes:
    """Return the line that tells a program what a child of its own came to."""
    said = {
        "type": "child_ended",
        "child": number,
        "handler": handler,
        "run": ended.run,
        "state": ended.state,
        "result": None if ended.result is None else readable(ended.result),
        "error": None if ended.error is None else ended.error.model_dump(),
        "reason": ended.reason,
    }
    return _line_of(said)


def query_line(query: str, name: str, args: bytes | None) -> bytes:
    """Return the line that asks a program something; it replies with this id."""
    return _line_of({"type": "query", "id": query, "name": name, "args": None if args is None else readable(args)})


def input_line(assign: Assign) -> bytes:
    """Return all that a plain program is told: the input of its run."""
    return _line_of(readable(assign.input))


def _line_of(value: Any) -> bytes:
    return json_line(value).encode("ascii") + b"\n"
