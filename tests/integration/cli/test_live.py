"""Live views on a real terminal: what is seen, what is left, and that nothing a run says reaches it raw."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from tests.integration.cli.conftest import Shell
from tests.integration.cli.test_runs import submit
from tests.support.forks import COMMAND
from tests.support.timing import eventually_sync, scaled

CTRL_C = b"\x03"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"
RAW = ("\x1b[2J", "\x1b]0;", "\x07", "\x9b", "\x1b[1;1H", "\u202e")
"""What the handler `paint` says, as no terminal may be told it."""


class Terminal:
    """A command on a terminal of its own, and everything that was written to it."""

    def __init__(self, shell: Shell, words: tuple[str, ...]) -> None:
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._written = bytearray()
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *COMMAND, *words],  # its controlling terminal: Ctrl-C is typed, not sent
            cwd=shell.directory,
            env={**shell.environment(), "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        self._reading = Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._master, 65536)
            except OSError:  # the command has ended
                return
            self._written += part

    @property
    def raw(self) -> str:
        return self._written.decode()

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.raw)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def sees(self, *said: str) -> None:
        eventually_sync(lambda: all(part in self.text for part in said) or self.process.poll() is not None, 20.0)
        assert all(part in self.text for part in said), self.text

    def end(self) -> int:
        code = self.process.wait(scaled(20.0))
        self._reading.join(scaled(10.0))
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.end()
        os.close(self._master)


@contextmanager
def terminal(shell: Shell, *words: str) -> Iterator[Terminal]:
    opened = Terminal(shell, words)
    try:
        yield opened
    finally:
        opened.close()


def test_a_run_is_watched_asked_about_and_summed_up_on_a_terminal(served: Shell) -> None:
    run = submit(served, "paint")
    with terminal(served, "run", "watch", run) as seen:
        answer = f"fleetline run answer {run} "
        seen.sees(
            f"{run} running", "paint on coding, attempt 1 by worker-1", "100%  3 of 3  painting", answer, "line 2"
        )
        question = re.search(rf"{answer}(\d+\.[0-9a-f]+) VALUE", seen.text)
        assert question is not None
        served.done("run", "answer", run, question[1], "red")
        assert seen.end() == 0
        summary = seen.text.rpartition(f"{run} ")[2]
        assert summary.startswith("succeeded")
        assert 'result: "red"' in summary
        assert [part for part in RAW if part in seen.raw] == []
        assert seen.raw.rindex(SHOW_CURSOR) > seen.raw.rindex(HIDE_CURSOR)


def test_ctrl_c_leaves_the_terminal_clean_and_the_run_alone(served: Shell) -> None:
    run = submit(served, "forever")
    with terminal(served, "run", "watch", run) as seen:
        seen.sees("began")
        seen.press(CTRL_C)
        assert seen.end() == 130
        assert seen.raw.rindex(SHOW_CURSOR) > seen.raw.rindex(HIDE_CURSOR)
        assert "Traceback" not in seen.text
    with terminal(served, "run", "watch", run, "--plain") as seen:
        seen.sees("-- attempt 1 on worker-1 --", "began")
        served.done("run", "cancel", run, "--wait")
        assert seen.end() == 3
        assert HIDE_CURSOR not in seen.raw


@pytest.fixture
def hung_up_on() -> Iterator[None]:
    """Have commands heed SIGHUP, also where the tests were started so that they outlive the terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hung_up_on")
@pytest.mark.parametrize(("view", "number"), [("watch", signal.SIGTERM), ("top", signal.SIGHUP)])
def test_a_view_that_is_ended_by_a_signal_leaves_the_terminal_clean(
    served: Shell, view: str, number: signal.Signals
) -> None:
    run = submit(served, "forever")
    words = ("run", "watch", run) if view == "watch" else ("top",)
    with terminal(served, *words) as seen:
        seen.sees("began" if view == "watch" else "worker-1")
        seen.process.send_signal(number)
        assert seen.end() == -number, "whoever waits for it sees what ended it"
        assert seen.raw.rindex(SHOW_CURSOR) > seen.raw.rindex(HIDE_CURSOR)
        assert "Traceback" not in seen.text
    served.done("run", "cancel", run, "--wait")


def test_the_terminal_is_painted_no_more_than_ten_times_a_second_by_a_chatty_run(served: Shell) -> None:
    run = submit(served, "paint", '{"lines": 3000}')
    with terminal(served, "run", "watch", run) as seen:
        seen.sees("3000 of 3000", "line 2999")
        served.done("run", "answer", run, "red")
        assert seen.end() == 0
        [shown] = served.json("run", "show", run)
        took_s = (shown["finished_ms"] - shown["submitted_ms"]) / 1000
        assert seen.raw.count(f"{run}") <= 10 * took_s + 40, (
            "each painting has the run's id, and its question once more"
        )


def test_several_runs_are_watched_at_once(served: Shell) -> None:
    good = submit(served, "review", '{"repo": "."}')
    bad = submit(served, "review", '{"repo": ".", "fail": true}', "--retries", "0")
    found = served("run", "watch", good, bad)
    assert found.returncode == 1
    assert {line.partition(" ")[0] for line in found.stdout.splitlines()} == {good, bad}


def test_one_look_at_the_fleet(served: Shell) -> None:
    run = submit(served, "forever")
    eventually_sync(lambda: served.json("run", "show", run)[0]["state"] == "running", 20.0)
    [look] = served.json("top", "--once")
    [worker] = [agent for agent in look["agents"] if agent["agent"] == "worker-1"]
    assert (worker["state"], worker["slots"]) == ("connected", 2)
    assert run in worker["runs"]
    assert [queue["active"] > 0 for queue in look["queues"] if queue["queue"] == "coding"] == [True]
    assert look["totals"]["slots"] == 2
    served.done("run", "cancel", run, "--wait")
    total, *rows = served.done("top", "--once").splitlines()
    assert total.startswith("total\t1 of 1 agents connected, ")
    assert any(re.match(r"agent\tworker-1\tconnected\t0/2\t", row) for row in rows)


def test_the_fleet_is_seen_live_until_ctrl_c(served: Shell) -> None:
    with terminal(served, "top", "--every", "0.5") as seen:
        seen.sees("1 of 1 agents connected", "worker-1", "coding", "open")
        served.done("queue", "pause", "coding")
        seen.sees("paused")
        served.done("queue", "resume", "coding")
        seen.press(CTRL_C)
        assert seen.end() == 130
        assert seen.raw.rindex(SHOW_CURSOR) > seen.raw.rindex(HIDE_CURSOR)
        assert "Traceback" not in seen.text
