"""A hub of ours with its embedded store, as processes of a benchmark."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from orchestrator.store.datadir import DataDirectory
from scripts.bench.lib.child import ChildFailed, stop

__all__ = ["Hub"]

START_S = 60.0
POLL_S = 0.005


class Hub:
    """A hub on a data directory. It can be killed, and started again on the same directory.

    Args:
        data: the directory.
        workers: processes that share the work.
    """

    def __init__(self, data: Path, workers: int = 1) -> None:
        data.mkdir(parents=True, exist_ok=True)
        self.data = data
        self._log = data / "hub.log"
        self._workers = workers
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> str:
        """Start it, wait until it listens, and return its address."""
        announced = self.data / "hub.json"
        announced.unlink(missing_ok=True)
        command = ["-m", "orchestrator.cli.main", "hub", "start", "--data", str(self.data), "--listen", "127.0.0.1:0"]
        if self._workers > 1:
            command += ["--workers", str(self._workers)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                self.url = str(json.loads(announced.read_text())["url"])
                return self.url
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(POLL_S)
        raise ChildFailed(f"the hub did not start: {self._log.read_text()[-2000:]}")

    @property
    def pid(self) -> int:
        """The hub's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def store_pid(self) -> int:
        """The process id of its store."""
        record = DataDirectory(self.data).record()
        if record is None:
            raise ChildFailed(f"no store runs on {self.data}")
        return record.pid

    def kill(self) -> None:
        """End it at once, as a crash would; its store goes on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End it in good order, and its store with it."""
        if self._process is not None:
            stop(self._process)
