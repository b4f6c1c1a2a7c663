"""Keys of peers: enrolled with a join token, proven at each handshake, decided about by operators; and attacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.enrolment import KeyPlace
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import Hello, Identify, Ready, Refresh, Role
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder
from tests.support.timing import scaled

PLACE = KeyPlace("default", Role.AGENT, "m1")
IDENTITIES = PLACE.key


def join_token(world: World, *agents: str, uses: int = 1, scopes: tuple[str, ...] = ("agent",), **options: Any) -> str:
    return world.issue(*scopes, name=options.pop("name", "rack"), agents=agents or ("m1",), uses=uses, **options)


async def enrol(world: World, holder: Keyholder, *agents: str, **options: Any) -> Ready:
    """Enrol a key, and leave."""
    async with world.peer("") as peer:
        return await holder.enter(peer, join_token(world, *(agents or (holder.name,)), **options))


async def refusal(world: World, holder: Keyholder, token: str | None = None) -> int:
    async with world.peer("") as peer:
        return (await holder.refused(peer, token))[0]


async def said(world: World, change: Callable[[Hello], Identify]) -> int:
    """Answer `hello` with a frame of one's own making; return with what code that is refused."""
    async with world.peer("") as peer:
        await peer.send(change(await peer.expect(Hello)))
        return (await peer.told())[0]


# The way it is meant


async def test_a_key_is_enrolled_once_and_lets_its_holder_in_from_then_on(either: World) -> None:
    holder = Keyholder()
    first = await enrol(either, holder)
    assert (first.principal, first.scopes, first.expires_ms) == ("agent:m1", ("agent",), None)
    async with either.peer("") as peer, either.peer() as operator:
        assert (await holder.enter(peer)).principal == "agent:m1"
        await operator.identify(identify())
        (shown,) = (await operator.result("key.list", op=False))["keys"]
        assert shown["name"] == "agent/m1"
        assert (shown["state"], shown["fingerprint"]) == ("accepted", holder.fingerprint)
        assert (shown["by"], shown["scopes"]) == ("join:rack", ("agent",))


async def test_keys_are_listed_in_pages_by_name_with_what_they_are_held_to(either: World) -> None:
    may = {"serve": ["queue/*"]}
    for name in ("m3", "m1", "m2"):
        await enrol(either, Keyholder(name), may=may)
    async with either.peer() as operator:
        await operator.identify(identify())

        async def names(**params: object) -> list[str]:
            keys = (await operator.result("key.list", op=False, **params))["keys"]
            assert all(key["may"] == {"serve": ("queue/*",)} for key in keys)
            return [key["name"] for key in keys]

        assert await names() == ["agent/m1", "agent/m2", "agent/m3"]
        assert await names(limit=2) == ["agent/m1", "agent/m2"]
        assert await names(limit=2, after="agent/m2") == ["agent/m3"]
        assert await names(after="agent/m11", state="accepted") == ["agent/m2", "agent/m3"]
        assert await names(after="agent/m3") == []


async def test_a_client_enrols_with_the_name_and_the_scopes_of_its_join_token(calm: World) -> None:
    ada = Keyholder("ada", Role.CLIENT)
    token = join_token(calm, name="ada", scopes=("viewer",))
    async with calm.peer("") as peer:
        ready = await ada.enter(peer, token)
        assert (ready.principal, ready.scopes) == ("client:ada", ("viewer",))
    bob = Keyholder("bob", Role.CLIENT)
    assert await refusal(calm, bob, token) == CloseCode.FORBIDDEN


async def test_a_hub_that_asks_lets_a_key_in_once_an_operator_accepted_it(world: World) -> None:
    await world.start(heartbeat_ms=5_000, enrol_accept="manual")
    holder, token = Keyholder(), join_token(world)
    async with world.peer("") as peer:
        code, why = await holder.refused(peer, token)
    assert code == CloseCode.KEY_PENDING
    assert holder.fingerprint in why
    assert await refusal(world, holder) == CloseCode.KEY_PENDING  # it needs the token no more
    async with world.peer() as operator, world.peer("") as peer:
        await operator.identify(identify())
        wrong = await operator.request("key.accept", name="agent/m1", fingerprint="SHA256:x")
        assert wrong.error is not None
        assert wrong.error.code == ErrorCode.KEY_STATE
        shown = await operator.result("key.accept", name="agent/m1", fingerprint=holder.fingerprint)
        assert (shown["state"], shown["by"]) == ("accepted", "client:local")
        assert (await holder.enter(peer)).scopes == ("agent",)


