"""Principals that make ever new logs: each way to make one has an end, and what is there is nobody's concern."""

from __future__ import annotations

from typing import Any

from protocol.codec import pack_value
from protocol.codes import CloseCode
from protocol.family import Spawn
from protocol.frames import Assign, HandlerSpec, Hello, Nack, Role, Start, Subscribed
from tests.support.audited import refusals
from tests.support.hub_peer import HubPeer, identify, publish, subscribe
from tests.support.hub_world import World


async def refused(peer: HubPeer, method: str, **params: Any) -> tuple[str, bool]:
    """Return with what code a request is refused, and whether it says when to come again."""
    error = (await peer.request(method, **params)).error
    assert error is not None
    return error.code, bool(error.retry_ms)


async def test_topics_and_agents_logs_end_with_the_day_s_worth_and_what_is_there_goes_on(either: World) -> None:
    await either.start(limits={"logs_per_day_max": 3})
    ann, bob = either.issue("operator", name="ann"), either.issue("operator", name="bob")
    hub = either.hubs[-1]
    async with either.peer(ann, hub) as peer, either.peer(bob, hub) as other:
        hello = await peer.expect(Hello)
        assert (hello.limits.logs_per_day_max, hello.limits.runs_per_day_max) == (3, 0)
        peer.frames.insert(0, hello)
        for one in (peer, other):
            await one.identify(identify())
        await peer.publisher("topic/a")
        await peer.follow("topic/b")
        await peer.result("agent.send", agent="c", kind="note", body=b"")
        for again in range(3):  # of what is there
            await peer.publisher("topic/a", producer=f"p{again}")
            await peer.result("agent.send", agent="c", kind="note", body=b"")
        assert await refused(peer, "producer.open", log="topic/d", producer="p") == ("too_many", True)
        assert await refused(peer, "agent.send", agent="d", kind="note", body=b"") == ("too_many", True)
        await peer.send(subscribe("topic/d", Start.EARLIEST))
        assert (await peer.expect(Subscribed)).subscription.code == "too_many"
        await peer.follow("topic/a")
        (noted,) = await refusals(either)
        assert [noted[name] for name in ("what", "code", "who", "about", "count")] == [
            "log", "too_many", "client:ann", "logs_per_day_max", 3,
        ]  # fmt: skip
        await other.publisher("topic/d")
        await peer.publisher("topic/d", producer="q")


async def test_a_token_for_any_agent_makes_no_more_agents_than_that(world: World) -> None:
    await world.start(limits={"logs_per_day_max": 1})
    await world.start(limits={"logs_per_day_max": 1})
    token = world.issue("agent", name="pool", agents=("*",))
    async with world.peer(token) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    for hub in world.hubs:
        async with world.peer(token, hub) as peer:
            await peer.expect(Hello)
            await peer.send(identify("a2", Role.AGENT))
            code, why = await peer.told()
            assert (code, "pool has made as many logs as may be" in why) == (CloseCode.OVERLOADED, True)
        async with world.peer(token, hub) as peer:
            assert await peer.identify(identify("a1", Role.AGENT))


async def test_runs_have_an_end_too_where_that_is_said_and_so_have_children(world: World) -> None:
    await world.start(limits={"runs_per_day_max": 3})
    agent_token = world.issue("agent", name="a1", agents=("a1",))
    client_token = world.issue("operator", name="client")
    asked = {"queue": "q", "handler": "work", "input": pack_value({})}
    async with world.peer(agent_token) as agent, world.peer(client_token) as client:
        spec = HandlerSpec(name="work")
        await agent.identify(identify("a1", Role.AGENT, queues=("q",), slots=1, handlers=(spec,)))
        await client.identify(identify())
        for number in range(3):
            await client.result("run.submit", key=f"k{number}", **asked)
        assert await refused(client, "run.submit", key="k9", **asked) == ("too_many", True)
        assign = await agent.expect(Assign)
        child = Spawn(queue="q", handler="work", input=pack_value({}), digest="d").model_dump(exclude_none=True)
        children = [("$spawn", pack_value(child), index, None) for index in range(1, 5)]
        frame = publish(f"run/{assign.run}", assign.fence, 1, b"", producer="attempt/1")
        await agent.send(frame.model_copy(update={"entries": tuple(children[:3])}))
        await agent.send(frame.model_copy(update={"entries": tuple(children[3:]), "seq": 4}))
        nack = await agent.expect(Nack)
        assert (nack.code, nack.seq, bool(nack.retry_ms)) == ("too_many", 4, True)
