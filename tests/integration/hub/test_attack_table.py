"""A table of attacks on who gets in: tokens, proofs and sessions of others, each by name, with its exact outcome.

What a session may not read and write is in test_attack_table_logs.py, what an agent of ill will does in
test_attack_table_work.py, bytes and floods are in test_attack_table_wire.py, and the flood of 5,000 in tests/chaos.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from orchestrator.auth.keys import load_keys
from orchestrator.core.revoking import Subject, Target
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import Assign, Hello, Identify, Nack, Puback, Ready, Refresh, Role
from tests.support.audited import refusals
from tests.support.hub_peer import identify
from tests.support.hub_work import AGENT_LOG, agent, submit, work_of
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder

Claims = dict[str, Any]


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


async def revoked(world: World, subject: Subject, name: str = "") -> str:
    """Return a token of Ann's that was good, before it or something about it was revoked."""
    token = world.issue("operator", "agent", name="ann", agents=("a1",))
    async with world.peer(token) as peer:
        await peer.identify(identify())
    claims = jwt.decode(token, options={"verify_signature": False})
    target = Target("default", subject, name or claims["jti"])
    await world.hub.services.revocations.revoke(target, "client:boss")
    return token


TOKENS: dict[str, tuple[Callable[[World], str | Awaitable[str]], CloseCode, str]] = {
    "forged": (lambda world: resigned(world, key=Ed25519PrivateKey.generate()), CloseCode.UNAUTHENTICATED, "invalid"),
    "signature of another token": (
        lambda world: world.issue("viewer").rpartition(".")[0] + "." + world.token.rpartition(".")[2],
        CloseCode.UNAUTHENTICATED,
        "invalid",
    ),
    "a signature that is cut": (lambda world: world.token.strip()[:-2], CloseCode.UNAUTHENTICATED, "invalid"),
    "no signature": (lambda world: world.token.rpartition(".")[0] + ".", CloseCode.UNAUTHENTICATED, "invalid"),
    "expired": (lambda world: resigned(world, iat=1, exp=2), CloseCode.UNAUTHENTICATED, "expired"),
    "not yet valid": (lambda world: resigned(world, nbf=4_000_000_000), CloseCode.UNAUTHENTICATED, "not_yet"),
    "wrong audience": (lambda world: resigned(world, aud="somebody-else"), CloseCode.UNAUTHENTICATED, "invalid"),
    "no audience": (lambda world: resigned(world, aud=None), CloseCode.UNAUTHENTICATED, "invalid"),
    "wrong issuer": (lambda world: resigned(world, iss="somebody-else"), CloseCode.UNAUTHENTICATED, "invalid"),
    "no end": (lambda world: resigned(world, exp=None), CloseCode.UNAUTHENTICATED, "invalid"),
    "algorithm none": (lambda world: by_hand(world, "none", None), CloseCode.UNAUTHENTICATED, "invalid"),
    "algorithm None": (lambda world: by_hand(world, "None", None), CloseCode.UNAUTHENTICATED, "invalid"),
    "algorithm confusion, raw public key": (
        lambda world: by_hand(world, "HS256", public(world, pem=False)),
        CloseCode.UNAUTHENTICATED,
        "invalid",
    ),
    "algorithm confusion, pem": (
        lambda world: by_hand(world, "HS256", public(world, pem=True)),
        CloseCode.UNAUTHENTICATED,
        "invalid",
    ),
    "kid that is a path": (
        lambda world: resigned(world, {"kid": "../jwt.key"}, Ed25519PrivateKey.generate()),
        CloseCode.UNAUTHENTICATED,
        "invalid",
    ),
    "key in the header": (
        lambda world: resigned(world, {"jwk": public_jwk(STRANGER)}, STRANGER),
        CloseCode.UNAUTHENTICATED,
        "invalid",
    ),
    "revoked": (lambda world: revoked(world, Subject.TOKEN), CloseCode.REVOKED, ""),
    "of a name whose tokens were revoked": (
        lambda world: revoked(world, Subject.NAME, "ann"),
        CloseCode.REVOKED,
        "",
    ),
}


async def token_of(world: World, name: str) -> str:
    made = TOKENS[name][0](world)
    return made if isinstance(made, str) else await made


@pytest.mark.parametrize("name", TOKENS)
async def test_a_token_that_is_none_opens_nothing(calm: World, name: str) -> None:
    """In the header and in `identify` alike, and for a role of each kind; the audit has the reason."""
    token, (_, code, reason) = await token_of(calm, name), TOKENS[name]
    for frame in (identify(), agent()):
        for header, field in ((token, None), ("", token)):
            async with calm.peer(header) as peer:
                await peer.expect(Hello)
                await peer.send(frame.model_copy(update={"token": field}))
                assert (await peer.told())[0] == code
    assert {each.get("reason", "") for each in await refusals(calm)} == {reason}


