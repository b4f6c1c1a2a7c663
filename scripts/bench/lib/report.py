"""Figures to tables and JSON: medians with their spread, and what was asked of them."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from scripts.bench.lib.machine import Machine

__all__ = ["Figure", "Report", "Target", "ratio", "say", "summarise"]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing over all rounds."""

    name: str
    unit: str
    values: tuple[float, ...]
    median: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure, or the ratio of two, has to come to."""

    name: str
    value: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound


@dataclass(frozen=True, slots=True)
class Report:
    """A run of a benchmark, as it is written to the file."""

    benchmark: str
    machine: Machine
    settings: dict[str, Any]
    figures: tuple[Figure, ...]
    targets: tuple[Target, ...]
    rounds: int
    seconds: float

    def save(self, folder: Path) -> Path:
        """Write it as JSON, under a name that no other run has, and return the path."""
        folder.mkdir(parents=True, exist_ok=True)
        when = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        path = folder / f"{self.benchmark}-{when}-{time.time_ns() % 10**6:06d}.json"
        whole = asdict(self)
        for target, plain in zip(self.targets, whole["targets"], strict=True):
            plain["met"] = target.met
        path.write_text(json.dumps(whole, indent=2) + "\n")
        return path

    def show(self) -> None:
        """Print it."""
        console = Console(highlight=False, soft_wrap=True)
        table = Table(title=f"{self.benchmark}: medians of {self.rounds} rounds, interleaved")
        for column in ("", "median", "lowest", "highest", "unit"):
            table.add_column(column, justify="right" if column in ("median", "lowest", "highest") else "left")
        for figure in self.figures:
            numbers = (_number(figure.median), _number(figure.low), _number(figure.high))
            table.add_row(figure.name, *numbers, figure.unit)
        console.print(table)
        for figure in self.figures:
            if figure.note:
                console.print(f"{figure.name}: {figure.note}", style="dim")
        for target in self.targets:
            sign, word = ("<=" if target.at_most else ">="), ("met" if target.met else "MISSED")
            console.print(f"{target.name}: {_number(target.value)} (asked: {sign} {_number(target.bound)}) {word}")
        where = f"{self.machine.cores} cores, {self.machine.cpu}; Python {self.machine.python}"
        console.print(f"{where}; {self.seconds:.0f} s", style="dim")

    @property
    def met(self) -> bool:
        """Whether every target was met."""
        return all(target.met for target in self.targets)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"


def summarise(name: str, unit: str, values: Sequence[float], note: str = "") -> Figure:
    """Return the figure that the values of all rounds come to."""
    return Figure(name, unit, tuple(values), statistics.median(values), min(values), max(values), note)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median over the rounds of ours to theirs: what both met in a round falls out of it."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def say(message: str) -> None:
    """Tell whoever waits how far it is; standard output is for the table."""
    print(message, file=sys.stderr, flush=True)
