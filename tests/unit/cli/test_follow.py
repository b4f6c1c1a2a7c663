"""Entries as they come: a break in the history is never silent."""

from __future__ import annotations

import json

import pytest

from agent.entry import read_entry
from agent.errors import Reset
from orchestrator.cli.follow import Follower
from orchestrator.cli.output import Output
from protocol.frames import ResetReason
from tests.unit.replay.entries import EPOCH, RUN, run_log

RESET = Reset(RUN, ResetReason.DIVERGED, 4, 9, True, EPOCH, 3)


def test_a_reset_is_shown_where_it_happens(capsys: pytest.CaptureFixture[str]) -> None:
    follower = Follower(Output(), RUN)
    for entry in run_log()[:3]:
        follower.entry(read_entry(RUN, EPOCH, entry, None))
    follower.reset(RESET)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "== reset (diverged): offsets 4 to 9 are lost; going on after 3 =="
    assert any(line.startswith("-- attempt 1 on worker-1 --") for line in lines)


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
