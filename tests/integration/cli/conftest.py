"""One hub for the tests of a module, and its command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import forks
from tests.support.fleet import Fleet, HubProcess
from tests.support.forks import COMMAND
from tests.support.timing import eventually_sync

APP = "tests.integration.cli.apps:agent"
WITHIN_S = 40.0


class Shell:
    """Executes `fleetline` beside a hub, as a person in an empty directory would."""

    def __init__(self, fleet: Fleet, hub: HubProcess) -> None:
        self.fleet = fleet
        self.hub = hub
        self.directory = fleet.directory / "here"
        self.directory.mkdir(exist_ok=True)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a command: it finds the hub by its data directory."""
        return self.fleet.environment(FLEETLINE_DATA=str(self.hub.data), **more)

    def __call__(
        self, *words: str, stdin: bytes = b"", environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Execute a command to its end."""
        found = forks.run(
            words, cwd=self.directory, environment=environment or self.environment(), within_s=WITHIN_S, given=stdin
        )
        assert "Traceback" not in found.stderr, found.stderr
        return found

    def done(self, *words: str, stdin: bytes = b"") -> str:
        """Execute a command that must succeed; return what it printed on standard output."""
        found = self(*words, stdin=stdin)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def json(self, *words: str) -> list[Any]:
        """Execute a command with --json that must succeed; return the objects that it printed."""
        return [json.loads(line) for line in self.done(*words, "--json").splitlines()]

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command that goes on."""
        return subprocess.Popen(
            [*COMMAND, *words],
            cwd=self.directory,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def shell() -> Iterator[Shell]:
    """A hub with an embedded store."""
    fleet = Fleet()
    hub = fleet.new_hub()
    try:
        hub.spawn()
        eventually_sync(lambda: (hub.data / "hub.json").exists() or not hub.running, 30.0)
        assert hub.running, hub.tail()
        yield Shell(fleet, hub)
    finally:
        asyncio.run(fleet.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def served(shell: Shell) -> Shell:
    """The same hub, with an agent."""
    agent = shell.fleet.agent(APP, shell.hub, agent_id="worker-1")
    serves = "worker-1 serves review, forever, release, paint, reviews, stumbles, polls from coding"
    eventually_sync(lambda: serves in agent.output() or not agent.running, 30.0)
    assert agent.running, agent.tail()
    return shell


@pytest.fixture
def somebody_elses(tmp_path: Path) -> Path:
    """A directory of another user: ours given away where we are root, else root's own."""
    if os.geteuid() != 0:
        return Path("/")
    directory = tmp_path / "theirs"
    directory.mkdir()
    os.chown(directory, 12345, 12345)
    return directory
