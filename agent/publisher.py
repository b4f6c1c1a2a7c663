"""Publishers: many entries to one topic, acknowledged in bulk.

`Publisher` keeps what is not acknowledged in memory. `DiskPublisher` keeps it on disk: what it has accepted
is sent, whatever happens to this process, and a program that reads a source continues after `last_mark`.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agent.disk_outbox import DiskOutbox, Row
from agent.errors import FleetlineError, LinkClosed, OutboxFailed, PublisherLost, PublishRefused
from agent.feed import check_kind, check_offset, too_large
from agent.outbox import Outbox
from agent.stream import Stream
from agent.threads import in_loop, reject, resolve
from protocol.codec import pack_value
from protocol.codes import ErrorCode
from protocol.requests import ProducerOpen, ProducerOpened

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["DISK_BYTES_MAX", "DiskPublisher", "Publisher", "Receipt", "open_publisher"]

DISK_BYTES_MAX = 1024 * 1024 * 1024
"""Of bodies in an outbox on disk; what does not fit waits."""

FEED_ENTRIES = 1024
"""Entries read from disk at a time."""

YIELD_ENTRIES = 256
"""A publisher that never has to wait lets others have the loop after so many entries."""

BATCH_ENTRIES_MAX = 4096
"""Entries in one transaction."""


class Receipt:
    """An entry that a publisher has accepted."""

    __slots__ = ("_stream", "seq")

    def __init__(self, stream: Stream, seq: int) -> None:
        self._stream = stream
        self.seq = seq

    async def acknowledged(self) -> None:
        """Wait until it is in the log, as durable as the hub says it must be."""
        await in_loop(self._stream.acknowledged(self.seq))


class _Flushing(ABC):
    """A publisher as a context: left without an error, it waits for what it accepted; then it is closed."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.flush()
        finally:
            await self.aclose()

    @abstractmethod
    async def flush(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None: ...


class Publisher(_Flushing):
    """A publisher whose unacknowledged entries are in memory. Made by `Client.publisher`."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    @property
    def acknowledged(self) -> int:
        """How many entries of this publisher are in the log."""
        return self._stream.acked

    async def publish(self, kind: str, value: Any = None, *, cause: int | None = None) -> Receipt:
        """Accept an entry; it is sent at once. Waits where the window is full.

        Raises:
            PublishRefused: the log takes no more of this publisher.
        """
        check_kind(kind)
        check_offset("cause", cause)
        body = pack_value(value)
        while not (seq := self._stream.offer(kind, body, None, cause)):
            await in_loop(self._stream.box.room(len(body)))
        if not seq % YIELD_ENTRIES:
            await asyncio.sleep(0)
        return Receipt(self._stream, seq)

    async def flush(self) -> None:
        """Wait until everything that was accepted is acknowledged."""
        await in_loop(self._stream.acknowledged(self._stream.made))

    async def aclose(self) -> None:
        """Give up what is not acknowledged."""
        self._stream.box.remove(self._stream)


class DiskPublisher(_Flushing):
    """A publisher whose unacknowledged entries are on disk. Made by `Client.publisher`.

    A thread of its own stores what was published meanwhile as one transaction, and hands it to the link.
    """

    def __init__(self, outbox: DiskOutbox, stream: Stream, *, bytes_max: int = DISK_BYTES_MAX) -> None:
        self._disk = outbox
        self._stream = stream
        self._bytes_max = bytes_max
        self._fed = outbox.acked
        self._acked = outbox.acked
        self._asked: list[tuple[Sequence[Row], Future[int]]] = []
        self._changed = threading.Condition()
        self._stalled = False
        self._closing = False
        stream.on_acked = self._on_acked
        self._thread = threading.Thread(target=self._main, name="fleetline-outbox", daemon=True)
        self._thread.start()

    @property
    def acknowledged(self) -> int:
        """Number of the last entry that is in the log."""
        return self._stream.acked

    @property
    def last_mark(self) -> str | None:
        """Mark of the last entry that is on disk: a source is read on from here, for what is on disk is sent."""
        return self._disk.last_mark

    @property
    def acknowledged_mark(self) -> str | None:
        """Mark of the last entry that was in the log when the outbox last stored something."""
        return self._disk.acked_mark

    async def publish(
        self, kind: str, value: Any = None, *, mark: str | None = None, cause: int | None = None
    ) -> Receipt:
        """Accept an entry: it is on disk when this returns.

        Args:
            kind: of the entry.
            value: anything msgpack can hold.
            mark: where in its source the entry came from.
            cause: the offset of the entry that this one answers.

        Raises:
            OutboxFailed: the disk does not take it.
            PublishRefused: the log takes no more of this publisher.
        """
        (receipt,) = await self.publish_many([Row(kind, pack_value(value), cause, mark)])
        return receipt

    async def publish_many(self, rows: Sequence[Row]) -> list[Receipt]:
        """Accept entries together, all or none; the bodies of the rows are packed values."""
        if not rows:
            return []
        for row in rows:
            check_kind(row.kind)
            check_offset("cause", row.cause)
            if len(row.body) > self._stream.body_bytes_max:
                raise too_large(self._stream.log, len(row.body), self._stream.body_bytes_max)
        stored: Future[int] = Future()
        with self._changed:
            if self._closing:
                raise self._why_not()
            self._asked.append((rows, stored))
            self._changed.notify()
        first = await in_loop(stored)
        return [Receipt(self._stream, first + place) for place in range(len(rows))]

    async def flush(self) -> None:
        """Wait until everything on disk is acknowledged."""
        while self._stream.acked < self._disk.last:
            await in_loop(self._stream.acknowledged(self._disk.last))

    async def aclose(self) -> None:
        """Stop; what is on disk stays there and is sent by the next publisher with this state directory."""
        self._stream.box.remove(self._stream)
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)

    def _on_acked(self, seq: int) -> None:
        with self._changed:
            self._acked = seq
            self._changed.notify()

    def _on_room(self, _: Future[None]) -> None:
        with self._changed:
            self._stalled = False
            self._changed.notify()

    def _main(self) -> None:
        try:
            while (asked := self._next()) is not None:
                self._store(asked)
                self._feed()
        except OutboxFailed as fault:
            self._stream.box.remove(self._stream, fault)
        finally:
            with self._changed:
                self._closing = True  # from now on nobody would take what is asked
            for _, stored in self._asked:
                reject(stored, self._why_not())
            self._disk.acknowledge(self._acked)
            self._disk.close()

    def _why_not(self) -> FleetlineError:
        return self._stream.dead or LinkClosed("the publisher was closed")

    def _next(self) -> list[tuple[Sequence[Row], Future[int]]] | None:
        """Wait for something to do. Returns what to store, or None at the end."""
        with self._changed:
            self._changed.wait_for(self._has_work)
            self._disk.acknowledge(self._acked)
            if self._closing:
                return None
            if self._disk.bytes >= self._bytes_max:
                self._disk.forget()
            return self._take() if self._disk.bytes < self._bytes_max else []

    def _has_work(self) -> bool:
        to_store = bool(self._asked) and (self._disk.bytes < self._bytes_max or self._acked > self._disk.acked)
        to_feed = self._fed < self._disk.last and not self._stalled
        return self._closing or to_store or to_feed

    def _take(self) -> list[tuple[Sequence[Row], Future[int]]]:
        count = entries = 0
        while count < len(self._asked) and (not count or entries + len(self._asked[count][0]) <= BATCH_ENTRIES_MAX):
            entries += len(self._asked[count][0])
            count += 1
        taken, self._asked = self._asked[:count], self._asked[count:]
        return taken

    def _store(self, asked: list[tuple[Sequence[Row], Future[int]]]) -> None:
        if not asked:
            return
        if self._stream.dead is not None:
            for _, stored in asked:
                reject(stored, self._stream.dead)
            return
        try:
            first = self._disk.append([row for rows, _ in asked for row in rows])
        except FleetlineError as fault:
            for _, stored in asked:
                reject(stored, fault)
            return
        for rows, stored in asked:
            resolve(stored, first)
            first += len(rows)

    def _feed(self) -> None:
        """Hand stored entries to the link, as far as its window goes."""
        if self._stream.dead is not None:
            self._stalled = True
            return
        for seq, row in self._disk.after(self._fed, FEED_ENTRIES):
            try:
                offered = self._stream.offer(row.kind, row.body, None, row.cause)
            except FleetlineError as fault:  # dead, or too large for this hub: who publishes or flushes is told
                self._stream.box.remove(self._stream, fault)
                return
            if not offered:
                self._stalled = True
                self._stream.box.room(len(row.body)).add_done_callback(self._on_room)
                return
            self._fed = seq


async def open_publisher(
    client: Client, log: str, state_dir: str | Path | None, *, after_loss: bool
) -> Publisher | DiskPublisher:
    """Open a producer and return its publisher. See `Client.publisher`."""
    outbox = client.links.main.peer.outbox
    if state_dir is None:
        producer = f"p-{secrets.token_hex(8)}"
        return Publisher(_stream(outbox, log, producer, await _opened(client, log, producer)))
    disk = await asyncio.to_thread(DiskOutbox, Path(state_dir), log)
    try:
        opened = await _opened(client, log, disk.producer)
        loss = _loss(log, disk, opened.last)
        if loss is not None and not after_loss:
            raise loss
        if loss is not None:
            disk.renew()
            opened = await _opened(client, log, disk.producer)
        disk.acknowledge(opened.last)
        disk.forget()
    except BaseException:
        disk.close()
        raise
    return DiskPublisher(disk, _stream(outbox, log, disk.producer, opened))


def _stream(outbox: Outbox, log: str, producer: str, opened: ProducerOpened) -> Stream:
    stream = Stream(outbox, log, producer, opened.fence, opened.last)
    outbox.add(stream)
    return stream


async def _opened(client: Client, log: str, producer: str) -> ProducerOpened:
    opened: ProducerOpened = await client.ask("producer.open", ProducerOpen(log=log, producer=producer))
    return opened


def _loss(log: str, disk: DiskOutbox, last: int) -> PublishRefused | None:
    """Return what is wrong where log and outbox do not fit together."""
    if last < disk.acked:
        return PublisherLost(log, last + 1, disk.acked)
    if last > disk.last:
        return PublishRefused(
            log,
            ErrorCode.PRODUCER_CONFLICT,
            f"it has entries up to {last} of this publisher, and the outbox in {disk.directory} only up to "
            f"{disk.last}: the directory was put back to an older state; check the source against the log, and "
            "open the publisher with after_loss=True",
        )
    return None
