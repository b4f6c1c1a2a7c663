"""Run simulations: `python -m tests.support.simulation --seed 7 --trace`, or `--from 0 --count 100`."""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.support.simulation.faults import Theme
from tests.support.simulation.plants import PLANTS, planted
from tests.support.simulation.world import simulate

__all__ = ["main"]


def main() -> int:
    """Run what the command line asks for; the exit code says whether the promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.simulation")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--from", type=int, default=0, dest="first")
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--step", type=int, default=1, help="take every so manyth seed")
    parser.add_argument("--plant", choices=list(PLANTS), help="with this bug")
    parser.add_argument("--theme", type=Theme, choices=list(Theme), help="this, whatever theme the seed has")
    parser.add_argument(
        "--first", action="store_true", help="stop at the first seed that fails, or shows the bug", dest="stop"
    )
    parser.add_argument("--trace", action="store_true", help="print every message")
    parser.add_argument("--json", action="store_true", help="print one JSON object a seed")
    options = parser.parse_args()
    plant = None if options.plant is None else PLANTS[options.plant]
    theme = options.theme or (plant.theme if plant is not None else None)
    seeds = range(options.first, options.first + options.count * options.step, options.step)
    failed = 0
    for seed in [options.seed] if options.seed is not None else seeds:
        began_s = time.perf_counter()
        with planted(options.plant):
            outcome = simulate(seed, keep_lines=options.trace, surely=theme)
        took_s = time.perf_counter() - began_s
        for line in outcome.lines:
            print(line)
        if options.json:
            told = {
                "seed": seed,
                "digest": outcome.digest,
                "violations": outcome.violations,
                "report": outcome.report(),
            }
            print(json.dumps(told), flush=True)
        else:
            print(f"seed {seed} {outcome.digest} {outcome.events} events, {outcome.virtual_s:.0f} s in {took_s:.2f} s")
            if outcome.violations:
                print(outcome.report())
        failed += bool(outcome.violations)
        if options.stop and (plant.shown(outcome.violations) if plant is not None else failed):
            break
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
