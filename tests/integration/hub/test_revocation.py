"""What is revoked is refused, and its live sessions end, on every hub of a store within a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import jwt
import pytest

from orchestrator.auth.revocation import Revocations
from orchestrator.core.revoking import Subject, Target
from orchestrator.core.sessions import agent_log
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import Hello, Refresh, Role
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_world import World
from tests.support.timing import eventually, scaled

WITHIN_S = 1.0


def id_of(token: str) -> str:
    return str(jwt.decode(token, options={"verify_signature": False})["jti"])


async def refused(world: World, token: str, agent: str | None = None) -> tuple[int, str]:
    async with world.peer(token) as peer:
        await peer.expect(Hello)
        await peer.send(identify(agent, Role.AGENT) if agent else identify())
        return await peer.told()


async def cut(peer: HubPeer) -> tuple[int, str]:
    """Return how a session is ended, which must be within a second."""
    began = time.monotonic()
    told = await peer.told()
    assert time.monotonic() - began < scaled(WITHIN_S)
    return told


@pytest.fixture
async def boss(either: World) -> AsyncIterator[HubPeer]:
    """An operator, by whom others lose what they had."""
    async with either.peer(either.issue("admin", name="boss")) as peer:
        await peer.identify(identify())
        yield peer


async def test_a_revoked_token_ends_its_session_and_opens_no_other(either: World, boss: HubPeer) -> None:
    token = either.issue("admin", name="ann")
    async with either.peer(token) as peer:
        await peer.identify(identify())
        await boss.result("token.revoke", token=id_of(token), expires_ms=(int(time.time()) + 60) * 1000)
        code, message = await cut(peer)
    assert code == CloseCode.REVOKED
    assert "the token was revoked at" in message
    assert "get a new one" in message
    assert (await refused(either, token))[0] == CloseCode.REVOKED
    async with either.peer(either.issue("admin", name="ann")) as peer:
        await peer.identify(identify())


@pytest.mark.parametrize("hints", ["heard", "lost"])
async def test_it_holds_on_every_hub(either: World, boss: HubPeer, hints: str) -> None:
    other = await either.start(heartbeat_ms=5_000)
    if hints == "lost":
        other.services.revocations.hint = lambda word: None  # type: ignore[method-assign]
    token = either.issue("agent", agents=("a1",))
    async with either.peer(token, other) as peer:
        await peer.identify(identify("a1", Role.AGENT))
        await boss.result("token.revoke", token=id_of(token))
        code, _ = await cut(peer)
        assert code == CloseCode.REVOKED
    async with either.peer(token, other) as peer:
        await peer.expect(Hello)
        await peer.send(identify("a1", Role.AGENT))
        assert await peer.closed() == CloseCode.REVOKED


async def test_all_tokens_of_a_name_are_revoked_and_those_issued_later_are_good(line: World) -> None:
    tokens = [line.issue("admin", name="ann"), line.issue("agent", name="ann", agents=("a1",))]
    bobs = line.issue("admin", name="bob")
    async with AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(line.peer(token)) for token in (*tokens, bobs)]
        await peers[0].identify(identify())
        await peers[1].identify(identify("a1", Role.AGENT))
        await peers[2].identify(identify())
        await peers[2].result("token.revoke", name="ann")
        assert [(await cut(peer))[0] for peer in peers[:2]] == [CloseCode.REVOKED] * 2
        asked = await peers[2].result("token.check", token=id_of(tokens[0]), name="ann", issued_s=int(time.time()) - 1)
        assert asked["revoked"]
        later = await peers[2].result("token.check", token="x", name="ann", issued_s=int(time.time()) + 1)
        assert later == {"namespace": "default", "revoked": False}


async def test_a_revoked_agent_comes_back_with_no_token_at_all(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify("a1", Role.AGENT))
        target = Target("default", Subject.AGENT, "a1")
        await line.hub.services.revocations.revoke(target, "client:boss")
        assert (await cut(peer))[0] == CloseCode.REVOKED
    code, message = await refused(line, line.issue("agent", agents=("*",)), "a1")
    assert (code, "the agent 'a1' was revoked" in message) == (CloseCode.REVOKED, True)
    await line.hub.services.revocations.lift(target)
    async with line.peer() as peer:
        await peer.identify(identify("a1", Role.AGENT))


async def test_a_verified_token_is_remembered_and_refused_all_the_same(line: World) -> None:
    token = line.issue("agent", agents=("a1",))
    async with line.peer(token) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    assert token in line.hub.services.tokens._verified
    fresh = await line.start()  # which sees the mark of a checked signature in the agent's log, and no token yet
    await line.hub.services.revocations.revoke(Target("default", Subject.TOKEN, id_of(token)), "client:boss")
    assert (await refused(line, token, "a1"))[0] == CloseCode.REVOKED
    await eventually(lambda: len(fresh.services.revocations._marks) == 1, WITHIN_S)
    async with line.peer(token, fresh) as peer:
        await peer.expect(Hello)
        await peer.send(identify("a1", Role.AGENT))
        assert await peer.closed() == CloseCode.REVOKED


async def test_a_hub_that_starts_knows_what_was_revoked_before_it_listens(
    line: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = line.issue("admin", name="ann")
    await line.hub.services.revocations.revoke(Target("default", Subject.TOKEN, id_of(token)), "client:boss")
    monkeypatch.setattr(Revocations, "run", lambda _: asyncio.Event().wait())
    late = await line.start()
    async with line.peer(token, late) as peer:
        await peer.expect(Hello)
        await peer.send(identify())
        assert await peer.closed() == CloseCode.REVOKED


async def test_a_revoked_token_takes_no_agent_over(line: World) -> None:
    token = line.issue("agent", agents=("a1",))
    await line.hub.services.revocations.revoke(Target("default", Subject.TOKEN, id_of(token)), "client:boss")
    async with line.peer() as peer:
        await peer.identify(identify("a1", Role.AGENT))
        assert (await refused(line, token, "a1"))[0] == CloseCode.REVOKED
        assert await line.kinds(agent_log("default", "a1")) == ["$connected"]


async def test_a_session_that_opens_while_its_token_is_revoked_does_not(line: World) -> None:
    token = line.issue("agent", agents=("a1",))
    services = line.hub.services
    commit = services.line.commit

    async def slowly(*what: object) -> object:
        services.line.commit = commit  # type: ignore[method-assign]
        await services.revocations.revoke(Target("default", Subject.TOKEN, id_of(token)), "client:boss")
        await services.revocations.load()  # the sessions that it ends are ended: this one is none yet
        return await commit(*what)  # type: ignore[arg-type]

    services.line.commit = slowly  # type: ignore[assignment]
    assert (await refused(line, token, "a1"))[0] == CloseCode.REVOKED


async def test_a_revoked_token_refreshes_no_session(line: World) -> None:
    token = line.issue("admin", name="ann")
    await line.hub.services.revocations.revoke(Target("default", Subject.TOKEN, id_of(token)), "client:boss")
    async with line.peer(line.issue("admin", name="ann")) as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=token))
        assert (await peer.told())[0] == CloseCode.REVOKED


async def test_who_revokes_their_own_token_is_answered_first(line: World) -> None:
    token = line.issue("admin", name="ann")
    async with line.peer(token) as peer:
        await peer.identify(identify())
        assert (await peer.result("token.revoke", token=id_of(token)))["since_ms"] > 0
        assert (await cut(peer))[0] == CloseCode.REVOKED


@pytest.mark.parametrize("scopes", [("viewer",), ("agent",)])
async def test_not_everybody_may_revoke(line: World, scopes: tuple[str, ...]) -> None:
    async with line.peer(line.issue(*scopes, agents=("a1",))) as peer:
        await peer.identify(identify("a1", Role.AGENT) if "agent" in scopes else identify())
        response = await peer.request("token.revoke", token="t")
        assert response.error is not None
        assert response.error.code == "forbidden"


@pytest.mark.parametrize("params", [{}, {"token": "t", "name": "ann"}, {"token": ""}, {"name": "../x"}])
async def test_it_is_one_token_or_one_name(line: World, params: dict[str, Any]) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        response = await peer.request("token.revoke", **params)
        assert response.error is not None
        assert response.error.code == "invalid_params"


async def test_of_another_namespace_nothing_is_revoked(line: World) -> None:
    token = line.issue("admin", name="ann")
    async with line.peer(token) as peer, line.peer(line.issue("admin", namespace="other")) as stranger:
        await peer.identify(identify())
        await stranger.identify(identify())
        await stranger.result("token.revoke", token=id_of(token))
        await stranger.result("token.revoke", name="ann")
        await line.hub.services.revocations.load()
        assert not (await peer.request("agent.list")).error


async def test_what_is_revoked_is_listed_and_lifted_on_every_hub(either: World) -> None:
    other, token = await either.start(), either.issue("viewer", name="ann")
    ends_ms = (int(time.time()) + 60) * 1000
    async with either.peer() as boss, either.peer(either.issue("admin", namespace="lab")) as stranger:
        for one in (boss, stranger):
            await one.identify(identify())
        await boss.result("token.revoke", token=id_of(token))
        await boss.result("token.revoke", name="ann", expires_ms=ends_ms)
        past = await boss.request("token.revoke", token=id_of(token), expires_ms=1)
        assert past.error is not None
        assert past.error.code == ErrorCode.INVALID_PARAMS, "a mark that is forgotten at once would be none"
        marks = (await boss.result("token.revoked"))["marks"]
        assert [(mark["subject"], mark["id"], mark.get("until_ms"), mark["by"]) for mark in marks] == [
            ("name", "ann", ends_ms, "client:local"),
            ("token", id_of(token), None, "client:local"),
        ]
        assert (await boss.result("token.revoked", limit=1))["marks"] == marks[:1]
        assert not (await stranger.result("token.revoked"))["marks"]
        assert not (await stranger.result("token.unrevoke", token=id_of(token)))["was_revoked"]
        assert (await boss.result("token.unrevoke", name="ann"))["was_revoked"]
        assert (await refused(either, token))[0] == CloseCode.REVOKED, "the token's own mark is still there"
        for again in (True, False):
            assert (await boss.result("token.unrevoke", token=id_of(token)))["was_revoked"] is again
        assert not (await boss.result("token.revoked"))["marks"]
        await eventually(lambda: not other.services.revocations._marks.of("default"))
        for hub in (either.hub, other):
            async with either.peer(token, hub) as ann:
                await ann.identify(identify())
