"""Simulations in processes of their own: their order of strings in sets must not change from run to run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

__all__ = ["WORKERS", "Told", "run_seeds"]

ROOT = Path(__file__).parents[3]
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Told:
    """What a simulation in another process came to."""

    seed: int
    digest: str
    violations: tuple[str, ...]
    report: str


def run_seeds(first: int, count: int, *, plant: str | None = None, workers: int = WORKERS) -> Iterator[Told]:
    """Run so many seeds, in several processes; with a planted bug each stops at the first seed that shows it.

    They are told of as the processes end; what still runs when nobody listens any more is ended.
    """
    options = ["--json"] if plant is None else ["--json", "--first", "--plant", plant]
    with ExitStack() as stack:
        started = [
            stack.enter_context(_worker(first + place, (count - place + workers - 1) // workers, workers, options))
            for place in range(min(workers, count))
        ]
        reading = stack.enter_context(ThreadPoolExecutor(workers))
        for worker in started:
            stack.callback(worker.kill)
        for output in as_completed([reading.submit(_told, worker) for worker in started]):
            yield from output.result()


def _worker(first: int, count: int, step: int, options: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.support.simulation", *options]
    command += ["--from", str(first), "--count", str(count), "--step", str(step)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _told(worker: subprocess.Popen[str]) -> list[Told]:
    output, errors = worker.communicate()
    assert worker.returncode in (0, 1), f"the simulation itself failed:\n{errors[-3000:]}"
    said = [json.loads(line) for line in output.splitlines()]
    return [Told(each["seed"], each["digest"], tuple(each["violations"]), each["report"]) for each in said]
