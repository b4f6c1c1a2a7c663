"""The job queues that are compared: each with its store, its worker and whoever submits to it.

A peer is used as its documentation advises. For `runs` it is told what makes it fast; for `recovery` it is left as
it comes, but for how many runs it works on at a time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.bench.lib.child import Child, ChildFailed
from scripts.bench.lib.environments import environment, pinned
from scripts.bench.lib.hub import Hub
from scripts.bench.lib.machine import cpu_seconds, family
from scripts.bench.lib.report import say
from scripts.bench.lib.valkey import Valkey

__all__ = ["OURS", "OURS_ELSEWHERE", "PEERS", "RECOVERY_SLOTS", "System", "Way", "settings_of"]

OURS = "fleetline"
OURS_ELSEWHERE = "fleetline, another id"
"""The worker that is started next has another id than the one that was killed."""

RECOVERY_SLOTS = 10
MODULES = "scripts.bench.lib.queues"
END_S = 10.0


@dataclass(frozen=True, slots=True)
class Way:
    """How a queue is run for one benchmark.

    Attributes:
        worker: what its worker is started with, after its Python.
        said: what worker and submitter are told by their environment.
    """

    worker: tuple[str, ...]
    said: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Queue:
    """A job queue: what its package is called, and how it is run for speed and as it comes."""

    package: str
    fast: Way
    plain: Way


def _celery(*options: str) -> tuple[str, ...]:
    return ("-m", "celery", "-A", f"{MODULES}.celery_queue", "worker", "--loglevel", "WARNING", *options)


def _taskiq(*options: str) -> tuple[str, ...]:
    arguments = ("worker", f"{MODULES}.taskiq_queue:broker", "--workers", "1", "--log-level", "WARNING")
    return ("-m", "taskiq", *arguments, *options)


def _dramatiq(threads: int) -> tuple[str, ...]:
    return ("-m", "dramatiq", f"{MODULES}.dramatiq_queue", "--processes", "1", "--threads", str(threads))


QUEUES = {
    "arq": Queue(
        "arq",
        Way(("-m", f"{MODULES}.arq_queue", "worker"), {"BENCH_SLOTS": "100", "BENCH_POLL_S": "0.005"}),
        Way(("-m", f"{MODULES}.arq_queue", "worker")),
    ),
    "taskiq": Queue(
        "taskiq",
        Way(_taskiq("--max-async-tasks", "100"), {"BENCH_POLL_S": "0.005"}),
        Way(_taskiq("--max-async-tasks", str(RECOVERY_SLOTS))),
    ),
    "celery": Queue(
        "celery",
        Way(_celery("--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat")),
        Way(_celery("--concurrency", str(RECOVERY_SLOTS))),
    ),
    "dramatiq": Queue(
        "dramatiq",
        Way(_dramatiq(8), {"dramatiq_worker_timeout": "2"}),
        Way(_dramatiq(RECOVERY_SLOTS)),
    ),
    "docket": Queue(
        "pydocket",
        Way(("-m", f"{MODULES}.docket_queue", "worker"), {"BENCH_SLOTS": "50", "BENCH_POLL_S": "0.005"}),
        Way(("-m", f"{MODULES}.docket_queue", "worker")),
    ),
}
PEERS = tuple(QUEUES)

AGENT = ("-m", "orchestrator.cli.main", "agent", "start", f"{MODULES}.fleetline_queue:agent", "--slots")
OUR_FAST = Way((*AGENT, "100"))
OUR_PLAIN = Way((*AGENT, str(RECOVERY_SLOTS)))


def _ours(name: str) -> bool:
    return name in (OURS, OURS_ELSEWHERE)


def settings_of(names: tuple[str, ...], *, fast: bool) -> dict[str, str]:
    """Return what each system is told, for the table: its version, its worker's command and its environment."""
    told = {}
    for name in (OURS, *names):
        way = _way(name, fast=fast)
        version = "" if _ours(name) else f"{pinned(name)[QUEUES[name].package]}: "
        told[name] = version + " ".join([*(f"{key}={value}" for key, value in way.said.items()), *way.worker])
    return told


def _way(name: str, *, fast: bool) -> Way:
    if _ours(name):
        return OUR_FAST if fast else OUR_PLAIN
    return QUEUES[name].fast if fast else QUEUES[name].plain


class System:
    """A queue that runs: its store, a submitter, and a worker once it is asked for.

    Args:
        name: which.
        folder: for its files.
        fast: whether it is told what makes it fast.
    """

    def __init__(self, name: str, folder: Path, *, fast: bool) -> None:
        self.name = name
        self._folder = folder
        self._way = _way(name, fast=fast)
        self._python = sys.executable if _ours(name) else str(environment(name))
        self._stack = ExitStack()
        self._pids: dict[str, int] = {}
        self._said: dict[str, str] = dict(self._way.said)
        self._worker: subprocess.Popen[bytes] | None = None
        self._started = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # what was started is ended where the rest does not start
            if _ours(self.name):
                hub = Hub(self._folder)
                stack.callback(hub.close)
                hub.start()
                self._said |= {"BENCH_STORE": str(hub.data), "FLEETLINE_DATA": str(hub.data)}
                self._pids |= {"hub": hub.pid, "store": hub.store_pid}
            else:
                store = Valkey(self._folder)
                stack.callback(store.close)
                self._said["BENCH_STORE"] = str(store.path)
                self._pids["store"] = store.process.pid
            module = OURS if _ours(self.name) else self.name
            submitter = Child(f"{MODULES}.{module}_queue", python=self._python, said=self._said)
            self.submitter = stack.enter_context(submitter)
            self._pids["submitter"] = self.submitter.pid
            stack.callback(self.kill_worker)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        if isinstance(fault, ChildFailed):
            say(f"{self.name}: the last that its worker said:\n{(self._folder / 'worker.log').read_text()[-2000:]}")
        self._stack.__exit__(kind, fault, at)

    def start_worker(self) -> None:
        """Start its only worker, in a group of processes of its own."""
        command = [self._python, *self._way.worker]
        if self.name == OURS_ELSEWHERE:
            self._started += 1
            command += ["--id", f"bench-{self._started}"]
        with (self._folder / "worker.log").open("ab") as log:
            self._worker = subprocess.Popen(
                command,
                env={**os.environ, **self._said},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pids["worker"] = self._worker.pid

    def kill_worker(self) -> None:
        """End the worker at once, with all its processes, as a crash of its machine would."""
        worker, self._worker = self._worker, None
        if worker is not None:
            with suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            worker.wait(END_S)

    def spent_s(self) -> dict[str, float]:
        """Return the processor time that each of its parts has used so far."""
        return {part: sum(map(cpu_seconds, family(pid))) for part, pid in self._pids.items()}
