"""What everybody was told, kept outside of the system: survives every machine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from agent.errors import FleetlineError
from agent.publisher import Publisher
from protocol.entry import Entry
from tests.support.checkers import Acknowledged, Began, Given, WasReset

__all__ = ["Followed", "Ledger", "Produced"]

Event = Began | Given | WasReset


@dataclass(eq=False)
class Produced:
    """One producer's life: what it sent, in its order, and what it was told."""

    log: str
    publisher: Publisher
    bodies: list[bytes] = field(default_factory=list)
    ended: FleetlineError | None = None

    @property
    def acked(self) -> int:
        """How many of `bodies` were acknowledged."""
        return self.publisher.acknowledged


@dataclass(eq=False)
class Followed:
    """One subscriber's life, over its processes.

    Attributes:
        kinds: what it asked for; None for everything.
        stories: what each of its processes was told, with what it knew from those before.
        handled: up to where it is done.
        position: where the log ended when this was last looked at, in words, for the report.
    """

    name: str
    log: str
    kinds: tuple[str, ...] | None
    stories: list[list[Event]] = field(default_factory=list)
    handled: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(eq=False)
class Ledger:
    """Everything that was told to anybody.

    Attributes:
        acknowledged: entries whose place was told, by log.
        producers: all there ever were.
        followers: by name.
        runs: run ids that were told, by key.
        results: what a run's result was said to be, by run id.
        missing: with what code a run was refused to those who asked for it, by run id.
        failed_over: the store went back to an older state.
        lost: what the store lost in a failover, by log's path: entries that were there.
        trimmed: entries that were trimmed, by log's path and offset.
        born_ms: when a hub began, by its id.
        outages_ms: from when to when the store was away.
        faults: what went wrong in a program that should not have.
    """

    acknowledged: dict[str, list[Acknowledged]] = field(default_factory=lambda: defaultdict(list))
    producers: list[Produced] = field(default_factory=list)
    followers: dict[str, Followed] = field(default_factory=dict)
    runs: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    results: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failed_over: bool = False
    lost: dict[str, list[Entry]] = field(default_factory=dict)
    trimmed: dict[str, dict[int, Entry]] = field(default_factory=dict)
    born_ms: dict[str, int] = field(default_factory=dict)
    outages_ms: list[tuple[int, int]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
