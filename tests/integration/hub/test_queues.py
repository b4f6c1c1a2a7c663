"""Queues that are paused, limited and purged, over hubs."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from protocol.control import Kind
from protocol.frames import Assign, HandlerSpec, Puback, Publish, Role
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually


async def submit(client: HubPeer, key: str, **options: Any) -> str:
    wanted = {"queue": "q", "handler": "h", "input": b"", "key": key, **options}
    return str((await client.result("run.submit", **wanted))["run"])


async def queue(client: HubPeer) -> Any:
    return await client.result("queue.get", queue="q")


def counts(info: Any) -> tuple[int, int, int]:
    return info["waiting"], info["later"], info["active"]


def done(given: Assign) -> Publish:
    return work_of(given, 1, Kind.SUCCEEDED, b"\x81\xa6result\xc4\x01\xc0")


async def test_a_queue_that_is_paused_lets_its_runs_wait_and_what_runs_go_on(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent(slots=2))
        await submit(client, "first")
        given = await worker.expect(Assign)
        paused = await client.result("queue.set", queue="q", paused=True)
        assert (paused["paused"], counts(paused)) == (True, (0, 0, 1))
        second = await submit(client, "second")
        await worker.send(done(given))
        await worker.expect(Puback)
        info = await queue(client)
        assert counts(info) == (1, 0, 0)
        assert info["buckets"] == ({"handler": "h", "where": "", "waiting": 1},), "an agent would take it"
        assert not any(isinstance(frame, Assign) for frame in worker.frames)
        await client.result("queue.set", queue="q", paused=False)
        assert (await worker.expect(Assign)).run == second


async def test_a_limit_holds_over_agents_and_hubs(world: World) -> None:
    hubs = [await world.start(heartbeat_ms=5_000) for _ in range(2)]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(world.peer())
        await client.identify(identify())
        await client.result("queue.set", queue="q", limit=2)
        workers = [await stack.enter_async_context(world.peer(hub=hubs[number % 2])) for number in range(4)]
        for number, worker in enumerate(workers):
            await worker.identify(agent(f"a{number}", slots=4))
        for number in range(8):
            await submit(client, f"k{number}")

        async def work(worker: HubPeer) -> None:
            while True:
                given = await worker.expect(Assign)
                seen.append((await queue(client_of[worker]))["active"])
                await worker.send(done(given))

        seen: list[int] = []
        client_of: dict[HubPeer, HubPeer] = {}
        for worker in workers:
            client_of[worker] = await stack.enter_async_context(world.peer())
            await client_of[worker].identify(identify(f"looker-{len(client_of)}"))
        tasks = [asyncio.create_task(work(worker)) for worker in workers]
        try:
            await eventually(lambda: len(seen) == 8, 30.0)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert max(seen) <= 2

        async def over() -> bool:
            return counts(await queue(client)) == (0, 0, 0)

        await eventually(over)
        assert (await client.result("queue.set", queue="q", limit=0)).get("limit") is None


async def test_what_is_not_said_of_a_queue_stays_as_it_is(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        await client.result("queue.set", queue="q", paused=True)
        await client.result("queue.set", queue="q", limit=3)
        info = await client.result("queue.set", queue="q")
        assert (info["paused"], info["limit"]) == (True, 3)
        info = await client.result("queue.set", queue="q", paused=False)
        assert (info["paused"], info["limit"]) == (False, 3)


async def test_a_purge_cancels_what_waits_and_what_comes_later_and_nothing_else(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await submit(client, "running")
        await worker.expect(Assign)
        runs = [await submit(client, f"k{number}", where="ssd" if number % 2 else "") for number in range(5)]
        runs.append(await submit(client, "later", delay_ms=60_000))
        assert counts(await queue(client)) == (5, 1, 1)
        assert (await client.result("queue.purge", queue="q", reason="not needed"))["purged"] == 6
        assert counts(await queue(client)) == (0, 0, 1)
        for run in runs:
            assert (await client.result("run.get", run=run))["state"] == "cancelled"
        assert (await client.result("queue.purge", queue="q"))["purged"] == 0


async def test_queues_are_listed_by_name_and_each_namespace_has_its_own(calm: World) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("operator", namespace="other")) as stranger:
        await client.identify(identify())
        await stranger.identify(identify("stranger"))
        for name in ("zoo", "ant"):
            await submit(client, name, queue=name)
        listed = (await client.result("queue.list"))["queues"]
        assert [(info["queue"], info["waiting"]) for info in listed] == [("ant", 1), ("zoo", 1)]
        assert (await stranger.result("queue.list"))["queues"] == ()
        assert (await stranger.result("queue.purge", queue="ant"))["purged"] == 0


async def test_a_queue_says_why_nobody_takes_what_waits(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await submit(client, "k1")
        nobody = "no connected agent serves the queue 'q'"
        assert (await queue(client))["buckets"] == ({"handler": "h", "where": "", "waiting": 1, "reason": nobody},)
        await worker.identify(agent())
        await worker.expect(Assign)
        await submit(client, "k2", where="ssd")
        await submit(client, "k3", handler="other")
        buckets = {(each["handler"], each["where"]): each.get("reason") for each in (await queue(client))["buckets"]}
        assert buckets == {
            ("h", "ssd"): "no connected agent that has the handler 'h' has the labels ssd",
            ("other", ""): "no connected agent on the queue 'q' has the handler 'other'",
        }
        listed = (await client.result("queue.list"))["queues"]
        assert [info["buckets"] for info in listed] == [()]


async def test_a_queue_that_was_never_named_is_not_found_and_one_that_was_stays(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        answer = await client.request("queue.get", op=False, queue="q")
        assert answer.error is not None
        assert answer.error.code == "not_found"
        assert answer.error.message == "no run was ever submitted to a queue 'q', and nothing was ever said of it"
        await submit(client, "k")
        await client.result("queue.purge", queue="q")
        await client.result("queue.set", queue="said", paused=False)
        for name in ("q", "said"):
            assert counts(await client.result("queue.get", queue=name)) == (0, 0, 0)


async def test_who_may_only_look_may_not_pause_or_purge(calm: World) -> None:
    async with calm.peer(calm.issue("viewer")) as viewer:
        await viewer.identify(identify("viewer"))
        for method, params in (("queue.set", {"paused": True}), ("queue.purge", {})):
            answer = await viewer.request(method, op=False, queue="q", **params)
            assert answer.error is not None
            assert answer.error.code == "forbidden"


async def test_a_place_that_becomes_free_is_taken_by_an_agent_of_another_hub(world: World) -> None:
    hubs = [await world.start(heartbeat_ms=5_000) for _ in range(2)]
    async with world.peer() as client, world.peer(hub=hubs[0]) as first, world.peer(hub=hubs[1]) as second:
        await client.identify(identify())
        await client.result("queue.set", queue="q", limit=1)
        await first.identify(agent("a1"))
        await submit(client, "first")
        given = await first.expect(Assign)
        ssd = identify(
            "a2", Role.AGENT, "a2", queues=("q",), slots=1, handlers=(HandlerSpec(name="h"),), labels={"ssd": "1"}
        )
        await second.identify(ssd)
        picky = await submit(client, "picky", where="ssd")
        await first.send(done(given))
        assert (await second.expect(Assign)).run == picky
