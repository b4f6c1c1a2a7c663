"""A principal that sends more than its rate: it is slowed down, and loses nothing."""

from __future__ import annotations

import time

from protocol.codec import pack_value
from protocol.frames import Assign, HandlerSpec, Heartbeat, Hello, Puback, Role
from tests.support.audited import refusals
from tests.support.hub_peer import identify, publish
from tests.support.hub_world import World
from tests.support.timing import eventually, scaled


async def test_entries_past_the_rate_are_late_and_all_there_and_others_are_not_slowed(world: World) -> None:
    await world.start(limits={"entries_per_s_max": 100}, heartbeat_ms=5_000)
    fast, other = world.issue("operator", name="fast"), world.issue("operator", name="other")
    async with world.peer(fast) as peer, world.peer(fast) as brother, world.peer(other) as bystander:
        hello = await peer.expect(Hello)
        assert hello.limits.entries_per_s_max == 100
        peer.frames.insert(0, hello)
        for one in (peer, brother, bystander):
            await one.identify(identify())
        fence = await peer.publisher("topic/a")
        also = await brother.publisher("topic/b")
        theirs = await bystander.publisher("topic/c")
        began_s = time.monotonic()
        for seq in range(1, 252, 50):
            await peer.send(publish("topic/a", fence, seq, *[b"x"] * 50))
        assert (await bystander.publish("topic/c", theirs, 1, b"x")).seq == 1
        assert time.monotonic() - began_s < scaled(0.5)
        await peer.expect(Puback, lambda frame: frame.seq == 300)
        await brother.publish("topic/b", also, 1, b"x")
        await peer.publish("topic/a", fence, 301, b"x")
        assert time.monotonic() - began_s >= 0.9, "three seconds' worth, of which two come at once"
        assert await peer.result("log.list")
    noted = await refusals(world)
    assert {(each["what"], each["code"], each["who"], each["about"]) for each in noted} == {
        ("rate", "too_many", "client:fast", "entries_per_s_max")
    }


async def test_an_agent_that_is_not_read_keeps_its_leases(world: World) -> None:
    hub = await world.start(
        limits={"bytes_per_s_max": 20_000, "message_bytes_max": 1_000_000}, heartbeat_ms=100, lease_ms=300
    )
    client_token = world.issue("operator", name="client")
    async with world.peer() as agent:
        spec = HandlerSpec(name="work")
        await agent.identify(identify("a1", Role.AGENT, queues=("q",), slots=1, handlers=(spec,)))
        async with world.peer(client_token) as client:
            await client.identify(identify())
            await client.result("run.submit", queue="q", handler="work", key="k", input=pack_value({}))
        assign = await agent.expect(Assign)
        await agent.send(
            publish(f"run/{assign.run}", assign.fence, 1, b"x" * 60_000, producer="attempt/1"),
        )
        await agent.expect(Puback)
        rests = [link._incoming._resting for link in hub.services.connections]
        assert any(rests)
        began_s = time.monotonic()
        await agent.send(Heartbeat())

        async def read_again() -> bool:
            return not any(link._incoming._resting for link in hub.services.connections)

        await eventually(read_again)
        assert time.monotonic() - began_s > 0.6, "longer than two leases"
        async with world.peer(client_token) as client:
            await client.identify(identify())
            info = await client.result("run.get", run=assign.run)
        assert (info["state"], info["attempt"]) == ("running", 1)
