"""What a power cut would leave of a store: the server under a shim, killed, and its file cut to the last sync.

Killing a process proves nothing about fsync, since what it wrote stays in the page cache. The shim
(`fsync_shim.c`) records the append-only file's size at each sync; `cut_to_synced` throws away the rest.

    shim = build_shim(tmp_path)
    with ShimmedServer(tmp_path / "store", shim) as server:
        server.start()
        ...                         # write through server.client() or server.url
        server.kill()
        server.cut_to_synced()
        server.start()
        ...                         # everything acknowledged is there

A whole hub runs under it as well: start it with `shim_environment(...)`, which its embedded store inherits,
kill hub and server, and call `cut_to_synced(ledger)`. Mark such tests `@pytest.mark.needs("gcc")`.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import redis

from orchestrator.store.embedded import SETTINGS, server_program
from tests.support.timing import eventually_sync, scaled

__all__ = ["ShimmedServer", "build_shim", "cut_to_synced", "shim_environment", "synced_sizes"]

LEDGER = "FLEETLINE_FSYNC_LEDGER"
SOURCE = Path(__file__).with_suffix(".c")


def build_shim(directory: Path) -> Path:
    """Compile the shim into a directory and return its path."""
    shim = directory / "fsync_shim.so"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(shim), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return shim


def shim_environment(shim: Path, ledger: Path) -> dict[str, str]:
    """Return the environment of a process whose server's syncs go to the ledger."""
    return {**os.environ, "LD_PRELOAD": str(shim), LEDGER: str(ledger)}


def synced_sizes(ledger: Path) -> dict[Path, int]:
    """Return the size that each append-only file had at its last sync; nothing where none was synced."""
    sizes: dict[Path, int] = {}
    if not ledger.exists():
        return sizes
    for line in ledger.read_text().splitlines():
        path, _, size = line.rpartition(" ")
        sizes[Path(path)] = int(size)
    return sizes


def cut_to_synced(ledger: Path, directory: Path) -> int:
    """Cut every append-only file under a directory to its last synced size; return how many bytes went.

    Call it while no server runs. A file that was never synced is emptied.
    """
    sizes = synced_sizes(ledger)
    lost = 0
    for path in directory.resolve().rglob("*.incr.aof"):
        size = path.stat().st_size
        keep = min(size, sizes.get(path, 0))
        os.truncate(path, keep)
        lost += size - keep
    return lost


class ShimmedServer:
    """A Valkey server of its own under the shim, with the embedded store's settings."""

    def __init__(self, directory: Path, shim: Path, settings: Mapping[str, str] | None = None) -> None:
        """Name the directory, which is made, and settings that differ from the embedded store's."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.resolve()
        self.ledger = self.directory / "syncs"
        self.socket = self.directory / "socket"
        self._shim = shim
        self._settings = {**SETTINGS, **(settings or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The server's address."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The running server's process."""
        assert self._process is not None, "not running"
        return self._process.pid

    def client(self) -> redis.Redis:
        """Return a client; close it, or use it as a context."""
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self._process is None, "already running"
        command = [str(server_program()), "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        for name, value in self._settings.items():
            command += [f"--{name}", value]
        with (self.directory / "server.log").open("ab") as log:
            environment = shim_environment(self._shim, self.ledger)
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        eventually_sync(self._answers, within_s=20)

    def kill(self) -> None:
        """SIGKILL the server and wait until it is gone."""
        assert self._process is not None, "not running"
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(scaled(10))
        self._process = None

    def cut_to_synced(self) -> int:
        """Throw away what was not on disk when the server was killed; return how many bytes went."""
        assert self._process is None, "kill the server first"
        return cut_to_synced(self.ledger, self.directory)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended: {(self.directory / 'server.log').read_text()}"
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def __enter__(self) -> Self:
        """Return the server, which ends with the context."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill the server if it runs."""
        if self._process is not None:
            self.kill()
