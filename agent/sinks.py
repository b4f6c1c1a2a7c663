"""What a subscription gives to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.errors import Reset
from protocol.entry import Entry
from protocol.errors import FleetlineError

__all__ = ["NOBODY", "Batch", "Sink"]


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries as they came, verified.

    Attributes:
        generation: of the subscription's history; handled offsets are told with it.
        epoch: of the log.
        entries: in order.
        tags: of each entry; None where the subscription leaves kinds out, since those tags cannot be checked.
        upto: everything up to here is in or before this batch.
    """

    generation: int
    epoch: str
    entries: tuple[Entry, ...]
    tags: tuple[str | None, ...]
    upto: int


class Sink(Protocol):
    """Who is given what a subscription brings. Called in the link's thread; must not block."""

    def on_batch(self, batch: Batch) -> None:
        """Entries, in order."""

    def on_live(self, head: int) -> None:
        """All that was there up to `head` has been given."""

    def on_reset(self, reset: Reset, generation: int) -> None:
        """The log cannot be continued; what follows is of a new generation."""

    def on_end(self, error: FleetlineError) -> None:
        """Nothing more will come."""


class _Nobody:
    def on_batch(self, batch: Batch) -> None:
        pass

    def on_live(self, head: int) -> None:
        pass

    def on_reset(self, reset: Reset, generation: int) -> None:
        pass

    def on_end(self, error: FleetlineError) -> None:
        pass


NOBODY: Sink = _Nobody()
"""Who is given what nobody reads any more."""
