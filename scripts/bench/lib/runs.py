"""Run throughput and round trips: runs that do nothing, from the submit until the submitter has seen the result.

See docs/benchmarks.md for what is compared, and why it is fair.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.lib.machine import describe
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Figure, Report, Target, ratio, say, summarise
from scripts.bench.lib.systems import OURS, PEERS, System, settings_of

__all__ = ["Measured", "percentile", "targets"]

WARM_UP_S = 60.0
TURN_S = 240.0
TIMES = 3.0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured.

    Attributes:
        warm_up: runs before anything counts: connections are made, and the worker is there.
        burst: runs that are submitted at once.
        once: runs that are submitted one after the other, each when the last one's result was seen.
    """

    warm_up: int
    burst: int
    once: int


FULL = Amount(warm_up=100, burst=1_000, once=200)
SMOKE = Amount(warm_up=1, burst=20, once=5)


@dataclass(slots=True)
class Measured:
    """What the rounds of one system came to, in order; CPU times in µs a run."""

    name: str
    rates: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    costs_us: dict[str, list[float]] = field(default_factory=dict)

    def rows(self) -> tuple[Figure, ...]:
        """Return what the table says of this system."""
        spent = ", ".join(f"{part} {statistics.median(costs):.0f}" for part, costs in sorted(self.costs_us.items()))
        return (
            summarise(self.name, "runs/s", self.rates, f"µs of processor a run: {spent}"),
            summarise("… one at a time, p50", "ms", self.p50_ms),
            summarise("… one at a time, p99", "ms", self.p99_ms),
        )

    def turn(self, folder: Path, amount: Amount) -> None:
        """Start the system, measure it, and end it: one that waits must not disturb the others."""
        with System(self.name, folder, fast=True) as system:
            system.start_worker()
            system.submitter.ask(WARM_UP_S, do="burst", count=amount.warm_up)
            before = system.spent_s()
            burst = system.submitter.ask(TURN_S, do="burst", count=amount.burst)
            for part, spent_s in system.spent_s().items():
                self.costs_us.setdefault(part, []).append((spent_s - before[part]) / amount.burst * 1e6)
            once = system.submitter.ask(TURN_S, do="once", count=amount.once)
        self.rates.append(amount.burst / burst["seconds"])
        self.p50_ms.append(percentile(once["ms"], 50))
        self.p99_ms.append(percentile(once["ms"], 99))


def percentile(values: list[float], part: int) -> float:
    """Return the value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * part // 100) - 1)]


def targets(ours: Measured, peers: list[Measured]) -> tuple[Target, ...]:
    """Return what is asked: of ours to whichever was the best in the same round."""
    if not peers:
        return ()
    fastest = [max(rates) for rates in zip(*(peer.rates for peer in peers), strict=True)]
    p50_ms = [min(times) for times in zip(*(peer.p50_ms for peer in peers), strict=True)]
    p99_ms = [min(times) for times in zip(*(peer.p99_ms for peer in peers), strict=True)]
    return (
        Target(f"{OURS} to the fastest: runs/s", ratio(ours.rates, fastest), TIMES),
        Target(f"{OURS} to the shortest: round trip, p50", ratio(ours.p50_ms, p50_ms), 1.0, at_most=True),
        Target(f"{OURS} to the shortest: round trip, p99", ratio(ours.p99_ms, p99_ms), 1.0, at_most=True),
    )


def main() -> int:
    """Run it."""
    options = parse("Runs that do nothing, submit to result, beside other job queues.", rounds=3, peers=PEERS)
    amount = SMOKE if options.smoke else FULL
    began = time.monotonic()
    machine = describe()
    measured = [Measured(name) for name in (OURS, *options.peers)]
    with workspace() as folder:
        for number in range(1, options.rounds + 1):
            for one in measured:
                one.turn(folder / f"{one.name}-{number}", amount)
                say(
                    f"round {number}/{options.rounds}: {one.name}: {one.rates[-1]:,.0f} runs/s, "
                    f"p50 {one.p50_ms[-1]:.1f} ms, p99 {one.p99_ms[-1]:.1f} ms"
                )
    report = Report(
        "runs",
        machine,
        {
            "runs": {"at once": amount.burst, "one at a time": amount.once},
            "store": "Valkey, appendonly yes, appendfsync always, no-appendfsync-on-rewrite no, on a Unix socket",
            "workers": settings_of(options.peers, fast=True),
        },
        tuple(row for one in measured for row in one.rows()),
        targets(measured[0], measured[1:]),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
