"""Waits between tries."""

from __future__ import annotations

import pytest

from protocol.backoff import RECONNECT_CAP_MS, RECONNECT_FIRST_MS, backoff_ms

ALMOST_ONE = 1 - 2**-53


def test_the_bound_doubles_up_to_the_cap() -> None:
    bounds = [backoff_ms(failures, ALMOST_ONE) for failures in range(1, 12)]
    assert bounds[:4] == [199, 399, 799, 1599]
    assert bounds[-1] == RECONNECT_CAP_MS - 1
    assert bounds == sorted(bounds)


@pytest.mark.parametrize("failures", [-1, 0, 1])
def test_the_first_wait_is_within_the_first_bound(failures: int) -> None:
    assert backoff_ms(failures, 0.5) == RECONNECT_FIRST_MS // 2


def test_a_wait_can_be_nothing() -> None:
    assert backoff_ms(50, 0.0) == 0


def test_any_number_of_failures_keeps_to_the_cap() -> None:
    assert backoff_ms(10**9, ALMOST_ONE) < RECONNECT_CAP_MS
    assert backoff_ms(10, 0.5, first_ms=10, cap_ms=100) == 50
