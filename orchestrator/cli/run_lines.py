"""The latest lines of what a run said, for its live view: output as it was written, and a line for any other entry.

However much a run says, `LINES_MAX` lines of it are kept, and whatever it says, a line is printable text.
"""

from __future__ import annotations

import codecs
from collections import deque
from dataclasses import dataclass

from orchestrator.cli.text import clean
from protocol.output import STDERR, STREAMS

__all__ = ["CHARACTERS_MAX", "LINES_MAX", "Line", "Lines"]

LINES_MAX = 200
"""Lines that are kept of a run; a terminal shows the last of them."""
CHARACTERS_MAX = 500
"""What is kept of a line; of one that goes on, at its beginning and at its end."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of what a run said, printable as it is.

    Attributes:
        end: of a line of output that goes on, what was written last; else "".
    """

    text: str
    style: str = ""
    end: str = ""


class Lines:
    """Lines as a run says them.

    Attributes:
        latest: the last of them.
    """

    def __init__(self) -> None:
        self.latest: deque[Line] = deque(maxlen=LINES_MAX)
        self.begin()

    def begin(self) -> None:
        """Take in that another attempt writes from now on, or that something is missing: no line goes on."""
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("backslashreplace") for stream in STREAMS}
        self._stop_writing()

    def _stop_writing(self) -> None:
        self._stream, self._written = "", ""

    def say(self, text: str, style: str = "") -> None:
        """Add a line."""
        self._stop_writing()
        self.latest.append(Line(clean(text.rstrip()[:CHARACTERS_MAX]), style))

    def write(self, stream: str, data: bytes) -> None:
        """Add output. What its stream wrote last goes on, unless something was said since: then on a new line."""
        text = self._decoders[stream].decode(data)
        if not text:
            return
        if self._stream == stream:
            self.latest.pop()
            text = self._written + text
        self._stop_writing()
        style = "red" if stream == STDERR else ""
        *ended, rest = text.split("\n")
        self.latest.extend(Line(_printed(each), style) for each in ended[-LINES_MAX:])
        if rest:
            written = _overwritten(rest)
            self._stream, self._written = stream, written[:CHARACTERS_MAX] + written[CHARACTERS_MAX:][-CHARACTERS_MAX:]
            self.latest.append(Line(_printed(written), style, clean(_seen(written)[-CHARACTERS_MAX:])))


def _overwritten(text: str) -> str:
    """Return a line without what a carriage return has had overwritten, as bars of progress do; one may end it."""
    return text[text.rstrip("\r").rfind("\r") + 1 :]


def _seen(text: str) -> str:
    return _overwritten(text).rstrip("\r").expandtabs()


def _printed(text: str) -> str:
    return clean(_seen(text)[:CHARACTERS_MAX])
