"""What all benchmarks take on the command line."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.lib.machine import raise_file_limit
from scripts.bench.lib.report import Report, say

__all__ = ["Options", "finish", "parse", "workspace"]

RESULTS = Path("bench-results")


@dataclass(frozen=True, slots=True)
class Options:
    """How a benchmark is to run.

    Attributes:
        rounds: how often everything is measured, in turn.
        smoke: with tiny counts and without a verdict: does it still run?
        out: the folder that the JSON goes to.
    """

    rounds: int
    smoke: bool
    out: Path


def parse(description: str, rounds: int) -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=None, metavar="N", help=f"rounds to measure (default {rounds})")
    parser.add_argument("--smoke", action="store_true", help="one round of tiny counts, whose figures mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help=f"for the JSON (default {RESULTS})")
    given = parser.parse_args()
    chosen = given.rounds if given.rounds is not None else 1 if given.smoke else rounds
    if chosen < 1:
        parser.error("at least one round")
    raise_file_limit()
    return Options(chosen, given.smoke, given.out)


@contextmanager
def workspace() -> Iterator[Path]:
    """Give a folder for the files of servers, and remove it afterwards."""
    with tempfile.TemporaryDirectory(prefix="fleetline-bench-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def finish(report: Report, options: Options) -> int:
    """Print and save a report; return the exit code: 1 where a figure that was asked for was missed."""
    report.show()
    say(f"written to {report.save(options.out)}")
    return 0 if options.smoke or report.met else 1