async def test_what_operators_decide_holds_and_may_be_said_again(world: World) -> None:
    await world.start(heartbeat_ms=5_000, enrol_accept="manual")
    holder = Keyholder()
    await refusal(world, holder, join_token(world))
    async with world.peer() as operator:
        await operator.identify(identify())
        for method, state, code in (
            ("key.reject", "rejected", CloseCode.KEY_REFUSED),
            ("key.reject", "rejected", CloseCode.KEY_REFUSED),
            ("key.revoke", "revoked", CloseCode.KEY_REVOKED),
        ):
            assert (await operator.result(method, name="agent/m1"))["state"] == state
            assert await refusal(world, holder) == code
        refused = await operator.request("key.accept", name="agent/m1")
        assert refused.error is not None
        assert (refused.error.code, refused.error.data) == (ErrorCode.KEY_STATE, {"state": "revoked"})
        listed = (await operator.result("key.list", state="revoked", op=False))["keys"]
        assert [each["name"] for each in listed] == ["agent/m1"]
        assert not (await operator.result("key.list", state="pending", op=False))["keys"]
        for name, error in (("agent/nobody", ErrorCode.NOT_FOUND), ("m1", ErrorCode.INVALID_PARAMS)):
            unknown = await operator.request("key.revoke", name=name)
            assert unknown.error is not None
            assert unknown.error.code == error


async def test_a_revoked_key_ends_its_sessions_on_every_hub_within_a_second(either: World) -> None:
    other, holder, ada = await either.start(heartbeat_ms=5_000), Keyholder(), Keyholder("ada", Role.CLIENT)
    await enrol(either, ada, name="ada", scopes=("viewer",))
    async with either.peer() as operator, either.peer("", hub=other) as first, either.peer("", hub=other) as second:
        await operator.identify(identify())
        await holder.enter(first, join_token(either))
        await ada.enter(second)
        began = asyncio.get_running_loop().time()
        for name in (holder.place, ada.place):
            await operator.result("key.revoke", name=name)
        assert [await first.closed(), await second.closed()] == [CloseCode.REVOKED] * 2
        assert asyncio.get_running_loop().time() - began < scaled(1.0)
    assert await refusal(either, holder) == CloseCode.KEY_REVOKED


async def test_a_revoked_join_token_enrols_nobody(calm: World) -> None:
    token = join_token(calm)
    async with calm.peer() as operator:
        await operator.identify(identify())
        await operator.result("token.revoke", name="rack")
    assert await refusal(calm, Keyholder(), token) == CloseCode.REVOKED


async def test_a_revoked_token_reports_no_other_key(calm: World) -> None:
    await enrol(calm, Keyholder())
    stolen = calm.issue("agent", agents=("m1",))
    async with calm.peer() as operator:
        await operator.identify(identify())
        await operator.result("token.revoke", name="somebody")
        assert await refusal(calm, Keyholder(), stolen) == CloseCode.REVOKED
        (shown,) = (await operator.result("key.list", op=False))["keys"]
        assert "refused" not in shown


async def test_to_revoke_the_tokens_of_a_name_revokes_no_key(calm: World) -> None:
    ada = Keyholder("ada", Role.CLIENT)
    await enrol(calm, ada, name="ada", scopes=("viewer",))
    async with calm.peer() as operator, calm.peer("") as peer:
        await operator.identify(identify())
        await operator.result("token.revoke", name="ada")
        await ada.enter(peer)


async def test_an_agent_that_chose_the_name_of_a_client_takes_none_of_its_room(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"sessions_per_principal_max": 1})
    holder = Keyholder("ada")
    async with world.peer("") as agent, world.peer(world.issue("operator", name="ada")) as ada:
        await holder.enter(agent, join_token(world, "*"))
        await ada.identify(identify())


async def test_only_those_who_may_decide_about_keys(calm: World) -> None:
    await enrol(calm, Keyholder())
    async with calm.peer(calm.issue("viewer")) as viewer:
        await viewer.identify(identify())
        refused = await viewer.request("key.revoke", name="agent/m1")
        assert refused.error is not None
        assert refused.error.code == ErrorCode.FORBIDDEN


