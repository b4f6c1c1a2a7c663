"""The waiting helpers that every other test leans on."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.timing import deadline, eventually, eventually_sync


async def test_eventually_returns_the_first_true_answer() -> None:
    answers = iter([0, None, "", "there"])
    assert await eventually(lambda: next(answers)) == "there"


async def test_eventually_awaits_a_coroutine() -> None:
    async def answer() -> int:
        return 7

    assert await eventually(answer) == 7


async def test_eventually_says_what_it_waited_for() -> None:
    never_there = False
    with pytest.raises(AssertionError, match="never_there"):
        await eventually(lambda: never_there, within_s=0.02)


def test_eventually_sync_gives_up() -> None:
    with pytest.raises(AssertionError, match="still 0"):
        eventually_sync(lambda: 0, within_s=0.02)


async def test_deadline_ends_a_wait() -> None:
    with pytest.raises(TimeoutError):
        async with deadline(0.01):
            await asyncio.Event().wait()
