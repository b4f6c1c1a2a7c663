"""Runs on the command line: submitted, watched, cancelled and replayed, with a real agent."""

from __future__ import annotations

import json
import signal

from tests.integration.cli.conftest import APP, Shell
from tests.support.timing import eventually_sync, scaled

RUN_FIELDS = [
    *("run", "state", "handler", "queue", "attempt", "agent", "submitted_ms", "started_ms", "finished_ms"),
    *("result", "error", "parent", "continues", "continued_as"),
]


def submit(shell: Shell, *words: str) -> str:
    """Submit a run and return its id."""
    return shell.done("run", "submit", *words, "--queue", "coding").strip()


def test_a_result_is_waited_for(served: Shell) -> None:
    found = served("run", "submit", "review", '{"repo": "."}', "--queue", "coding", "--wait")
    assert (found.returncode, found.stdout) == (0, '{"findings":2}\n'), found.stderr
    run = found.stderr.splitlines()[0].removeprefix("run ")
    [shown] = served.json("run", "show", run)
    assert list(shown) == RUN_FIELDS
    assert (shown["state"], shown["result"], shown["agent"]) == ("succeeded", {"findings": 2}, "worker-1")
    [listed] = [one for one in served.json("run", "ls", "--state", "succeeded") if one["run"] == run]
    assert listed == {name: value for name, value in shown.items() if name != "result"}, "lists carry no results"


def test_a_run_that_fails_ends_its_watcher_with_1(served: Shell) -> None:
    run = submit(served, "review", '{"repo": ".", "fail": true}', "--retries", "0")
    found = served("run", "watch", run, "--json")
    kinds = [json.loads(line)["kind"] for line in found.stdout.splitlines()]
    assert found.returncode == 1
    assert kinds[:4] == ["$submitted", "$claimed", "finding", "finding"]
    assert "$errored" in kinds
    waited = served("run", "submit", "review", '{"repo": 7}', "--queue", "coding", "--wait")
    assert waited.returncode == 1
    assert "Input should be a valid string" in waited.stderr


def test_a_run_is_followed_and_cancelled(served: Shell) -> None:
    run = submit(served, "forever")
    watch = served.start("run", "watch", run)
    assert watch.stdout is not None
    seen: list[str] = []
    while "began" not in "".join(seen):
        seen.append(watch.stdout.readline())
    assert served.done("run", "cancel", run, "--wait", "--reason", "enough") == "cancelled\n"
    rest, errors = watch.communicate(timeout=scaled(20))
    assert watch.returncode == 3, errors
    assert "command: the run is asked to stop" in rest
    assert served("run", "watch", run).returncode == 3


def test_a_key_gives_the_same_run_and_refuses_another_input(shell: Shell) -> None:
    words = ("run", "submit", "review", "--queue", "nobody", "--key", "pr-42")
    first, again = shell.done(*words, "1"), shell(*words, "1")
    assert again.stdout == first
    assert "the key 'pr-42' had made this run before" in again.stderr
    other = shell(*words, "2")
    assert other.returncode == 2
    assert first.strip() in other.stderr


def test_runs_are_listed_from_behind_one_of_them_on(shell: Shell) -> None:
    runs = [shell.done("run", "submit", "nobody", "--queue", "listed").strip() for _ in range(4)]
    whole = [run["run"] for run in shell.json("run", "ls", "--queue", "listed")]
    assert sorted(whole) == sorted(runs)
    rest = shell.json("run", "ls", "--queue", "listed", "--after", whole[1], "--limit", "1")
    assert [run["run"] for run in rest] == [whole[2]]
    assert shell.done("run", "ls", "--queue", "listed", "--after", whole[3]) == ""


