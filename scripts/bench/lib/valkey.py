"""A Valkey server for the job queues of others, with the program and the settings of our embedded store."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from orchestrator.store.embedded import SETTINGS, server_program
from scripts.bench.lib.child import ChildFailed, stop

__all__ = ["Valkey"]

START_S = 20.0
POLL_S = 0.01


class Valkey:
    """A server of our own, with its files in `folder`, on a Unix socket as our embedded store's is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "s"
        settings = {**SETTINGS, "unixsocket": str(self.path), "dir": str(folder)}
        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        self._log = folder / "server.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen([str(server_program()), *arguments], stdout=log, stderr=log)
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until and self.process.poll() is None:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(self.path)) == 0:
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16).startswith(b"+PONG"):
                        return
            time.sleep(POLL_S)
        raise ChildFailed(f"the server did not start: {self._log.read_text()[-2000:]}")

    def close(self) -> None:
        """End it."""
        stop(self.process)