async def test_who_may_not_decide_about_keys_sees_its_own_and_has_no_other_read(
    calm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = Keyholder("ada", Role.CLIENT)
    await enrol(calm, Keyholder())
    await enrol(calm, ada, name="ada", scopes=("viewer",))
    async with calm.peer("") as viewer, calm.peer(calm.issue("viewer", name="bob")) as bob:
        await ada.enter(viewer)
        await bob.identify(identify())
        monkeypatch.delattr(type(calm.hub.services.line.store), "hash_all")
        listed = (await viewer.result("key.list", op=False))["keys"]
        assert [(each["name"], each["state"]) for each in listed] == [("client/ada", "accepted")]
        assert not (await bob.result("key.list", op=False))["keys"]


# Attacks


async def test_a_wrong_key_is_refused_with_and_without_a_token(calm: World) -> None:
    owner, thief = Keyholder(), Keyholder()
    await enrol(calm, owner)
    assert await refusal(calm, thief) == CloseCode.UNAUTHENTICATED
    assert await refusal(calm, thief, calm.issue("agent", agents=("*",))) == CloseCode.KEY_REFUSED
    assert await refusal(calm, thief, join_token(calm)) == CloseCode.KEY_REFUSED
    assert await refusal(calm, replace(thief, namespace="other")) == CloseCode.UNAUTHENTICATED
    assert await said(calm, lambda hello: _claiming(owner.key, thief, hello)) == CloseCode.UNAUTHENTICATED


def _claiming(key: bytes, thief: Keyholder, hello: Hello) -> Identify:
    """Return a frame with a key, as a copied state directory names it, and a signature of another one."""
    frame = thief.proven(hello)
    assert frame.proof is not None
    return frame.model_copy(update={"proof": frame.proof.model_copy(update={"key": key})})


async def test_a_second_key_is_noted_and_shown_and_uses_up_nothing(calm: World) -> None:
    owner, thief = Keyholder(), Keyholder()
    await enrol(calm, owner)
    token = join_token(calm, "m1", "m2")
    assert await refusal(calm, thief, token) == CloseCode.KEY_REFUSED
    async with calm.peer() as operator, calm.peer("") as other:
        await operator.identify(identify())
        (shown,) = (await operator.result("key.list", op=False))["keys"]
        assert (shown["fingerprint"], shown["refused"]["fingerprint"]) == (owner.fingerprint, thief.fingerprint)
        assert shown["refused"]["count"] == 1
        assert (await Keyholder("m2").enter(other, token)).principal == "agent:m2"  # the use was left


async def test_a_key_that_cannot_be_one_is_refused(calm: World) -> None:
    holder = Keyholder()

    def broken(hello: Hello) -> Identify:
        frame = holder.proven(hello, token=join_token(calm))
        assert frame.proof is not None
        return frame.model_copy(update={"proof": frame.proof.model_copy(update={"key": b"\xff" * 32})})

    assert await said(calm, broken) == CloseCode.UNAUTHENTICATED
    assert await calm.store.hash_all(IDENTITIES) == {}


async def test_a_join_token_does_nothing_but_enrol(calm: World) -> None:
    token = join_token(calm, "*", scopes=("agent", "operator"), name="tester")
    for role in Role:
        async with calm.peer(token) as peer:
            await peer.expect(Hello)
            await peer.send(identify("tester", role))
            code, why = await peer.told()
            assert code == CloseCode.FORBIDDEN
            assert "join token" in why
    async with calm.peer() as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=token))
        assert (await peer.told())[0] == CloseCode.FORBIDDEN


@pytest.mark.parametrize(
    ("agents", "name", "code"),
    [
        (("m1",), "m1", None),
        (("m-*",), "m-7", None),
        (("*",), "anything", None),
        (("m1",), "m2", CloseCode.FORBIDDEN),
        (("m-*",), "n-7", CloseCode.FORBIDDEN),
        (("m-*",), "m", CloseCode.FORBIDDEN),
    ],
)
async def test_a_join_token_is_for_the_agents_that_it_names(
    calm: World, agents: tuple[str, ...], name: str, code: CloseCode | None
) -> None:
    async with calm.peer("") as peer:
        if code is None:
            assert (await Keyholder(name).enter(peer, join_token(calm, *agents))).principal == f"agent:{name}"
        else:
            assert (await Keyholder(name).refused(peer, join_token(calm, *agents)))[0] == code


async def test_a_join_token_ends(calm: World) -> None:
    assert await refusal(calm, Keyholder(), join_token(calm, ttl_s=-1)) == CloseCode.UNAUTHENTICATED
    assert await refusal(calm, Keyholder(), join_token(calm, namespace="other")) == CloseCode.FORBIDDEN


async def test_uses_are_counted_over_all_hubs(either: World) -> None:
    """Of many that come at once with a token for three, three get in."""
    other = await either.start(heartbeat_ms=5_000)
    token = join_token(either, "m-*", uses=3)

    async def come(number: int) -> int:
        async with either.peer("", hub=(either.hub, other)[number % 2]) as peer:
            hello = await peer.expect(Hello)
            await peer.send(Keyholder(f"m-{number}").proven(hello, token=token))
            return await _outcome(peer)

    codes = await asyncio.gather(*map(come, range(8)))
    assert sorted(codes) == 3 * [0] + 5 * [CloseCode.UNAUTHENTICATED]


