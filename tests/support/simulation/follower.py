"""A subscriber that writes down what it is told, and handles it at its own pace."""

from __future__ import annotations

import asyncio
from random import Random

from agent.client import Client
from agent.errors import Reset
from agent.sinks import Batch
from agent.subscriptions import Subscription
from protocol.entry import Position
from protocol.errors import FleetlineError
from protocol.frames import ResetReason, Start, Window
from tests.support.checkers import Began, Given, WasReset
from tests.support.simulation.ledger import Event, Followed

__all__ = ["Follower"]

SLOW_HANDLING_S = 1.5


class Follower:
    """A subscriber over all its processes: what it remembers, as if on a disk.

    Attributes:
        followed: what it was told and what it did.
        durable: it asks for what it acknowledged; else it goes on after the position that it remembers.
        kept: offset and tag of everything that was handled and still counts.
        position: after the last of it.
    """

    def __init__(self, followed: Followed, rng: Random, *, durable: bool) -> None:
        self.followed = followed
        self.durable = durable
        self.rng = rng
        self.kept: dict[int, str] = {}
        self.position: Position | None = None
        self._process: _Process | None = None

    def follow(self, client: Client, window: Window) -> None:
        """Follow, in a new process."""
        self._process = _Process(self, client, window)

    def crash(self) -> None:
        """This process is gone; the next one knows what was handled."""
        if self._process is not None:
            self._process.alive = False


class _Process:
    """One process of a subscriber: the sink of its subscription."""

    def __init__(self, follower: Follower, client: Client, window: Window) -> None:
        self.alive = True
        self._follower = follower
        self._followed = followed = follower.followed
        self._given = dict(follower.kept)
        self._generation = 0
        self._story: list[Event] = []
        followed.stories.append(self._story)
        start: Position | Start = Start.ACKED if follower.durable else follower.position or Start.EARLIEST
        self._unplaced = follower.durable
        if isinstance(start, Position) or start is Start.EARLIEST:
            self._begin(start.offset if isinstance(start, Position) else 0)
        durable = followed.name if follower.durable else None
        self._subscription = Subscription(
            followed.log, start, self, window=window, kinds=followed.kinds, durable=durable
        )
        self._link = client.links.follow(self._subscription)

    def on_batch(self, batch: Batch) -> None:
        """See `agent.sinks.Sink`."""
        if not self.alive:
            return
        if self._unplaced:
            first = batch.entries[0].offset - 1
            self._come_back(first if self._followed.kinds is None else min(first, self._followed.handled))
        for entry, tag in zip(batch.entries, batch.tags, strict=True):
            told = tag if tag is not None else entry.packed.hex()
            self._story.append(Given(entry.offset, told))
            self._given[entry.offset] = told
        last = batch.tags[-1]
        place = Position(batch.epoch, batch.entries[-1].offset, last) if last is not None else None
        rng = self._follower.rng
        pause_s = rng.random() * (SLOW_HANDLING_S if rng.random() < 0.1 else 0.01)
        asyncio.get_running_loop().call_later(pause_s, self._handle, batch.generation, batch.upto, place)

    def on_live(self, head: int) -> None:
        """See `agent.sinks.Sink`."""

    def on_reset(self, reset: Reset, generation: int) -> None:
        """See `agent.sinks.Sink`."""
        if not self.alive:
            return
        if self._unplaced:
            self._come_back(reset.first - 1 if reset.reason is ResetReason.TRIMMED else reset.last)
        self._generation = generation
        self._story.append(WasReset(reset.reason, reset.first, reset.last, reset.exact, reset.epoch, reset.offset))
        self._given = _upto(self._given, reset.offset)
        kept = {} if reset.reason is ResetReason.TRIMMED else self._follower.kept
        self._follower.kept = _upto(kept, reset.offset)
        self._follower.position = None
        self._followed.handled = min(self._followed.handled, reset.offset)

    def on_end(self, error: FleetlineError) -> None:
        """See `agent.sinks.Sink`."""
        if self.alive:
            self._followed.faults.append(f"was ended: {error}")

    def _begin(self, after: int) -> None:
        """Begin the story with what is known up to `after`, without a gap.

        One that asks for what it acknowledged goes by the hub's word; tags of some kinds would tell it nothing.
        """
        self._given = _upto(self._given, after)
        if self._followed.kinds is not None and self._follower.durable:
            self._given = {}
        if self._followed.kinds is None:
            first = next((offset for offset in range(after, -1, -1) if offset not in self._given), -1)
            self._given = {offset: tag for offset, tag in self._given.items() if offset > first}
        if self._given:
            self._story.append(Began(min(self._given) - 1))
            self._story.extend(Given(offset, tag) for offset, tag in sorted(self._given.items()))
        self._story.append(Began(after))

    def _come_back(self, after: int) -> None:
        """A durable subscription goes on where the hub says: never past what was handled."""
        self._unplaced = False
        if after > self._followed.handled and self._followed.kinds is None:
            self._followed.faults.append(f"goes on after {after}, having handled no more than {self._followed.handled}")
        self._begin(min(after, self._followed.handled))

    def _handle(self, generation: int, upto: int, at: Position | None) -> None:
        if not self.alive or generation != self._generation:
            return
        if upto > self._followed.handled:
            self._followed.handled = upto
            self._follower.kept = _upto(self._given, upto)
            self._follower.position = at
        self._link.handled(self._subscription, generation, upto)


def _upto(tags: dict[int, str], offset: int) -> dict[int, str]:
    return {each: tag for each, tag in tags.items() if each <= offset}
