"""What all benchmarks take on the command line."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
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
        peers: which of the others it is compared with, where there is a choice.
        limit_s: how long one of them may take, where that is bounded.
    """

    rounds: int
    smoke: bool
    out: Path
    peers: tuple[str, ...] = ()
    limit_s: float = 0.0


def parse(description: str, rounds: int, peers: Sequence[str] = (), limit_s: float = 0.0) -> Options:
    """Read the command line.

    Args:
        description: what the benchmark is for.
        rounds: how many rounds there are if it is not told otherwise.
        peers: the others that one can choose from.
        limit_s: the bound that one can change, if there is one.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=None, metavar="N", help=f"rounds to measure (default {rounds})")
    parser.add_argument("--smoke", action="store_true", help="one round of tiny counts, whose figures mean nothing")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help=f"for the JSON (default {RESULTS})")
    if peers:
        parser.add_argument(
            "--peers", default=",".join(peers), metavar="NAME,...", help=f"beside which: {', '.join(peers)}, or none"
        )
    if limit_s:
        parser.add_argument(
            "--limit", type=float, default=limit_s, metavar="S", help=f"seconds for each system (default {limit_s:g})"
        )
    given = parser.parse_args()
    named = _names(getattr(given, "peers", ""))
    if unknown := sorted(set(named) - set(peers)):
        parser.error(f"there is no {unknown[0]!r} to compare with")
    chosen = given.rounds if given.rounds is not None else 1 if given.smoke else rounds
    if chosen < 1:
        parser.error("at least one round")
    raise_file_limit()
    return Options(chosen, given.smoke, given.out, named, getattr(given, "limit", limit_s))


def _names(said: str) -> tuple[str, ...]:
    """Return the names in a list with commas between them; `none` is none."""
    return tuple(name.strip() for name in said.split(",") if name.strip() not in ("", "none"))


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
