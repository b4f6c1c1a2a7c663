"""Label selectors: which agents may take a run, by the labels that they announce.

    gpu=h200, region!=eu, tier in (a, b), ssd

Requirements stand between commas, and all of them must hold: a label has a value, has another one or is not there
(`!=`), has one of several (`in`), or is there. The canonical form is sorted and has no spaces, so that selectors which
ask for the same are the same text.

Specification: docs/protocol.md, section "Selectors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from protocol.errors import InvalidSelector

__all__ = ["SELECTOR_CHARS_MAX", "Requirement", "Selector", "parse_selector", "selector_of"]

SELECTOR_CHARS_MAX = 512

_WORD = r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}"
_IS = re.compile(rf"({_WORD})\s*(=|!=)\s*({_WORD})")
_IN = re.compile(rf"({_WORD})\s+in\s+\(([^()]*)\)")
_EXISTS = re.compile(rf"({_WORD})")
_BETWEEN = re.compile(r",(?![^(]*\))")
_HOW_TO = "write gpu=h200, region!=eu, tier in (a,b) or ssd"


@dataclass(frozen=True, slots=True, order=True)
class Requirement:
    """What is asked of one label.

    Attributes:
        label: its name.
        values: those that it may have, sorted; empty where any will do.
        negated: the label must not have the value.
    """

    label: str
    values: tuple[str, ...]
    negated: bool = False

    def __str__(self) -> str:
        if not self.values:
            return self.label
        if len(self.values) > 1:
            return f"{self.label} in ({','.join(self.values)})"
        return f"{self.label}{'!=' if self.negated else '='}{self.values[0]}"

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether these labels have what is asked for."""
        value = labels.get(self.label)
        if self.negated:
            return value not in self.values
        return value is not None and (not self.values or value in self.values)


@dataclass(frozen=True, slots=True)
class Selector:
    """Requirements that must all hold; without any, everybody fits. `str` is the canonical form."""

    requirements: tuple[Requirement, ...] = ()

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether an agent with these labels may take the run."""
        return all(requirement.fits(labels) for requirement in self.requirements)


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> Selector:
    """Read a selector; nothing in it is the one that everybody fits.

    Raises:
        InvalidSelector: it is none; the message says which part, and how one is written.
    """
    if len(text) > SELECTOR_CHARS_MAX:
        raise InvalidSelector(f"a selector of {len(text)} characters; the limit is {SELECTOR_CHARS_MAX}")
    if not text.strip():
        return Selector()
    return Selector(tuple(sorted({_requirement(part.strip()) for part in _BETWEEN.split(text)})))


def selector_of(labels: Mapping[str, str]) -> str:
    """Return the selector, as text, of agents that have all of these labels.

    Raises:
        InvalidSelector: a label cannot be asked for.
    """
    return str(parse_selector(",".join(f"{label}={value}" for label, value in labels.items())))


def _requirement(part: str) -> Requirement:
    if found := _IS.fullmatch(part):
        label, sign, value = found.groups()
        return Requirement(label, (value,), negated=sign == "!=")
    if found := _IN.fullmatch(part):
        values = [value.strip() for value in found[2].split(",")]
        if all(_EXISTS.fullmatch(value) for value in values):
            return Requirement(found[1], tuple(sorted(set(values))))
    if _EXISTS.fullmatch(part):
        return Requirement(part, ())
    raise InvalidSelector(f"{part!r} in a selector is not understood: {_HOW_TO}")
