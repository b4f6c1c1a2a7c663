"""Publishers: what their program is told when the log, the hub's limits or the disk end them."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from agent.disk_outbox import DiskOutbox, Row
from agent.errors import OutboxFailed, PublisherLost, PublishRefused
from agent.outbox import Outbox
from agent.publisher import DiskPublisher, Publisher
from agent.stream import Stream
from protocol.limits import Limits
from tests.support.timing import deadline

LOG = "topic/feed"
LOST = PublisherLost(LOG, 1, 2)


def on_disk(directory: Path, **limits: int) -> tuple[Outbox, Stream, DiskPublisher]:
    box, disk = Outbox(Limits(**limits)), DiskOutbox(directory, LOG)
    stream = Stream(box, LOG, disk.producer, 7)
    box.add(stream)
    return box, stream, DiskPublisher(disk, stream)


async def test_a_publisher_whose_last_flush_fails_lets_go_of_its_directory(tmp_path: Path) -> None:
    async with deadline(10):
        box, stream, publisher = on_disk(tmp_path)
        await publisher.publish("k", 1)
        with pytest.raises(PublisherLost):
            async with publisher:
                box.remove(stream, LOST)
        DiskOutbox(tmp_path, LOG).close()


async def test_a_publisher_in_memory_whose_last_flush_is_given_up_is_closed() -> None:
    box = Outbox()
    stream = Stream(box, LOG, "p", 7)
    box.add(stream)
    publisher = Publisher(stream)
    await publisher.publish("k", 1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0), publisher:
            pass
    assert (stream.dead is not None, box.entries) == (True, 0)


async def test_who_publishes_after_the_disk_failed_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with deadline(10):
        _, _, publisher = on_disk(tmp_path)

        def after(self: DiskOutbox, seq: int, limit: int) -> list[tuple[int, Row]]:
            raise OutboxFailed("disk I/O error")

        monkeypatch.setattr(DiskOutbox, "after", after)
        await publisher.publish("k", 1)
        with pytest.raises(OutboxFailed, match="disk I/O error"):
            await publisher.flush()
        with pytest.raises(OutboxFailed, match="disk I/O error"):
            await publisher.publish("k", 2)
        await publisher.aclose()
        DiskOutbox(tmp_path, LOG).close()


async def test_an_entry_on_disk_that_a_later_hub_finds_too_large_is_reported(tmp_path: Path) -> None:
    async with deadline(10):
        disk = DiskOutbox(tmp_path, LOG)
        disk.append([Row("k", bytes(100))])
        disk.close()
        _, _, publisher = on_disk(tmp_path, body_bytes_max=10)
        with pytest.raises(PublishRefused, match="it takes 100 bytes packed"):
            await publisher.flush()
        await publisher.aclose()


def test_a_database_that_breaks_while_it_is_read_is_a_failed_outbox(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk._database.execute("DROP TABLE entries")
    with pytest.raises(OutboxFailed, match="cannot be read") as told:
        disk.after(0, 1)
    assert isinstance(told.value.__cause__, sqlite3.Error)
    disk.close()
