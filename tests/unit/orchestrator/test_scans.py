"""Requests that look through much wait for their turn, those of each principal for themselves."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.scans import AT_ONCE_MAX, SCANNING, Scans
from protocol.requests import METHODS


async def test_a_few_of_one_principal_have_their_turn_and_another_does_not_wait() -> None:
    scans, begun, go = Scans(), list[str](), asyncio.Event()

    async def scan(account: str) -> None:
        async with scans.turn(account):
            begun.append(account)
            await go.wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        for account in (*("default/eve",) * 3 * AT_ONCE_MAX, "default/ada"):
            tasks.create_task(scan(account))
        await asyncio.sleep(0)
        assert begun == ["default/eve"] * AT_ONCE_MAX + ["default/ada"]
        go.set()
    assert begun.count("default/eve") == 3 * AT_ONCE_MAX
    assert len(scans) == 0


async def test_one_that_fails_or_is_given_up_leaves_its_turn_to_others() -> None:
    scans, go = Scans(), asyncio.Event()

    async def scan() -> None:
        async with scans.turn("default/eve"):
            await go.wait()

    async with asyncio.timeout(5):
        tasks = [asyncio.create_task(scan()) for _ in range(AT_ONCE_MAX + 1)]
        await asyncio.sleep(0)
        for task in (tasks[0], tasks[-1]):
            task.cancel()
        with pytest.raises(LookupError):
            async with scans.turn("default/eve"):
                raise LookupError
        go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(scans) == 0


def test_every_one_of_them_is_a_method() -> None:
    assert METHODS.keys() > SCANNING
    assert {name for name in METHODS if name.endswith(".list")} <= SCANNING
