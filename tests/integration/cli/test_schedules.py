"""Schedules on the command line, with a real agent that does their runs."""

from __future__ import annotations

from tests.integration.cli.conftest import Shell
from tests.support.timing import eventually_sync

TERMS = ("--queue", "coding", "--timezone", "Europe/Berlin", "--missed", "once", "--where", "b=2", "--where", "a=1")


def test_a_schedule_is_added_shown_listed_and_removed(shell: Shell) -> None:
    added = shell.json("schedule", "add", "nightly", "30 2 * * *", "review", '{"repo": "."}', *TERMS, "--timeout", "90")
    [shown] = shell.json("schedule", "show", "nightly")
    assert shown == {**added[0], "input": {"repo": "."}}
    assert (shown["where"], shown["timeout_ms"], shown["missed"]) == ("a=1,b=2", 90_000, "once")
    assert (len(shown["upcoming"]), shown["upcoming"][0], shown["last_run"]) == (3, shown["next_ms"], None)
    assert (
        shell.json("schedule", "add", "nightly", "30 2 * * *", "review", '{"repo": "."}', *TERMS, "--timeout", "90")
        == added
    )
    refused = shell("schedule", "add", "nightly", "30 3 * * *", "review")
    assert refused.returncode == 2
    assert "there is a schedule 'nightly' with other terms; remove it first" in refused.stderr
    pairs = dict(line.split("\t", 1) for line in shell.done("schedule", "show", "nightly").splitlines())
    assert (pairs["cron"], pairs["timeout"], pairs["input"]) == ("30 2 * * *", "90 s", '{"repo":"."}')
    assert " 02:30:00+0" in pairs["next"]
    [row] = shell.done("schedule", "ls").splitlines()
    assert row.split("\t")[:5] == ["nightly", "30 2 * * *", "Europe/Berlin", "review", "open"]
    [listed] = shell.json("schedule", "ls")
    assert listed == {name: value for name, value in added[0].items() if name not in ("upcoming", "last_state")}
    assert shell.done("schedule", "rm", "nightly") == "nightly\n"
    assert shell.json("schedule", "ls") == []


def test_a_schedule_is_paused_and_goes_on(shell: Shell) -> None:
    shell.done("schedule", "add", "hourly", "0 * * * *", "review")
    [paused] = shell.json("schedule", "pause", "hourly")
    assert (paused["paused"], paused["next_ms"], paused["upcoming"]) == (True, None, [])
    assert shell.done("schedule", "ls").split("\t")[4] == "paused"
    [going] = shell.json("schedule", "resume", "hourly")
    assert (going["paused"], len(going["upcoming"])) == (False, 3)
    assert shell.json("schedule", "rm", "hourly") == [{"schedule": "hourly", "removed": True}]


def test_what_is_no_time_is_told(shell: Shell) -> None:
    found = shell("schedule", "add", "nightly", "61 * * * *", "review")
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "error: '61 * * * *' is not a cron expression: its minute field is wrong\n"


def test_the_runs_of_a_schedule_are_done_and_shown(served: Shell) -> None:
    served.done("schedule", "add", "often", "* * * * * *", "review", '{"repo": "."}', "--queue", "coding")
    shown = eventually_sync(
        lambda: [one for one in served.json("schedule", "show", "often") if one["last_state"] == "succeeded"], 30.0
    )
    served.done("schedule", "rm", "often")
    [run] = served.json("run", "show", shown[0]["last_run"])
    assert (run["state"], run["result"]) == ("succeeded", {"findings": 2})
