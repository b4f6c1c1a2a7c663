"""The further processes of a hub: starts them, starts them again when they end, and ends them with the hub.

A hub has no state of its own and any hub serves any peer, so a worker is a hub too (`orchestrator.worker`), in a
process of its own. Worker one is the process that was started; it owns the data directory and the embedded store.
All of them accept from the same listening sockets, which worker one opens and the others inherit. Then:

- A worker is killed: its peers reconnect, to the others, and worker one starts it again.
- Worker one is killed: the kernel ends the others with it (Linux; elsewhere they see their standard input end).
- A worker is frozen: it takes no new connections, for the others are quicker.
- Worker one is told to stop: it tells the others at once, all drain at the same time, and the store goes last.

Specification: docs/decisions/0012-workers.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence
from socket import socket

import structlog
from pydantic import BaseModel, ConfigDict

from orchestrator.settings import Settings

__all__ = ["Orders", "Workers"]

READY_S = 20.0
"""How long a starting hub waits for its workers; those that are later serve when they can."""
RESTART_FIRST_S = 0.1
RESTART_CAP_S = 10.0
HEALTHY_S = 30.0
"""A worker that ran this long and ends is started again at once, as if it were the first time."""
LATE_S = 1.0
"""What a worker gets beyond the time that it may take to stop; then it is killed."""

log_ = structlog.get_logger()


class Orders(BaseModel):
    """What a worker is told, on its standard input, for the store's address may hold a password.

    Attributes:
        settings: the hub's, with the address of its store.
        sockets: descriptors of the listening sockets.
    """

    model_config = ConfigDict(frozen=True)

    settings: Settings
    sockets: tuple[int, ...]


class Workers:
    """Keeps the workers of one hub running: `keep` runs for each until it is cancelled or `dismiss` is called.

    Args:
        settings: the hub's, with the address of its store.
        sockets: listening sockets; they must stay open until `dismiss`.
    """

    def __init__(self, settings: Settings, sockets: Sequence[socket]) -> None:
        self._sockets = tuple(each.fileno() for each in sockets)
        self._orders = Orders(settings=settings, sockets=self._sockets).model_dump_json().encode() + b"\n"
        self._running: dict[int, Process] = {}
        self._starting = {number: asyncio.Event() for number in range(2, settings.workers + 1)}
        self._dismissed = asyncio.Event()
        self._none_left = asyncio.Event()

    async def ready(self) -> None:
        """Wait until every worker serves, or has ended instead."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                for started in self._starting.values():
                    await started.wait()

    def dismiss(self) -> None:
        """Tell all workers to drain and end, and start none again."""
        self._dismissed.set()
        for process in self._running.values():
            _tell(process)

    async def gone(self, within_s: float) -> None:
        """Wait until all have ended. Those that are late end when `keep` is cancelled."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s + LATE_S):
                while self._running:
                    self._none_left.clear()
                    await self._none_left.wait()
        for number, process in self._running.items():
            log_.error("worker_stop_failed", worker=number, pid=process.pid)

    async def keep(self, number: int) -> None:
        """Run a worker, again whenever it ends; with growing pauses where that is again and again."""
        pause_s = RESTART_FIRST_S
        while not self._dismissed.is_set():
            started_s = time.monotonic()
            why = await self._run(number)
            self._starting[number].set()
            if self._dismissed.is_set():
                return
            if time.monotonic() - started_s >= HEALTHY_S:
                pause_s = RESTART_FIRST_S
            log_.warning("worker_ended", worker=number, why=why, pause_s=pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._dismissed.wait()
            pause_s = min(RESTART_CAP_S, pause_s * 2)

    async def _run(self, number: int) -> str:
        """Run a worker to its end, and say how it ended. However this is left, the process is gone."""
        try:
            process = await asyncio.create_subprocess_exec(
                *[sys.executable, "-P", "-m", "orchestrator.worker", str(number)],
                stdin=PIPE,
                stdout=PIPE,
                pass_fds=self._sockets,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # it finds what this process finds
                start_new_session=True,  # a Ctrl-C at the terminal is for worker one alone, which tells the others
            )
        except OSError as fault:
            return str(fault)
        self._running[number] = process
        try:
            if self._dismissed.is_set():
                _tell(process)
            await self._serve(number, process)
            return f"exit code {await process.wait()}"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            del self._running[number]
            if not self._running:
                self._none_left.set()

    async def _serve(self, number: int, process: Process) -> None:
        """Tell a worker what it is to do, and wait until it does."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._orders)
        if await process.stdout.readline():
            log_.info("worker_started", worker=number, pid=process.pid)
            self._starting[number].set()


def _tell(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
