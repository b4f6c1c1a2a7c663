"""Bugs that are planted on purpose are found within a bounded number of seeds: else the checkers prove nothing."""

from __future__ import annotations

import pytest

from tests.support.simulation.plants import PLANTS
from tests.support.simulation.runner import run_seeds

SEEDS_MAX = 64


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    found = any(PLANTS[plant].shown(told.violations) for told in run_seeds(0, SEEDS_MAX, plant=plant))

    assert found, f"{SEEDS_MAX} seeds, and {PLANTS[plant].shows!r} is nowhere"
