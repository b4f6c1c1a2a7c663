"""Words on a terminal: nothing that came from a log can move the cursor or change a colour."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

__all__ = ["age", "clean", "clock", "duration_s", "since", "span_s"]

_SPANS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,3})?")
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")


def clean(text: str) -> str:
    """Return text on one line, with control and bidirectional characters written out."""
    return "".join(part if _prints(part) else part.encode("unicode_escape").decode("ascii") for part in text)


def _prints(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def clock(ms: int | None) -> str:
    """Return a time for people, in local time; nothing for None."""
    if ms is None:
        return ""
    return datetime.fromtimestamp(ms / 1000).astimezone().isoformat(" ", "milliseconds")[:23]


def age(ms: int) -> str:
    """Return how long ago something was, in one unit, for columns."""
    seconds = max(0, ms) // 1000
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit_s:
            return f"{seconds // unit_s} {unit} ago"
    return f"{seconds} s ago"


def since(ms: int) -> str:
    """Return milliseconds as seconds with three places, for columns."""
    return f"{ms / 1000:.3f}"


def duration_s(text: str) -> int:
    """Read a span of time: a whole number and a unit, 90s, 15m, 12h, 30d or 2w. Returns seconds.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r} is not a duration; write a whole number above 0 and a unit: 90s, 15m, 12h, 30d, 2w")
    return int(match[1]) * _SPANS_S[match[2]]


def span_s(text: str) -> float | None:
    """Read seconds, to the millisecond, or a whole number and a unit; 0 is one too. None where it is neither."""
    if _SECONDS.fullmatch(text):
        return float(text)
    match = _DURATION.fullmatch(text)
    return float(match[1]) * _SPANS_S[match[2]] if match else None
