"""`fleetline agent exec`: agents whose runs are programs, as processes, and what becomes of them when those end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.cli.conftest import Shell
from tests.support.programs import group_is_gone, has_ended, python
from tests.support.timing import eventually_sync, scaled


@contextmanager
def executing(shell: Shell, queue: str, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Start an agent for a queue of its own, and wait until it serves; kill it at the end."""
    agent = shell.start("agent", "exec", "--id", queue, "--queue", queue, *words)
    assert agent.stderr is not None
    try:
        assert f"agent {queue} serves " in agent.stderr.readline()
        yield agent
    finally:
        agent.kill()
        agent.communicate(timeout=scaled(20))


def entries(here: Shell, run: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = here.json("log", "show", run)
    return found


def bodies(here: Shell, run: str, kind: str) -> list[object]:
    return [entry["body"] for entry in entries(here, run) if entry["kind"] == kind]


def begun(here: Shell, queue: str, kind: str = "group") -> tuple[str, int]:
    """Submit a run and wait until it said something of a kind. Returns the run and its group."""
    [run] = here.done("run", "submit", "it", "--queue", queue).split()
    eventually_sync(lambda: bool(bodies(here, run, kind)), 30.0)
    [group] = bodies(here, run, "group")
    assert isinstance(group, int)
    return run, group


def test_any_program_is_an_agent(shell: Shell) -> None:
    script = shell.directory / "Lint.sh"
    script.write_text('#!/bin/sh\nread -r input\necho "checking $input"\nexit "$1"\n')
    script.chmod(0o755)
    with executing(shell, "linting", "--plain", "--slots", "2", "--label", "os=any", "--", "./Lint.sh", "0"):
        words = ("run", "submit", "lint.sh", '{"path": "."}', "--queue", "linting")
        found = shell(*words, "--follow", "--json")
        assert found.returncode == 0, found.stderr
        said = [json.loads(line) for line in found.stdout.splitlines()]
        assert [(one["kind"], one["body"]) for one in said[2:-1]] == [("stdout", {"text": 'checking {"path":"."}'})]
        assert (said[-1]["kind"], said[-1]["body"]) == ("$succeeded", {"result": None})
        run = said[0]["log"].removeprefix("run/")
        written = shell("run", "output", run, "--follow")
        assert (written.returncode, written.stdout, written.stderr) == (0, 'checking {"path":"."}\n', "")
        assert [entry["kind"] for entry in shell.json("run", "output", run)] == ["stdout"]
        [info] = shell.json("agent", "show", "linting")
        assert (info["slots"], info["labels"], info["queues"]) == (2, {"os": "any"}, ["linting"])


def test_what_a_program_attaches_is_listed_and_fetched(shell: Shell) -> None:
    (shell.directory / "report.txt").write_bytes(b"all is well\n")
    attach = """echo '{"type": "attach", "path": "report.txt"}'; echo '{"type": "result", "result": 1}'"""
    with executing(shell, "reporting", "--handler", "it", "--", "sh", "-c", attach):
        run = shell.done("run", "submit", "it", "--queue", "reporting").strip()
        shell.done("run", "watch", run)
        [line] = shell.done("run", "fetch", run).splitlines()
        assert line.split("\t")[:3] == ["report.txt", "12", "1"]
        [listed] = shell.json("run", "fetch", run)
        assert shell.json("run", "show", run)[0]["artifacts"] == [listed]
        assert "report.txt (12 bytes)" in shell.done("run", "show", run)
        assert shell.done("run", "fetch", run, "report.txt", "-o", "-") == "all is well\n"
        (shell.directory / "got").mkdir()
        shell.done("run", "fetch", run, "report.txt", "-o", "got")
        assert (shell.directory / "got" / "report.txt").read_bytes() == b"all is well\n"
        missing = shell("run", "fetch", run, "other.txt")
        assert (missing.returncode, missing.stdout) == (2, "")
        assert "has no artifact 'other.txt'; it has 'report.txt'" in missing.stderr
        assert shell("run", "fetch", run, "-o", "x").returncode == 2


def test_a_program_that_fails_is_told_with_the_end_of_standard_error(shell: Shell) -> None:
    options = ("--handler", "it", "--retries", "1", "--plain")
    with executing(shell, "failing", *options, "--", "sh", "-c", "echo no such branch >&2; exit 3"):
        found = shell("run", "submit", "it", "--queue", "failing", "--wait")
        assert found.returncode == 1
        assert "sh ended with exit code 3; standard error ends with: no such branch" in found.stderr
        run = found.stderr.splitlines()[0].removeprefix("run ")
        written = shell("run", "output", run)
        assert (written.returncode, written.stdout) == (0, "")
        assert written.stderr == "no such branch\n-- attempt 2 --\nno such branch\n"
        assert shell("run", "output", run, "--follow").returncode == 1


def test_cancel_waits_for_the_ladder_and_the_rung_is_in_the_log(shell: Shell) -> None:
    program = python("ignore_sigterm(); grandchild(STUBBORN); time.sleep(600)")
    graces = ("--message-grace", "0.2", "--term-grace", "0.3")
    with executing(shell, "stubborn", "--handler", "it", *graces, "--", *program):
        run, group = begun(shell, "stubborn", "stdout")
        assert shell.done("run", "cancel", run, "--wait") == "cancelled\n"
        assert group_is_gone(group)
        assert bodies(shell, run, "stopped") == [{"why": "cancelled", "rung": "sigkill", "signal": "SIGKILL"}]


def test_when_the_agent_is_killed_nothing_of_its_programs_is_left(shell: Shell) -> None:
    program = python("say(type='event', kind='guard', body=os.getppid()); grandchild(STUBBORN); time.sleep(600)")
    with executing(shell, "killed", "--handler", "it", "--", *program) as agent:
        run, group = begun(shell, "killed", "stdout")
        [guard] = bodies(shell, run, "guard")
        assert isinstance(guard, int)
        agent.send_signal(signal.SIGKILL)
        eventually_sync(lambda: group_is_gone(group) and has_ended(guard))
        shell.done("run", "cancel", run)


def test_when_the_guard_is_killed_and_the_agent_can_do_nothing_the_program_ends_all_the_same(shell: Shell) -> None:
    program = python("say(type='event', kind='guard', body=os.getppid()); time.sleep(600)")
    with executing(shell, "frozen", "--handler", "it", "--", *program) as agent:
        run, group = begun(shell, "frozen", "guard")
        [guard] = bodies(shell, run, "guard")
        assert isinstance(guard, int)
        agent.send_signal(signal.SIGSTOP)
        os.kill(guard, signal.SIGKILL)
        eventually_sync(lambda: has_ended(group))
        shell.done("run", "cancel", run)


def test_sigterm_lets_the_program_finish(shell: Shell) -> None:
    program = python(
        "say(type='event', kind='ready')\nwhile not os.path.exists('go'): time.sleep(0.01)\n"
        "say(type='result', result='done')"
    )
    with executing(shell, "drained", "--handler", "it", "--", *program) as agent:
        run, group = begun(shell, "drained", "ready")
        agent.send_signal(signal.SIGTERM)
        eventually_sync(lambda: not group_is_gone(group))
        (shell.directory / "go").touch()
        assert agent.wait(scaled(20)) == 0
        [shown] = shell.json("run", "show", run)
        assert (shown["state"], shown["result"]) == ("succeeded", "done")


def test_a_second_signal_hands_the_run_back_and_leaves_nothing(shell: Shell) -> None:
    with executing(
        shell, "hurried", "--handler", "it", "--", *python("grandchild(STUBBORN); time.sleep(600)")
    ) as agent:
        run, group = begun(shell, "hurried", "stdout")
        agent.send_signal(signal.SIGINT)
        assert agent.stderr is not None
        while "agent_draining" not in agent.stderr.readline():
            assert agent.poll() is None
        agent.send_signal(signal.SIGINT)
        assert agent.wait(scaled(20)) == 130
        assert group_is_gone(group)
        [shown] = shell.json("run", "show", run)
        assert shown["state"] == "queued"
        shell.done("run", "cancel", run)
