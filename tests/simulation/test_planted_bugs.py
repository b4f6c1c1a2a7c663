"""Bugs that are planted on purpose are found within a bounded number of seeds: else the checkers prove nothing."""

from __future__ import annotations

import pytest

from tests.support.simulation.plants import PLANTS
from tests.support.simulation.runner import run_seeds

SEEDS_MAX = 80


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    told = list(run_seeds(0, SEEDS_MAX, plant=plant))

    assert any(each.violations for each in told), f"{len(told)} seeds, and nothing was found"
