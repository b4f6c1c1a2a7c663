"""What holds runs of a queue back: a rate, a limit for each concurrency key, and that submitters take turns."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack
from typing import Any

import pytest

from orchestrator.core import runs
from protocol.codec import pack_value
from protocol.control import Kind, RunError
from protocol.frames import Assign, Puback, Publish
from protocol.ids import LogKind, LogName
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

RESULT = b"\x81\xa6result\xc4\x01\xc0"
ERROR = pack_value({"error": RunError(type="ValueError", message="no").model_dump(exclude_none=True)})


async def submit(client: HubPeer, key: str, **options: Any) -> str:
    wanted = {"queue": "q", "handler": "h", "input": b"", "key": key, **options}
    return str((await client.result("run.submit", **wanted))["run"])


async def queue(client: HubPeer) -> Any:
    return await client.result("queue.get", queue="q")


def done(given: Assign) -> Publish:
    return work_of(given, 1, Kind.SUCCEEDED, RESULT)


async def finish(worker: HubPeer, given: Assign) -> None:
    await worker.send(done(given))
    await worker.expect(Puback)


async def test_of_one_concurrency_key_so_many_run_and_what_stands_behind_them_is_not_held_up(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await client.result("queue.set", queue="q", key_limit=1)
        same = sorted([await submit(client, f"a{number}", concurrency_key="ann") for number in range(3)])
        other = await submit(client, "b", concurrency_key="bob")
        free = await submit(client, "c")
        await worker.identify(agent(slots=4))
        given = [await worker.expect(Assign) for _ in range(3)]
        assert sorted(each.run for each in given) == sorted([same[0], other, free])

        async def parked() -> bool:
            return bool((await queue(client))["parked"] == 2)

        await eventually(parked)
        info = await queue(client)
        assert (info["waiting"], info["active"], info["key_limit"]) == (0, 3, 1)
        assert info["keys"] == ({"key": "ann", "parked": 2, "active": 1},)
        why = (await client.result("run.get", run=same[1]))["reason"]
        assert why == "as many runs with its concurrency key are worked on as may be at once: 1"
        for follows in same[1:]:
            await finish(worker, next(each for each in given if each.run in same))
            given = [await worker.expect(Assign)]
            assert given[0].run == follows
        assert (await queue(client))["parked"] == 0


async def test_what_is_parked_comes_back_when_the_limit_is_raised_and_goes_when_it_is_cancelled(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await client.result("queue.set", queue="q", key_limit=1)
        runs = sorted([await submit(client, f"a{number}", concurrency_key="ann") for number in range(5)])
        await worker.identify(agent(slots=4))
        await worker.expect(Assign)

        async def parked() -> bool:
            return bool((await queue(client))["parked"] == 4)

        await eventually(parked)
        await client.result("run.cancel", run=runs[1])
        assert (await queue(client))["parked"] == 3
        await client.result("queue.set", queue="q", key_limit=2)
        assert (await worker.expect(Assign)).run == runs[2]
        await client.result("queue.set", queue="q", key_limit=0)
        assert {(await worker.expect(Assign)).run for _ in range(2)} == set(runs[3:])
        info = await queue(client)
        assert (info["parked"], info["active"], info.get("key_limit")) == (0, 4, None)


async def test_a_purge_takes_what_is_parked(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await client.result("queue.set", queue="q", key_limit=1)
        for number in range(3):
            await submit(client, f"a{number}", concurrency_key="ann")
        await worker.identify(agent(slots=4))
        given = await worker.expect(Assign)

        async def parked() -> bool:
            return bool((await queue(client))["parked"] == 2)

        await eventually(parked)
        assert (await client.result("queue.purge", queue="q"))["purged"] == 2
        await finish(worker, given)
        info = await queue(client)
        assert (info["parked"], info["waiting"], info["active"], info["keys"]) == (0, 0, 0, ())


async def test_a_rate_holds_over_hubs_and_the_next_run_starts_when_its_token_is_there(world: World) -> None:
    hubs = [await world.start(heartbeat_ms=5_000) for _ in range(2)]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(world.peer())
        await client.identify(identify())
        await client.result("queue.set", queue="q", rate={"starts": 25, "per_ms": 1_000, "burst": 3})
        for number in range(18):
            await submit(client, f"k{number}")
        given: list[Assign] = []

        async def take(worker: HubPeer) -> None:
            while True:
                given.append(await worker.expect(Assign))

        workers = [await stack.enter_async_context(world.peer(hub=hub)) for hub in hubs]
        for number, worker in enumerate(workers):
            await worker.identify(agent(f"a{number}", slots=12))
        tasks = [asyncio.create_task(take(worker)) for worker in workers]
        try:
            await eventually(lambda: len(given) == 18, 20.0)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        logs = [LogName("default", LogKind.RUN, each.run) for each in given]
        pages = [await world.store.read(log, 1, 1) for log in logs]
        starts = sorted(page.entries[0].ts_ms for page in pages if page)
        for first in range(18):
            for last in range(first, 18):
                allowed = 3 + (starts[last] - starts[first]) * 25 / 1_000
                assert last - first + 1 <= allowed, f"{last - first + 1} starts in {starts[last] - starts[first]} ms"


async def test_why_a_run_waits_is_said(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent(slots=3))

        async def why(run: str) -> str:
            return str((await client.result("run.get", run=run))["reason"])

        await submit(client, "first")
        await worker.expect(Assign)
        await client.result("queue.set", queue="q", limit=1)
        second = await submit(client, "second")
        assert await why(second) == "as many runs of its queue are worked on as may be at once: 1"
        await client.result("queue.set", queue="q", paused=True)
        assert await why(second) == "its queue is paused"
        hourly = {"starts": 1, "per_ms": 3_600_000}
        info = await client.result("queue.set", queue="q", paused=False, limit=0, rate=hourly)
        assert info["rate"] == {**hourly, "burst": 1}
        assert (await worker.expect(Assign)).run == second
        third = await submit(client, "third")
        assert re.fullmatch(r"its queue's rate lets the next one start in \d{7} ms", await why(third))
        assert (await queue(client))["reason"].startswith("its queue's rate")
        await client.result("queue.set", queue="q", rate={"starts": 0})
        assert (await worker.expect(Assign)).run == third


async def test_a_submitter_with_one_run_waits_for_one_turn_of_another_with_many(either: World) -> None:
    world = either
    async with AsyncExitStack() as stack:
        many = await stack.enter_async_context(world.peer(world.issue("operator", name="many")))
        await many.identify(identify("many"))
        one = await stack.enter_async_context(world.peer(world.issue("operator", name="one")))
        await one.identify(identify("one"))
        for number in range(20):
            await submit(many, f"m{number}")
        lone = await submit(one, "one")
        high = await submit(many, "high", priority=9)
        assert (await queue(many))["shares"] == (
            {"by": "client:many", "waiting": 21},
            {"by": "client:one", "waiting": 1},
        )
        worker = await stack.enter_async_context(world.peer())
        await worker.identify(agent())
        order = []
        for _ in range(4):
            given = await worker.expect(Assign)
            order.append(given.run)
            await finish(worker, given)
        assert order[0] == high, "a higher priority goes before all turns"
        assert lone in order[1:3]


async def test_dead_letters_are_listed_and_submitted_again_each_once(either: World) -> None:
    async with either.peer() as client, either.peer() as other, either.peer() as worker:
        await client.identify(identify())
        await other.identify(identify("other"))
        await worker.identify(agent(slots=3))
        runs = [await submit(client, f"k{number}", retries=0) for number in range(2)]
        dying = [await submit(client, f"d{number}", retries=1, backoff_ms=1, backoff_max_ms=1) for number in range(3)]
        over = 0
        while over < 2 + 2 * 3:
            given = await worker.expect(Assign)
            await worker.send(work_of(given, 1, Kind.ERRORED, ERROR))
            over += 1

        async def dead() -> bool:
            return bool((await queue(client))["dead"] == 3)

        await eventually(dead)
        letters = await client.result("queue.dead", queue="q")
        assert sorted(run["run"] for run in letters["runs"]) == sorted(dying)
        assert {run["error"]["message"] for run in letters["runs"]} == {"no"}
        assert (await client.result("run.get", run=runs[0]))["state"] == "failed", "no retries were asked for"
        again = (await client.result("run.retry", run=dying[0]))["run"]
        assert (await queue(client))["dead"] == 2
        both = await asyncio.gather(*(asker.result("queue.retry", queue="q") for asker in (client, other)))
        assert sum(answer["retried"] for answer in both) == 2
        assert (await queue(client))["dead"] == 0
        new = {(await worker.expect(Assign)).run for _ in range(3)}
        retried = {(await client.result("run.get", run=run))["retry_of"] for run in new}
        assert retried == set(dying)
        assert again in new
        assert (await client.result("queue.retry", queue="q"))["retried"] == 0


async def test_a_key_names_one_run_whatever_hubs_and_terms_it_is_submitted_with(either: World) -> None:
    await either.start(heartbeat_ms=5_000)
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(either.peer(hub=hub)) for hub in either.hubs]
        for number, client in enumerate(clients):
            await client.identify(identify(f"c{number}"))
        answers = await asyncio.gather(
            *(
                client.result("run.submit", queue="q", handler="h", input=b"x", key="k", priority=number)
                for number, client in enumerate(clients)
            )
        )
        assert len({answer["run"] for answer in answers}) == 1
        assert sum(answer["created"] for answer in answers) == 1
        [client, *_] = clients
        run = answers[0]["run"]
        await client.result("run.cancel", run=run)
        assert await submit(client, "k", input=b"x", concurrency_key="other", delay_ms=5) == run, (
            "a key outlives its run"
        )
        refused = await client.request("run.submit", op=False, queue="q", handler="h", input=b"y", key="k")
        assert refused.error is not None
        assert (refused.error.code, refused.error.data) == ("key_conflict", {"run": run})
        assert await submit(client, "k", input=b"y", queue="q2") != run, "each queue has its own keys"
        counts = await queue(client)
        assert (counts["waiting"], counts["later"]) == (0, 0)


@pytest.mark.parametrize("begin", runs.OWN_KEYS)
async def test_a_key_that_hubs_make_is_nobody_elses(calm: World, begin: str) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        answer = await client.request("run.submit", queue="q", handler="h", input=b"", key=f"{begin}some-run")
        assert answer.error is not None
        assert answer.error.code == "invalid_params"
        assert begin in answer.error.message
