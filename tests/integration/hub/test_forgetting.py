"""Runs that are kept for a time only, through a hub: what is told of one, before it goes and after."""

from __future__ import annotations

import pytest

from protocol.frames import Assign, Subscribed
from tests.support.hub_peer import identify
from tests.support.hub_work import agent, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

DAY_MS = 24 * 3600 * 1000
ASKED = {"queue": "q", "handler": "h", "input": b""}


async def test_a_run_that_was_kept_for_its_time_is_gone_for_everybody(either: World) -> None:
    async with either.peer() as client, either.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = (await client.result("run.submit", **ASKED, key="k", keep_ms=300))["run"]
        given = await worker.expect(Assign)
        assert "kept_until_ms" not in await client.result("run.get", run=run), "it is not over"
        await worker.send(work_of(given, 1, "$succeeded", b"\x81\xa6result\xc4\x01\xc0"))
        await client.follow(f"run/{run}", durable="mine")

        async def gone() -> bool:
            answer = await client.request("run.get", run=run)
            return answer.error is not None and answer.error.code == "not_found"

        await eventually(gone)
        told = (await client.expect(Subscribed)).subscription
        assert (told.log, told.code, told.message) == (f"run/{run}", "not_found", "the log was deleted")
        for method in ("run.cancel", "run.retry"):
            answer = await client.request(method, run=run)
            assert answer.error is not None
            assert answer.error.code == "not_found"
        assert (await client.result("run.list"))["runs"] == ()
        again = await client.result("run.submit", **ASKED, key="k", keep_ms=DAY_MS)
        assert again["created"]
        assert again["run"] != run


async def test_a_run_that_does_not_say_is_kept_as_the_hub_has_it(world: World) -> None:
    await world.start(runs_kept_s=DAY_MS // 1000)
    async with world.peer() as client:
        await client.identify(identify())
        for key, keep_ms in (("own", 5_000), ("none", None)):
            asked = {**ASKED, "key": key} | ({"keep_ms": keep_ms} if keep_ms else {})
            run = (await client.result("run.submit", **asked))["run"]
            await client.result("run.cancel", run=run)
            info = await client.result("run.get", run=run)
            assert info["kept_until_ms"] - info["finished_ms"] == (keep_ms or DAY_MS)
            retried = (await client.result("run.retry", run=run))["run"]
            await client.result("run.cancel", run=retried)
            info = await client.result("run.get", run=retried)
            assert info["kept_until_ms"] - info["finished_ms"] == (keep_ms or DAY_MS), (
                "what is done again is kept as long"
            )


async def test_a_hub_may_keep_runs_for_ever(world: World) -> None:
    await world.start(runs_kept_s=0)
    async with world.peer() as client:
        await client.identify(identify())
        run = (await client.result("run.submit", **ASKED, key="k"))["run"]
        await client.result("run.cancel", run=run)
        assert "kept_until_ms" not in await client.result("run.get", run=run)


@pytest.mark.parametrize("said", [{}, {"keep_ms": 1}], ids=["as the hub has it", "as it says"])
async def test_a_run_is_kept_for_as_long_as_whoever_submits_may_be_cut_off(world: World, said: dict[str, int]) -> None:
    await world.start(runs_kept_least_s=60, runs_kept_s=1)
    async with world.peer() as client:
        await client.identify(identify())
        run = (await client.result("run.submit", **ASKED, key="k", **said))["run"]
        await client.result("run.cancel", run=run)
        info = await client.result("run.get", run=run)
        assert info["kept_until_ms"] - info["finished_ms"] == 60_000
