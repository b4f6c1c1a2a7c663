"""Who gets a session, who does not, and what an agent's log says of it."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.auth.tokens import Tokens
from orchestrator.core.sessions import agent_log
from protocol.codec import unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.frames import Hello, Identify, Refresh, Refreshed, Role
from tests.support.hub_peer import identify
from tests.support.hub_world import World
from tests.support.timing import eventually


async def refusal(line: World, frame: Identify, token: str | None = None) -> tuple[int, str]:
    async with line.peer(token) as peer:
        await peer.expect(Hello)
        await peer.send(frame)
        return await peer.told()


async def test_an_agent_gets_a_session_that_its_log_tells_of(line: World) -> None:
    async with line.peer() as peer:
        ready = await peer.identify(identify("a1", Role.AGENT, instance="p1"))
        assert ready.principal == "agent:a1"
        assert not ready.resumed
        page = await line.store.read(agent_log("default", "a1"), 0, 10)
        assert page is not None
        record = unpack_record(page.entries[0].packed)
        body = unpack_value(record.body)
        assert (record.kind, body["session"], body["fence"]) == ("$connected", ready.session, ready.fence)
        assert body["takeover"] is False

    async def gone() -> bool:
        return await line.kinds(agent_log("default", "a1")) == ["$connected", "$disconnected"]

    await eventually(gone)


async def test_a_reconnect_is_told_from_a_takeover(line: World) -> None:
    async with line.peer() as peer:
        first = await peer.identify(identify("a1", Role.AGENT, instance="p1"))
    async with line.peer() as peer:
        second = await peer.identify(identify("a1", Role.AGENT, instance="p1", session=first.session))
        assert second.resumed
        assert second.fence > first.fence
    async with line.peer() as peer:
        third = await peer.identify(identify("a1", Role.AGENT, instance="p2", session="other"))
        assert not third.resumed
    page = await line.store.read(agent_log("default", "a1"), 0, 100)
    assert page is not None
    records = [unpack_record(entry.packed) for entry in page.entries]
    takeovers = [unpack_value(each.body)["takeover"] for each in records if each.kind == "$connected"]
    assert takeovers == [False, False, True]


async def test_the_older_of_two_sessions_gets_the_terminal_close(line: World) -> None:
    async with line.peer() as older, line.peer() as newer:
        first = await older.identify(identify("a1", Role.AGENT, instance="p1"))
        second = await newer.identify(identify("a1", Role.AGENT, instance="p2"))
        code, _ = await older.told()
        assert code == CloseCode.SUPERSEDED
        assert second.fence > first.fence
        assert await line.kinds(agent_log("default", "a1")) == ["$connected", "$superseded", "$connected"]
        peer = line.hub.services.peers.agent("default", "a1")
        assert peer is not None
        assert peer.session == second.session


@pytest.mark.parametrize("hints", [True, False], ids=["with hints", "without hints"])
async def test_a_session_on_another_hub_supersedes_too(line: World, hints: bool) -> None:
    other = await line.start()
    if not hints:
        line.store.hear = lambda wake: None  # type: ignore[method-assign]
    async with line.peer() as older, line.peer(hub=other) as newer:
        await older.identify(identify("a1", Role.AGENT, instance="p1"))
        await newer.identify(identify("a1", Role.AGENT, instance="p2"))
        code, _ = await older.told()
        assert code == CloseCode.SUPERSEDED


async def test_sessions_that_open_at_once_leave_one_with_the_highest_fence(line: World) -> None:
    async with line.peer() as one, line.peer() as two, line.peer() as three:
        peers = {"p1": one, "p2": two, "p3": three}
        for instance, peer in peers.items():
            await peer.expect(Hello)
            await peer.send(identify("a1", Role.AGENT, instance=instance))

        async def left() -> int:
            return len([each for each in line.hub.services.connections if each.peer is not None])

        async def one_left() -> bool:
            return await left() == 1

        await eventually(one_left)
        meta = await line.store.meta(agent_log("default", "a1"))
        assert meta is not None
        held = line.hub.services.peers.agent("default", "a1")
        assert held is not None
        assert meta["session"] == held.session


async def test_a_token_in_identify_serves_where_no_header_can_be_set(line: World) -> None:
    async with line.peer(token="") as peer:
        ready = await peer.identify(identify(token=line.token))
        assert ready.principal == "client:local"


async def test_no_token_is_refused(line: World) -> None:
    assert await refusal(line, identify(), token="") == (
        CloseCode.UNAUTHENTICATED,
        "no token came with the connection or with identify",
    )


async def test_a_token_of_another_deployment_is_refused(line: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    foreign = World(tmp_path_factory.mktemp("other"), None)  # type: ignore[arg-type]
    code, message = await refusal(line, identify(), foreign.issue("operator"))
    assert code == CloseCode.UNAUTHENTICATED
    assert "no key that is believed now signed it" in message


async def test_the_next_hub_takes_an_agents_token_at_its_mark(line: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = line.issue("agent", agents=("a1",))
    async with line.peer(token) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    other = await line.start()
    checked: list[str] = []
    check = Tokens._decode

    def checks(tokens: Tokens, each: str, *how: Any) -> Any:
        checked.append(each)
        return check(tokens, each, *how)

    monkeypatch.setattr(Tokens, "_decode", checks)
    async with line.peer(token, hub=other) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    assert checked == []
    async with line.peer(line.issue("agent", agents=("a1",), ttl_s=61), hub=other) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    assert len(checked) == 1


async def test_a_mark_that_is_no_mark_is_not_believed(line: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    foreign = World(tmp_path_factory.mktemp("other"), None)  # type: ignore[arg-type]
    forged = foreign.issue("agent", agents=("a1",))
    async with line.peer(line.issue("agent", agents=("a1",))) as peer:
        await peer.identify(identify("a1", Role.AGENT))
    code, message = await refusal(line, identify("a1", Role.AGENT), forged)
    assert code == CloseCode.UNAUTHENTICATED
    assert "no key that is believed now signed it" in message


async def test_an_expired_token_is_refused(line: World) -> None:
    code, message = await refusal(line, identify(), line.issue("operator", ttl_s=-5))
    assert (code, message) == (CloseCode.UNAUTHENTICATED, "the token expired 5 s ago")


@pytest.mark.parametrize(
    ("frame", "scopes", "agents"),
    [
        (identify("a1", Role.AGENT), ("agent",), ("a2",)),
        (identify("a1", Role.AGENT), ("operator",), ("a1",)),
        (identify(), ("agent",), ("*",)),
    ],
    ids=["another agent's token", "no agent scope", "no client scope"],
)
async def test_a_token_for_something_else_is_forbidden(
    line: World, frame: Identify, scopes: tuple[str, ...], agents: tuple[str, ...]
) -> None:
    code, _ = await refusal(line, frame, line.issue(*scopes, agents=agents))
    assert code == CloseCode.FORBIDDEN


async def test_an_unknown_version_is_refused(line: World) -> None:
    frame = identify().model_copy(update={"version": 7})
    code, message = await refusal(line, frame)
    assert (code, message) == (CloseCode.VERSION_UNSUPPORTED, "version 7 is not spoken here, only 1")


@pytest.mark.parametrize("name", ["../x", "A", "", "a:b", "a/b", "a" * 129])
async def test_an_id_that_is_no_name_is_refused(line: World, name: str) -> None:
    code, message = await refusal(line, identify(name, Role.AGENT))
    assert code == CloseCode.INVALID_FRAME
    assert "is not a name" in message


async def test_a_new_token_keeps_the_session(line: World) -> None:
    async with line.peer(line.issue("operator", name="ann", ttl_s=2)) as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=line.issue("operator", name="ann", ttl_s=600)))
        refreshed = await peer.expect(Refreshed)
        assert refreshed.expires_ms is not None
        assert peer.ready is not None
        assert peer.ready.expires_ms is not None
        assert refreshed.expires_ms > peer.ready.expires_ms


async def test_somebody_elses_token_does_not_keep_a_session(line: World) -> None:
    async with line.peer(line.issue("operator", name="ann")) as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=line.issue("operator", name="bob")))
        code, _ = await peer.told()
        assert code == CloseCode.FORBIDDEN


async def test_who_never_identifies_is_closed(world: World) -> None:
    await world.start(limits={"handshake_ms": 200})
    async with world.peer() as peer:
        code, _ = await peer.told()
        assert code == CloseCode.HANDSHAKE_TIMEOUT
    await eventually(lambda: world.hub.services.unidentified == 0)


async def test_a_silent_session_is_closed(world: World) -> None:
    await world.start(heartbeat_ms=100)
    async with world.peer() as peer:
        await peer.identify(identify())
        code, _ = await peer.told()
        assert code == CloseCode.HEARTBEAT_TIMEOUT


async def test_a_store_that_is_away_lets_nobody_in(line: World) -> None:
    line.server.down = True
    code, _ = await refusal(line, identify("a1", Role.AGENT))
    assert code == CloseCode.STORE_UNAVAILABLE
