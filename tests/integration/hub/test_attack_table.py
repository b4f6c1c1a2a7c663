"""A table of attacks on who gets in and what a session of ill will gets: each by name, with its exact outcome.

Replayed proofs are in test_enrolment.py, floods and handshakes in test_transport.py and test_rates.py.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.auth.keys import load_keys
from orchestrator.core.permissions import RULES, Action
from orchestrator.core.refusals import audit_log
from protocol.codec import unpack_record, unpack_value
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import Ack, Assign, Hello, Nack, Puback, Refresh
from protocol.ids import LogName
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_work import AGENT_LOG, agent, submit, work_of
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder

Claims = dict[str, Any]
DEEP = b"\x81\xa1t" + b"\x91" * 5_000 + b"\xc0"


async def reasons(world: World, log: LogName | None = None) -> list[str]:
    """Return why somebody was refused, as the audit has it."""
    await world.hub.services.audit.write(everything=True)
    page = await world.store.read(log or audit_log("default"), 0, 1000)
    records = [unpack_record(entry.packed) for entry in page.entries] if page else []
    return [unpack_value(each.body).get("reason", "") for each in records if each.kind == "$refused"]


# Tokens


def resigned(world: World, header: Claims | None = None, key: Ed25519PrivateKey | None = None, **changed: Any) -> str:
    """Return the local token with other claims, signed with the hub's key unless another is given."""
    claims = jwt.decode(world.token, options={"verify_signature": False})
    signer = load_keys(world.data).signer
    claims = {name: value for name, value in {**claims, **changed}.items() if value is not None}
    headers = {"kid": signer.id, **(header or {})}
    return jwt.encode(claims, key or signer.private, algorithm="EdDSA", headers=headers)


def by_hand(world: World, algorithm: str, secret: bytes | None) -> str:
    """Return the local token with another algorithm in its header; its signature is empty without a secret."""
    head = json.dumps({"alg": algorithm, "typ": "JWT", "kid": load_keys(world.data).signer.id}).encode()
    signed = urlsafe_b64encode(head).rstrip(b"=") + b"." + world.token.split(".")[1].encode()
    made = hmac.new(secret, signed, hashlib.sha256).digest() if secret is not None else b""
    return (signed + b"." + urlsafe_b64encode(made).rstrip(b"=")).decode()


STRANGER = Ed25519PrivateKey.generate()


def public_jwk(key: Ed25519PrivateKey) -> dict[str, str]:
    x = urlsafe_b64encode(key.public_key().public_bytes_raw()).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x}


def public(world: World, *, pem: bool) -> bytes:
    key = load_keys(world.data).signer.public
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) if pem else key.public_bytes_raw()


TOKENS: dict[str, Callable[[World], str]] = {
    "forged": lambda world: resigned(world, key=Ed25519PrivateKey.generate()),
    "signature of another token": lambda world: (
        world.issue("viewer").rpartition(".")[0] + "." + world.token.rpartition(".")[2]
    ),
    "expired": lambda world: resigned(world, iat=1, exp=2),
    "not yet valid": lambda world: resigned(world, nbf=4_000_000_000),
    "wrong audience": lambda world: resigned(world, aud="somebody-else"),
    "no audience": lambda world: resigned(world, aud=None),
    "wrong issuer": lambda world: resigned(world, iss="somebody-else"),
    "no end": lambda world: resigned(world, exp=None),
    "algorithm none": lambda world: by_hand(world, "none", None),
    "algorithm None": lambda world: by_hand(world, "None", None),
    "algorithm confusion, raw public key": lambda world: by_hand(world, "HS256", public(world, pem=False)),
    "algorithm confusion, pem": lambda world: by_hand(world, "HS256", public(world, pem=True)),
    "kid that is a path": lambda world: resigned(world, {"kid": "../jwt.key"}, Ed25519PrivateKey.generate()),
    "key in the header": lambda world: resigned(world, {"jwk": public_jwk(STRANGER)}, STRANGER),
}


REASONS = {"expired": "expired", "not yet valid": "not_yet"}


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_that_is_none_opens_nothing(calm: World, name: str) -> None:
    """In the header and in `identify` alike; the audit has the reason."""
    token = TOKENS[name](calm)
    for header, field in ((token, None), ("", token)):
        async with calm.peer(header) as peer:
            await peer.expect(Hello)
            await peer.send(identify(token=field))
            assert (await peer.told())[0] == CloseCode.UNAUTHENTICATED
    assert set(await reasons(calm)) == {REASONS.get(name, "invalid")}


