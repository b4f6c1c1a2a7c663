"""Keys and tokens: what is made, what is believed, what is refused."""

from __future__ import annotations

import base64
import stat
from dataclasses import replace
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from orchestrator.auth.keys import KeyUnusable, load_keys
from orchestrator.auth.principal import ANY_AGENT, USES_MAX, Grant, Join
from orchestrator.auth.tokens import VERIFIED_MAX, Token, TokenRefused, Tokens, claimed_namespace
from orchestrator.core.patterns import ANYTHING, Patterns
from protocol.errors import InvalidName

NOW_S = 1_800_000_000
GRANT = Grant("ann", "default", frozenset({"agent", "viewer"}), frozenset({"a1", "a2"}))
KEY = Ed25519PrivateKey.generate()


def claims(**changes: object) -> dict[str, object]:
    return {
        "iss": "fleetline",
        "aud": "fleetline",
        "sub": "ann",
        "ns": "default",
        "scopes": ["viewer"],
        "agents": [],
        "iat": NOW_S,
        "exp": NOW_S + 60,
        "jti": "1",
        **changes,
    }


def test_a_key_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    first, second = load_keys(tmp_path), load_keys(tmp_path)
    assert first.signer.private.private_bytes_raw() == second.signer.private.private_bytes_raw()
    assert stat.S_IMODE((tmp_path / "keys" / "signing.pem").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o700
    assert [path.name for path in (tmp_path / "keys").iterdir()] == ["signing.pem"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    (tmp_path / "keys" / "signing.pem").chmod(0o640)
    with pytest.raises(KeyUnusable, match="can be read by others"):
        load_keys(tmp_path)


@pytest.mark.parametrize("content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_a_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    load_keys(tmp_path)
    (tmp_path / "keys" / "signing.pem").write_bytes(content)
    with pytest.raises(KeyUnusable, match="holds no private key"):
        load_keys(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    load_keys(tmp_path)
    other = generate_private_key(SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "keys" / "signing.pem").write_bytes(pem)
    with pytest.raises(KeyUnusable, match="another kind"):
        load_keys(tmp_path)


def test_a_token_says_what_was_granted() -> None:
    tokens = Tokens(KEY)
    principal = tokens.verify(tokens.issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t"), NOW_S)
    assert (principal.name, principal.namespace, principal.scopes) == ("ann", "default", GRANT.scopes)
    assert principal.may_be("a1")
    assert not principal.may_be("a3")
    assert principal.expires_s == NOW_S + 60


def test_a_token_is_held_to_the_names_that_were_granted_and_so_are_the_keys_that_a_join_token_enrols() -> None:
    tokens, may = Tokens(KEY), Patterns(read=("topic/news.*",), submit=())
    grant = Grant("ann", "default", frozenset({"agent"}), frozenset({"a1"}), may=may)
    assert tokens.verify(tokens.issue(grant, now_s=NOW_S, ttl_s=60, token_id="t"), NOW_S).may == may
    joining = tokens.verify(tokens.issue(replace(grant, uses=1), now_s=NOW_S, ttl_s=60, token_id="t"), NOW_S)
    assert joining.join is not None
    assert (joining.may, joining.join.may) == (ANYTHING, may)


def test_a_token_for_any_agent_is_for_every_one() -> None:
    tokens = Tokens(KEY)
    grant = Grant("ann", "default", frozenset({"agent"}), frozenset({ANY_AGENT}))
    assert tokens.verify(tokens.issue(grant, now_s=NOW_S, ttl_s=60, token_id="t"), NOW_S).may_be("whoever")


def test_a_token_ends_even_where_it_was_verified_before() -> None:
    tokens = Tokens(KEY)
    token = tokens.issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    tokens.verify(token, NOW_S + 59)
    with pytest.raises(TokenRefused, match="expired 0 s ago"):
        tokens.verify(token, NOW_S + 60)


def test_a_token_does_not_show_itself() -> None:
    token = Tokens(KEY).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    assert repr(token) == "Token(...)"
    assert str(token) not in repr({"token": token})


@pytest.mark.parametrize(
    "grant",
    [
        Grant("Ann", "default", frozenset()),
        Grant("ann", "a/b", frozenset()),
        Grant("a", "b", frozenset(), frozenset({"?"})),
    ],
)
def test_what_is_no_name_is_not_granted(grant: Grant) -> None:
    with pytest.raises(InvalidName):
        Tokens(KEY).issue(grant, now_s=NOW_S, ttl_s=60, token_id="t")


def test_an_unknown_scope_is_not_granted() -> None:
    with pytest.raises(ValueError, match="emperor"):
        Tokens(KEY).issue(Grant("a", "b", frozenset({"emperor"})), now_s=NOW_S, ttl_s=60, token_id="t")


FORGERIES: dict[str, str] = {
    "nothing": "",
    "no token": "hello",
    "three dots": "a.b.c",
    "another key": jwt.encode(claims(), Ed25519PrivateKey.generate(), algorithm="EdDSA"),
    "no signature": jwt.encode(claims(), "", algorithm="none"),
    "another algorithm": jwt.encode(claims(), "k" * 64, algorithm="HS512"),
    "another audience": jwt.encode(claims(aud="else"), KEY, algorithm="EdDSA"),
    "another issuer": jwt.encode(claims(iss="else"), KEY, algorithm="EdDSA"),
    "no end": jwt.encode({k: v for k, v in claims().items() if k != "exp"}, KEY, algorithm="EdDSA"),
    "an end that is no number": jwt.encode(claims(exp="never"), KEY, algorithm="EdDSA"),
    "scopes that are no list": jwt.encode(claims(scopes="viewer"), KEY, algorithm="EdDSA"),
    "scopes that are no words": jwt.encode(claims(scopes=[1]), KEY, algorithm="EdDSA"),
    "agents that are no list": jwt.encode(claims(agents="a1"), KEY, algorithm="EdDSA"),
    "a name that is none": jwt.encode(claims(sub="a:b"), KEY, algorithm="EdDSA"),
    "no namespace": jwt.encode(claims(ns=None), KEY, algorithm="EdDSA"),
    "issued tomorrow": jwt.encode(claims(iat=NOW_S + 86400, exp=NOW_S + 90000), KEY, algorithm="EdDSA"),
    "not yet good": jwt.encode(claims(nbf=NOW_S + 86400), KEY, algorithm="EdDSA"),
    "no claims": jwt.api_jws.encode(b"[1]", KEY, algorithm="EdDSA"),
    "no json": jwt.api_jws.encode(b"{", KEY, algorithm="EdDSA"),
    "deep claims": "e30." + base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("=") + ".x",
    "deep and signed": jwt.api_jws.encode(b'{"a":' * 900, KEY, algorithm="EdDSA"),
    "a lone surrogate": "\ud800.e30.c",
    "bytes that are no text": "\udcff.e30.c",
    "far too long": "x" * 10_000,
}


@pytest.mark.parametrize("token", FORGERIES.values(), ids=FORGERIES)
def test_forgeries_are_refused_and_not_repeated_in_the_answer(token: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        Tokens(KEY).verify(token, NOW_S)
    assert len(token) < 6 or token not in str(refused.value)


def test_what_is_remembered_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.auth.tokens.VERIFIED_MAX", 3)
    assert VERIFIED_MAX > 3
    tokens = Tokens(KEY)
    for number in range(5):
        tokens.verify(tokens.issue(GRANT, now_s=NOW_S, ttl_s=60, token_id=str(number)), NOW_S)
    assert len(tokens._verified) == 3


def test_a_mark_spares_the_next_hub_the_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    token = Tokens(KEY).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    next_hub = Tokens(KEY)
    monkeypatch.setattr(next_hub, "_decode", lambda *_: pytest.fail("checks the signature"))
    principal = next_hub.verify(token, NOW_S, Tokens(KEY).mark(token))
    assert principal == Tokens(KEY).verify(token, NOW_S)


@pytest.mark.parametrize("token", FORGERIES.values(), ids=FORGERIES)
def test_a_mark_of_another_token_helps_no_forgery(token: str) -> None:
    good = Tokens(KEY).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    for mark in (Tokens(KEY).mark(good), Tokens(Ed25519PrivateKey.generate()).mark(token), "", "\u00e9"):
        with pytest.raises(TokenRefused):
            Tokens(KEY).verify(token, NOW_S, mark)


def test_a_marked_token_ends_like_any_other() -> None:
    token = Tokens(KEY).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    with pytest.raises(TokenRefused, match="expired 0 s ago"):
        Tokens(KEY).verify(token, NOW_S + 60, Tokens(KEY).mark(token))


def test_a_mark_of_another_deployment_is_none() -> None:
    other = Ed25519PrivateKey.generate()
    token = Tokens(other).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")
    with pytest.raises(TokenRefused, match="no key that is believed"):
        Tokens(KEY).verify(token, NOW_S, Tokens(other).mark(token))
    posing = jwt.encode(claims(), other, algorithm="EdDSA", headers={"kid": Tokens(KEY).signer})
    with pytest.raises(TokenRefused, match="Signature"):
        Tokens(KEY).verify(posing, NOW_S, Tokens(other).mark(posing))


NAMELESS = [
    FORGERIES["deep claims"],
    "",
    "hello",
    "a.b.c",
    "a.e30.c",
    "a.W10.c",
    "a.eyJucyI6MX0.c",
    "\udcff.e30.c",
    "x" * 10_000,
]


@pytest.mark.parametrize("token", NAMELESS)
def test_what_does_not_name_a_namespace_claims_none(token: str) -> None:
    assert claimed_namespace(token) is None


def test_a_token_claims_its_namespace() -> None:
    assert claimed_namespace(Tokens(KEY).issue(GRANT, now_s=NOW_S, ttl_s=60, token_id="t")) == "default"


def test_tokens_compare_as_their_text() -> None:
    assert Token("x") == "x"


def test_a_join_token_permits_nothing_itself_and_says_what_it_is_for() -> None:
    grant = Grant("rack", "default", frozenset({"agent"}), frozenset({"web-*", "db"}), uses=3)
    principal = Tokens(KEY).verify(Tokens(KEY).issue(grant, now_s=NOW_S, ttl_s=60, token_id="t"), NOW_S)
    assert (principal.scopes, principal.agents) == (frozenset(), frozenset())
    assert principal.join == Join(frozenset({"agent"}), frozenset({"web-*", "db"}), 3)
    assert [name for name in ("web-1", "web-", "web", "db", "db2") if principal.join.fits(name)] == [
        "web-1",
        "web-",
        "db",
    ]


@pytest.mark.parametrize("agents", [{"*web"}, {"web*-*"}, {"/*"}, {"Web"}])
def test_a_join_token_is_for_names_and_how_they_begin(agents: set[str]) -> None:
    grant = Grant("rack", "default", frozenset({"agent"}), frozenset(agents), uses=1)
    with pytest.raises(InvalidName):
        Tokens(KEY).issue(grant, now_s=NOW_S, ttl_s=60, token_id="t")


def test_a_join_token_is_good_for_a_limited_number_of_keys() -> None:
    with pytest.raises(ValueError, match="10000 keys at most"):
        Tokens(KEY).issue(Grant("rack", "default", frozenset(), uses=USES_MAX + 1), now_s=NOW_S, ttl_s=60, token_id="t")


@pytest.mark.parametrize(
    "claim",
    [
        7,
        {},
        {"scopes": ["agent"], "agents": ["a"]},
        {"scopes": ["agent"], "agents": ["a"], "uses": 0},
        {"scopes": ["agent"], "agents": ["a"], "uses": True},
        {"scopes": ["agent"], "agents": ["a"], "uses": USES_MAX + 1},
        {"scopes": "agent", "agents": ["a"], "uses": 1},
        {"scopes": ["agent"], "agents": [1], "uses": 1},
    ],
)
def test_a_join_claim_of_another_form_is_refused(claim: object) -> None:
    with pytest.raises(TokenRefused, match="join token"):
        Tokens(KEY).verify(jwt.encode(claims(join=claim), KEY, algorithm="EdDSA"), NOW_S)
