"""Who waits for a run to end: told once it has, on whatever hub, and forgotten when their session is over."""

from __future__ import annotations

from typing import Any

import pytest

from protocol.codec import encode, pack_value, unpack_record
from protocol.codes import CloseCode
from protocol.control import Kind
from protocol.frames import Assign, Puback, Request, Response
from protocol.ids import make_run_id
from protocol.limits import Limits
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, submit, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

RESULT = pack_value({"result": pack_value(7)})
LONG_MS = 60_000
NOBODY = make_run_id(1, 1, b"nobodyis")


async def ask(peer: HubPeer, number: int, method: str, **params: Any) -> None:
    await peer.send(Request(id=number, method=method, params=params))


async def answer(peer: HubPeer, number: int) -> Any:
    response = await peer.expect(Response, lambda frame: frame.id == number)
    return response.error.code if response.error else response.result


async def finish(worker: HubPeer) -> Assign:
    """Let an agent take a run, say something, and end it."""
    given = await worker.expect(Assign)
    await worker.send(work_of(given, 1, "said"), work_of(given, 2, Kind.SUCCEEDED, RESULT))
    await worker.expect(Puback, lambda frame: frame.seq == 2)
    return given


def kind_of(end: Any) -> str:
    _offset, _ts_ms, packed = end
    return unpack_record(packed).kind


async def test_a_submit_that_waits_is_answered_with_the_end(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await ask(client, 1, "run.submit", queue="q", handler="h", input=b"", key="k", wait_ms=LONG_MS)
        given = await finish(worker)
        said = await answer(client, 1)
        assert (said["run"], said["created"], kind_of(said["end"])) == (given.run, True, Kind.SUCCEEDED)
        await ask(client, 2, "run.submit", queue="q", handler="h", input=b"", key="k", wait_ms=LONG_MS)
        assert await answer(client, 2) == {**said, "created": False}, "sent again, as after a lost connection"


@pytest.mark.parametrize("over", [False, True])
async def test_a_wait_is_answered_when_the_run_is_over(calm: World, over: bool) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = (await submit(client)).name
        if over:
            await finish(worker)
            await ask(client, 101, "run.wait", run=run, wait_ms=LONG_MS)
        else:
            await ask(client, 101, "run.wait", run=run, wait_ms=LONG_MS)
            await finish(worker)
        said = await answer(client, 101)
        last = (await client.result("log.read", log=f"run/{run}"))["entries"][-1]
        assert (kind_of(said["end"]), said["end"]) == (Kind.SUCCEEDED, last)


async def test_a_run_that_ends_on_another_hub_is_heard_of(world: World) -> None:
    first, second = await world.start(), await world.start()
    async with world.peer(hub=first) as client, world.peer(hub=second) as worker:
        await client.identify(identify())
        run = (await submit(client)).name
        await ask(client, 101, "run.wait", run=run, wait_ms=LONG_MS)
        await worker.identify(agent())
        await finish(worker)
        assert kind_of((await answer(client, 101))["end"]) == Kind.SUCCEEDED


async def test_a_run_that_is_not_over_in_time_has_no_end(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        await ask(client, 1, "run.submit", queue="q", handler="h", input=b"", key="k", wait_ms=1)
        said = await answer(client, 1)
        assert (said["created"], "end" in said) == (True, False)
        await ask(client, 2, "run.wait", run=said["run"], wait_ms=1)
        assert await answer(client, 2) == {}
        await ask(client, 3, "run.wait", run=NOBODY, wait_ms=1)
        assert await answer(client, 3) == "not_found"


async def test_a_run_that_is_deleted_while_it_is_waited_for_is_not_found(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        log = await submit(client)
        await ask(client, 101, "run.wait", run=log.name, wait_ms=LONG_MS)
        await eventually(lambda: waits(calm) == 1)
        await calm.store.delete(log)
        calm.hub.services.line.tails.look(log)
        assert await answer(client, 101) == "not_found"


async def test_those_who_wait_take_no_room_from_other_requests_and_have_a_limit(world: World) -> None:
    await world.start(limits=Limits(requests_max=1, waits_max=1))
    async with world.peer() as client:
        await client.identify(identify())
        run = (await submit(client)).name
        for number in (101, 102):
            await ask(client, number, "run.wait", run=run, wait_ms=LONG_MS)
        assert await answer(client, 102) == "too_many"
        assert (await client.result("run.get", run=run))["state"] == "queued"
        assert (await client.result("run.cancel", run=run))["state"] == "cancelled"
        assert kind_of((await answer(client, 101))["end"]) == Kind.CANCELLED


async def test_nothing_is_left_of_those_who_waited_and_went(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = (await submit(client)).name
        for number in (101, 102):
            await ask(client, number, "run.wait", run=run, wait_ms=LONG_MS)
        await eventually(lambda: waits(calm) == 2)
    await eventually(lambda: waits(calm) == 0)


async def test_nothing_is_left_of_a_wait_that_came_with_the_end_of_its_session(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = (await submit(client)).name
        asked = Request(id=101, method="run.wait", params={"run": run, "wait_ms": LONG_MS})
        await client.send_raw(encode(asked) + b"\xc1")
        assert (await client.told())[0] == CloseCode.MALFORMED
    async with calm.peer() as client:
        await client.identify(identify())
        await client.result("run.get", run=run)  # by then whatever was begun before has begun
        assert waits(calm) == 0


async def test_a_viewer_waits_and_submits_nothing(calm: World) -> None:
    async with calm.peer(calm.issue("viewer")) as viewer:
        await viewer.identify(identify())
        await ask(viewer, 1, "run.submit", queue="q", handler="h", input=b"", key="k", wait_ms=1)
        assert await answer(viewer, 1) == "forbidden"
        await ask(viewer, 2, "run.wait", run=NOBODY, wait_ms=1)
        assert await answer(viewer, 2) == "not_found"


def waits(world: World) -> int:
    return len(world.hub.services.waiting)
