"""A command that is forked is a process of its own, like one that an interpreter was started for."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support import forks
from tests.support.timing import eventually_sync

WITHIN_S = 20.0
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
NO_HUB = {**ENVIRONMENT, "FLEETLINE_HUB": "127.0.0.1:1"}


@pytest.fixture(params=[True, False], ids=["forked", "executed"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do it in both ways."""
    monkeypatch.setattr(forks, "FORKS", request.param)


@pytest.mark.usefixtures("either")
def test_a_command_has_its_own_directory_environment_input_and_exit_code(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("two words")
    words = ("topic", "publish", "news", "post", "-", "--token-file", "token")
    found = forks.run(words, cwd=tmp_path, environment=NO_HUB, within_s=WITHIN_S, given=b"{}")
    assert (found.returncode, found.stdout) == (2, "")
    assert "token does not hold one token" in found.stderr
    broken = {**ENVIRONMENT, "FLEETLINE_HUB": "nowhere"}
    found = forks.run(("run", "ls"), cwd=tmp_path, environment=broken, within_s=WITHIN_S)
    assert (found.returncode, found.stdout) == (2, "")
    assert "FLEETLINE_HUB: 'nowhere' is not the address of a hub" in found.stderr
    found = forks.run(("--help",), cwd=tmp_path, environment=ENVIRONMENT, within_s=WITHIN_S)
    assert (found.returncode, found.stderr) == (0, "")
    assert "durable control channel" in found.stdout


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, -15), (signal.SIGINT, 130)])
def test_a_command_leads_a_session_and_is_ended_by_a_signal(tmp_path: Path, number: int, code: int) -> None:
    with socket_that_never_answers() as listener, (tmp_path / "log").open("w+b") as log:
        hub = f"127.0.0.1:{listener.getsockname()[1]}"
        words = ["run", "ls", "--hub", hub]
        process = forks.start(words, cwd=tmp_path, environment=ENVIRONMENT, output=log)
        listener.settimeout(WITHIN_S)
        with listener.accept()[0]:
            assert (process.poll(), os.getsid(process.pid)) == (None, process.pid)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.01)
            os.kill(process.pid, number)
            eventually_sync(lambda: process.poll() == code)
        assert process.wait() == code
        process.kill()


def socket_that_never_answers() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))