def test_why_a_run_waits_is_said_and_that_it_goes_on(shell: Shell) -> None:
    for words in (("--wait",), ("--follow", "--json")):
        submit = shell.start("run", "submit", "review", "--queue", "deserted", *words)
        assert submit.stderr is not None
        run = submit.stderr.readline().strip().removeprefix("run ")
        assert submit.stderr.readline() == "waits because no connected agent serves the queue 'deserted'\n"
        submit.send_signal(signal.SIGINT)
        _, errors = submit.communicate(timeout=scaled(20))
        assert submit.returncode == 130
        assert errors == f"the run goes on; fleetline run watch {run}\n"
        [shown] = shell.json("run", "cancel", run)
        assert shown["state"] == "cancelled"


def test_when_a_run_is_done_and_by_whom_is_said_where_it_is_submitted(shell: Shell) -> None:
    words = ("--where", "gpu=h200", "--where", "tier in (b,a)", "--delay", "1h", "--deadline", "2h", "--timeout", "30")
    run = shell.done("run", "submit", "review", "--queue", "nobody", *words).strip()
    [first] = [line for line in shell.json("log", "show", run) if line["kind"] == "$submitted"]
    asked, submitted_ms = first["body"], first["ts_ms"]
    assert (asked["where"], asked["timeout_ms"]) == ("gpu=h200,tier in (a,b)", 30_000)
    assert 3_590_000 < asked["not_before_ms"] - submitted_ms < 3_610_000
    assert 7_190_000 < asked["deadline_ms"] - submitted_ms < 7_210_000
    shown = shell.done("run", "show", run)
    assert "gpu=h200,tier in (a,b)" in shown
    assert "it was delayed" in shown


def test_a_queue_is_paused_limited_looked_at_and_purged(shell: Shell) -> None:
    run = shell.done("run", "submit", "review", "--queue", "desk", "--where", "gpu").strip()
    assert [info["paused"] for info in shell.json("queue", "pause", "desk")] == [True]
    [info] = shell.json("queue", "limit", "desk", "3")
    assert info == {
        "queue": "desk",
        "paused": True,
        "limit": 3,
        "key_limit": None,
        "rate": None,
        "waiting": 1,
        "parked": 0,
        "later": 0,
        "active": 0,
        "dead": 0,
        "reason": "its queue is paused",
        "shares": [{"by": "client:local", "waiting": 1}],
        "keys": [],
        "buckets": [
            {
                "handler": "review",
                "where": "gpu",
                "waiting": 1,
                "reason": "no connected agent serves the queue 'desk'",
            }
        ],
    }
    waits = "review for gpu\t1 waiting: no connected agent serves the queue 'desk'\n"
    assert waits in shell.done("queue", "show", "desk")
    assert any(info["queue"] == "desk" for info in shell.json("queue", "ls"))
    assert shell.done("queue", "purge", "desk", "--reason", "cleared") == "1\n"
    assert "state\tcancelled\n" in shell.done("run", "show", run)
    assert "reason\tcleared\n" in shell.done("run", "show", run)
    [info] = shell.json("queue", "limit", "desk", "none", "--per-key", "2", "--rate", "100/m", "--burst", "5")
    assert (info["limit"], info["key_limit"]) == (None, 2)
    assert info["rate"] == {"starts": 100, "per_ms": 60_000, "burst": 5}
    shown = shell.done("queue", "show", "desk")
    assert "limit per key\t2\n" in shown
    assert "rate\t100/m, 5 at once\n" in shown
    assert shell.done("queue", "dead", "desk") == ""
    assert shell.json("queue", "retry", "desk") == [{"queue": "desk", "retried": 0}]
    keyed = shell.done("run", "submit", "review", "--queue", "desk", "--concurrency-key", "repo-42").strip()
    assert "concurrency key\trepo-42\n" in shell.done("run", "show", keyed)
    assert [info["paused"] for info in shell.json("queue", "resume", "desk")] == [False]


def test_a_run_that_is_over_is_done_again(served: Shell) -> None:
    first = submit(served, "review", '{"repo": ".", "fail": true}', "--retries", "0")
    assert served("run", "watch", first).returncode == 1
    [again] = served.json("run", "retry", first)
    assert served("run", "watch", again["run"]).returncode == 1
    assert first in served.done("run", "show", again["run"])
    waits = served.done("run", "submit", "review", "--queue", "nobody").strip()
    refused = served("run", "retry", waits)
    assert refused.returncode == 2
    assert f"run {waits} is queued" in refused.stderr


