"""Schedules over real sockets: what is asked and answered, and one run for each due time over hubs."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from typing import Any

import pytest

from orchestrator.store import keys
from protocol.frames import Assign, Request, Response
from protocol.ids import queue_partition
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent
from tests.support.hub_world import World
from tests.support.timing import eventually

HOUR_MS = 3_600_000


async def add(client: HubPeer, **options: Any) -> Any:
    wanted = {"schedule": "s", "cron": "* * * * * *", "handler": "h", "input": b"\x07", "queue": "q", **options}
    return await client.result("schedule.add", **wanted)


async def refusal(client: HubPeer, method: str, **params: Any) -> tuple[str, str]:
    answer = await client.request(method, **params)
    assert answer.error is not None, answer
    return answer.error.code, answer.error.message


async def due_times(world: World) -> list[int]:
    """Return the due times that runs were made for, in the order of time: each run's key says which."""
    made = world.server.data.hashes.get(keys.idempotency(queue_partition("default", "q"), "default", "q"), {})
    return sorted(int(key.rsplit("/", 1)[1]) for key in made)


async def test_each_due_time_is_a_run_that_agents_are_given(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        info = await add(client, priority=2, where="")
        given = await worker.expect(Assign)
        assert (given.handler, given.input) == ("h", b"\x07")
        shown = await client.result("schedule.get", schedule="s")
        assert shown["input"] == b"\x07"
        assert shown["upcoming"] == tuple(shown["next_ms"] + 1000 * number for number in range(3))
        assert shown["last_state"] in ("queued", "running")
        assert (await due_times(calm))[0] == info["next_ms"]
        run = await client.result("run.get", run=given.run)
        assert (run["queue"], run["state"]) == ("q", "running")


async def test_one_run_for_each_due_time_over_two_hubs_of_which_one_goes(world: World) -> None:
    stays, goes = await world.start(heartbeat_ms=5_000), world.new_hub(heartbeat_ms=5_000)
    async with world.peer(hub=stays) as client, AsyncExitStack() as going:
        await going.enter_async_context(goes)
        await client.identify(identify())
        await add(client)

        async def so_many(count: int) -> bool:
            return len(await due_times(world)) >= count

        await eventually(lambda: so_many(2), 20.0)
        await going.aclose()
        seen = len(await due_times(world))
        await eventually(lambda: so_many(seen + 2), 30.0)
        await client.result("schedule.set", schedule="s", paused=True)
        times = await due_times(world)
        assert times == list(range(times[0], times[-1] + 1, 1000))


async def test_after_a_pause_no_later_due_time_is_a_run_and_it_goes_on_with_the_next(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        await add(client)

        async def some() -> list[int]:
            return await due_times(calm)

        await eventually(some)
        paused = await client.result("schedule.set", schedule="s", paused=True)
        paused_ms = time.time_ns() // 1_000_000
        assert paused["paused"]
        assert "next_ms" not in paused
        assert (await client.result("schedule.get", schedule="s")).get("upcoming", ()) == ()

        async def other_is_due() -> bool:
            return "last_run" in await client.result("schedule.get", schedule="other")

        await add(client, schedule="other", queue="elsewhere", cron="*/2 * * * * *")
        await eventually(other_is_due)
        await client.result("schedule.remove", schedule="other")
        going = await client.result("schedule.set", schedule="s", paused=False)
        assert going["next_ms"] > paused_ms
        meanwhile = [ms for ms in await due_times(calm) if paused_ms < ms < going["next_ms"]]
        assert meanwhile == []
        await client.result("schedule.remove", schedule="s")
        assert await refusal(client, "schedule.get", schedule="s") == ("not_found", "there is no schedule 's'")


@pytest.mark.parametrize(("missed", "count"), [("skip", 0), ("once", 1)])
async def test_what_was_missed_while_no_hub_was_there(world: World, missed: str, count: int) -> None:
    hub = world.new_hub(heartbeat_ms=5_000)
    async with hub, world.peer() as client:
        await client.identify(identify())
        first = await add(client, cron="30 * * * *", missed=missed)
    real = world.server.clock_ms
    world.server.clock_ms = lambda: real() + 100 * HOUR_MS
    later = await world.start(heartbeat_ms=5_000)
    async with world.peer(hub=later) as client:
        await client.identify(identify())

        async def goes_on() -> Any:
            info = await client.result("schedule.get", schedule="s")
            return info if info["next_ms"] > first["next_ms"] else None

        info = await eventually(goes_on)
        now_ms = world.server.clock_ms()
        assert now_ms - 60_000 < info["next_ms"] <= now_ms + HOUR_MS
        assert await due_times(world) == [first["next_ms"]] * count
        assert info.get("last_due_ms") == (first["next_ms"] if count else None)


async def test_the_same_again_is_the_same_schedule_and_other_terms_are_refused(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        hourly = {"cron": "0 * * * *", "where": "b=2, a=1"}
        first = await add(client, **hourly)
        assert first["where"] == "a=1,b=2"
        assert await add(client, **(hourly | {"where": "a=1,b=2"})) == first
        wanted = {"schedule": "s", "cron": "1 * * * *", "handler": "h", "input": b"\x07", "queue": "q"}
        code, message = await refusal(client, "schedule.add", **wanted)
        assert (code, "there is a schedule 's' with other terms" in message) == ("name_conflict", True)


async def test_a_request_that_comes_again_is_given_its_answer(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        wanted = {"schedule": "s", "cron": "0 * * * *", "handler": "h", "input": b""}
        answers: dict[str, list[Any]] = {}
        for method, params in (
            ("schedule.add", wanted),
            ("schedule.set", {"schedule": "s", "paused": True}),
            ("schedule.remove", {"schedule": "s"}),
        ):
            for number in (98, 99):
                await client.send(Request(id=number, op=f"op-{method}", method=method, params=params))
                answers.setdefault(method, []).append((await client.expect(Response)).result)
        assert all(first == second and first for first, second in answers.values()), answers
        await client.send(Request(id=97, op="op-schedule.add", method="schedule.add", params=wanted))
        assert (await client.expect(Response)).result == answers["schedule.add"][0]
        assert (await client.result("schedule.list"))["schedules"] == ()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"cron": "61 * * * *"}, "'61 * * * *' is not a cron expression: its minute field is wrong"),
        ({"cron": "every day"}, "'every day' is not a cron expression: it has five fields"),
        ({"timezone": "Mars/Base"}, "'Mars/Base' is not a time zone"),
        ({"schedule": "No"}, "'No' is not a name"),
        ({"queue": "a/b"}, "'a/b' is not a name"),
        ({"where": "gpu="}, "selector"),
        ({"missed": "always"}, "missed"),
        ({"priority": 10}, "priority"),
    ],
)
async def test_what_cannot_be_done_is_told_precisely(calm: World, changed: dict[str, Any], says: str) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        wanted = {"schedule": "s", "cron": "0 * * * *", "handler": "h", "input": b"", **changed}
        code, message = await refusal(client, "schedule.add", **wanted)
        assert (code, says in message) == ("invalid_params", True), message
        assert (await client.result("schedule.list"))["schedules"] == ()


