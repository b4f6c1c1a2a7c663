"""Recovery: the only worker is killed while runs are running, and another one starts. When are all runs done?

See docs/benchmarks.md for what is compared, and why it is fair.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.lib.child import ChildFailed
from scripts.bench.lib.machine import describe
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Figure, Report, Target, say, summarise
from scripts.bench.lib.systems import OURS, OURS_ELSEWHERE, PEERS, RECOVERY_SLOTS, System, settings_of

__all__ = ["Ledger", "Recovered"]

ASKED_S = 10.0
LIMIT_S = 60.0
START_S = 60.0
PAUSE_S = 0.5
"""Between the kill and the start of the next worker."""

LOOK_S = 0.01
SETTLE_S = 2.0
"""How long it is waited, once all are done, for one that is done again."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much there is to do.

    Attributes:
        runs: how many.
        seconds: how long each takes.
    """

    runs: int
    seconds: float


FULL = Amount(runs=100, seconds=0.3)
SMOKE = Amount(runs=20, seconds=0.05)


class Ledger:
    """The file in which runs note, outside of every queue, that they were started and done."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path

    def read(self) -> tuple[Counter[int], Counter[int]]:
        """Return how often each run was started, and how often it was done."""
        counts: dict[str, Counter[int]] = {"start": Counter(), "done": Counter()}
        for line in self.path.read_text().splitlines():
            what, _, number = line.partition(" ")
            counts[what][int(number)] += 1
        return counts["start"], counts["done"]

    @property
    def running(self) -> int:
        """How many were started and are not done."""
        started, done = self.read()
        return started.total() - done.total()


@dataclass(slots=True)
class Recovered:
    """What the rounds of one system came to, in order.

    Attributes:
        seconds: from the start of the new worker until all were done, or until it was not waited for any longer.
        missing: how many were not done by then.
        repeated: how many were done more than once.
    """

    name: str
    seconds: list[float] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether every run was done once, in every round."""
        return not any(self.missing) and not any(self.repeated)

    def row(self, amount: Amount) -> Figure:
        """Return what the table says of this system."""
        note = f"of {amount.runs} runs, {max(self.repeated)} done more than once"
        if any(self.missing):
            note = f"NOT DONE after {max(self.seconds):.0f} s, {max(self.missing)} missing: {note}"
        return summarise(self.name, "s", self.seconds, note)

    def turn(self, folder: Path, amount: Amount, limit_s: float) -> None:
        """Kill the worker at its work, start another, and see how long it takes until all is done."""
        with System(self.name, folder, fast=False) as system:
            ledger = Ledger(folder / "ledger")
            system.start_worker()
            command = {"ledger": str(ledger.path), "seconds": amount.seconds}
            system.submitter.ask(START_S, do="work", count=amount.runs, **command)
            _until_running(ledger, RECOVERY_SLOTS)
            system.kill_worker()
            time.sleep(PAUSE_S)
            system.start_worker()
            began = time.monotonic()
            while time.monotonic() - began < limit_s and len(ledger.read()[1]) < amount.runs:
                time.sleep(LOOK_S)
            self.seconds.append(time.monotonic() - began)
            time.sleep(SETTLE_S)
        done = ledger.read()[1]
        self.missing.append(amount.runs - len(done))
        self.repeated.append(sum(times > 1 for times in done.values()))


def _until_running(ledger: Ledger, runs: int) -> None:
    until = time.monotonic() + START_S
    while ledger.running < runs:
        if time.monotonic() > until:
            raise ChildFailed(f"only {ledger.running} runs were running after {START_S:g} s")
        time.sleep(LOOK_S)


def main() -> int:
    """Run it."""
    options = parse("The only worker is killed at its work; another starts.", 1, peers=PEERS, limit_s=LIMIT_S)
    amount = SMOKE if options.smoke else FULL
    names = (OURS, *(() if options.smoke else (OURS_ELSEWHERE,)), *options.peers)
    began = time.monotonic()
    machine = describe()
    recovered = [Recovered(name) for name in names]
    with workspace() as folder:
        for number in range(1, options.rounds + 1):
            for place, one in enumerate(recovered):
                one.turn(folder / f"{place}-{number}", amount, options.limit_s)
                say(
                    f"round {number}/{options.rounds}: {one.name}: {one.seconds[-1]:.1f} s, "
                    f"{one.missing[-1]} not done, {one.repeated[-1]} repeated"
                )
    ours = recovered[0]
    report = Report(
        "recovery",
        machine,
        {
            "runs": amount.runs,
            "seconds a run": amount.seconds,
            "running when the worker is killed": RECOVERY_SLOTS,
            "seconds until the next worker": PAUSE_S,
            "waited at most, seconds": options.limit_s,
            "workers": settings_of(options.peers, fast=False),
        },
        tuple(one.row(amount) for one in recovered),
        (
            Target(f"{OURS}: seconds until all are done", statistics.median(ours.seconds), ASKED_S, at_most=True),
            Target(f"{OURS}: every run once", float(ours.right), 1.0),
        ),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
