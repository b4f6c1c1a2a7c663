"""Agents that are cordoned and drained, over hubs: what they are given, what they are told, what is shown."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from protocol.codes import ErrorCode
from protocol.control import Kind
from protocol.frames import Assign, Bye, Heartbeat, Puback, Release, ReleaseReason, Role
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import AGENT_LOG, agent, held, state, submit, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

DONE = b"\x81\xa6result\xc4\x01\xc0"


async def standing(client: HubPeer) -> tuple[bool, bool]:
    info = await client.result("agent.get", agent="a1")
    assert info == {**(await listed(client)), "runs": info["runs"]}
    return info["cordoned"], info["draining"]


async def listed(client: HubPeer) -> Any:
    (info,) = (await client.result("agent.list"))["agents"]
    return info


def assigned(worker: HubPeer) -> list[str]:
    return [frame.run for frame in worker.frames if isinstance(frame, Assign)]


async def test_an_agent_cordoned_on_one_hub_is_given_nothing_on_another_until_it_is_uncordoned(world: World) -> None:
    first, second = [await world.start(heartbeat_ms=5_000) for _ in range(2)]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(world.peer(hub=first))
        worker = await stack.enter_async_context(world.peer(hub=second))
        await client.identify(identify())
        await worker.identify(agent(slots=4))
        running = await submit(client, "running")
        given = await worker.expect(Assign)
        assert await client.result("agent.cordon", agent="a1") == {"cordoned": True, "draining": False}
        await eventually(lambda: all(peer.shut for peer in second.services.peers))
        waiting = await submit(client, "waiting")
        why = await client.result("run.get", run=waiting.name)
        assert why["reason"] == "every connected agent that could take it is cordoned or draining"
        assert await standing(client) == (True, False)
        await worker.send(work_of(given, 1, Kind.SUCCEEDED, DONE))  # what it works on goes on
        await worker.expect(Puback)
        assert await state(client, running) == "succeeded"
        assert not assigned(worker)
        assert await state(client, waiting) == "queued"
        assert await client.result("agent.uncordon", agent="a1") == {"cordoned": False, "draining": False}
        assert (await worker.expect(Assign)).run == waiting.name
    kinds = await world.kinds(AGENT_LOG)
    assert kinds[:3] == [Kind.CONNECTED, Kind.CORDONED, Kind.UNCORDONED]


async def test_a_large_fleet_is_listed_a_page_at_a_time(calm: World) -> None:
    names = ["a1", "a10", "a2", "b1"]
    async with calm.peer() as client, AsyncExitStack() as stack:
        await client.identify(identify())
        for name in names:
            await (await stack.enter_async_context(calm.peer())).identify(identify(name, Role.AGENT, name))
        seen: list[str] = []
        while page := (await client.result("agent.list", limit=2, **({"after": seen[-1]} if seen else {})))["agents"]:
            assert len(page) == 2
            seen += [info["agent"] for info in page]
        assert seen == names
        assert [info["agent"] for info in (await client.result("agent.list", after="a15"))["agents"]] == ["a2", "b1"]


async def test_a_cordon_holds_for_the_next_process_on_the_next_hub(world: World) -> None:
    first = await world.start(heartbeat_ms=5_000)
    async with world.peer() as client, world.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        await client.result("agent.cordon", agent="a1")
    await first.__aexit__(None, None, None)
    world.hubs.clear()
    second = world.new_hub(heartbeat_ms=5_000)
    async with second, world.peer(hub=second) as client, world.peer(hub=second) as worker:
        await client.identify(identify())
        frame = agent()
        await worker.identify(frame.model_copy(update={"instance": "another"}))
        run = await submit(client)
        peer = second.services.peers.agent("default", "a1")
        assert peer is not None
        assert peer.shut
        assert await standing(client) == (True, False)
        await client.result("agent.uncordon", agent="a1")
        assert (await worker.expect(Assign)).run == run.name


async def test_what_is_said_again_with_the_same_op_is_said_once_and_cordoning_twice_changes_nothing(
    calm: World,
) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        for _ in range(2):
            await client.result("agent.cordon", agent="a1")
        assert await calm.kinds(AGENT_LOG) == [Kind.CONNECTED, Kind.CORDONED]


async def test_nobody_but_an_operator_says_anything_of_an_agent_and_nothing_of_one_never_seen(calm: World) -> None:
    token = calm.issue("viewer")
    only_agent = calm.issue("agent", agents=("a1",))
    async with calm.peer(token) as viewer, calm.peer() as client, calm.peer(only_agent) as worker:
        await viewer.identify(identify("viewer"))
        await client.identify(identify())
        await worker.identify(agent())
        for method in ("agent.cordon", "agent.uncordon", "agent.drain"):
            for asker in (viewer, worker):
                refused = (await asker.request(method, agent="a1")).error
                assert refused is not None
                assert refused.code == ErrorCode.FORBIDDEN
            missing = (await client.request(method, agent="nobody")).error
            assert missing is not None
            assert missing.code == ErrorCode.NOT_FOUND
        assert await calm.kinds(AGENT_LOG) == [Kind.CONNECTED]


async def test_an_agent_that_is_drained_is_told_so_on_each_session_and_leaves(world: World) -> None:
    hubs = [await world.start(heartbeat_ms=60_000, lease_ms=180_000) for _ in range(2)]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(world.peer(hub=hubs[0]))
        await client.identify(identify())
        worker = await stack.enter_async_context(world.peer(hub=hubs[1]))
        await worker.identify(agent(slots=2))
        run = await submit(client)
        given = await worker.expect(Assign)
        assert await client.result("agent.drain", agent="a1", grace_ms=60_000) == {"cordoned": False, "draining": True}
        told = await worker.expect(Heartbeat, lambda frame: bool(frame.drain))
        assert told.drain_ms is not None
        assert 0 < told.drain_ms <= 61_000  # the clocks of two hubs
        waiting = await submit(client, "waiting")
        again = await stack.enter_async_context(world.peer(hub=hubs[0]))  # the same process comes back
        assert worker.ready is not None
        await again.identify(agent(slots=2).model_copy(update={"session": worker.ready.session}))
        assert (await again.expect(Assign)).run == run.name
        assert (await again.expect(Heartbeat, lambda frame: bool(frame.drain))).drain_ms is not None
        assert await standing(client) == (False, True)
        await again.send(Heartbeat(attempts=(held(given),)))
        await again.send(work_of(given, 1, Kind.SUCCEEDED, DONE))
        await again.expect(Puback)
        await again.send(Bye(reason="drained"))
        assert await again.closed() == 1000

        async def over() -> bool:
            return (await world.kinds(AGENT_LOG))[-2:] == [Kind.DISCONNECTED, Kind.DRAINED]

        await eventually(over)
        assert await state(client, waiting) == "queued"
        assert await standing(client) == (False, False)
        fresh = await stack.enter_async_context(world.peer(hub=hubs[1]))
        await fresh.identify(agent().model_copy(update={"instance": "another"}))
        assert (await fresh.expect(Assign)).run == waiting.name  # the next process is given work again


async def test_an_attempt_that_was_on_its_way_to_a_drained_agent_is_handed_back_unspent(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker, calm.peer() as other:
        await client.identify(identify())
        await worker.identify(agent())
        run = await submit(client)
        given = await worker.expect(Assign)
        await client.result("agent.drain", agent="a1")
        await worker.send(Release(run=given.run, fence=given.fence, reason=ReleaseReason.DRAIN))
        await other.identify(agent("a2"))
        assert (await other.expect(Assign)).run == run.name
        assert not assigned(worker)
