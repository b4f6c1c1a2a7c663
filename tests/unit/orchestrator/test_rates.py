"""How fast one principal may send, on a clock of the test's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.rates import REST_S_MAX, SPARE_METERS_MAX, Meter, Meters, limited, lowest
from protocol.limits import DEFAULT_LIMITS, MESSAGE_FRAMES_MAX, RATE_BURST_S, Limits

RATES = Limits(frames_per_s_max=100, entries_per_s_max=1_000, bytes_per_s_max=1_000_000)


def test_nothing_is_limited_by_default() -> None:
    assert not limited(DEFAULT_LIMITS)
    meters = Meters(DEFAULT_LIMITS)
    assert meters.enter("a", 0) is None
    meters.leave("a", 0)
    assert len(meters) == 0


def test_a_burst_is_free_and_what_is_more_is_paid_for_by_time() -> None:
    meter = Meter(RATES, 0)
    assert meter.charge(100 * RATE_BURST_S, 0, 0, 0) == 0
    assert meter.charge(50, 0, 0, 0) == 500
    assert meter.rest_ms(499) == 1
    assert meter.rest_ms(500) == 0
    assert meter.charge(1, 0, 0, 500) == 10


def test_the_slowest_of_the_three_counts() -> None:
    burst = RATE_BURST_S * 1_000_000
    assert Meter(RATES, 0).charge(1, 1, burst + 3_000_000, 0) == 3_000
    assert Meter(RATES, 0).charge(1, 1_000 * RATE_BURST_S + 250, 10, 0) == 250


def test_what_is_not_limited_costs_nothing() -> None:
    meter = Meter(Limits(entries_per_s_max=10), 0)
    assert meter.charge(10**9, 0, 10**12, 0) == 0
    assert meter.charge(1, 10 * RATE_BURST_S + 5, 1, 0) == 500


def test_a_bucket_holds_no_more_than_a_burst_and_a_clock_that_steps_back_fills_none() -> None:
    meter = Meter(RATES, 0)
    assert meter.charge(100 * RATE_BURST_S + 100, 0, 0, 10_000_000) == 1_000
    assert meter.rest_ms(0) == 1_000


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 300)), min_size=1, max_size=60))
def test_over_time_no_more_comes_than_the_rate(sent: list[tuple[int, int]]) -> None:
    """A peer that is not read while it rests gets no more through than the rate, a burst and one message."""
    meter, now_ms, frames, largest = Meter(RATES, 0), 0, 0, 0
    for count, pause_ms in sent:
        now_ms += pause_ms
        frames, largest = frames + count, max(largest, count)
        now_ms += meter.charge(count, 0, 0, now_ms)
        assert frames <= 100 * RATE_BURST_S + 100 * now_ms / 1000 + largest + 1
        assert meter.rest_ms(now_ms) <= 1


def test_who_comes_back_finds_what_it_owes() -> None:
    meters = Meters(RATES)
    meter = meters.enter("a", 0)
    assert meter is not None
    assert meters.enter("a", 0) is meter
    meter.charge(100 * RATE_BURST_S + 1_000, 0, 0, 0)
    meters.leave("a", 0)
    meters.leave("a", 0)
    again = meters.enter("a", 1_000)
    assert again is meter
    assert again.rest_ms(1_000) == 9_000
    meters.leave("a", 60_000)
    assert len(meters) == 0, "it was as good as new"


def test_meters_of_those_who_left_are_bounded() -> None:
    meters = Meters(RATES)
    for number in range(3 * SPARE_METERS_MAX):
        meter = meters.enter(f"p{number}", 0)
        assert meter is not None
        meter.charge(10_000, 0, 0, 0)
        meters.leave(f"p{number}", 0)
    assert len(meters) == SPARE_METERS_MAX


@given(st.integers(1, 4096), st.integers(65_536, 1 << 24), st.integers(50, 600_000))
def test_with_the_lowest_rates_whatever_comes_in_one_piece_is_made_up_for_in_a_minute(
    entries: int, size: int, interval_ms: int
) -> None:
    limits = Limits(frame_entries_max=entries, message_bytes_max=size)
    least = {name: rate for name, (rate, _) in lowest(limits, interval_ms).items()}
    meter = Meter(limits.model_copy(update=least), 0)
    assert meter.charge(MESSAGE_FRAMES_MAX, entries, size, 0) <= REST_S_MAX * 1000
    assert least["frames_per_s_max"] * interval_ms >= 2_000, "a heartbeat, and as much besides"


def test_of_several_rates_the_one_that_is_owed_for_longest_is_named() -> None:
    meter = Meter(Limits(frames_per_s_max=100, bytes_per_s_max=1_000_000), 0)
    meter.charge(1_000, 10**6, 3_000_000, 0)
    assert meter.short_of == "frames_per_s_max"
    meter.charge(0, 10**6, 10**9, 0)
    assert meter.short_of == "bytes_per_s_max"
