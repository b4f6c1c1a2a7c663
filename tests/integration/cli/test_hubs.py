"""Hubs and agents started from the command line, how they end, and what the doctor says of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store.datadir import DataDirectory
from tests.integration.cli.conftest import APP, Shell
from tests.support.forks import CHECKOUT, COMMAND
from tests.support.timing import eventually_sync, scaled


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; a store that was left running in it is ended."""
    yield tmp_path
    directory = DataDirectory(tmp_path / ".fleetline")
    record = directory.record()
    if record is not None and not directory.server_lock.free():
        os.kill(record.pid, signal.SIGKILL)


def environment(here: Path) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
    return {**inherited, "PYTHONPATH": str(CHECKOUT), "XDG_STATE_HOME": str(here / "state")}


def start(here: Path, *words: str) -> subprocess.Popen[str]:
    with (here / "errors").open("w") as errors:
        return subprocess.Popen(
            [*COMMAND, *words], cwd=here, env=environment(here), stdout=subprocess.PIPE, stderr=errors, text=True
        )


def command(here: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=here, env=environment(here), capture_output=True, text=True, timeout=scaled(40)
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_hub_says_where_it_is_and_ends_in_order(here: Path, number: signal.Signals, code: int) -> None:
    hub = start(here, "hub", "start", "--listen", "127.0.0.1:0", "--json")
    assert hub.stdout is not None
    said = json.loads(hub.stdout.readline())
    assert (said["data"], said["store"], said["durability"]) == (str(here / ".fleetline"), "embedded", "local")
    assert said["pid"] == hub.pid
    assert command(here, "topic", "publish", "news", "post").returncode == 0
    told = command(here, "agent", "send", "nobody", "hello")
    assert (told.returncode, told.stdout) == (0, "1\n")
    assert "no agent 'nobody' was ever seen" in told.stderr
    hub.send_signal(number)
    hub.communicate(timeout=scaled(30))
    assert hub.returncode == code
    assert not (here / ".fleetline" / "hub.json").exists()
    errors = (here / "errors").read_text()
    assert "Traceback" not in errors, errors


def test_dev_runs_a_hub_and_an_agent_in_one_process(here: Path) -> None:
    (here / "mine.py").write_text(
        "from agent import Agent\n"
        "agent = Agent('mine')\n"
        "@agent.handler('double')\n"
        "async def double(ctx, n: int) -> int:\n"
        "    return 2 * n\n"
    )
    dev = start(here, "dev", "mine:agent", "--listen", "127.0.0.1:0")
    assert dev.stdout is not None
    assert dev.stdout.readline().startswith("hub listening at ws://127.0.0.1:")
    dev.stdout.readline()
    assert dev.stdout.readline().startswith("only this machine can reach it; --listen 0.0.0.0:")
    found = command(here, "run", "submit", "double", '{"n": 21}', "--wait")
    assert (found.returncode, found.stdout) == (0, "42\n"), found.stderr
    dev.send_signal(signal.SIGINT)
    dev.communicate(timeout=scaled(30))
    assert dev.returncode == 130
    errors = (here / "errors").read_text()
    assert "Traceback" not in errors, errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_an_agent_ends_in_order(shell: Shell, number: signal.Signals, code: int) -> None:
    agent = shell.fleet.agent(APP, shell.hub, agent_id=f"ender-{code}")
    eventually_sync(lambda: " serves " in agent.output() or not agent.running, 30.0)
    agent.signal(number)
    eventually_sync(lambda: not agent.running, 30.0)
    assert agent.exit_code == code, agent.tail()
    assert "Traceback" not in agent.output()


def test_an_agent_whose_token_is_no_good_ends(shell: Shell) -> None:
    (shell.directory / "nonsense").write_text("nonsense")
    options = ("--token-file", str(shell.directory / "nonsense"))
    agent = shell.fleet.agent(APP, shell.hub, agent_id="stranger", options=options)
    eventually_sync(lambda: not agent.running, 30.0)
    assert agent.exit_code == 4, agent.tail()
    [told] = [line for line in agent.output().splitlines() if "4506" in line]
    assert told.startswith("error: the hub ended the session with 4506")
    assert " serves " not in agent.output()


def test_the_doctor_finds_nothing_wrong_with_a_running_hub(shell: Shell) -> None:
    checks = {(check["about"], check["name"]): check for check in shell.json("doctor")}
    assert checks["store", "appendfsync"]["value"] == "always"
    assert checks["hub", "connection"]["value"] == "answers"
    assert checks["hub", "listen"]["verdict"] == "advice", "its port is not the one that the settings say"
    assert checks["data", "keys/signing.pem"]["value"] == "mode 0600"
    assert checks["settings", "data"]["note"] == "from environment"
    assert {check["verdict"] for check in checks.values()} <= {"ok", "advice"}


def test_the_doctor_says_what_to_change(shell: Shell, here: Path) -> None:
    key = shell.hub.data / "keys" / "signing.pem"
    key.chmod(0o644)
    try:
        found = shell("doctor", "--json")
    finally:
        key.chmod(0o600)
    assert found.returncode == 1
    wrong = [check for line in found.stdout.splitlines() if (check := json.loads(line))["verdict"] == "wrong"]
    assert [(check["name"], check["value"]) for check in wrong] == [("keys/signing.pem", "mode 0644")]
    assert wrong[0]["note"].startswith("chmod 600 ")
    unreachable = command(here, "doctor", "--store", "redis://127.0.0.1:1")
    assert unreachable.returncode == 1
    assert "the store does not answer" in unreachable.stdout
