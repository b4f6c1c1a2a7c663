"""Entries as they come: a break in the history is never silent."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from agent.entry import read_entry
from agent.errors import Reset
from orchestrator.cli.follow import Follower
from orchestrator.cli.output import Output
from protocol.frames import ResetReason
from tests.unit.replay.entries import EPOCH, RUN, made_log, run_log

RESET = Reset(RUN, ResetReason.DIVERGED, 4, 9, True, EPOCH, 3)


def test_a_reset_is_shown_where_it_happens(capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(Output(), RUN)
    for entry in run_log()[:3]:
        follower.entry(read_entry(RUN, EPOCH, entry, None))
    follower.reset(RESET)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "== reset (diverged): offsets 4 to 9 are lost; going on after 3 =="
    assert any(line.startswith("-- attempt 1 on worker-1 --") for line in lines)


def test_what_a_run_failed_with_is_whole_in_its_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    message = "x" * 300
    error = {"type": "ValueError", "message": message}
    log = made_log(
        ("$submitted", {"queue": "q", "handler": "h", "input": b"\xc0"}),
        ("found", {"text": message}),
        ("$failed", {"error": error}),
        ("$dead", {"reason": "failed twice", "error": error}),
        ("$cancelled", {"reason": "enough"}),
    )
    follower = Follower(Output(), RUN)
    for entry in log:
        follower.entry(read_entry(RUN, EPOCH, entry, None))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith(f'found        {{"text":"{message}"}}'), "what is piped is not cut"
    said = [line.strip() for line in lines if "ended: " in line]
    assert said == [
        f"ended: failed, 20 ms after it was submitted: ValueError: {message}",
        f"ended: dead, 30 ms after it was submitted: failed twice: ValueError: {message}",
        "ended: cancelled, 40 ms after it was submitted: enough",
    ]


def test_bodies_are_cut_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    Follower(Output(), "topic/t").entry(read_entry("topic/t", EPOCH, made_log(("k", "x" * 300))[0], None))
    assert capsys.readouterr().out.rstrip().endswith("xxx...")


def test_a_reset_is_an_object_among_the_entries(capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(Output(as_json=True), RUN)
    follower.entry(read_entry(RUN, EPOCH, run_log()[0], None))
    follower.reset(RESET)
    entry, reset = map(json.loads, capsys.readouterr().out.splitlines())
    assert (entry["kind"], entry["body"]["input"]) == ("$submitted", {"repo": "."})
    assert reset == {
        "log": RUN,
        "reset": "diverged",
        "lost": {"from": 4, "to": 9, "exact": True},
        "epoch": EPOCH,
        "offset": 3,
    }


def test_a_run_that_was_watched_from_a_reset_on_is_still_shown(capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(Output(), RUN)
    follower.reset(RESET)
    for entry in run_log()[3:]:
        follower.entry(read_entry(RUN, EPOCH, entry, None))
    printed = capsys.readouterr().out
    assert "-- attempt 2 resumed from the journal on worker-2" in printed
    assert "broken" not in printed


@pytest.mark.parametrize(
    ("body", "seen"),
    [
        ({"text": "one\ntwo\n", "more": True, "writes": 2}, "one\\ntwo"),
        ({"data": b"K\xc3\xb6ln \xff", "more": True}, "Köln \\xff"),
        ({"text": "a line of a program"}, "a line of a program"),
        ({"text": "\x1b[2J"}, "\\x1b[2J"),
        ({"other": 1}, '{"other":1}'),
    ],
)
def test_output_is_printed_as_what_was_written(
    capsys: pytest.CaptureFixture[str], body: dict[str, Any], seen: str
) -> None:
    [entry] = made_log(("stdout", body))
    Follower(Output(), RUN).entry(read_entry(RUN, EPOCH, entry, None))
    assert capsys.readouterr().out.splitlines()[0].endswith(f"stdout       {seen}")
