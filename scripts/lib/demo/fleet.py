"""The demo's processes: a hub and three agents, started as anybody would start them, and ways to hurt them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import TracebackType

__all__ = ["Fleet", "free_port"]

HERE = Path(__file__).parent
COMMAND = (sys.executable, "-m", "orchestrator.cli.main")
ROOT = HERE.parents[2]
STOP_S = 10.0
START_S = 20.0


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Fleet:
    """One hub with its embedded store, and agents by name. Ends what it started when it is left."""

    def __init__(self, folder: Path) -> None:
        """Use a folder for the hub's data and for what each process writes to standard error."""
        self.folder = folder
        self.data = folder / "data"
        self.port = free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._hubs: dict[str, str] = {}
        self._doomed: set[str] = set()

    async def __aenter__(self) -> Fleet:
        """Start the hub."""
        await self.start_hub()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process, the hub last."""
        for name in reversed(list(self._processes)):
            await self._stop(name)

    async def start_hub(self) -> None:
        """Start the hub and wait until it listens; a store that a killed hub left is taken over."""
        listen = f"127.0.0.1:{self.port}"
        await self._start("hub", "hub", "start", "--data", str(self.data), "--listen", listen)
        async with asyncio.timeout(START_S):
            while not _listens(self.port):
                if self._processes["hub"].returncode is not None:
                    raise RuntimeError(f"the hub did not start; see {self.folder / 'hub.log'}")
                await asyncio.sleep(0.02)

    async def start_agent(self, name: str, url: str | None = None) -> None:
        """Start an agent; `url` is where it reaches the hub, where that is not directly."""
        self._hubs[name] = url or self._hubs.get(name, self.url)
        token = str(self.data / "local.token")
        where = ("--hub", self._hubs[name], "--token-file", token)
        await self._start(name, "agent", "start", "analyser:agent", "--id", name, *where)

    async def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = self._processes[name]
        self._doomed.add(name)
        process.send_signal(signal.SIGKILL)
        await process.wait()

    def pause(self, name: str) -> None:
        """Freeze a process: what it is found to hold, it still holds when it is killed."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a frozen process go on."""
        self._processes[name].send_signal(signal.SIGCONT)

    async def guard(self) -> None:
        """Watch for a process that ends without having been killed.

        Raises:
            RuntimeError: one did.
        """
        while True:
            for name, process in self._processes.items():
                if process.returncode is not None and name not in self._doomed:
                    raise RuntimeError(f"{name} ended by itself; its last words: {self._last_words(name)}")
            await asyncio.sleep(0.2)

    def _last_words(self, name: str) -> str:
        lines = (self.folder / f"{name}.log").read_text(errors="replace").splitlines()
        return lines[-1] if lines else "none"

    async def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as output:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *COMMAND,
                *arguments,
                cwd=HERE,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._doomed.discard(name)

    async def _stop(self, name: str) -> None:
        process = self._processes[name]
        if process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0
