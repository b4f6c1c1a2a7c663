"""docs/security.md, to the letter: a hub with TLS, an enrolled agent, and an operator with a limited role."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.pages import Block, blocks_of, environment
from tests.support.timing import eventually_sync, scaled

PAGE = "docs/security.md"
FIVE_MINUTES_S = 300.0
HOST, PORT = "fleet.example.org", "7420"
NOT_PERMITTED = 4
SERVES = ("hub listening", "agent web-1 serves ")


@pytest.fixture
def port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def here(block: Block, port: str) -> str:
    """Return the commands of a block, with this machine in the place of the one that they name."""
    return block.commands.replace(HOST, "localhost").replace(PORT, port).replace("0.0.0.0", "127.0.0.1")


def run(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**environment(), "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")},
        capture_output=True,
        text=True,
        timeout=scaled(60),
        check=False,
    )


def test_who_follows_the_page_has_all_of_it_in_five_minutes(tmp_path: Path, port: str) -> None:
    began_s = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = []
    output, printed = tmp_path / "output.txt", ""
    try:
        with output.open("w") as file:
            for block in blocks_of(PAGE):
                if block.language == "python":
                    (tmp_path / block.marks[0].removeprefix("file=")).write_text(block.code)
                elif "serve" in block.marks:
                    command = ["bash", "-c", f"exec {here(block, port)}"]
                    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
                    served = subprocess.Popen(
                        command, cwd=tmp_path, env={**environment(), **home}, stdout=file, stderr=file
                    )
                    processes.append(served)
                    said = SERVES[len(processes) - 1]
                    eventually_sync(lambda said=said: said in output.read_text(), 30)  # type: ignore[misc]
                else:
                    done = run(here(block, port), tmp_path)
                    assert done.returncode == (NOT_PERMITTED if "refused" in block.marks else 0), done
                    printed += done.stdout
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=scaled(30))
    assert time.monotonic() - began_s < FIVE_MINUTES_S
    assert len(processes) == len(SERVES)
    for word in ("hello ada", "$refused", "client/ada", "agent/web-1"):
        assert word in printed, printed
