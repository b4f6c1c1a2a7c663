"""A hub that runs goes by new keys at once, and by old ones no longer than it should."""

from __future__ import annotations

import time

import jwt

from orchestrator.auth.keys import load_keys, rotate_keys
from orchestrator.auth.tokens import Tokens
from orchestrator.core.sessions import agent_log
from protocol.codes import CloseCode
from protocol.frames import Hello, Role
from tests.support.hub_peer import identify
from tests.support.hub_world import World
from tests.support.timing import eventually


def rotate(world: World, overlap_s: int) -> str:
    return rotate_keys(world.data, overlap_s, int(time.time())).signer.id


async def test_new_tokens_are_good_at_once_and_old_ones_for_the_overlap(line: World) -> None:
    old, local = line.issue("operator"), line.token
    async with line.peer(old) as peer:
        ready = await peer.identify(identify())
        signer = rotate(line, 600)
        async with line.peer(line.issue("operator")) as newcomer:
            await newcomer.identify(identify())
        async with line.peer(old) as again:
            await again.identify(identify())
        assert line.hub.services.tokens.signer == signer
        assert ready.expires_ms is not None
        assert not (await peer.request("agent.list")).error
    await eventually(lambda: line.token != local, 3)
    assert len(load_keys(line.data).keys) == 2


async def test_sessions_end_with_the_key_of_their_token(line: World) -> None:
    old = line.issue("operator")
    async with line.peer(old) as peer:
        await peer.identify(identify())
        rotate(line, 0)
        code, _ = await peer.told()
        assert code == CloseCode.TOKEN_EXPIRED
    async with line.peer(old) as peer:
        await peer.expect(Hello)
        await peer.send(identify())
        assert await peer.closed() == CloseCode.UNAUTHENTICATED
    async with line.peer(line.token) as peer:
        await peer.identify(identify())


async def test_what_an_agents_log_says_of_a_token_ends_with_its_key(line: World) -> None:
    old = line.issue("agent", agents=("a1",))
    now = rotate(line, 600)
    await eventually(lambda: line.hub.services.tokens.signer == now, 3)
    async with line.peer(old) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    meta = await line.store.meta(agent_log("default", "a1"))
    assert meta is not None
    tokens = Tokens(load_keys(line.data))
    signer = jwt.get_unverified_header(old)["kid"]
    assert (meta["mark"], signer != tokens.signer) == (tokens.mark(old, signer), True)
