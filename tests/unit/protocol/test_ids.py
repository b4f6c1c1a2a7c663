"""Names, logs, run ids and partitions."""

from __future__ import annotations

from zlib import crc32

import pytest

from protocol.errors import FleetlineError, InvalidName
from protocol.ids import (
    PARTITIONS,
    LogKind,
    LogName,
    check_name,
    make_run_id,
    partition_of,
    queue_partition,
)
from tests.support.samples import NOW_MS, RUN


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d", "9" * 128, "x" + "-" * 127])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "-a", "_a", ".a", "A", "aB", "ä", "a b", "a/b", "a:b", "a{b}", "a\n", "\x00", "a*", "x" * 129],
    ids=repr,
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(InvalidName):
        check_name(name)
    with pytest.raises(InvalidName):
        LogName.parse(f"topic/{name}")
    with pytest.raises(InvalidName):
        LogName.parse("topic/a", name)


@pytest.mark.parametrize("text", ["agent/a", "topic/a.b", f"run/{RUN}"])
def test_logs_are_written_as_they_are_read(text: str) -> None:
    log = LogName.parse(text, "team-a")
    assert log.path == text
    assert log.namespace == "team-a"
    assert log.kind is LogKind(text.partition("/")[0])


@pytest.mark.parametrize(
    "text",
    [
        *("", "topic", "topic/", "/a", "Topic/a", "queue/a", "topic/a/b", "topic//a", "agent/../x"),
        *("run/a", f"run/{RUN}x", f"run/{RUN[1:]}", f"run/64{RUN[2:]}", f"run/99{RUN[2:]}", f"run/{RUN.upper()}"),
    ],
    ids=repr,
)
def test_what_is_no_log(text: str) -> None:
    with pytest.raises(InvalidName):
        LogName.parse(text)


def test_a_fault_is_a_value_error_and_quotes_only_so_much() -> None:
    assert issubclass(InvalidName, ValueError)
    assert issubclass(InvalidName, FleetlineError)
    with pytest.raises(InvalidName) as raised:
        check_name("/" * 100_000)
    assert len(str(raised.value)) < 400


def test_a_run_is_in_the_partition_of_its_queue() -> None:
    for number in range(200):
        partition = queue_partition("default", f"queue-{number}")
        assert 0 <= partition < PARTITIONS
        run = make_run_id(partition, NOW_MS, bytes(8))
        assert partition_of(LogName.parse(f"run/{run}")) == partition


def test_other_logs_are_placed_by_namespace_and_name() -> None:
    assert partition_of(LogName.parse("topic/news", "team-a")) == crc32(b"team-a/topic/news") % PARTITIONS
    assert queue_partition("team-a", "coding") == crc32(b"team-a/coding") % PARTITIONS


def test_run_ids_of_a_queue_sort_by_time() -> None:
    ids = [make_run_id(3, now_ms, b"\xff" * 8 if now_ms == NOW_MS else bytes(8)) for now_ms in (NOW_MS, NOW_MS + 1)]
    assert ids == sorted(ids)
    assert ids[0] == f"03-{NOW_MS:011x}-" + "ff" * 8


def test_a_partition_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidName):
        partition_of(LogName("default", LogKind.RUN, f"64{RUN[2:]}"))
