"""Output: text and bytes that a handler writes, and the lines of a program.

An entry of kind `stdout` or `stderr` is output where its body is a map with `text` or `data`: a piece of the stream.
A line ends behind it unless `more` says that the stream goes on. What a handler writes is cut into pieces; pieces
that wait are joined into one entry. Where the run has a journal each piece has an index of its own, the entry has that
of its last, and `writes` says how many it holds.

Specification: docs/protocol.md, section "Output".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from protocol.codec import pack_value, unpack_value

__all__ = [
    "OUTPUT_ENTRY_BYTES_MAX",
    "PIECE_BYTES_MAX",
    "STDERR",
    "STDOUT",
    "STREAMS",
    "WRITE_OVERHEAD_BYTES",
    "Piece",
    "Written",
    "check_stream",
    "output_of",
    "pieces",
    "written_in",
]

STDOUT, STDERR = "stdout", "stderr"
STREAMS = frozenset({STDOUT, STDERR})
"""The streams of output, which are also the kinds of their entries."""

OUTPUT_ENTRY_BYTES_MAX = 64 * 1024
"""Bytes of output that are joined into one entry."""

PIECE_BYTES_MAX = 64 * 1024
"""Bytes of one piece; what is written at once and is more is cut into several."""

WRITE_OVERHEAD_BYTES = 40
"""What the body of an entry takes besides what was written, at most."""

_CHARACTER_BYTES_MAX = 4


class Piece(NamedTuple):
    """What is written at a time: UTF-8 where it is text."""

    data: bytes
    text: bool


class Written:
    """Pieces of one stream that go into one entry.

    Attributes:
        stream: of which all of them are.
        size: their bytes.
        index: the journal index of the last, None where there is no journal.
    """

    __slots__ = ("_parts", "_text", "index", "size", "stream")

    def __init__(self, stream: str, piece: Piece, index: int | None) -> None:
        self.stream = stream
        self.size = len(piece.data)
        self.index = index
        self._parts = [piece.data]
        self._text = piece.text

    def takes(self, stream: str, piece: Piece, index: int | None, bytes_max: int) -> bool:
        """Whether a piece can go into the same entry: it follows at once, in the journal too."""
        follows = index == (None if self.index is None else self.index + 1)
        fits = self.size + len(piece.data) <= bytes_max
        return follows and fits and (stream, piece.text) == (self.stream, self._text)

    def add(self, piece: Piece, index: int | None) -> None:
        """Add a piece, which it takes."""
        self._parts.append(piece.data)
        self.size += len(piece.data)
        self.index = index

    def body(self) -> bytes:
        """Return the body of the entry."""
        data = b"".join(self._parts)
        body: dict[str, Any] = {"text": data.decode()} if self._text else {"data": data}
        body["more"] = True
        if self.index is not None:
            body["writes"] = len(self._parts)
        return pack_value(body)


def check_stream(stream: str) -> str:
    """Return a stream's name. Raises `ValueError` where there is no such stream."""
    if stream not in STREAMS:
        raise ValueError(f"{stream!r:.140} is no stream of output; it is one of {', '.join(sorted(STREAMS))}")
    return stream


def pieces(data: str | bytes, body_bytes_max: int) -> Iterator[Piece]:
    """Cut what is written at once into pieces that an entry takes; nothing is no piece.

    Text is cut between characters, and after as many of them whatever they are. A lone surrogate is written out.
    """
    most = max(_CHARACTER_BYTES_MAX, min(PIECE_BYTES_MAX, body_bytes_max - WRITE_OVERHEAD_BYTES))
    if isinstance(data, str):
        text = data.encode("utf-8", "backslashreplace").decode()
        step = most // _CHARACTER_BYTES_MAX
        for start in range(0, len(text), step):
            yield Piece(text[start : start + step].encode(), True)
        return
    view = memoryview(data)
    for start in range(0, len(view), most):
        yield Piece(bytes(view[start : start + most]), False)


def output_of(kind: str, body: Any) -> bytes | None:
    """Return what an entry adds to its stream, given its body as a value; None where it is no output."""
    if kind not in STREAMS or not isinstance(body, dict):
        return None
    part = body.get("text", body.get("data"))
    if not isinstance(part, (str, bytes)):
        return None
    data = part.encode() if isinstance(part, str) else part
    return data if body.get("more") is True else data + b"\n"


def written_in(kind: str, body: bytes) -> tuple[int, Piece] | None:
    """Return how many pieces an entry of a journal holds, and all of them as one; None where nothing was written."""
    if kind not in STREAMS:
        return None
    try:
        value = unpack_value(body)
    except ValueError:
        return None
    if not isinstance(value, dict) or type(value.get("writes")) is not int:
        return None
    part = value.get("text", value.get("data"))
    if not isinstance(part, (str, bytes)):
        return None
    is_text = isinstance(part, str)
    return value["writes"], Piece(part.encode() if isinstance(part, str) else part, is_text)
