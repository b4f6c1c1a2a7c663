"""Bugs that are planted on purpose are found within a bounded number of seeds: else the checkers prove nothing."""

from __future__ import annotations

import pytest

from tests.support.simulation.plants import PLANTS
from tests.support.simulation.runner import run_seeds

SEEDS_MAX = 160
A_ROUND = 16


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    rounds = (run_seeds(first, A_ROUND, plant=plant) for first in range(0, SEEDS_MAX, A_ROUND))

    assert any(told.violations for seeds in rounds for told in seeds), f"{SEEDS_MAX} seeds, and nothing was found"