def test_a_run_that_waits_is_cancelled_at_once(shell: Shell) -> None:
    run = shell.done("run", "submit", "review", "--queue", "nobody").strip()
    [shown] = shell.json("run", "cancel", run)
    assert shown["state"] == "cancelled"


def test_a_killed_agent_is_seen_on_the_timeline(shell: Shell) -> None:
    fleet, hub = shell.fleet, shell.hub
    doomed = fleet.agent(APP, hub, agent_id="doomed", options=("--queue", "perilous", "--label", "kind=brave"))
    run = shell.done("run", "submit", "forever", "--queue", "perilous").strip()
    eventually_sync(lambda: "began" in shell.done("log", "show", run), 30.0)
    [info] = shell.json("agent", "show", "doomed")
    assert (info["queues"], info["labels"], info["runs"]) == (["perilous"], {"kind": "brave"}, [run])
    doomed.close()
    fleet.agent(APP, hub, agent_id="doomed", name="second", options=("--queue", "perilous"))
    eventually_sync(lambda: shell.done("log", "show", run).count("$claimed") == 2, 60.0)
    shell.done("run", "cancel", run, "--wait")
    timeline = shell.done("replay", run)
    assert "state\tcancelled" in timeline
    assert "attempts\t2 (1 lost, 1 resumed, 0 failed)" in timeline
    assert "-- attempt 1 on doomed --" in timeline
    assert "lost: the agent of attempt 1 was lost" in timeline
    assert "-- attempt 2 resumed from the journal on doomed, " in timeline
    part = shell.json("replay", run, "--until", "3")
    assert [entry["offset"] for entry in part] == [1, 2, 3]
    exported = shell.done("log", "export", run)
    (shell.directory / "run.jsonl").write_text(exported)
    away = shell("replay", "run.jsonl", environment=fleet.environment())
    assert away.stdout == timeline


def test_a_message_reaches_the_log_of_an_agent(served: Shell) -> None:
    [place] = served.json("agent", "send", "worker-1", "reload", '{"hard": true}')
    shown = served.json("log", "show", "agent/worker-1", "--after", str(place["offset"] - 1))
    assert [(entry["kind"], entry["body"]) for entry in shown] == [("reload", {"hard": True})]
    assert "worker-1\tconnected\t" in served.done("agent", "ls")
    assert "worker-1\t" not in served.done("agent", "ls", "--after", "worker-1", "--limit", "1")


def test_a_version_is_shown_and_asked_for_and_an_agent_is_taken_out_of_work(shell: Shell) -> None:
    options = ("--queue", "rolling", "--version", "2026.11.2")
    shell.fleet.agent(APP, shell.hub, agent_id="coder-2", options=options)
    eventually_sync(lambda: "coder-2\tconnected\t" in shell.done("agent", "ls"), 60.0)
    submit = ("run", "submit", "review", '{"repo": "."}', "--queue", "rolling", "--wait")
    shell.done(*submit, "--where", "version=2026.11.2")
    shown = shell.done("agent", "show", "coder-2")
    assert "version\t2026.11.2\n" in shown
    assert "load\t\n" in shown
    assert shell.done("agent", "cordon", "coder-2") == "cordoned\n"
    assert shell.json("agent", "drain", "coder-2", "--grace", "5s") == [
        {"agent": "coder-2", "cordoned": True, "draining": True}
    ]
    eventually_sync(lambda: "coder-2\taway,cordoned\t" in shell.done("agent", "ls"), 60.0)
    refused = shell("agent", "start", APP, "--version", "two words")
    told = "'two words' is not a value of the label 'version'"
    assert (refused.returncode, told in refused.stderr) == (2, True), refused.stderr
    assert shell("agent", "cordon", "nobody").returncode == 2
