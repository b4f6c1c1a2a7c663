"""docs/security.md, to the letter: a hub with TLS, an enrolled agent, and an operator with a limited role."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.pages import Block, blocks_of, environment, run
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


def told(block: Block, port: str, folder: Path) -> str:
    """Return what a block prints, which may still be that there is nothing."""
    return run(f"{{ {here(block, port)}\n}} || true", folder, home=folder)


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
                    served = subprocess.Popen(
                        command, cwd=tmp_path, env=environment(tmp_path), stdout=file, stderr=file
                    )
                    processes.append(served)
                    said = SERVES[len(processes) - 1]
                    eventually_sync(lambda said=said: said in output.read_text(), 30)  # type: ignore[misc]
                elif "later" in block.marks:
                    eventually_sync(lambda block=block: "$refused" in told(block, port, tmp_path), 30)  # type: ignore[misc]
                    printed += run(here(block, port), tmp_path, home=tmp_path)
                else:
                    code = NOT_PERMITTED if "refused" in block.marks else 0
                    printed += run(here(block, port), tmp_path, code=code, home=tmp_path)
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=scaled(30))
    assert time.monotonic() - began_s < FIVE_MINUTES_S
    assert len(processes) == len(SERVES)
    for word in ("hello ada", "$refused", "client/ada", "agent/web-1"):
        assert word in printed, printed
