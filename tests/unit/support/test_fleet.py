"""Processes of tests: started, ended, started again, and gone at the end with all their children."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.timing import eventually

SAYS = "import sys, time\nprint('up', flush=True)\ntime.sleep(600)"
PARENT = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "print(child.pid, flush=True)\ntime.sleep(600)"
)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def test_a_process_is_killed_and_started_again_with_one_log() -> None:
    async with Fleet() as fleet:
        process = fleet.program("p", [sys.executable, "-c", SAYS])
        process.spawn()
        await eventually(lambda: process.output() == "up\n")
        first = process.pid
        await process.kill()
        assert process.exit_code == -9
        process.spawn()
        await eventually(lambda: process.output() == "up\nup\n")
        assert (process.starts, process.pid != first) == (2, True)
        assert await process.terminate() == -15


async def test_nothing_outlives_the_fleet_even_frozen_or_orphaned() -> None:
    async with Fleet() as fleet:
        orphan, frozen = (fleet.program(name, [sys.executable, "-c", PARENT]) for name in ("orphan", "frozen"))
        for process in (orphan, frozen):
            process.spawn()
            await eventually(lambda process=process: process.output().strip())  # type: ignore[misc]
        children = [int(process.output()) for process in (orphan, frozen)]
        await orphan.kill()
        frozen.pause()
        assert all(map(alive, children))
    await eventually(lambda: not any(map(alive, [frozen.pid, *children])))
    assert not fleet.directory.exists()


async def fail_with_a_process() -> None:
    async with Fleet() as fleet:
        process = fleet.program("talker", [sys.executable, "-c", SAYS])
        process.spawn()
        await eventually(process.output)
        raise AssertionError("planted")


async def test_logs_are_shown_when_the_test_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="planted"):
        await fail_with_a_process()
    assert "--- talker (started 1 times)\nup\n" in capsys.readouterr().err


async def test_settings_of_the_developer_do_not_reach_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETLINE_LEASE_MS", "1")
    async with Fleet({"FLEETLINE_DRAIN_MS": "2"}) as fleet:
        environment = fleet.environment(FLEETLINE_HUB="ws://h")
        ours = {name: value for name, value in environment.items() if name.startswith("FLEETLINE_")}
        assert ours == {"FLEETLINE_DRAIN_MS": "2", "FLEETLINE_HUB": "ws://h"}
        assert environment["PATH"] == os.environ["PATH"]
