"""Real processes for tests: hubs, agents and programs, each with its log, none of which outlives its test.

    async with Fleet(tmp_path) as fleet:
        hub = await fleet.hub()
        agent = fleet.agent("tests.chaos.apps:streamer", agent_id="a1", hub=hub.url)
        async with fleet.client(hub) as client: ...
        await hub.kill()                        # SIGKILL, by pid
        await hub.start()                       # the same hub again, on the same data and port

Every wait is for a condition. When the test fails, the end of every process's log is printed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from agent.client import Client
from orchestrator.store.datadir import DataDirectory
from protocol.requests import LogRead, LogReadPage
from tests.support import forks
from tests.support.checkers import Dump
from tests.support.forks import CHECKOUT
from tests.support.timing import eventually, eventually_sync

__all__ = ["AgentProcess", "Fleet", "HubProcess", "Process", "dump_log", "free_port"]

START_WITHIN_S = 30.0
STOP_WITHIN_S = 20.0
LOG_SHOWN_BYTES = 4000


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


class Process:
    """A process that can be started again after it ended. What it prints goes to one file.

    Attributes:
        log: the file.
        starts: how often it was started.
    """

    def __init__(self, name: str, words: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self.starts = 0
        self._words = [*words]
        self._directory = directory
        self._environment = dict(environment)
        self._process: forks.Started | None = None
        self._groups: list[int] = []

    @property
    def pid(self) -> int:
        """The process as it was started last."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """What it ended with; None while it runs."""
        assert self._process is not None, f"{self.name} was not started"
        return self._process.poll()

    @property
    def resident_kib(self) -> int:
        """How much memory it has."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0])

    def spawn(self) -> None:
        """Start it, without waiting for anything."""
        assert not self.running, f"{self.name} runs already"
        with self.log.open("ab") as log:
            self._process = self._start(log)
        self._groups.append(self._process.pid)
        self.starts += 1

    def _start(self, log: IO[bytes]) -> forks.Started:
        return subprocess.Popen(
            self._words,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # so that its children can be found at the end
        )

    async def kill(self) -> None:
        """SIGKILL it alone, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def terminate(self) -> int:
        """SIGTERM it, wait, and return its exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended()

    def pause(self) -> None:
        """Freeze it, with SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self.signal(signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; it must be running."""
        assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.tail()}"
        os.kill(self.pid, number)

    async def ended(self, within_s: float = STOP_WITHIN_S) -> int:
        """Wait until it has ended and return its exit code."""
        await eventually(lambda: not self.running, within_s)
        code = self.exit_code
        assert code is not None
        return code

    def output(self) -> str:
        """Return everything that it has printed, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        """Return the end of what it has printed."""
        return self.output()[-LOG_SHOWN_BYTES:]

    def close(self) -> None:
        """Kill it and its children, of every start."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()


class Command(Process):
    """A `fleetline` command; its words are what comes after that."""

    def _start(self, log: IO[bytes]) -> forks.Started:
        return forks.start(self._words, cwd=self._directory, environment=self._environment, output=log)


class AgentProcess(Command):
    """An agent's process."""

    def __init__(
        self, name: str, words: Sequence[str], directory: Path, environment: Mapping[str, str], agent_id: str
    ) -> None:
        super().__init__(name, words, directory, environment)
        self.agent_id = agent_id

    async def connected(self, client: Client) -> None:
        """Wait until a hub says that the agent is there."""

        async def look() -> bool:
            assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.tail()}"
            return any(agent.agent == self.agent_id and agent.connected for agent in await client.agents())

        await eventually(look, START_WITHIN_S)


class HubProcess(Command):
    """A hub's process, and the store that it uses."""

    def __init__(
        self, name: str, words: Sequence[str], directory: Path, environment: Mapping[str, str], data: Path, port: int
    ) -> None:
        super().__init__(name, words, directory, environment)
        self.data = data
        self.port = port

    @property
    def url(self) -> str:
        """Where peers connect."""
        return f"ws://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, for a proxy."""
        return "127.0.0.1", self.port

    @property
    def token(self) -> str:
        """A token that permits everything here."""
        return (self.data / "local.token").read_text().strip()

    async def start(self) -> None:
        """Start it and wait until it takes connections."""
        self.spawn()
        await eventually(self._ready, START_WITHIN_S)

    async def restart(self) -> None:
        """SIGKILL it, and start it again."""
        await self.kill()
        await self.start()

    @property
    def store_pid(self) -> int:
        """The embedded store's server process."""
        record = DataDirectory(self.data).record()
        assert record is not None, "there is no embedded store"
        return record.pid

    @property
    def store_socket(self) -> Path:
        """The embedded store's socket."""
        record = DataDirectory(self.data).record()
        assert record is not None, "there is no embedded store"
        return record.socket

    def kill_store(self) -> None:
        """SIGKILL the embedded store's server."""
        os.kill(self.store_pid, signal.SIGKILL)

    def _ready(self) -> bool:
        assert self.running, f"{self.name} ended with {self.exit_code}:\n{self.tail()}"
        try:
            said = json.loads((self.data / "hub.json").read_text())
        except (OSError, ValueError):
            return False
        if said.get("pid") != self.pid:
            return False
        with socket.socket() as sock:
            return sock.connect_ex(self.address) == 0

    def close(self) -> None:
        """Kill it, and the embedded store that it leaves."""
        super().close()
        directory = DataDirectory(self.data)
        if not directory.store.is_dir() or directory.server_lock.free():
            return
        record = directory.record()
        if record is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, signal.SIGKILL)
        eventually_sync(directory.server_lock.free)