# Sessions that are somebody else's


async def test_a_stolen_session_id_and_fence_give_nothing_to_another_agent(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as owner, calm.peer(calm.issue("agent", agents=("thief",))) as thief:
        await client.identify(identify())
        ready = await owner.identify(agent())
        log = await submit(client)
        given = await owner.expect(Assign)
        taken = agent("thief").model_copy(update={"session": ready.session, "instance": "inst"})
        assert not (await thief.identify(taken)).resumed
        await thief.send(work_of(given, 1, body=b"stolen"))
        assert (await thief.expect(Nack)).code == ErrorCode.SUPERSEDED
        await owner.send(work_of(given, 1, body=b"mine"))
        await owner.expect(Puback)
        assert await calm.kinds(log) == ["$submitted", "$claimed", "x"]


async def test_resume_of_somebody_elses_session_with_a_token_for_another_name(calm: World) -> None:
    async with calm.peer() as owner, calm.peer(calm.issue("agent", agents=("thief",))) as thief:
        ready = await owner.identify(agent())
        await thief.expect(Hello)
        await thief.send(agent().model_copy(update={"session": ready.session}))
        assert (await thief.told())[0] == CloseCode.FORBIDDEN
        await owner.result("run.list")  # and goes on
    assert await reasons(calm, AGENT_LOG) == ["agent"]


async def test_a_client_identifies_as_an_agent(calm: World) -> None:
    for scopes in (("viewer",), ("operator",), ("admin",)):
        async with calm.peer(calm.issue(*scopes)) as peer:
            await peer.expect(Hello)
            await peer.send(agent())
            assert (await peer.told())[0] == CloseCode.FORBIDDEN


async def test_a_revoked_key_does_not_come_back_through_a_resume(calm: World) -> None:
    holder = Keyholder()
    token = calm.issue("agent", name="rack", agents=("m1",), uses=1)
    async with calm.peer() as operator, calm.peer("") as peer:
        await operator.identify(identify())
        ready = await holder.enter(peer, token)
        await operator.result("key.revoke", name=holder.place)
        assert await peer.closed() == CloseCode.REVOKED
        for again in ("", token):
            async with calm.peer(again) as back:
                hello = await back.expect(Hello)
                await back.send(holder.proven(hello, session=ready.session, token=again or None))
                assert (await back.told())[0] == CloseCode.KEY_REVOKED


async def test_a_join_token_of_another_namespace_enrols_nobody(calm: World) -> None:
    token = calm.issue("agent", name="rack", agents=("m1",), uses=1, namespace="other")
    async with calm.peer("") as peer:
        assert (await Keyholder().refused(peer, token))[0] == CloseCode.FORBIDDEN


# What an open session of ill will sends


async def deep(peer: HubPeer) -> None:
    await peer.send_raw(DEEP)


async def oversized(peer: HubPeer) -> None:
    await peer.send_raw(b"\xc0" * (5 * 1024 * 1024))


async def ahead(peer: HubPeer) -> None:
    await peer.follow("topic/a")
    await peer.send(Ack(log="topic/a", offset=10**9))


async def rubbish_token(peer: HubPeer) -> None:
    await peer.send(Refresh(token="x.y.z"))


CLOSED: dict[str, tuple[Callable[[HubPeer], Awaitable[None]], CloseCode]] = {
    "a deeply nested frame": (deep, CloseCode.MALFORMED),
    "an oversized frame": (oversized, CloseCode.TOO_LARGE),
    "acknowledges the future": (ahead, CloseCode.ACK_AHEAD),
    "refreshes with rubbish": (rubbish_token, CloseCode.UNAUTHENTICATED),
}


@pytest.mark.parametrize(("attack", "code"), CLOSED.values(), ids=CLOSED)
async def test_a_session_of_ill_will_is_closed(
    calm: World, attack: Callable[[HubPeer], Awaitable[None]], code: CloseCode
) -> None:
    async with calm.peer() as bystander, calm.peer() as peer:
        await bystander.identify(identify("bystander"))
        await peer.identify(identify())
        await attack(peer)
        assert await peer.closed() == code
        await bystander.result("log.list")


TRICKS = (
    "topic/../run/x",
    "topic/a/b",
    "topic/.",
    "topic/..",
    "topic/a\0b",
    "topic/\u202ea",
    "topic/",
    "/a",
    "run",
    "",
)


@pytest.mark.parametrize("log", TRICKS, ids=repr)
async def test_path_tricks_in_names_reach_nothing(calm: World, log: str) -> None:
    async with calm.peer() as peer:
        await peer.identify(identify())
        before = set(calm.server.data.streams)
        tried: dict[str, Claims] = {"log.read": {}, "log.get": {}, "producer.open": {"producer": "p"}}
        for method, params in tried.items():
            refused = await peer.request(method, log=log, **params)
            assert refused.error is not None
            assert refused.error.code in {ErrorCode.INVALID_PARAMS, ErrorCode.NOT_FOUND}
        assert set(calm.server.data.streams) == before


@pytest.mark.parametrize("log", ["topic/a", "agent/a1", "run/{run}", "topic/audit"])
async def test_publishing_without_the_scope_writes_nothing(calm: World, log: str) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("viewer", name="eve")) as eve:
        await client.identify(identify())
        run = (await submit(client)).name
        await eve.identify(identify("eve"))
        name = log.format(run=run)
        refused = await eve.request("producer.open", log=name, producer="p")
        assert refused.error is not None
        assert refused.error.code == ErrorCode.FORBIDDEN
        await eve.send(publish(name, 1, 1, b"x"))
        assert (await eve.expect(Nack)).code == ErrorCode.FORBIDDEN


