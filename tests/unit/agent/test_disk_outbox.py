"""The outbox on disk."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from agent.disk_outbox import DiskOutbox, Row
from agent.errors import OutboxBusy, OutboxFailed

LOG = "topic/feed"


def rows(*names: str) -> list[Row]:
    return [Row("k", name.encode(), None, f"mark:{name}") for name in names]


def test_entries_producer_and_marks_survive_a_restart(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    assert disk.append(rows("a", "b")) == 1
    assert disk.append(rows("c")) == 3
    producer = disk.producer
    disk.close()
    again = DiskOutbox(tmp_path, LOG)
    assert (again.producer, again.last, again.acked, again.last_mark) == (producer, 3, 0, "mark:c")
    assert [(seq, row.body) for seq, row in again.after(1, 10)] == [(2, b"b"), (3, b"c")]
    again.close()


def test_what_is_acknowledged_is_forgotten_but_not_its_number_or_mark(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk.append(rows("a", "b", "c"))
    disk.acknowledge(2)
    disk.append(rows("d"))
    assert (disk.acked_mark, disk.last_mark, disk.bytes) == ("mark:b", "mark:d", 2)
    disk.acknowledge(4)
    disk.close()
    again = DiskOutbox(tmp_path, LOG)
    assert (again.acked, again.last, again.bytes, again.last_mark, again.acked_mark) == (4, 4, 0, "mark:d", "mark:d")
    assert again.append(rows("e")) == 5
    again.close()


def test_a_second_user_of_the_directory_is_refused_and_told_who_has_it(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    with pytest.raises(OutboxBusy, match=r"in use by process \d+"):
        DiskOutbox(tmp_path, LOG)
    disk.close()
    DiskOutbox(tmp_path, LOG).close()


def test_a_directory_of_another_log_is_refused_and_let_go(tmp_path: Path) -> None:
    DiskOutbox(tmp_path, LOG).close()
    with pytest.raises(OutboxFailed, match="belongs to topic/feed"):
        DiskOutbox(tmp_path, "topic/other")
    DiskOutbox(tmp_path, LOG).close()


def test_a_file_that_is_no_outbox_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3").write_bytes(b"this is not a database, and long enough to be taken for one" * 20)
    with pytest.raises(OutboxFailed, match="cannot be opened"):
        DiskOutbox(tmp_path, LOG)


def test_a_new_producer_numbers_what_is_left_from_one(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk.append(rows("a", "b", "c", "d"))
    disk.acknowledge(2)
    before = disk.producer
    disk.renew()
    assert disk.producer != before
    assert (disk.acked, disk.last) == (0, 2)
    assert [(seq, row.body) for seq, row in disk.after(0, 10)] == [(1, b"c"), (2, b"d")]
    disk.close()
    again = DiskOutbox(tmp_path, LOG)
    assert [seq for seq, _ in again.after(0, 10)] == [1, 2]
    again.close()


class FailingCommit:
    """A database whose disk is full whenever a transaction is to be kept."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def __enter__(self) -> sqlite3.Connection:
        return self._database

    def __exit__(self, *_: object) -> None:
        self._database.rollback()
        raise sqlite3.OperationalError("database or disk is full")


@contextmanager
def full_disk(disk: DiskOutbox) -> Iterator[None]:
    database = disk._database
    disk._database = cast(sqlite3.Connection, FailingCommit(database))
    yield
    disk._database = database


def test_a_directory_of_another_log_keeps_what_was_known_to_be_acknowledged(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk.append(rows("a", "b", "c"))
    disk.acknowledge(3)
    disk.close()
    with pytest.raises(OutboxFailed, match="nothing was changed"):
        DiskOutbox(tmp_path, "topic/other")
    again = DiskOutbox(tmp_path, LOG)
    assert (again.acked, again.last) == (3, 3)
    again.close()


def test_what_a_full_disk_did_not_forget_counts_on(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk.append(rows("a", "b", "c"))
    disk.acknowledge(2)
    with full_disk(disk):
        for _ in range(2):
            with pytest.raises(OutboxFailed, match="these 1 entries are not kept"):
                disk.append(rows("d"))
            with pytest.raises(OutboxFailed, match="cannot be written"):
                disk.forget()
    assert (disk.bytes, disk.last, disk.last_mark, disk.acked_mark) == (3, 3, "mark:c", None)
    assert disk.append(rows("d")) == 4
    assert (disk.bytes, disk.acked_mark) == (2, "mark:b")
    disk.close()


def test_a_new_producer_that_the_disk_did_not_take_is_none(tmp_path: Path) -> None:
    disk = DiskOutbox(tmp_path, LOG)
    disk.append(rows("a", "b", "c", "d"))
    disk.acknowledge(2)
    with full_disk(disk), pytest.raises(OutboxFailed, match="cannot be written"):
        disk.renew()
    before = disk.producer
    disk.close()
    again = DiskOutbox(tmp_path, LOG)
    assert (again.producer, again.acked, again.last) == (before, 2, 4)
    assert [seq for seq, _ in again.after(0, 10)] == [3, 4]
    again.close()


def test_a_database_that_cannot_be_opened_is_reported_and_its_directory_let_go(tmp_path: Path) -> None:
    (tmp_path / "outbox.sqlite3").mkdir()
    with pytest.raises(OutboxFailed, match="cannot be opened"):
        DiskOutbox(tmp_path, LOG)
    (tmp_path / "outbox.sqlite3").rmdir()
    DiskOutbox(tmp_path, LOG).close()
