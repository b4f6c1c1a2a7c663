"""`run steer` and `run answer`: what is said to a run and asked by it, as a person sees it; and a run's family."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cli.conftest import Shell
from tests.support.timing import eventually_sync


def asking(shell: Shell, run: str, name: str) -> int:
    """Wait until a question waits; return its number."""
    found: list[Any] = []

    def look() -> bool:
        (shown,) = shell.json("run", "show", run)
        found[:] = [each for each in shown["questions"] if (each["name"], each["state"]) == (name, "open")]
        return bool(found)

    eventually_sync(look, 30)
    return int(found[0]["question"])


def test_a_run_is_steered_and_answered(served: Shell) -> None:
    run = served.done("run", "submit", "release", "--queue", "coding").strip()
    served.done("run", "steer", run, "mind the tests")
    Path(served.directory / "message.json").write_text('{"level": 2}')
    served.done("run", "steer", run, "@message.json")
    served.done("run", "steer", run, "-", stdin=b"[1]")
    assert served.done("run", "steer", run, "done", "--wait") == "applied 3\n"
    number = asking(served, run, "push")
    shown = served.done("run", "show", run)
    named = re.search(rf'question ({number}\.[0-9a-f]+)\tapprove push {{"branch":"main"}} open until ', shown)
    assert named is not None, shown
    assert '"mind the tests" delivered' in shown
    other = served("run", "answer", run, f"{number}.another", "--approve")
    assert (other.returncode, "asks something else there now" in other.stderr) == (2, True)
    assert served.done("run", "answer", run, named[1], "--approve") == f"{number}\n"
    refused = served("run", "answer", run, str(number), "--deny")
    assert (refused.returncode, f"question {number} (push)" in refused.stderr) == (2, True)
    asking(served, run, "version")
    served.done("run", "answer", run, "version", "1.1 or so")
    watched = served.done("run", "watch", run)
    assert f"question {number} (push) waits for approval" in watched
    assert f"the answer to question {number}, by client:" in watched
    (done,) = served.json("run", "show", run)
    assert done["result"] == [["mind the tests", {"level": 2}, [1]], True, "1.1 or so"]
    assert [message["state"] for message in done["messages"]] == ["delivered"] * 3 + ["applied"]
    assert [(question["state"], question["delivered"]) for question in done["questions"]] == [("answered", True)] * 2
    over = served("run", "steer", run, "hello?")
    assert (over.returncode, "succeeded" in over.stderr) == (2, True)


def test_a_handler_is_queried_while_it_works(served: Shell) -> None:
    run = served.done("run", "submit", "forever", "--queue", "coding").strip()
    eventually_sync(lambda: served("run", "query", run, "status").returncode == 0, 30)
    assert served.done("run", "query", run, "status") == '{"began":true,"of":null}\n'
    assert served.json("run", "query", run, "status", "[1]", "--timeout", "5") == [
        {"run": run, "query": "status", "reply": {"began": True, "of": [1]}}
    ]
    unknown = served("run", "query", run, "speed")
    assert (unknown.returncode, "answers no query 'speed'" in unknown.stderr) == (2, True)
    assert served.done("run", "cancel", run, "--wait", "--reason", "enough") == "cancelled\n"
    assert "cancel\tapplied by client:" in served.done("run", "show", run)
    over = served("run", "query", run, "status")
    assert (over.returncode, "is cancelled: no handler works on it" in over.stderr) == (2, True)


def test_a_question_is_answered_by_its_name_where_no_other_has_it(served: Shell) -> None:
    run = served.done("run", "submit", "polls", "--queue", "coding").strip()
    asking(served, run, "reason")
    first, second = (each for each in served.json("run", "show", run)[0]["questions"] if each["name"] == "vote")
    both = served("run", "answer", run, "vote", "yes")
    assert both.returncode == 2
    names = ", ".join(f"{each['question']}.{each['digest'][:8]} vote" for each in (first, second))
    assert f"2 questions of that name wait; those that do: {names}" in both.stderr
    served.done("run", "answer", run, "reason", "because")
    gone = served("run", "answer", run, "reason", "because")
    assert (gone.returncode, f"those that do: {names}" in gone.stderr) == (2, True)
    served.done("run", "answer", run, str(second["question"]), "no")
    served.done("run", "answer", run, "vote", "yes")
    eventually_sync(lambda: served.json("run", "show", run)[0]["result"] == ["yes", "no", "because"], 30)


def test_a_run_that_is_worked_on_shows_how_far_it_is_and_that_its_agent_is_there(served: Shell) -> None:
    run = served.done("run", "submit", "paint", "2", "--queue", "coding").strip()
    asking(served, run, "colour")
    (shown,) = served.json("run", "show", run)
    assert (shown["agent_connected"], shown["progress"]["current"], shown["progress"]["total"]) == (True, 2.0, 2.0)
    assert "progress\t2 of 2, painting" in served.done("run", "show", run)
    served.done("run", "answer", run, "red")
    eventually_sync(lambda: "progress" not in served.json("run", "show", run)[0], 30)


def test_cancel_waits_as_long_as_there_is_something_to_wait_for(served: Shell) -> None:
    queued = served.done("run", "submit", "nobody", "--queue", "nowhere").strip()
    assert served.done("run", "cancel", queued, "--wait") == "cancelled\n"
    assert "cancel\tapplied by client:" in served.done("run", "show", queued)

    asks = served.done("run", "submit", "release", "--queue", "coding").strip()
    served.done("run", "steer", asks, "done", "--wait")
    asking(served, asks, "push")
    assert served.done("run", "cancel", asks, "--wait") == "cancelled\n"
    (shown,) = served.json("run", "show", asks)
    assert (shown["cancel"]["state"], shown["questions"][0]["state"]) == ("applied", "expired")
    kinds = [entry["kind"] for entry in served.json("log", "show", asks)]
    assert kinds[-3:] == ["$cancel", "$received", "$cancelled"]

    finished = served.done("run", "submit", "review", '{"repo": "."}', "--queue", "coding").strip()
    served.done("run", "watch", finished)
    assert served.done("run", "cancel", finished, "--wait") == "succeeded\n"
    assert "$cancel" not in [entry["kind"] for entry in served.json("log", "show", finished)]


def test_a_run_with_children_that_goes_on_as_another(served: Shell) -> None:
    (done,) = served.json("run", "submit", "reviews", '{"repos": ["a", "b"]}', "--queue", "coding", "--wait")
    first = done["continues"]
    assert (done["result"], done["continued_as"]) == (1, None)
    (child,) = served.json("run", "ls", "--parent", first)
    assert (child["handler"], child["parent"]) == ("review", first)
    shown = served.done("run", "show", first)
    assert f"child 1\t{child['run']} review succeeded" in shown
    assert f"continued as\t{done['run']}" in shown
    watched = served.done("run", "watch", first)
    assert f"child 1 is run {child['run']}" in watched
    assert f"it goes on as {done['run']}" in watched
    assert "$succeeded" in watched, "of the run that it went on as"


def test_whoever_follows_a_run_is_told_the_end_of_the_one_that_it_went_on_as(served: Shell) -> None:
    run = served.done("run", "submit", "stumbles", "--queue", "coding").strip()
    for words in (("output", run, "--follow"), ("watch", run)):
        followed = served("run", *words)
        assert followed.returncode == 1, followed.stderr
    assert served("run", "output", run, "--follow").stdout == "1 more\n0 more\n"
    assert served.done("run", "output", run) == "1 more\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("steer", "RUN", "{"), "MESSAGE is not JSON"),
        (("steer", "RUN", "@missing"), "cannot be read"),
        (("query", "RUN", "status"), "is queued: no handler works on it"),
        (("query", "RUN", "No Name"), "NAME"),
        (("query", "RUN", "status", "{"), "ARGS is not JSON"),
        (("query", "RUN", "status", "--timeout", "61"), "60 s at most"),
        (("answer", "RUN"), "give one answer"),
        (("answer", "RUN", "1", "2", "3"), "give one answer"),
        (("answer", "RUN", "1", "yes", "--approve"), "give one answer"),
        (("answer", "RUN", "--approve", "--deny"), "exclude each other"),
        (("answer", "RUN", "first", "yes"), "'first': no question of that number or name waits; those that do: none"),
        (("answer", "RUN", "push", "--approve"), "no question of that number or name waits"),
        (("answer", "RUN", "--approve"), "no question waits"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_said(shell: Shell, words: tuple[str, ...], why: str) -> None:
    run = shell.done("run", "submit", "nobody", "--queue", "nowhere").strip()
    found = shell("run", *(run if word == "RUN" else word for word in words))
    assert (found.returncode, why in found.stderr) == (2, True), found.stderr