@pytest.mark.parametrize("name", [name for name in TOKENS if name != "of a name whose tokens were revoked"])
async def test_a_token_that_is_none_does_not_keep_a_session_open(calm: World, name: str) -> None:
    token, (_, code, _) = await token_of(calm, name), TOKENS[name]
    async with calm.peer(calm.issue("operator", name="ann") if name == "revoked" else None) as peer:
        await peer.identify(identify())
        await peer.send(Refresh(token=token))
        assert (await peer.told())[0] == code


async def test_an_agent_that_was_revoked_comes_back_with_no_token(calm: World) -> None:
    await revoked(calm, Subject.AGENT, "a1")
    for token in (calm.token, calm.issue("agent", agents=("a1",)), calm.issue("agent", agents=("*",))):
        async with calm.peer(token) as peer:
            await peer.expect(Hello)
            await peer.send(agent())
            assert (await peer.told())[0] == CloseCode.REVOKED


# Proofs


@dataclass(frozen=True)
class Heard:
    """Somebody with a key, what was overheard when they proved it, and what the hub says to the thief."""

    holder: Keyholder
    frame: Identify
    hello: Hello

    @property
    def now(self) -> Identify:
        """What the holder would say on the thief's connection."""
        return self.holder.proven(self.hello)

    def proof(self, **fields: Any) -> Identify:
        """What the holder would say, with something changed in its proof."""
        proof = self.now.proof
        assert proof is not None
        return self.now.model_copy(update={"proof": proof.model_copy(update=fields)})


THIEF = Keyholder()
PROOFS: dict[str, tuple[Callable[[Heard], Identify], CloseCode]] = {
    "replayed": (lambda it: it.frame, CloseCode.UNAUTHENTICATED),
    "replayed with another frame": (
        lambda it: it.now.model_copy(update={"proof": it.frame.proof}),
        CloseCode.UNAUTHENTICATED,
    ),
    "of another hub": (
        lambda it: it.holder.proven(it.hello.model_copy(update={"hub": "other"})),
        CloseCode.UNAUTHENTICATED,
    ),
    "of another process": (lambda it: it.now.model_copy(update={"instance": "i2"}), CloseCode.UNAUTHENTICATED),
    "of another agent": (lambda it: it.now.model_copy(update={"id": "m2"}), CloseCode.INVALID_FRAME),
    "of another namespace": (lambda it: it.proof(namespace="other"), CloseCode.UNAUTHENTICATED),
    "of another name": (
        lambda it: it.proof(name="m2").model_copy(update={"id": "m2"}),
        CloseCode.UNAUTHENTICATED,
    ),
    "with another key": (lambda it: it.proof(key=THIEF.key), CloseCode.UNAUTHENTICATED),
    "signed by another key": (
        lambda it: it.proof(signature=_signature(THIEF.proven(it.hello))),
        CloseCode.UNAUTHENTICATED,
    ),
    "without a signature": (lambda it: it.proof(signature=bytes(64)), CloseCode.UNAUTHENTICATED),
    "a key's name without its proof": (lambda it: it.holder.frame(), CloseCode.UNAUTHENTICATED),
}


def _signature(frame: Identify) -> bytes:
    assert frame.proof is not None
    return frame.proof.signature


@pytest.mark.parametrize("name", PROOFS)
async def test_a_proof_that_is_none_opens_nothing(calm: World, name: str) -> None:
    holder = Keyholder()
    other = Keyholder("m2", secret=holder.secret)  # the machine has two names
    for each in (holder, other):
        async with calm.peer("") as peer:
            await each.enter(peer, calm.issue("agent", name="rack", agents=(each.name,), uses=1))
    async with calm.peer("") as peer, calm.peer("") as thief:
        hello = await peer.expect(Hello)
        heard = holder.proven(hello)
        await peer.send(heard)
        peer.ready = await peer.expect(Ready)
        say, code = PROOFS[name]
        await thief.send(say(Heard(holder, heard, await thief.expect(Hello))))
        assert (await thief.told())[0] == code
        await peer.result("log.list")  # whoever has the key goes on


@pytest.mark.parametrize("scopes", [("agent",), ("agent", "operator", "admin")], ids="+".join)
async def test_a_copied_token_without_the_key_is_of_no_use(calm: World, scopes: tuple[str, ...]) -> None:
    """Whatever it permits, once its name has a key."""
    tokens = [calm.issue(*scopes, name=name, agents=("m1",)) for name in ("m1", "rack")]
    async with calm.peer("") as peer:
        await Keyholder().enter(peer, calm.issue("agent", name="rack", agents=("m1",), uses=1))
    for token in (*tokens, calm.token):
        async with calm.peer(token) as thief:
            await thief.expect(Hello)
            await thief.send(Keyholder().frame())
            assert (await thief.told())[0] == CloseCode.UNAUTHENTICATED


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
    assert [each["reason"] for each in await refusals(calm, AGENT_LOG)] == ["agent"]


async def test_a_client_identifies_as_an_agent(calm: World) -> None:
    for scopes in (("viewer",), ("operator",), ("admin",)):
        async with calm.peer(calm.issue(*scopes, agents=("a1",))) as peer:
            await peer.expect(Hello)
            await peer.send(identify("a1", Role.AGENT))
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
