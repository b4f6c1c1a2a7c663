"""The outbox on disk."""

from __future__ import annotations

from pathlib import Path

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
