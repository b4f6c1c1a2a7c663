"""The promise, on whole fleets, under faults drawn from seeds.

    FLEETLINE_SIMULATION_SEEDS=1000 pytest tests/simulation       more of them
    FLEETLINE_SIMULATION_FROM=80 pytest tests/simulation          others

A seed that fails is printed with the command that shows every message of it.
"""

from __future__ import annotations

import os

import pytest

from tests.support.simulation.runner import run_seeds

SEEDS = int(os.environ.get("FLEETLINE_SIMULATION_SEEDS", "60"))
FIRST = int(os.environ.get("FLEETLINE_SIMULATION_FROM", "0"))
SECONDS_A_SEED = 4
AGAIN = 3


@pytest.mark.timeout(60 + SEEDS * SECONDS_A_SEED)
def test_the_promise_is_kept_whatever_fails() -> None:
    told = list(run_seeds(FIRST, SEEDS))

    assert sorted(each.seed for each in told) == list(range(FIRST, FIRST + SEEDS))
    failed = [each.report for each in told if each.violations]
    assert not failed, f"{len(failed)} of {SEEDS} seeds failed\n" + "\n\n".join(failed[:5])
    assert len({each.digest for each in told}) == SEEDS


def test_a_seed_gives_the_same_events_in_every_process() -> None:
    together = {each.seed: each.digest for each in run_seeds(FIRST, AGAIN, workers=1)}
    apart = {each.seed: each.digest for each in run_seeds(FIRST, AGAIN, workers=AGAIN)}

    assert together == apart
    assert len(together) == AGAIN
