"""A subscriber whose story is written down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agent.client import Client
from agent.entry import Entry
from agent.errors import Reset
from protocol.entry import Position
from protocol.frames import Start
from tests.support.checkers import Began, Given, WasReset

__all__ = ["Watch", "watched"]


@dataclass(slots=True)
class Watch:
    """What a subscriber was told.

    Attributes:
        events: the story, for `check_delivered`.
        entries: all entries, as they came.
        upto: offset of the last entry.
    """

    events: list[Began | Given | WasReset] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    upto: int = 0

    @property
    def resets(self) -> list[WasReset]:
        """The resets among the events."""
        return [event for event in self.events if isinstance(event, WasReset)]

    def take(self, entry: Entry) -> None:
        """Write an entry down."""
        assert entry.tag is not None
        self.events.append(Given(entry.offset, entry.tag))
        self.entries.append(entry)
        self.upto = entry.offset

    def reset(self, reset: Reset) -> None:
        """Write a reset down."""
        self.events.append(WasReset(reset.reason, reset.first, reset.last, reset.exact, reset.epoch, reset.offset))
        self.upto = reset.offset


@asynccontextmanager
async def watched(
    client: Client,
    log: str,
    from_: Position | Start = Start.EARLIEST,
    *,
    began: int = 0,
    durable: str | None = None,
    until: Callable[[Entry], bool] | None = None,
) -> AsyncIterator[Watch]:
    """Follow a log for as long as the context lasts.

    Args:
        client: whose connection.
        log: which log.
        from_: where to start.
        began: the offset that this is.
        durable: name of a durable subscription.
        until: stop after the entry for which this is true.
    """
    watch = Watch([Began(began)], upto=began)

    async def follow() -> None:
        async with client.subscribe(log, from_, durable=durable, on_reset=watch.reset) as reader:
            async for entry in reader:
                watch.take(entry)
                if until is not None and until(entry):
                    return

    task = asyncio.create_task(follow(), name=f"watch {log}")
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
