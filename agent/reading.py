"""Reading logs: entry by entry as they come, and page by page as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agent.entry import Entry, read_entry
from agent.errors import HistoryReset, LinkClosed, Reset
from agent.sinks import Batch
from agent.subscriptions import Subscription
from agent.threads import Channel, in_loop, reject, resolve
from protocol.entry import Entry as StoredEntry
from protocol.entry import Position, next_tag
from protocol.errors import FleetlineError
from protocol.frames import ResetReason, Start, Window
from protocol.requests import LogRead, LogReadPage

if TYPE_CHECKING:
    from agent.link import Link
    from agent.links import Links

__all__ = ["DEFAULT_WINDOW", "PAGE_ENTRIES", "Page", "Reader", "pages", "read_log", "start_of"]

DEFAULT_WINDOW = Window(entries=4096, bytes=4 * 1024 * 1024)
PAGE_ENTRIES = 1000


class Reader(AsyncIterator[Entry]):
    """The entries of a log, in order, without a gap: history, then live. It resumes across reconnects.

    Where the log cannot be continued, iterating raises `HistoryReset`, or calls `on_reset` where that was
    given; iterating on goes on at the restart position. Leave it with `async with` or `aclose`.

    Attributes:
        log: which log.
        head: the offset up to which everything had been given when reading last caught up; None before.
    """

    def __init__(
        self,
        links: Links,
        log: str,
        start: Position | Start,
        *,
        kinds: Sequence[str] | None = None,
        durable: str | None = None,
        auto_ack: bool = True,
        on_reset: Callable[[Reset], None] | None = None,
        last_kinds: frozenset[str] = frozenset(),
        window: Window = DEFAULT_WINDOW,
    ) -> None:
        self.log = log
        self.head: int | None = None
        self._links = links
        self._auto_ack = auto_ack
        self._reset_taker = on_reset
        self._last_kinds = last_kinds
        self._channel: Channel[Batch | Reset] = Channel()
        self._batch: Batch | None = None
        self._place = 0
        self._ack = partial(self._on_ack, 0)
        self._handled = (0, 0)
        self._told = False
        self._finished = False
        self._live: Future[int] = Future()
        self._subscription = Subscription(
            log, start, self, window=window, kinds=tuple(kinds) if kinds is not None else None, durable=durable
        )
        self._link: Link = links.follow(self._subscription)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Follow the log no more."""
        self.close()

    def close(self) -> None:
        """Follow the log no more; may be called from any thread."""
        if not self._finished:
            self._finished = True
            self._links.unfollow(self._link, self._subscription)
            self.on_end(LinkClosed(f"reading {self.log} was ended"))

    def beside(self, log: str) -> Reader:
        """Return a reader of another log, from its beginning, that is like this one."""
        return Reader(
            self._links,
            log,
            Start.EARLIEST,
            auto_ack=self._auto_ack,
            on_reset=self._reset_taker,
            last_kinds=self._last_kinds,
        )

    async def caught_up(self) -> int:
        """Wait until all that was there has been received (not: handled). Returns the head at that moment."""
        return await in_loop(self._live)

    async def __anext__(self) -> Entry:
        if self._finished:
            raise StopAsyncIteration
        while True:
            entry = self._next_held()
            if entry is not None:
                if entry.kind in self._last_kinds:
                    self.close()
                return entry
            item = await self._channel.get()
            if isinstance(item, Batch):
                self._batch, self._place = item, 0
                self._ack = partial(self._on_ack, item.generation)
            else:
                self._on_restart(item)

    # In the link's thread

    def on_batch(self, batch: Batch) -> None:
        """See `agent.sinks.Sink`."""
        self._channel.put(batch)

    def on_live(self, head: int) -> None:
        """See `agent.sinks.Sink`."""
        self.head = head
        resolve(self._live, head)

    def on_reset(self, reset: Reset, generation: int) -> None:
        """See `agent.sinks.Sink`."""
        del generation  # the batches that follow carry it
        self._channel.put(reset)

    def on_end(self, error: FleetlineError) -> None:
        """See `agent.sinks.Sink`."""
        self._channel.close(error)
        reject(self._live, error)

    def _next_held(self) -> Entry | None:
        """Return the next entry of the batch, if there is one; those before it count as handled with `auto_ack`."""
        batch = self._batch
        if batch is None:
            return None
        place, self._place = self._place, self._place + 1
        over = place == len(batch.entries)
        if self._auto_ack and place:
            self._note(batch.generation, batch.upto if over else batch.entries[place - 1].offset)
        if over:
            self._batch = None
            return None
        return read_entry(self.log, batch.epoch, batch.entries[place], batch.tags[place], self._ack)

    def _on_ack(self, generation: int, entry: Entry) -> None:
        self._note(generation, entry.offset)

    def _note(self, generation: int, offset: int) -> None:
        """Tell the link what was handled: a burst costs one call between the threads."""
        self._handled = max(self._handled, (generation, offset))
        if not self._told:
            self._told = True
            self._links.thread.post(self._tell)

    def _tell(self) -> None:
        self._told = False
        self._link.handled(self._subscription, *self._handled)

    def _on_restart(self, reset: Reset) -> None:
        if self._reset_taker is None:
            raise HistoryReset(reset)
        self._reset_taker(reset)


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a log, and the verified tag of each of its entries."""

    epoch: str
    entries: tuple[StoredEntry, ...]
    tags: tuple[str, ...]


async def pages(link: Link, log: str, after: int, upto: int | None = None) -> AsyncIterator[Page]:
    """Read a log page by page, from `after` up to its head as it is then (or `upto`), each page verified.

    The next page is asked for while the reader has the last one.

    Raises:
        RequestError: there is no such log, or it may not be read.
        HistoryReset: entries after `after` are not kept any more, or the log changed its history meanwhile.
    """
    if upto is not None and after >= upto:
        return
    position: Position | None = None
    asked = _ask_page(link, log, after, upto)
    while True:
        page = await in_loop(asked)
        tags = _check_page(log, page, after, position)
        position = page.after
        after = page.after.offset
        last = after >= page.head or (upto is not None and after >= upto)
        if not last:
            asked = _ask_page(link, log, after, upto)
        yield Page(page.before.epoch, page.entries, tags)
        if last:
            return


def start_of(place: Start | str | Position | Entry) -> Position | Start:
    """Return where a subscription starts: at a named place, or after a position or entry.

    Raises:
        ValueError: that names no place, or the entry is of a subscription that leaves kinds out.
    """
    if isinstance(place, Entry):
        if place.position is None:
            raise ValueError("an entry of a subscription with `kinds` has no verified tag to go on after")
        return place.position
    return place if isinstance(place, (Start, Position)) else Start(place)


async def read_log(link: Link, log: str, after: int = 0, upto: int | None = None) -> AsyncIterator[Entry]:
    """Yield the entries of a log as it is now, in order, each tag verified. Raises as `pages` does."""
    async for page in pages(link, log, after, upto):
        for stored, tag in zip(page.entries, page.tags, strict=True):
            yield read_entry(log, page.epoch, stored, tag)


def _ask_page(link: Link, log: str, after: int, upto: int | None) -> Future[LogReadPage]:
    limit = PAGE_ENTRIES if upto is None else min(PAGE_ENTRIES, upto - after)
    return link.request("log.read", LogRead(log=log, after=after, limit=limit))


def _check_page(log: str, page: LogReadPage, after: int, position: Position | None) -> tuple[str, ...]:
    """Return the tag of each entry. Raises `HistoryReset` where the page is not what follows."""
    before = page.before
    if before.offset > after:
        raise HistoryReset(Reset(log, ResetReason.TRIMMED, after + 1, before.offset, True, before.epoch, before.offset))
    if position is not None and before != position:
        reason = ResetReason.UNKNOWN if before.epoch != position.epoch else ResetReason.DIVERGED
        raise HistoryReset(Reset(log, reason, 1, position.offset, False, before.epoch, before.offset))
    tags: list[str] = []
    tag, offset = before.tag, before.offset
    for entry in page.entries:
        offset += 1
        tag = next_tag(tag, entry.offset, entry.ts_ms, entry.packed)
        tags.append(tag)
        if entry.offset != offset:
            break
    if (offset, tag) != (page.after.offset, page.after.tag):
        raise HistoryReset(Reset(log, ResetReason.DIVERGED, after + 1, page.after.offset, False, before.epoch, after))
    return tuple(tags)
