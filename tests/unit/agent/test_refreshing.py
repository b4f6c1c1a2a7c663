"""When a link looks for a newer token, and when it says one."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from pydantic import SecretStr

from agent.discovery import Endpoint
from agent.refreshing import AHEAD_MS, LOOK_LEAST_MS, LOOK_MOST_MS, Refreshing
from protocol.frames import Heartbeat, Hello, Ready, Refresh, Refreshed
from protocol.limits import DEFAULT_LIMITS

STORE_MS = 1_760_000_000_000
LIFE_MS = 60_000
OLD, NEW = "a.old.c", "a.new.c"


class Source:
    """Where a token comes from."""

    def __init__(self, token: str | None = OLD) -> None:
        self.token = token

    def __call__(self) -> Endpoint:
        if self.token is None:
            raise FileNotFoundError("gone")
        return Endpoint("ws://h", SecretStr(self.token))


def opened(source: Source, life_ms: int | None = LIFE_MS) -> Refreshing:
    """Return what a session knows of its token that was opened at 0."""
    refreshing = Refreshing()
    refreshing.noting(source)()
    limits: Any = DEFAULT_LIMITS
    hello = Hello(
        versions=(1,), hub="h", nonce=b"n" * 16, heartbeat_ms=1000, limits=limits, durability="local", store_ms=STORE_MS
    )
    refreshing.on_hello(hello, 0)
    expires_ms = None if life_ms is None else STORE_MS + life_ms
    ready = Ready(
        session="s", fence=0, resumed=False, principal="client:a", namespace="n", scopes=(), expires_ms=expires_ms
    )
    refreshing.on_ready(ready, 0)
    return refreshing


def said(refreshing: Refreshing) -> tuple[int, Refresh | None]:
    """Look when it is due; return when that was, and what was said."""
    due_ms = refreshing.due_ms()
    assert due_ms is not None
    assert refreshing.take(due_ms - 1) is None
    return due_ms, refreshing.take(due_ms)


@pytest.mark.parametrize(("life_ms", "due_ms"), [(LIFE_MS, 40_000), (30 * AHEAD_MS, 29 * AHEAD_MS)])
def test_it_looks_when_a_third_is_left_or_five_minutes(life_ms: int, due_ms: int) -> None:
    assert opened(Source(), life_ms).due_ms() == due_ms


def test_a_newer_token_is_said_once_it_was_read_twice() -> None:
    source = Source()
    refreshing = opened(source)
    source.token = NEW
    first_ms, nothing = said(refreshing)
    assert nothing is None
    second_ms, refresh = said(refreshing)
    assert (second_ms - first_ms, refresh) == (LOOK_LEAST_MS, Refresh(token=NEW))
    assert refreshing.due_ms() is None
    refreshing.on_refreshed(Refreshed(expires_ms=STORE_MS + 2 * LIFE_MS), second_ms)
    assert refreshing.due_ms() == 2 * LIFE_MS - (2 * LIFE_MS - second_ms) // 3


@pytest.mark.parametrize("token", [OLD, None, "", "a.ne", "half a token"])
def test_what_is_no_newer_token_is_looked_at_again_ever_more_often(token: str | None) -> None:
    source = Source()
    refreshing = opened(source, 30 * AHEAD_MS)
    source.token = token
    times = []
    for _ in range(80):
        due_ms, nothing = said(refreshing)
        assert nothing is None
        times.append(due_ms)
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == sorted(pauses, reverse=True)
    assert (pauses[0], pauses[-1]) == (LOOK_MOST_MS, LOOK_LEAST_MS)


def test_it_looks_at_once_when_the_hub_says_that_the_token_has_run_out() -> None:
    refreshing = opened(Source())
    refreshing.on_heartbeat(Heartbeat(refresh_ms=1000), 7)
    assert refreshing.due_ms() == 7


def test_a_token_without_an_end_is_left_alone() -> None:
    refreshing = opened(Source(), None)
    refreshing.on_heartbeat(Heartbeat(), 7)
    assert (refreshing.due_ms(), refreshing.take(10**12)) == (None, None)
