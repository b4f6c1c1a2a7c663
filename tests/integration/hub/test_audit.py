"""What a hub refused is written down where those may read it whom it concerns, and without secrets."""

from __future__ import annotations

from typing import Any

from orchestrator.core.refusals import audit_log
from orchestrator.core.sessions import agent_log
from protocol.frames import Hello, Nack, Role
from tests.support.audited import refusals
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder


async def refused(peer: HubPeer, method: str, **params: Any) -> str | None:
    """Return the code of the error that a request is answered with."""
    response = await peer.request(method, **params)
    return None if response.error is None else response.error.code


def brief(found: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        tuple(each[name] for name in ("what", "code", "reason", "who", "about") if each.get(name)) for each in found
    ]


async def test_what_sessions_asked_for_in_vain_is_in_the_audit(line: World) -> None:
    async with line.peer(line.issue("viewer", name="eve")) as peer:
        await peer.identify(identify("eve"))
        for _ in range(3):
            assert await refused(peer, "run.submit", queue="q", handler="h", input=b"secret", key="k") == "forbidden"
        await peer.send(publish("topic/news", 1, 1, b"secret"))
        assert (await peer.expect(Nack)).code == "forbidden"
        assert (await peer.follow("topic/audit")).subscription.code == "forbidden"
    found = await refusals(line)
    assert brief(found) == [
        ("request", "forbidden", "client:eve", "run.submit q"),
        ("publish", "forbidden", "client:eve", "topic/news"),
        ("subscribe", "forbidden", "client:eve", "topic/audit"),
    ]
    assert [each["count"] for each in found] == [3, 1, 1]


async def test_who_was_not_let_in_is_in_the_audit(line: World) -> None:
    tokens = ["", "secret", line.issue("viewer", ttl_s=-5), line.issue("agent", agents=("a1",), name="bob")]
    for token, role in zip(tokens, [Role.CLIENT, Role.CLIENT, Role.CLIENT, Role.AGENT], strict=True):
        async with line.peer(token) as peer:
            await peer.expect(Hello)
            await peer.send(identify("a2", role))
            await peer.closed()
    assert sorted(brief(await refusals(line))) == [
        ("session", "forbidden", "agent", "token:bob", "agent/a2"),
        ("session", "unauthenticated", "expired"),
        ("session", "unauthenticated", "invalid"),
        ("session", "unauthenticated", "no_token"),
    ]


async def test_a_key_that_is_not_the_agents_is_told_of_in_the_agents_log(line: World) -> None:
    holder, other = Keyholder(), Keyholder()
    token = line.issue("agent", name="rack", agents=("m1",), uses=2)
    async with line.peer("") as peer:
        await holder.enter(peer, token)
    async with line.peer("") as peer:
        await other.refused(peer, token)
    async with line.peer(line.issue("agent", name="eve", agents=("m1",))) as peer:
        await peer.expect(Hello)
        await peer.send(identify("m1", Role.AGENT))
        await peer.closed()
    assert brief(await refusals(line, agent_log("default", "m1"))) == [
        ("key", "key_refused", "another_key", "token:rack", "agent/m1"),
        ("session", "unauthenticated", "no_proof", "token:eve", "agent/m1"),
    ]


async def test_an_agents_own_are_in_its_log(line: World) -> None:
    async with line.peer(line.issue("agent", agents=("a1",))) as peer:
        await peer.identify(identify("a1", Role.AGENT))
        assert await refused(peer, "log.read", log="agent/a2", limit=1) == "forbidden"
        log = agent_log("default", "a1")
        assert brief(await refusals(line, log)) == [("request", "forbidden", "agent:a1", "log.read agent/a2")]
        assert await refusals(line) == []


async def test_of_each_namespace_its_admins_read_what_was_refused_and_nobody_writes_it(line: World) -> None:
    async with line.peer(line.issue("operator", name="ann", namespace="b")) as peer:
        await peer.identify(identify("ann"))
        assert await refused(peer, "log.read", log="topic/audit") == "forbidden"
        assert await refused(peer, "log.get", log="topic/audit") == "forbidden"
        assert await refused(peer, "producer.open", log="topic/audit", producer="p") == "forbidden"
    assert len(await refusals(line, audit_log("b"))) == 3
    assert await refusals(line) == []
    async with line.peer(line.issue("admin", name="root", namespace="b")) as peer:
        await peer.identify(identify("root"))
        assert (await peer.follow("topic/audit")).subscription.code is None
        assert (await peer.entries("topic/audit", 3))[-1].upto == 3
        assert await refused(peer, "producer.open", log="topic/audit", producer="p") == "forbidden"
        await peer.send(publish("topic/audit", 1, 1, b"x"))
        assert (await peer.expect(Nack)).code == "forbidden"
    async with line.peer(line.issue("admin", name="root")) as peer:
        await peer.identify(identify("root"))
        assert (await peer.follow("topic/audit")).subscription.head == 0


async def test_a_hub_that_stops_writes_down_what_it_counted(world: World) -> None:
    async with world.new_hub() as hub, world.peer("", hub) as peer:
        await peer.expect(Hello)
        await peer.send(identify("x"))
        await peer.closed()
    await world.start()
    assert await refusals(world) != []
