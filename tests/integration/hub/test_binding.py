"""A name gets an accepted key: what a token alone opened under it ends, on every hub within a second."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from orchestrator.auth.enrolment import Identified
from orchestrator.core.sessions import Denied
from orchestrator.hub import Hub
from orchestrator.store.base import StoreUnavailable
from protocol.codes import CloseCode
from protocol.frames import Hello, Identify, Role
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder
from tests.support.timing import eventually, scaled

REFUSED = (CloseCode.UNAUTHENTICATED, "has a key: a token without its proof lets nobody in")


async def wait_for_operator(world: World, hub: Hub, holder: Keyholder, **options: Any) -> None:
    """Come with a key that an operator has to accept."""
    scopes, agents = (("agent",), (holder.name,)) if holder.role is Role.AGENT else (("viewer",), ())
    join = world.issue(*scopes, name=holder.name, agents=agents, uses=1, **options)
    async with world.peer("", hub) as peer:
        assert (await holder.refused(peer, join))[0] == CloseCode.KEY_PENDING


async def ended(peer: HubPeer) -> tuple[int, str]:
    code, why = await peer.told()
    return code, why.partition(" ")[2]


async def test_an_accepted_key_ends_what_a_token_alone_has_open_on_every_hub(either: World) -> None:
    other = await either.start(heartbeat_ms=5_000, enrol_accept="manual")
    m1, ada = Keyholder(), Keyholder("ada", Role.CLIENT)
    for holder in (m1, ada):
        await wait_for_operator(either, other, holder)
    agent = either.issue("agent", name="any", agents=("*",))
    tokens = {name: either.issue("viewer", name=name) for name in ("ada", "bob")}
    elsewhere = either.issue("viewer", name="ada", namespace="lab")
    async with AsyncExitStack() as stack:

        async def open_session(token: str, hub: Hub, name: str = "", role: Role = Role.CLIENT) -> HubPeer:
            peer = await stack.enter_async_context(either.peer(token, hub))
            await peer.identify(identify(name or "x", role))
            return peer

        ends = [await open_session(tokens["ada"], hub) for hub in either.hubs]
        ends.append(await open_session(agent, other, "m1", Role.AGENT))
        stays = [await open_session(tokens["bob"], other), await open_session(elsewhere, other)]
        stays.append(await open_session(agent, other, "m2", Role.AGENT))
        operator = await open_session(either.token, either.hub)
        began = asyncio.get_running_loop().time()
        for holder in (m1, ada):
            await operator.result("key.accept", name=holder.place)
        assert [await ended(peer) for peer in ends] == [REFUSED] * 3
        assert asyncio.get_running_loop().time() - began < scaled(1.0)
        keyed = await stack.enter_async_context(either.peer("", other))
        await ada.enter(keyed)
        stays.append(keyed)
        await wait_for_operator(either, other, bea := Keyholder("bea", Role.CLIENT))
        await operator.result("key.accept", name=bea.place)
        for hub in either.hubs:
            await hub.services.binding.look(hub.services)
        for peer in (*stays, operator):
            assert await peer.request("agent.list", op=False), "it goes on"


async def test_a_key_that_is_accepted_while_a_session_opens_ends_it_too(world: World) -> None:
    hub = await world.start(heartbeat_ms=5_000, enrol_accept="manual")
    ada = Keyholder("ada", Role.CLIENT)
    await wait_for_operator(world, hub, ada)
    services, token, bystander = hub.services, world.issue("viewer", name="ada"), world.issue("viewer", name="bob")
    identified = services.enrolment.identify
    async with world.peer() as operator, world.peer(bystander) as bob, world.peer(token) as peer:
        await operator.identify(identify())
        await bob.identify(identify())

        async def slowly(frame: Identify, token: str | None, nonce: bytes, now_s: int) -> Identified | Denied:
            """Take so long that the key is accepted, and every session was looked at, meanwhile."""
            known_as = await identified(frame, token, nonce, now_s)
            await operator.result("key.accept", name=ada.place)
            await services.binding.look(services)
            return known_as

        services.enrolment.identify = slowly  # type: ignore[method-assign]
        await peer.expect(Hello)
        await peer.send(identify("ada"))
        assert await ended(peer) == REFUSED


async def test_a_store_that_is_away_for_a_moment_keeps_no_session_open(world: World) -> None:
    hub = await world.start(heartbeat_ms=5_000, enrol_accept="manual")
    ada = Keyholder("ada", Role.CLIENT)
    await wait_for_operator(world, hub, ada)
    async with world.peer() as operator, world.peer(world.issue("viewer", name="ada")) as peer:
        for one in (operator, peer):
            await one.identify(identify("ada"))
        get, failed = world.store.hash_get, 0

        async def away(key: str, *fields: str) -> list[bytes | None]:
            nonlocal failed
            if ada.place in fields and len(fields) > 1 and failed < 2:
                failed += 1
                raise StoreUnavailable("away")
            return await get(key, *fields)

        world.store.hash_get = away  # type: ignore[method-assign]
        await operator.result("key.accept", name=ada.place)
        assert await ended(peer) == REFUSED
        await eventually(lambda: hub.services.binding.words != {})
