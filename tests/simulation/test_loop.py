"""The virtual clock and its machines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.simulation.loop import Machine, SimulationLoop, StandsStill, current_machine


@pytest.fixture
def loop() -> Iterator[SimulationLoop]:
    loop = SimulationLoop(turns_max=1_000)
    yield loop
    loop.close()


def test_time_jumps_to_the_next_timer(loop: SimulationLoop) -> None:
    loop.run_until_complete(asyncio.sleep(86_400))

    assert loop.time() == pytest.approx(86_400)


def test_waiting_for_nothing_is_an_error(loop: SimulationLoop) -> None:
    with pytest.raises(StandsStill):
        loop.run_until_complete(asyncio.Event().wait())


async def _count(seen: list[float], loop: SimulationLoop) -> None:
    while True:
        await asyncio.sleep(1)
        seen.append(loop.time())


def test_a_frozen_machine_does_late_what_was_due(loop: SimulationLoop) -> None:
    machine, seen = Machine(loop, "m"), list[float]()

    async def play() -> None:
        machine.begin(_count(seen, loop), "count")
        await asyncio.sleep(2.5)
        machine.freeze()
        await asyncio.sleep(10)
        machine.thaw()
        await asyncio.sleep(1.25)
        machine.kill()
        await asyncio.sleep(5)

    loop.run_until_complete(play())
    assert seen == pytest.approx([1.0, 2.0, 12.5, 13.5])


def test_what_a_killed_machine_begins_ends_at_once(loop: SimulationLoop) -> None:
    machine, done = Machine(loop, "m"), list[str]()

    async def work() -> None:
        try:
            await asyncio.sleep(5)
        finally:
            done.append("cleared up")
            await asyncio.gather(asyncio.create_task(_note(done)), return_exceptions=True)

    async def play() -> None:
        task = machine.start(work(), "work")
        await asyncio.sleep(1)
        machine.kill()
        await asyncio.wait([task])

    loop.run_until_complete(play())
    assert done == ["cleared up"]


async def _note(done: list[str]) -> None:
    done.append("went on")


def test_tasks_belong_to_the_machine_that_started_them(loop: SimulationLoop) -> None:
    machine = Machine(loop, "m")

    async def inner() -> str:
        here = current_machine()
        return here.name if here is not None else ""

    async def outer() -> str:
        return await asyncio.create_task(inner())

    async def play() -> str:
        task: asyncio.Task[str] = machine.start(outer(), "outer")
        return await task

    assert loop.run_until_complete(play()) == "m"
    assert current_machine() is None
