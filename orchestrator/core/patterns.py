"""Patterns: which names a token is good for. Pure.

A pattern is a name in which `*` stands for any characters, or none. Where several kinds of things have names it begins
with the kind: `topic/news.*`. To match one takes as long as the name is, whatever the pattern: nothing is tried twice.

Specification: docs/protocol.md, section "Patterns".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from protocol.errors import FleetlineError

__all__ = [
    "ANYTHING",
    "NOTHING",
    "PATTERNS_MAX",
    "PATTERN_CHARS_MAX",
    "STARS_MAX",
    "InvalidPattern",
    "Patterns",
    "Thing",
    "check_pattern",
    "matches",
]

PATTERNS_MAX = 64
"""Patterns of one list."""
PATTERN_CHARS_MAX = 160
STARS_MAX = 4
NOTHING = "-"
"""Stands for no name at all, where people write patterns."""
_NAME = re.compile(r"[a-z0-9*][a-z0-9._*-]*")


class InvalidPattern(FleetlineError):
    """A pattern is none, or is not one of that list."""


class Thing(StrEnum):
    """What patterns are of."""

    AGENT = "agent"
    TOPIC = "topic"
    QUEUE = "queue"
    """A queue with its runs, their logs and artifacts, and the schedules that submit to it."""
    RUN = "run"
    """One run, by its id."""


_THINGS: dict[str, frozenset[Thing]] = {
    "read": frozenset(Thing),
    "publish": frozenset({Thing.AGENT, Thing.TOPIC}),
    "submit": frozenset({Thing.QUEUE}),
    "serve": frozenset({Thing.QUEUE}),
    "control": frozenset({Thing.AGENT, Thing.QUEUE, Thing.RUN}),
}
"""What the patterns of each list may be of. Where that is one kind, it is not written."""


@dataclass(frozen=True, slots=True)
class Patterns:
    """The lists of patterns of a token; None where there is no such list, and any name will do.

    Attributes:
        read: which logs, runs and queues it reads, and which agents it sees.
        publish: which topics and agents it publishes to.
        submit: which queues it submits to, children of its runs among it.
        serve: which queues an agent takes runs from.
        control: whom it steers, cancels, answers and drains, and which queues and schedules it sets.
    """

    read: tuple[str, ...] | None = None
    publish: tuple[str, ...] | None = None
    submit: tuple[str, ...] | None = None
    serve: tuple[str, ...] | None = None
    control: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, claim: Any) -> Patterns:
        """Read the claim `may` of a token.

        Raises:
            InvalidPattern: it is none. What is not understood permits nothing.
        """
        if not isinstance(claim, dict):
            raise InvalidPattern("the patterns are no map of lists")
        lists = {}
        for name, patterns in claim.items():
            if name not in _THINGS:
                raise InvalidPattern(f"there is no list of patterns called {str(name)[:40]!r}")
            if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
                raise InvalidPattern(f"{name}: the patterns are no list of strings")
            if len(patterns) > PATTERNS_MAX:
                raise InvalidPattern(f"{name}: {len(patterns)} patterns; the limit is {PATTERNS_MAX}")
            lists[name] = tuple(sorted({check_pattern(name, pattern) for pattern in patterns}))
        return cls(**lists)

    @classmethod
    def said(cls, words: Mapping[str, Iterable[str] | None]) -> Patterns:
        """Make them of what somebody wrote: any names where that is nothing, else no others than what is written.

        `-` alone is an empty list, as is one that is left out where another is written.

        Raises:
            InvalidPattern: a word is no pattern of its list.
        """
        lists = {name: list(given or ()) for name, given in words.items()}
        if not any(lists.values()):
            return ANYTHING
        return cls.parse({name: [] if patterns == [NOTHING] else patterns for name, patterns in lists.items()})

    def claim(self) -> dict[str, list[str]]:
        """Return them as the claim of a token."""
        lists = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: list(patterns) for name, patterns in lists if patterns is not None}

    def covers(self, other: Patterns) -> bool:
        """Whether these permit all that others do, as far as that is plain to see."""
        pairs = ((getattr(self, field.name), getattr(other, field.name)) for field in fields(self))
        return all(mine is None or (its is not None and set(its) <= set(mine)) for mine, its in pairs)


ANYTHING = Patterns()
"""Those of a token without patterns."""


def check_pattern(name: str, pattern: str) -> str:
    """Return a pattern of the list `name`, with its kind, as it is written in a token.

    Raises:
        InvalidPattern: it is none, or not one of that list.
    """
    things = _THINGS[name]
    kind, slash, rest = pattern.rpartition("/")
    if pattern == "*" and len(things) > 1:
        return pattern
    if not slash and len(things) == 1:
        (kind,) = things
    one_of = ", ".join(f"{thing.value}/NAME" for thing in Thing if thing in things)
    if kind not in things:
        raise InvalidPattern(f"{name}: {pattern[:160]!r} is no pattern here; one is {one_of}, or * for all of them")
    if not _NAME.fullmatch(rest) or len(pattern) > PATTERN_CHARS_MAX or rest.count("*") > STARS_MAX:
        message = f"a name of a-z 0-9 . _ - with at most {STARS_MAX} * in it, and of {PATTERN_CHARS_MAX} characters"
        raise InvalidPattern(f"{name}: {pattern[:160]!r} is no pattern; it is {message}")
    return f"{kind}/{rest}"


def matches(pattern: str, text: str) -> bool:
    """Whether a text is of a pattern."""
    first, *rest = pattern.split("*")
    if not rest:
        return pattern == text
    *middle, last = rest
    place, end = len(first), len(text) - len(last)
    if place > end or not text.startswith(first) or not text.endswith(last):
        return False
    for part in middle:
        place = text.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True
