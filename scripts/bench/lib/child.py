"""A process of a benchmark: told what to do in lines of JSON, it answers each with one.

Both ends are here. The benchmark holds a `Child`; the process runs `serve` with a function that does what it
is asked. A child ends when its standard input does, so that none outlives the benchmark.
"""

from __future__ import annotations

import asyncio
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import IO, Any, Self

__all__ = ["Child", "ChildFailed", "serve", "stop"]

TERM_S = 10.0
LINE_BYTES_MAX = 16 * 1024 * 1024


class ChildFailed(Exception):
    """A process of the benchmark ended, or did not answer in time."""


def stop(process: subprocess.Popen[bytes], *, kill: bool = False) -> None:
    """End a process that we started, and wait until it is gone."""
    if process.poll() is None:
        process.kill() if kill else process.terminate()
        try:
            process.wait(TERM_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(TERM_S)


class Child:
    """A Python process that runs one module of the benchmarks."""

    def __init__(
        self, module: str, *arguments: str, python: str = sys.executable, said: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            module: what it runs.
            arguments: what it is told on its command line.
            python: with which Python, where its packages are not ours.
            said: what it is told by its environment besides what we were told.
        """
        self.name = module.rpartition(".")[2]
        self._process = subprocess.Popen(
            [python, "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(said or {})},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin: IO[bytes] = self._process.stdin
        self._stdout = self._process.stdout.fileno()
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._stdin.close()
        stop(self._process, kill=fault is not None)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, **command: Any) -> None:
        """Give it something to do without waiting for the answer."""
        self._stdin.write(json.dumps(command).encode() + b"\n")
        self._stdin.flush()

    def answer(self, within_s: float) -> dict[str, Any]:
        """Return its next answer.

        Raises:
            ChildFailed: it ended, or the time is up.
        """
        until = time.monotonic() + within_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            while b"\n" not in self._read:
                left_s = until - time.monotonic()
                if left_s <= 0 or not selector.select(left_s):
                    raise ChildFailed(f"{self.name} said nothing within {within_s:g} s")
                chunk = os.read(self._stdout, 1 << 16)
                if not chunk:
                    raise ChildFailed(f"{self.name} ended; what it had to say is above")
                self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, within_s: float, **command: Any) -> dict[str, Any]:
        """Give it something to do and return the answer."""
        self.tell(**command)
        return self.answer(within_s)


async def _commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    try:
        while line := await reader.readline():
            yield json.loads(line)
    finally:
        transport.close()


async def serve(do: Callable[[dict[str, Any]], Awaitable[Mapping[str, Any]]]) -> None:
    """Do what the benchmark asks, one thing after the other, until it hangs up."""
    async for command in _commands():
        answer = await do(command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
