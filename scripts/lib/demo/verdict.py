"""Whether it came out right: the raw logs, all attempts counted, beside a plain computation of the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from analysis import analyse

__all__ = ["Tally", "compare", "compute"]

Events = list[tuple[str, dict[str, Any]]]


@dataclass
class Tally:
    """What was found over all runs."""

    runs: int = 0
    entries: int = 0
    events: int = 0
    attempts: int = 0
    lost: int = 0
    repeated: int = 0
    differences: int = 0
    complaints: list[str] = field(default_factory=list)

    def right(self) -> bool:
        """Whether nothing is off."""
        return not (self.lost or self.repeated or self.differences or self.complaints)


def compute(files: list[str]) -> tuple[Events, dict[str, int]]:
    """Compute in this process what one run computes: its events in order, and its result."""
    events: Events = []
    total = {"files": len(files), "lines": 0, "functions": 0, "classes": 0, "findings": 0}
    for file in files:
        report = analyse(file)
        facts = {"lines": report.lines, "functions": report.functions, "classes": report.classes}
        events += [("finding", asdict(finding)) for finding in report.findings]
        events.append(("file", {"file": file, **facts}))
        for name, number in {**facts, "findings": len(report.findings)}.items():
            total[name] += number
    return events, total


def compare(tally: Tally, name: str, files: list[str], entries: list[Any], result: object) -> None:
    """Hold one run's raw log, and its result, against the plain computation."""
    expected, total = compute(files)
    found = [(entry.kind, entry.body) for entry in entries if not entry.kind.startswith("$")]
    wanted, got = Counter(map(repr, expected)), Counter(map(repr, found))
    tally.runs += 1
    tally.entries += len(entries)
    tally.events += len(found)
    tally.attempts += sum(entry.kind == "$claimed" for entry in entries)
    tally.lost += (wanted - got).total()
    tally.repeated += (got - wanted).total()
    if [entry.offset for entry in entries] != list(range(1, len(entries) + 1)):
        tally.complaints.append(f"{name}: the offsets of its log are not 1, 2, 3, ...")
    if sum(entry.kind == "$succeeded" for entry in entries) != 1:
        tally.complaints.append(f"{name}: its log does not have one terminal entry")
    if found != expected or result != total:
        tally.differences += 1
    if isinstance(result, Exception):
        tally.complaints.append(f"{name}: {result}")
