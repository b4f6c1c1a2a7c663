"""`run steer` and `run answer`: what is said to a run and asked by it, as a person sees it."""

from __future__ import annotations

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
    assert f'question {number}\tapprove push {{"branch":"main"}} open until ' in shown
    assert '"mind the tests" delivered' in shown
    assert served.done("run", "answer", run, str(number), "--approve") == f"{number}\n"
    refused = served("run", "answer", run, str(number), "--deny")
    assert (refused.returncode, f"question {number} (push)" in refused.stderr) == (2, True)
    asking(served, run, "version")
    served.done("run", "answer", run, "1.1 or so")
    watched = served.done("run", "watch", run)
    assert f"question {number} (push) waits for approval" in watched
    assert f"the answer to question {number}, by client:" in watched
    (done,) = served.json("run", "show", run)
    assert done["result"] == [["mind the tests", {"level": 2}, [1]], True, "1.1 or so"]
    assert [message["state"] for message in done["messages"]] == ["delivered"] * 3 + ["applied"]
    assert [question["state"] for question in done["questions"]] == ["answered"] * 2
    over = served("run", "steer", run, "hello?")
    assert (over.returncode, "succeeded" in over.stderr) == (2, True)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("steer", "RUN", "{"), "MESSAGE is not JSON"),
        (("steer", "RUN", "@missing"), "cannot be read"),
        (("answer", "RUN"), "give one answer"),
        (("answer", "RUN", "1", "2", "3"), "give one answer"),
        (("answer", "RUN", "1", "yes", "--approve"), "give one answer"),
        (("answer", "RUN", "--approve", "--deny"), "exclude each other"),
        (("answer", "RUN", "first", "yes"), "no number of a question"),
        (("answer", "RUN", "push", "--approve"), "no number of a question"),
        (("answer", "RUN", "--approve"), "no question waits"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_said(shell: Shell, words: tuple[str, ...], why: str) -> None:
    run = shell.done("run", "submit", "nobody", "--queue", "nowhere").strip()
    found = shell("run", *(run if word == "RUN" else word for word in words))
    assert (found.returncode, why in found.stderr) == (2, True), found.stderr