class Fleet:
    """All processes of one test. An async context manager.

    Attributes:
        directory: where logs, data and scratch files go; its path is short.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Give settings to every process as environment variables."""
        self.directory = Path(tempfile.mkdtemp(prefix="fleetline-test-", dir="/tmp"))
        self._environment = dict(environment or {})
        self._processes: list[Process] = []

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process: this one's without settings of Fleetline, and what the test gives."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("FLEETLINE_")}
        paths = {"PYTHONPATH": str(CHECKOUT), "XDG_STATE_HOME": str(self.directory), "PYTHONUNBUFFERED": "1"}
        return {**inherited, **paths, **self._environment, **more}

    def new_hub(
        self,
        name: str = "hub",
        *,
        data: Path | None = None,
        port: int | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> HubProcess:
        """Return a hub that is not started yet; `options` are further words of `fleetline hub start`."""
        data = data or self.directory / f"{name}-data"
        port = port or free_port()
        words = ["hub", "start", "--data", str(data), "--listen", f"127.0.0.1:{port}", *options]
        hub = HubProcess(name, words, self.directory, self.environment(**(environment or {})), data, port)
        self._processes.append(hub)
        return hub

    async def hub(self, name: str = "hub", *, options: Sequence[str] = ()) -> HubProcess:
        """Start a hub with an embedded store (or `--store` among the options) and wait until it is ready."""
        hub = self.new_hub(name, options=options)
        await hub.start()
        return hub

    def agent(
        self,
        app: str,
        hub: HubProcess,
        *,
        agent_id: str,
        name: str | None = None,
        url: str | None = None,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> AgentProcess:
        """Start an agent, without waiting for it.

        Args:
            app: `module:attribute`.
            hub: whose token it comes with.
            agent_id: its id.
            name: what its log is called; the id, without.
            url: where it connects, where that is not the hub itself.
            options: further words of `fleetline agent start`.
            environment: settings of its own.
        """
        words = ["agent", "start", app, "--id", agent_id, *options]
        surroundings = self.environment(FLEETLINE_HUB=url or hub.url, FLEETLINE_TOKEN=hub.token, **(environment or {}))
        process = AgentProcess(name or agent_id, words, self.directory, surroundings, agent_id)
        self._processes.append(process)
        process.spawn()
        return process

    def program(self, name: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> Process:
        """Return a process of the test's own, not started yet."""
        process = Process(name, words, self.directory, self.environment(**(environment or {})))
        self._processes.append(process)
        return process

    async def command(self, hub: HubProcess, *words: str, within_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Execute a `fleetline` command against a hub and return how it ended."""
        environment = self.environment(FLEETLINE_HUB=hub.url, FLEETLINE_TOKEN=hub.token)
        return await asyncio.to_thread(forks.run, words, cwd=self.directory, environment=environment, within_s=within_s)

    async def __aenter__(self) -> Self:
        """Return the fleet."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill whatever runs; print the logs where the test failed."""
        for process in reversed(self._processes):
            process.close()
        if error is not None:
            for process in self._processes:
                print(f"--- {process.name} (started {process.starts} times)\n{process.tail()}", file=sys.stderr)
        shutil.rmtree(self.directory, ignore_errors=True)


async def dump_log(client: Client, log: str) -> Dump:
    """Read a log through the hub, as the hub gives it: all that is there when the first answer is made.

    What is appended meanwhile may be in it or not. A reader that is slower than the writer would never see the end.
    """
    pages: list[LogReadPage] = [await client.ask("log.read", LogRead(log=log, after=0))]
    head = pages[0].head
    while pages[-1].after.offset < head:
        pages.append(await client.ask("log.read", LogRead(log=log, after=pages[-1].after.offset)))
    return Dump.of(log, pages)
