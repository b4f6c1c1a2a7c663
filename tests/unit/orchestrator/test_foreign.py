"""Tokens of other issuers: what is believed of them, and what of their key sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from orchestrator.auth.foreign import KeySetInvalid, read_key_set
from orchestrator.auth.issuers import Issuers
from orchestrator.auth.principal import Grant
from orchestrator.auth.tokens import KeysUnknown, TokenRefused, Tokens
from orchestrator.core.patterns import ANYTHING, Patterns
from orchestrator.settings import Settings
from orchestrator.settings_issuers import Issuer

NOW_S = 1_800_000_000
NAME = "https://login.example.org"
KEY, OTHER, OWN = (Ed25519PrivateKey.generate() for _ in range(3))


def public(key: Ed25519PrivateKey, kid: str = "k1", **more: object) -> dict[str, Any]:
    return {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())), "kid": kid, **more}


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(key: Any = KEY, header: dict[str, object] | None = None, algorithm: str = "EdDSA", **changes: object) -> str:
    said = {"iss": NAME, "aud": "fleet", "sub": "ann", "iat": NOW_S, "exp": NOW_S + 60, "jti": "j1", **changes}
    claims = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(claims, key, algorithm, headers={"kid": "k1", **(header or {})})


async def tokens(tmp_path: Path, content: bytes | None = None, **trust: object) -> Tokens:
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(public(KEY)) if content is None else content)
    issuers = Issuers({NAME: Issuer.model_validate({"jwks": str(file), "audience": "fleet", **trust})})
    await issuers.load()
    return Tokens(OWN, issuers)


async def test_a_token_of_another_issuer_is_held_to_the_names_in_it(tmp_path: Path) -> None:
    believed = await tokens(tmp_path)
    held = Patterns(read=("topic/news",), submit=())
    assert believed.verify(token(may=held.claim()), NOW_S).may == held
    assert believed.verify(token(), NOW_S).may == ANYTHING
    with pytest.raises(TokenRefused, match="pattern"):
        believed.verify(token(may={"write": ["topic/news"]}), NOW_S)


async def test_a_token_of_another_issuer_permits_what_the_settings_say(tmp_path: Path) -> None:
    believed = await tokens(tmp_path, scopes=("viewer", "agent"), agents=("a1", "a2"))
    one = believed.verify(token(), NOW_S)
    assert (one.name, one.namespace, one.id, one.issued_s) == ("ann", "default", "j1", NOW_S)
    assert (set(one.scopes), set(one.agents)) == ({"viewer", "agent"}, {"a1", "a2"})
    less = believed.verify(token(scopes=["viewer", "operator", "admin"], agents=["a1", "a9"]), NOW_S)
    assert (set(less.scopes), set(less.agents)) == ({"viewer"}, {"a1"})
    assert believed.verify(token(agents="*"), NOW_S).agents == {"a1", "a2"}
    own = believed.issue(Grant("bob", "default", frozenset({"viewer"})), now_s=NOW_S, ttl_s=60, token_id="t")
    assert believed.verify(own, NOW_S).name == "bob"
    assert believed.verify(token(jti=None), NOW_S).id == believed.verify(token(jti=None), NOW_S).id


async def test_an_issuer_speaks_for_its_namespace_alone(tmp_path: Path) -> None:
    fixed, open_ = await tokens(tmp_path, namespace="lab"), await tokens(tmp_path, namespace="*")
    assert fixed.verify(token(), NOW_S).namespace == fixed.verify(token(ns="lab"), NOW_S).namespace == "lab"
    assert open_.verify(token(ns="lab"), NOW_S).namespace == "lab"
    for believed, said in ((fixed, token(ns="default")), (open_, token()), (open_, token(ns="*"))):
        with pytest.raises(TokenRefused, match="not trusted for this namespace"):
            believed.verify(said, NOW_S)


PEM = KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
FORGERIES: dict[str, Any] = {
    "another key": lambda: token(OTHER),
    "a key of ours": lambda: token(OWN),
    "a key of ours under its name": lambda: token(OWN, {"kid": Tokens(OWN).signer}),
    "an unknown kid": lambda: token(header={"kid": "k2"}),
    "a kid that is a path": lambda: token(header={"kid": "../../keys/signing.pem"}),
    "no algorithm": lambda: token(None, algorithm="none"),
    "the public key as a secret": lambda: token(PEM, algorithm="HS256"),
    "another curve": lambda: token(generate_ec_key(SECP256R1()), algorithm="ES256"),
    "a key that it brings": lambda: token(OTHER, {"jwk": public(OTHER)}),
    "a key set that it names": lambda: token(header={"jku": "https://eve.example.org/keys"}),
    "a certificate": lambda: token(header={"x5u": "https://eve.example.org/cert"}),
    "what must be understood": lambda: token(header={"crit": ["exp"]}),
    "another audience": lambda: token(aud="fleetline"),
    "no audience": lambda: token(aud=None),
    "another issuer": lambda: token(iss="https://eve.example.org"),
    "ours as the issuer": lambda: token(iss="fleetline", aud="fleetline"),
    "expired": lambda: token(exp=NOW_S),
    "no expiry": lambda: token(exp=None),
    "no time": lambda: token(iat=None),
    "not yet valid": lambda: token(nbf=NOW_S + 3600),
    "no name": lambda: token(sub="Ann Example"),
    "no name at all": lambda: token(sub=None),
    "scopes that are none": lambda: token(scopes="operator"),
    "agents that are none": lambda: token(agents=[7]),
    "an endless id": lambda: token(jti="x" * 161),
}


@pytest.mark.parametrize("which", FORGERIES)
async def test_a_forged_token_of_another_issuer_is_refused(tmp_path: Path, which: str) -> None:
    believed = await tokens(tmp_path, scopes=("operator",))
    with pytest.raises(TokenRefused):
        believed.verify(FORGERIES[which](), NOW_S)


async def test_an_issuer_gives_no_join_tokens(tmp_path: Path) -> None:
    join = {"scopes": ["agent"], "agents": ["*"], "uses": 100}
    assert (await tokens(tmp_path)).verify(token(join=join), NOW_S).join is None


@pytest.mark.parametrize("kid", ["k1", "k2"])
async def test_what_was_believed_ends_with_the_key(tmp_path: Path, kid: str) -> None:
    believed = await tokens(tmp_path)
    one = believed.verify(token(), NOW_S)
    assert (believed.ends_s(one), believed.mark(token(), one.signer)) == (NOW_S + 60, "")
    (tmp_path / "keys.json").write_bytes(key_set(public(OTHER, kid)))
    assert await believed.issuers.load()
    assert believed.ends_s(one) == 0
    with pytest.raises(TokenRefused):
        believed.verify(token(), NOW_S)
    assert believed.verify(token(OTHER, {"kid": kid}), NOW_S).name == "ann"


async def test_a_new_key_is_looked_for_when_somebody_comes_with_it(tmp_path: Path) -> None:
    believed = await tokens(tmp_path)
    believed.issuers._sets[NAME].apart_s = 0
    (tmp_path / "keys.json").write_bytes(key_set(public(KEY), public(OTHER, "k2")))
    new = token(OTHER, {"kid": "k2"})
    await believed.prepare(new)
    assert believed.verify(new, NOW_S).name == "ann"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"keys": 7}', key_set(public(KEY), public(OTHER))])
async def test_a_key_set_that_cannot_be_read_leaves_what_was_known(tmp_path: Path, content: bytes) -> None:
    believed = await tokens(tmp_path)
    (tmp_path / "keys.json").write_bytes(content)
    assert not await believed.issuers.load()
    assert believed.verify(token(), NOW_S).name == "ann"
    with pytest.raises(KeysUnknown, match="could not be read yet"):
        (await tokens(tmp_path, content)).verify(token(), NOW_S)


async def test_a_key_set_that_may_not_be_read_is_read_once_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed = await tokens(tmp_path)
    file = tmp_path / "keys.json"
    file.write_bytes(key_set(public(OTHER, "k2")))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as closed:
        closed.setattr(Path, "open", refuse)
        assert not await believed.issuers.load()
    assert await believed.issuers.load()
    assert believed.verify(token(OTHER, {"kid": "k2"}), NOW_S).name == "ann"


def test_a_key_set_has_keys_for_others_too() -> None:
    rsa = {"kty": "RSA", "kid": "r", "n": "AQAB", "e": "AQAB"}
    found = read_key_set(key_set(rsa, public(KEY), public(OTHER, "k2", use="enc"), public(OTHER, "k3", alg="HS256")))
    assert set(found) == {"k1"}


def test_a_private_key_is_no_part_of_a_key_set() -> None:
    private = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(KEY))
    with pytest.raises(KeySetInvalid, match="private key") as refused:
        read_key_set(key_set({**private, "kid": "k1"}))
    assert private["d"] not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        (NAME, "http://login.example.org/keys"),
        (NAME, "http://127.0.0.1.example.org/keys"),
        (NAME, "file:///etc/passwd"),
        (NAME, "ftp://localhost/keys"),
        (NAME, "https://user:password@login.example.org/keys"),
        (NAME, "keys.json"),
        ("fleetline", "/keys.json"),
        ("a b", "/keys.json"),
        ("", "/keys.json"),
    ],
)
def test_where_keys_come_from_is_checked(name: str, where: str) -> None:
    with pytest.raises(ValidationError):
        Settings(data=Path("nowhere"), issuers={name: {"jwks": where, "audience": "fleet"}})  # type: ignore[dict-item]


@pytest.mark.parametrize("where", ["https://login.example.org/keys", "http://127.0.0.1:80/k", "http://[::1]/k", "/k"])
def test_where_keys_may_come_from(where: str) -> None:
    assert Issuer(jwks=where, audience="fleet").scopes == ("viewer",)