async def test_old_seq_and_old_attempt_change_nothing(calm: World) -> None:
    """What is replayed is acknowledged once more and not kept twice; an attempt that is over is fenced off."""
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        log = await submit(client)
        given = await worker.expect(Assign)
        for _ in range(2):
            await worker.send(work_of(given, 1))
            await worker.expect(Puback)
        old = given.model_copy(update={"fence": given.fence - 1})
        await worker.send(work_of(old, 2))
        assert (await worker.expect(Nack)).code == ErrorCode.FENCED
        assert await calm.kinds(log) == ["$submitted", "$claimed", "x"]


async def test_an_agent_does_not_answer_its_own_approval(calm: World) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("agent", agents=("a1",))) as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = (await submit(client)).name
        await worker.expect(Assign)
        refused = await worker.request("run.answer", run=run, answer=b"\xc3")
        assert refused.error is not None
        assert refused.error.code == ErrorCode.FORBIDDEN


MUTATING: dict[str, Claims] = {
    "run.submit": {"queue": "q", "handler": "h", "input": b"", "key": "eve"},
    "run.retry": {"run": "RUN"},
    "run.cancel": {"run": "RUN"},
    "run.steer": {"run": "RUN", "body": b"\xc0"},
    "run.answer": {"run": "RUN", "answer": b"\xc3"},
    "queue.set": {"queue": "q", "paused": True},
    "queue.purge": {"queue": "q"},
    "queue.retry": {"queue": "q"},
    "schedule.add": {"schedule": "s", "cron": "0 0 1 1 *", "queue": "q", "handler": "h", "input": b""},
    "schedule.set": {"schedule": "s", "paused": True},
    "schedule.remove": {"schedule": "s"},
    "artifact.open": {"run": "RUN", "attempt": 1, "number": 1, "fence": 1, "name": "f", "size": 1},
    "producer.open": {"log": "topic/a", "producer": "p"},
    "agent.send": {"agent": "a1", "kind": "note", "body": b""},
    "agent.cordon": {"agent": "a1"},
    "agent.uncordon": {"agent": "a1"},
    "agent.drain": {"agent": "a1"},
    "token.revoke": {"name": "tester"},
    "token.unrevoke": {"name": "tester"},
    "token.revoked": {},
    "key.accept": {"name": "agent/m1"},
    "key.reject": {"name": "agent/m1"},
    "key.revoke": {"name": "agent/m1"},
}


def test_every_method_that_changes_something_is_tried() -> None:
    reading = {method for method, rules in RULES.items() if rules[0].action is Action.READ}
    assert set(MUTATING) == set(RULES) - reading


async def test_a_viewer_calls_every_method_that_changes_something(calm: World) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("viewer", name="eve")) as eve:
        await client.identify(identify())
        log = await submit(client)
        await client.result("schedule.add", **MUTATING["schedule.add"])
        await eve.identify(identify("eve"))
        before = await calm.kinds(log), await client.result("schedule.get", schedule="s")
        for method, params in MUTATING.items():
            named: Claims = {name: log.name if value == "RUN" else value for name, value in params.items()}
            refused = await eve.request(method, **named)
            assert refused.error is not None, method
            assert refused.error.code == ErrorCode.FORBIDDEN, method
        assert (await calm.kinds(log), await client.result("schedule.get", schedule="s")) == before