async def test_schedules_are_listed_by_name_and_each_namespace_has_its_own(calm: World) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("operator", namespace="other")) as stranger:
        await client.identify(identify())
        await stranger.identify(identify("stranger"))
        for name in ("zoo", "ant", "bee"):
            await add(client, schedule=name, cron="0 * * * *")
        listed = (await client.result("schedule.list", limit=2))["schedules"]
        assert [info["schedule"] for info in listed] == ["ant", "bee"]
        assert not {"input", "last_state"} & set(listed[0])
        assert (await stranger.result("schedule.list"))["schedules"] == ()
        assert (await refusal(stranger, "schedule.remove", schedule="ant"))[0] == "not_found"


async def test_who_may_only_look_may_not_add_pause_or_remove(calm: World) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("viewer")) as viewer:
        await client.identify(identify())
        await viewer.identify(identify("viewer"))
        await add(client, cron="0 * * * *")
        assert (await viewer.result("schedule.get", schedule="s"))["cron"] == "0 * * * *"
        wanted = {"schedule": "t", "cron": "0 * * * *", "handler": "h", "input": b""}
        for method, params in (
            ("schedule.add", wanted),
            ("schedule.set", {"schedule": "s", "paused": True}),
            ("schedule.remove", {"schedule": "s"}),
        ):
            assert (await refusal(viewer, method, **params))[0] == "forbidden"
        bare = await client.request("schedule.remove", op=False, schedule="s")
        assert bare.error is not None
        assert bare.error.code == "invalid_params"