async def _outcome(peer: HubPeer) -> int:
    """Return 0 where a session opens, else the code that it is refused with."""
    ready = asyncio.ensure_future(peer.expect(Ready))
    done, _ = await asyncio.wait({ready}, timeout=10)
    assert done
    return 0 if ready.exception() is None else int(peer.socket.close_code or 0)


async def test_of_two_machines_that_enrol_one_id_at_once_one_wins(either: World) -> None:
    other = await either.start(heartbeat_ms=5_000)
    token = join_token(either, uses=10)
    machines = [Keyholder(instance=f"i{number}") for number in range(4)]

    async def come(number: int) -> int:
        async with either.peer("", hub=(either.hub, other)[number % 2]) as peer:
            hello = await peer.expect(Hello)
            await peer.send(machines[number].proven(hello, token=token))
            return await _outcome(peer)

    codes = await asyncio.gather(*map(come, range(4)))
    assert sorted(codes) == [0, *(3 * [CloseCode.KEY_REFUSED])]
    winner = machines[codes.index(0)]
    async with either.peer("") as peer:
        await winner.enter(peer)
    record = (await either.hub.services.line.store.hash_get(IDENTITIES, "agent/m1"))[0]
    assert record is not None
    assert winner.key.hex() in record.decode()


@pytest.mark.parametrize("happened", [True, False])
async def test_a_hub_that_dies_while_it_enrols_a_key_loses_and_doubles_nothing(
    calm: World, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    """The key and the use are one commit: it happened or it did not, and the peer comes back to another hub."""
    other, holder, token = await calm.start(heartbeat_ms=5_000), Keyholder(), join_token(calm, "m1", "m2")
    commit, tried = calm.store.commit, asyncio.Event()

    async def dies(proposed: Commit) -> Outcome | Refused:
        if any(isinstance(op, HashSet) and op.key == IDENTITIES for op in proposed.ops):
            if happened:
                await commit(proposed)
            tried.set()
            raise StoreUnavailable("the hub is gone", unknown=True, full=True)
        return await commit(proposed)

    monkeypatch.setattr(calm.store, "commit", dies)
    assert await refusal(calm, holder, token) == CloseCode.STORE_UNAVAILABLE
    assert tried.is_set()
    async with calm.peer("", hub=other) as again:
        await holder.enter(again, token)
    monkeypatch.undo()
    async with calm.peer("") as peer:
        await holder.enter(peer, token)
    async with calm.peer("") as second:  # one use, and it was counted once
        assert (await Keyholder("m2").refused(second, token))[0] == CloseCode.UNAUTHENTICATED


async def test_a_lost_reply_counts_one_use(calm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = calm.store.commit
    lost: list[Commit] = []

    async def loses(proposed: Commit) -> Outcome | Refused:
        result = await commit(proposed)
        if not lost and any(isinstance(op, HashSet) and op.key == IDENTITIES for op in proposed.ops):
            lost.append(proposed)
            raise StoreUnavailable("the reply was lost", unknown=True)
        return result

    monkeypatch.setattr(calm.store, "commit", loses)
    await enrol(calm, Keyholder(), "m1")
    assert lost
    used = [op for op in lost[0].ops if isinstance(op, HashSet) and ":joins:" in op.key]
    assert await calm.store.hash_size(used[0].key) == 1
    assert used[0].ttl_ms
    assert keys.joins(PLACE.partition, "default", "")[:-1] in used[0].key


async def test_after_a_revoked_key_the_name_takes_another_one_only_from_an_operator(calm: World) -> None:
    await enrol(calm, Keyholder())
    fresh = Keyholder()
    async with calm.peer() as operator:
        await operator.identify(identify())
        await operator.result("key.revoke", name="agent/m1")
        async with calm.peer(calm.issue("agent", agents=("m1",))) as thief:
            await thief.expect(Hello)
            await thief.send(fresh.frame())
            assert (await thief.told())[0] == CloseCode.KEY_REVOKED
        assert await refusal(calm, fresh, join_token(calm)) == CloseCode.KEY_PENDING
        await operator.result("key.accept", name="agent/m1", fingerprint=fresh.fingerprint)
    async with calm.peer("") as peer:
        await fresh.enter(peer)


async def test_a_key_of_another_deployment_does_not_stand_in_the_way_of_a_token(calm: World) -> None:
    async with calm.peer() as peer:
        assert (await Keyholder().enter(peer)).principal == "agent:m1"
    assert await calm.store.hash_all(IDENTITIES) == {}


async def test_a_session_of_a_key_takes_no_token(calm: World) -> None:
    holder = Keyholder()
    await enrol(calm, holder)
    async with calm.peer("") as peer:
        await holder.enter(peer)
        await peer.send(Refresh(token=calm.token))
        assert (await peer.told())[0] == CloseCode.FORBIDDEN
