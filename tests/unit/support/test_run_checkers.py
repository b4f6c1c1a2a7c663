"""Every check of runs passes what is right and catches the bug planted for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from protocol.codec import pack_record, pack_value
from protocol.control import Cancelled, Errored, Kind, RunError, Succeeded
from protocol.family import ChildEnded, ChildRun, Spawn
from protocol.requests import RunInfo
from tests.support.checkers import Dump, Rule, Violation, assert_kept
from tests.support.run_checkers import (
    check_children,
    check_fences,
    check_fold,
    check_journal,
    check_run,
    check_terminal,
)
from tests.unit.support.logs import claimed, dump_of, event, good_run, hubs

DONE = pack_record(Kind.SUCCEEDED, "agent:two", pack_value(Succeeded(result=pack_value(4))), attempt=2, seq=3)


def rules(found: list[Violation]) -> set[Rule]:
    return {violation.rule for violation in found}


def packed(dump: Dump) -> list[bytes]:
    return [entry.packed for entry in dump.entries]


def put(offset: int, value: bytes) -> Callable[[Dump], Dump]:
    """Another entry in the place of the one at an offset."""

    def plant(dump: Dump) -> Dump:
        values = packed(dump)
        values[offset - 1] = value
        return dump_of(dump.log, values)

    return plant


def insert(offset: int, *values: bytes) -> Callable[[Dump], Dump]:
    """More entries before the one at an offset."""

    def plant(dump: Dump) -> Dump:
        before = packed(dump)
        return dump_of(dump.log, [*before[: offset - 1], *values, *before[offset - 1 :]])

    return plant


def drop(offset: int) -> Callable[[Dump], Dump]:
    """One entry less."""
    return lambda dump: dump_of(dump.log, packed(dump)[: offset - 1] + packed(dump)[offset:])


INFO = RunInfo(
    run="1",
    state="succeeded",
    handler="work",
    queue="q",
    attempt=2,
    agent="two",
    submitted_ms=1001,
    started_ms=1002,
    finished_ms=1009,
    result=pack_value(4),
    head=9,
)
META = {"state": "succeeded", "head": "9", "attempt": "2", "fence": "20", "failures": "0", "losses": "1"}


def test_a_right_run_passes() -> None:
    assert_kept(check_run(good_run(), INFO, META), check_journal(good_run()))


def test_a_run_that_is_not_over_passes_where_it_need_not_be() -> None:
    open_run = dump_of("run/1", packed(good_run())[:8])
    assert_kept(check_terminal(open_run, finished=False), check_fences(open_run), check_fold(open_run))


@pytest.mark.parametrize("plant", [drop(9), insert(10, DONE), insert(10, event(2, "two", 4, 5)), insert(3, DONE)])
def test_a_run_without_exactly_one_end_is_caught(plant: Callable[[Dump], Dump]) -> None:
    assert rules(check_terminal(plant(good_run()))) == {Rule.TERMINAL}


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (insert(6, event(1, "one", 3, 3)), "of attempt 1, while nobody holds it"),
        (insert(8, event(1, "one", 3, 3)), "of attempt 1, while attempt 2 holds it"),
        (insert(10, event(2, "two", 4, 5)), "of attempt 2, while nobody holds it"),
        (insert(10, pack_record(Kind.PROGRESS, "agent:two", b"", attempt=None)), "outside any attempt"),
        (put(9, pack_record(Kind.SUCCEEDED, "hub:h1", b"")), "outside any attempt"),
        (put(8, event(2, "one", 2, 4)), "is of agent:one; agent:two holds the run"),
        (put(8, event(2, "two", 1, 4)), "seq 1 of attempt 2, 2 was due"),
        (drop(3), "seq 2 of attempt 1, 1 was due"),
        (drop(5), "attempt 2 was claimed while agent:one held attempt 1"),
        (put(6, claimed(2, 10, "two")), "fence 10 follows 10"),
        (put(6, claimed(3, 20, "two")), "attempt 3 follows attempt 1"),
    ],
)
def test_an_entry_of_an_attempt_that_does_not_hold_the_run_is_caught(plant: Callable[[Dump], Dump], says: str) -> None:
    found = check_fences(plant(good_run()))
    assert rules(found) == {Rule.FENCED}
    assert any(says in violation.message for violation in found), found


def test_a_cancel_that_the_hub_carries_out_is_right() -> None:
    cancelled = pack_record(Kind.CANCELLED, "hub:h1", pack_value(Cancelled()))
    assert_kept(check_fences(put(6, cancelled)(dump_of("run/1", packed(good_run())[:6]))))


@pytest.mark.parametrize(
    ("plant", "says"),
    [
        (put(7, event(2, "two", 1, 2)), "index 2 again, after 2"),
        (put(8, event(2, "two", 2, 1)), "index 1 again, after 3"),
        (drop(4), "index 3 after 1"),
    ],
)
def test_an_operation_that_is_lost_or_repeated_is_caught(plant: Callable[[Dump], Dump], says: str) -> None:
    found = check_journal(plant(good_run()))
    assert rules(found) == {Rule.JOURNAL}
    assert any(says in violation.message for violation in found), found


def test_what_an_error_takes_back_may_come_again() -> None:
    error = RunError(type="ValueError", message="no")
    errored = pack_record(Kind.ERRORED, "agent:one", pack_value(Errored(error=error)), attempt=1, seq=3, index=2)
    assert_kept(check_journal(insert(5, errored, event(1, "one", 4, 2))(good_run())))
    assert rules(check_journal(insert(5, errored, event(1, "one", 4, 1))(good_run()))) == {Rule.JOURNAL}


def test_indices_may_have_gaps_where_not_every_operation_leaves_an_entry() -> None:
    assert_kept(check_journal(drop(4)(good_run()), dense=False))


@pytest.mark.parametrize(
    "info",
    [
        INFO.model_copy(update={name: value})
        for name, value in {
            "state": "running",
            "attempt": 1,
            "head": 8,
            "result": None,
            "cancelling": True,
            "started_ms": 1006,
            "finished_ms": None,
            "submitted_ms": 1000,
            "queue": "other",
            "handler": "other",
        }.items()
    ],
)
def test_a_hub_that_shows_something_else_is_caught(info: RunInfo) -> None:
    (found,) = check_fold(good_run(), info)
    assert found.rule is Rule.FOLD


@pytest.mark.parametrize(
    "meta",
    [
        *({**META, name: "7"} for name in META),
        {**META, "cancel": "1"},
        {name: value for name, value in META.items() if name != "state"},
    ],
)
def test_a_store_that_keeps_something_else_is_caught(meta: dict[str, str]) -> None:
    (found,) = check_fold(good_run(), None, meta)
    assert found.rule is Rule.FOLD


def test_who_holds_a_running_run_is_compared() -> None:
    running = dump_of("run/1", packed(good_run())[:8])
    live = INFO.model_copy(update={"state": "running", "finished_ms": None, "result": None, "head": 8})
    meta = {**META, "state": "running", "head": "8", "agent": "two"}
    assert_kept(check_fold(running, live, meta))
    assert rules(check_fold(running, live.model_copy(update={"agent": "one"}))) == {Rule.FOLD}
    assert rules(check_fold(running, None, {**meta, "agent": "one"})) == {Rule.FOLD}


def test_a_log_that_does_not_fold_is_caught() -> None:
    (found,) = check_fold(drop(2)(good_run()))
    assert "does not fold" in found.message


def test_the_run_check_holds_the_log_check() -> None:
    dump = good_run()
    broken = replace(dump, after=dump.after._replace(tag="0" * 16))
    assert rules(check_run(broken)) == {Rule.CHAIN}


ASKED = pack_record(
    Kind.SPAWN,
    "agent:two",
    pack_value(Spawn(queue="q", handler="h", input=b"", digest="d")),
    attempt=2,
    seq=1,
    index=3,
)
MADE = hubs(Kind.CHILD, ChildRun(index=3, digest="d", run="r", queue="q", handler="h"))
ENDED = hubs(Kind.CHILD_ENDED, ChildEnded(index=3, digest="d", run="r", state="failed", offset=4))


@pytest.mark.parametrize("said", [[], [ASKED], [ASKED, ASKED, MADE], [ASKED, MADE, ENDED, ASKED, MADE, ENDED]])
def test_children_that_are_told_of_in_order_pass(said: list[bytes]) -> None:
    assert check_children(dump_of("run/1", [*packed(good_run())[:6], *said])) == []


@pytest.mark.parametrize(
    "said", [[MADE], [ASKED, ENDED], [ASKED, MADE, MADE], [ASKED, MADE, ENDED, ENDED], [ASKED, MADE, ENDED, MADE]]
)
def test_a_child_that_is_told_of_twice_or_out_of_order_is_caught(said: list[bytes]) -> None:
    assert rules(check_children(dump_of("run/1", [*packed(good_run())[:6], *said]))) == {Rule.CHILDREN}
