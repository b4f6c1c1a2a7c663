"""The life of a run on stores of every kind: every event and every command in every state, as the tables have it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from orchestrator.store.base import Store
from tests.support.lifecycle import PAIRS, Bench, walk
from tests.support.suspensions import ORDERS, RACES, Away, walk_order, walk_race
from tests.support.talks import (
    ANSWERABLE,
    LATE,
    OPEN_STATES,
    Talks,
    walk_answer,
    walk_late,
    walk_message,
    walk_timeout,
)


@pytest.fixture
def namespaces() -> Iterator[str]:
    """A namespace for each pair: what one leaves behind is not in the next one's way."""
    return (f"pair-{number}" for number in itertools.count(1))


async def test_every_event_in_every_state(store: Store, namespaces: Iterator[str]) -> None:
    for state, event in PAIRS:
        await walk(Bench(store, next(namespaces), await store.now_ms()), state, event)


async def test_every_command_in_every_state(store: Store, namespaces: Iterator[str]) -> None:
    async def run() -> Talks:
        return Talks(store, next(namespaces), await store.now_ms())

    for state in OPEN_STATES:
        await walk_message(await run(), state)
    for state in ANSWERABLE:
        await walk_answer(await run(), state)
        await walk_timeout(await run(), state)
    for state, what in LATE:
        await walk_late(await run(), state, what)


async def test_everything_that_brings_a_suspended_run_back(store: Store, namespaces: Iterator[str]) -> None:
    for order in ORDERS[::4]:  # all of them are walked in memory
        await walk_order(Away(store, next(namespaces), await store.now_ms()), order)
    for first, second in RACES[::3]:
        await walk_race(Away(store, next(namespaces), await store.now_ms()), first, second)
