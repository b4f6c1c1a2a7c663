"""Runs that this hub has just submitted. An agent here mostly takes them at once, which costs no read of the store.

Of one that changed since, here or elsewhere, the guards of what is proposed do not hold; then it is read, since nothing
is at hand twice.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.core.run_meta import RunMeta
from protocol.ids import LogName

__all__ = ["NEWBORN_BYTES_MAX", "NEWBORN_MAX", "NEWBORN_S", "Known", "Newborn"]

NEWBORN_MAX = 4096
NEWBORN_BYTES_MAX = 4 * 1024
"""Of an input that is kept at hand."""
NEWBORN_S = 10.0
"""For how long a run is at hand at least; twice as long at most."""


class Known(NamedTuple):
    """A run, and what it was submitted with."""

    meta: RunMeta
    input: bytes


class Newborn:
    """The runs that wait since one hub has just submitted them."""

    def __init__(self) -> None:
        self._young: dict[LogName, Known] = {}
        self._old: dict[LogName, Known] = {}
        self._turned_s = 0.0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def keep(self, known: Known) -> None:
        """Have a run at hand; where there are too many, it is not kept: those that are there are claimed before it."""
        if len(self) < NEWBORN_MAX and len(known.input) <= NEWBORN_BYTES_MAX:
            self._young[known.meta.log] = known

    def take(self, log: LogName) -> Known | None:
        """Return a run that is at hand, which it is no more then."""
        return self._old.pop(log, None) or self._young.pop(log, None)

    def age(self, now_s: float) -> None:
        """Forget those that nobody has claimed for long."""
        if now_s - self._turned_s >= NEWBORN_S:
            self._turned_s = now_s
            self._young, self._old = {}, self._young
