"""A hub reduced to its store: takes a data directory, says where the store is, and watches it.

    python -m tests.support.embedded_hub DATA [GRACE_S [UID]]

Prints one JSON line, {"url", "pid"} once the store answers or {"error", "kind"}, and ends on SIGTERM.
`Hubs` starts such processes and leaves none behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from orchestrator.store.base import StoreError
from orchestrator.store.datadir import DataDirectory
from orchestrator.store.embedded import EmbeddedStore
from tests.support.timing import eventually_sync

__all__ = ["HubProcess", "Hubs"]

CHECKOUT = Path(__file__).parents[2]


class HubProcess:
    """A hub process and what it said of its store."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: dict[str, str] = {}

    @property
    def url(self) -> str:
        """The store's address."""
        return self.said["url"]

    @property
    def store_pid(self) -> int:
        """The server's process, as it was when the hub had started."""
        return int(self.said["pid"])

    def wait_for_store(self) -> dict[str, str]:
        """Return what the process says first; one that has no store ends after it."""
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())
        if "error" in self.said:
            self.process.communicate()
        return self.said

    def kill(self) -> None:
        """SIGKILL the hub alone, and wait until it is gone."""
        self.process.kill()
        self.process.communicate()

    def stop(self) -> int:
        """SIGTERM the hub, wait, and return its exit code."""
        self.process.terminate()
        self.process.communicate()
        return self.process.returncode


class Hubs:
    """Hub processes of one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._hubs: list[HubProcess] = []

    def spawn(
        self, *, grace_s: float = 30.0, uid: int | None = None, environment: Mapping[str, str] | None = None
    ) -> HubProcess:
        """Start a hub process without waiting for it."""
        command = [sys.executable, "-m", "tests.support.embedded_hub", str(self.data), str(grace_s)]
        if uid is not None:
            command.append(str(uid))
        process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True)
        self._hubs.append(HubProcess(process))
        return self._hubs[-1]

    def start(self, *, grace_s: float = 30.0, environment: Mapping[str, str] | None = None) -> HubProcess:
        """Start a hub process and wait for its store."""
        hub = self.spawn(grace_s=grace_s, environment=environment)
        said = hub.wait_for_store()
        assert "url" in said, said
        return hub

    def close(self) -> None:
        """Kill what still runs: hubs first, then the server they left."""
        for hub in self._hubs:
            if hub.process.returncode is None:
                hub.kill()
        directory = DataDirectory(self.data)
        if not directory.store.is_dir() or directory.server_lock.free():
            return
        if (record := directory.record()) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
        eventually_sync(directory.server_lock.free)


async def run(data: Path, grace_s: float) -> None:
    """Be the hub."""
    store = EmbeddedStore(data, orphan_grace_s=grace_s)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    try:
        url = await store.start()
    except StoreError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}), flush=True)
        return
    print(json.dumps({"url": url, "pid": store.pid}), flush=True)
    watching = asyncio.create_task(store.watch())
    await stopping.wait()
    watching.cancel()
    await asyncio.wait([watching])
    await store.stop()


def main(data: str, grace_s: str = "30", uid: str | None = None) -> None:
    """Become another user where one is named, and run."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    if uid is not None:
        # Everything needed is imported by now: the other user may not be able to read the interpreter's files.
        os.setuid(int(uid))
    asyncio.run(run(Path(data), float(grace_s)))


if __name__ == "__main__":
    main(*sys.argv[1:])
