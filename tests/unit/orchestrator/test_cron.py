"""When a schedule is due: expressions, time zones, and the hours that clocks skip and repeat."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.cron import Cron, InvalidCron

BERLIN = "Europe/Berlin"
"""Its clock skips 2:00 to 3:00 on 29 March 2026, and repeats that hour on 25 October."""


def ms_of(text: str, timezone: str, *, fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold).timestamp() * 1000)


def due(expression: str, start: str, count: int, timezone: str = BERLIN, *, fold: int = 0) -> list[str]:
    """Return the next due times after a time, as the zone's clock shows them, with its distance from UTC."""
    times = Cron.parse(expression, timezone).upcoming(ms_of(start, timezone, fold=fold), count)
    return [datetime.fromtimestamp(ms / 1000, ZoneInfo(timezone)).strftime("%d %H:%M:%S%z") for ms in times]


def test_five_fields_are_minutes_and_six_begin_with_seconds() -> None:
    assert due("*/20 9 * * *", "2026-06-01T09:00", 3, "UTC") == [
        "01 09:20:00+0000",
        "01 09:40:00+0000",
        "02 09:00:00+0000",
    ]
    assert due("*/30 * * * * *", "2026-06-01T09:00", 2, "UTC") == ["01 09:00:30+0000", "01 09:01:00+0000"]


def test_a_due_time_is_after_the_time_that_is_asked_about_to_the_millisecond() -> None:
    cron, at_ms = Cron.parse("* * * * * *", "UTC"), ms_of("2026-06-01T09:00", "UTC")
    assert cron.after(at_ms) == at_ms + 1000
    assert cron.after(at_ms - 1) == at_ms
    assert cron.after(at_ms + 999) == at_ms + 1000


def test_times_are_those_of_the_zones_clock() -> None:
    assert due("0 8 * * MON", "2026-01-01T00:00", 1) == ["05 08:00:00+0100"]
    assert due("0 8 * * MON", "2026-07-01T00:00", 1) == ["06 08:00:00+0200"]


def test_a_time_of_day_that_the_clock_skips_is_due_at_the_end_of_the_gap_once() -> None:
    assert due("30 2 * * *", "2026-03-28T12:00", 2) == ["29 03:00:00+0200", "30 02:30:00+0200"]
    assert due("0,30 2,3 * * *", "2026-03-29T01:00", 3) == ["29 03:00:00+0200", "29 03:30:00+0200", "30 02:00:00+0200"]


def test_a_time_of_day_that_the_clock_repeats_is_due_the_first_time() -> None:
    assert due("30 2 * * *", "2026-10-24T12:00", 2) == ["25 02:30:00+0200", "26 02:30:00+0100"]


def test_asked_in_the_second_pass_of_an_hour_the_first_pass_is_over() -> None:
    assert due("30 2 * * *", "2026-10-25T02:15", 1, fold=1) == ["26 02:30:00+0100"]


def test_intervals_go_by_what_the_clock_shows() -> None:
    assert due("*/30 * * * *", "2026-03-29T01:00", 3) == ["29 01:30:00+0100", "29 03:00:00+0200", "29 03:30:00+0200"]
    repeated = due("30 * * * *", "2026-10-25T01:45", 3)
    assert repeated == ["25 02:30:00+0200", "25 02:30:00+0100", "25 03:30:00+0100"]


def test_with_seconds_a_time_that_is_skipped_is_not_due_and_one_that_is_repeated_is_due_twice() -> None:
    assert due("0 30 2 * * *", "2026-03-28T12:00", 1) == ["30 02:30:00+0200"]
    assert due("0 30 2 * * *", "2026-10-25T00:00", 2) == ["25 02:30:00+0200", "25 02:30:00+0100"]


@settings(max_examples=60, deadline=None)
@given(
    expression=st.sampled_from(
        ["* * * * *", "30 2 * * *", "0,30 2 * * *", "*/7 * * * *", "15 30 2 * * *", "1 1-3 * * *"]
    ),
    zone=st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Beirut", "UTC"]),
    start_ms=st.integers(1_740_000_000_000, 1_800_000_000_000),
)
def test_due_times_grow_and_each_follows_from_the_one_before(expression: str, zone: str, start_ms: int) -> None:
    cron = Cron.parse(expression, zone)
    times = cron.upcoming(start_ms, 5)
    assert list(times) == sorted({*times, start_ms} - {start_ms})
    one_by_one, at_ms = [], start_ms
    for _ in times:
        after = cron.after(at_ms)
        assert after is not None
        one_by_one.append(after)
        at_ms = after
    assert one_by_one == list(times)


def test_what_comes_once_in_decades_is_found_and_what_never_comes_is_none() -> None:
    assert due("0 0 * 2 MON#5", "2026-06-01T00:00", 1) == ["29 00:00:00+0100"]
    for never in ("0 0 30 2 *", "0 0 0 31 4,6 *"):
        with pytest.raises(InvalidCron, match="no such day ever comes in that month"):
            Cron.parse(never, "UTC")


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "it has five fields"),
        ("@hourly", "it has five fields"),
        ("* * * * * * *", "it has five fields"),
        ("60 * * * *", "its minute field is wrong"),
        ("61 * * * * *", "its second field is wrong"),
        ("* 5-3 * * *", "its hour field is wrong"),
        ("*/0 * * * *", "its minute field is wrong"),
        ("0 0 32 * *", "its day-of-month field is wrong"),
        ("0 0 1 13 *", "its month field is wrong"),
        ("* * * * FUN", "its day-of-week field is wrong"),
        ("٣ * * * *", "its minute field is wrong"),
    ],
)
def test_what_is_no_expression_is_told(expression: str, says: str) -> None:
    with pytest.raises(InvalidCron, match=says):
        Cron.parse(expression, "UTC")


@given(st.text("0123456789*/,-L#MONW? @", max_size=20), st.integers(4, 5))
def test_any_text_is_an_expression_or_is_refused(text: str, blanks: int) -> None:
    for expression in (text, f"{text}{' *' * blanks}", f"{'* ' * blanks}{text}"):
        try:
            cron = Cron.parse(expression, "UTC")
        except InvalidCron:
            continue
        cron.after(0)


@pytest.mark.parametrize(
    "timezone", ["", "Nowhere", "Europe", "europe/", "../x", "/etc/passwd", "localtime", "a\0b", "x" * 64]
)
def test_what_is_no_time_zone_is_told(timezone: str) -> None:
    with pytest.raises(InvalidCron, match="is not a time zone"):
        Cron.parse("* * * * *", timezone)
