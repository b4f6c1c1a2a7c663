"""Labels of agents, and selectors: which agents may take a run, by the labels that they announce.

    gpu=h200, region!=eu, tier in (a, b), ssd

Requirements stand between commas, and all of them must hold: a label has a value, has another one or is not there
(`!=`), has one of several (`in`), or is there. The canonical form is sorted and has no spaces but around `in`, so that
selectors which ask for the same are the same text. Labels are checked by the same rule where an agent announces them,
so that a selector can say every label that there is.

Specification: docs/protocol.md, section "Selectors".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from protocol.errors import InvalidLabel, InvalidSelector

__all__ = [
    "LABELS_MAX",
    "SELECTOR_CHARS_MAX",
    "Requirement",
    "Selector",
    "canonical",
    "check_labels",
    "parse_selector",
    "selector_of",
]

LABELS_MAX = 64
"""Labels of one agent."""

SELECTOR_CHARS_MAX = 512

_LABEL = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
_VALUE = r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,127}"
_EXISTS = re.compile(_LABEL)
_A_VALUE = re.compile(_VALUE)
_IS = re.compile(rf"({_LABEL})\s*(=|!=)\s*({_VALUE})")
_IN = re.compile(rf"({_LABEL})\s+in\s+\(([^()]*)\)")
_BETWEEN = re.compile(r",(?![^(]*\))")
_HOW_TO = "write gpu=h200, region!=eu, tier in (a,b) or ssd"
_RULE = (
    "a label is 1 to 128 of A-Z a-z 0-9 . _ / -, its value 1 to 128 of those and : @ +, and both begin with a letter "
    "or digit"
)


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


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """Return a selector as it is stored: those which ask for the same are the same text.

    Raises:
        InvalidSelector: it is none.
    """
    return str(parse_selector(text))


def selector_of(labels: Mapping[str, str]) -> str:
    """Return the selector, as text, of agents that have all of these labels.

    Raises:
        InvalidLabel: one is none.
        InvalidSelector: they are too many.
    """
    return str(parse_selector(",".join(f"{label}={value}" for label, value in check_labels(labels).items())))


def check_labels(labels: Mapping[str, object]) -> dict[str, str]:
    """Return labels that an agent can have.

    Raises:
        InvalidLabel: one is none, or they are too many; the message says which, and how one is written.
    """
    if len(labels) > LABELS_MAX:
        raise InvalidLabel(f"{len(labels)} labels; an agent has at most {LABELS_MAX}")
    checked = {}
    for label, value in labels.items():
        if not _EXISTS.fullmatch(label):
            raise InvalidLabel(f"{label[:160]!r} is not a label: {_RULE}")
        if not isinstance(value, str) or not _A_VALUE.fullmatch(value):
            raise InvalidLabel(f"{value!r:.160} is not a value of the label {label!r}: {_RULE}")
        checked[label] = value
    return checked


def _requirement(part: str) -> Requirement:
    if found := _IS.fullmatch(part):
        label, sign, value = found.groups()
        return Requirement(label, (value,), negated=sign == "!=")
    if found := _IN.fullmatch(part):
        values = [value.strip() for value in found[2].split(",")]
        if all(_A_VALUE.fullmatch(value) for value in values):
            return Requirement(found[1], tuple(sorted(set(values))))
    if _EXISTS.fullmatch(part):
        return Requirement(part, ())
    raise InvalidSelector(f"{part!r} in a selector is not understood: {_HOW_TO}; {_RULE}")
