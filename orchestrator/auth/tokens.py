"""Tokens: who a peer is, signed by the hub's key.

A token is a JWT (EdDSA) with issuer and audience `fleetline`, `sub` the name, `ns` the namespace, `scopes`,
`agents` (ids that it may identify as, or `*`), `iat`, `exp` and `jti`.

To check a signature costs more than all else that a hub does for an agent that comes back. So the agent's session
leaves a mark of the token that opened it: a keyed hash, which only a hub of the deployment can make. A token that has
the mark is one whose signature was checked; what it says is looked at every time (docs/decisions/0011).

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from collections import OrderedDict
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.auth.principal import ANY_AGENT, USES_MAX, Grant, Join, Principal
from orchestrator.auth.scopes import Scope
from protocol.errors import FleetlineError, InvalidName
from protocol.ids import check_name

__all__ = ["Token", "TokenRefused", "Tokens", "claimed_namespace", "unverified_claims"]

ALGORITHM = "EdDSA"
PARTY = "fleetline"
TOKEN_CHARS_MAX = 8192
VERIFIED_MAX = 16_384
"""Tokens whose signature this hub has checked, kept until they end."""
MARK_PURPOSE = b"fleetline mark of a verified token"
MARK_BYTES = 16
_CLAIMS = {"iss": str, "sub": str, "ns": str, "scopes": list, "iat": int, "exp": int, "jti": str}
SKEW_S = 60
"""How far ahead the clock of whoever issued a token may be."""


class Token(str):
    """A token. Its repr hides it, so that it reaches no log line and no traceback."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Token(...)"


class TokenRefused(FleetlineError):
    """The token is not one of ours, is not valid now, or says what no token says.

    Attributes:
        reason: the same in a word of ours, as the audit has it.
    """

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class Tokens:
    """Issues and verifies tokens with one key."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = key.public_key()
        # Only the signature is left to the library: its checks of the claims cost as much as a third of that one.
        self._signatures = jwt.PyJWS(algorithms=[ALGORITHM])
        self._verified: OrderedDict[str, Principal] = OrderedDict()
        self._mark_key = hmac.digest(key.private_bytes_raw(), MARK_PURPOSE, hashlib.sha256)

    def issue(self, grant: Grant, *, now_s: int, ttl_s: int, token_id: str) -> Token:
        """Return a token that permits what `grant` says, for `ttl_s` seconds.

        Raises:
            InvalidName: a name in the grant is none.
            ValueError: a scope is unknown.
        """
        check_name(grant.name)
        check_name(grant.namespace)
        claims = {
            "iss": PARTY,
            "aud": PARTY,
            "sub": grant.name,
            "ns": grant.namespace,
            **_permits(grant),
            "iat": now_s,
            "exp": now_s + ttl_s,
            "jti": token_id,
        }
        return Token(jwt.encode(claims, self._key, algorithm=ALGORITHM))

    def verify(self, token: str, now_s: int, mark: str | None = None) -> Principal:
        """Return who a token says that somebody is.

        Args:
            token: what the peer sent.
            now_s: the time, in seconds since the epoch of Unix.
            mark: of a token that a hub of this deployment has verified, as `mark` made it.

        Raises:
            TokenRefused: with what is wrong, in words that say nothing of the token itself.
        """
        principal = self._verified.get(token)
        if principal is None:
            if len(token) > TOKEN_CHARS_MAX:
                raise TokenRefused(f"a token of {len(token)} characters; the limit is {TOKEN_CHARS_MAX}")
            if mark is not None and hmac.compare_digest(mark.encode(), self.mark(token).encode()):
                principal = _principal(_payload(token), now_s)
            else:
                principal = self._check(token, now_s)
                self._keep(token, principal)
        if principal.expires_s <= now_s:
            self._verified.pop(token, None)
            raise TokenRefused(f"the token expired {now_s - principal.expires_s} s ago", "expired")
        return principal

    def mark(self, token: str) -> str:
        """Return the mark of a token that was verified, which spares the next hub its signature."""
        text = token.encode(errors="backslashreplace")
        return hashlib.blake2b(text, key=self._mark_key, digest_size=MARK_BYTES).hexdigest()

    def signed(self, token: str) -> bool:
        """Return whether the signature of a token is this deployment's, whatever it says and whenever."""
        try:
            self._signatures.decode(token, self._public, algorithms=[ALGORITHM])
        except (jwt.InvalidTokenError, ValueError):
            return False
        return True

    def _check(self, token: str, now_s: int) -> Principal:
        try:
            payload = self._signatures.decode(token, self._public, algorithms=[ALGORITHM])
        except (jwt.InvalidTokenError, ValueError) as fault:
            raise TokenRefused(f"the token is not valid: {fault}"[:200]) from fault
        return _principal(payload, now_s)

    def _keep(self, token: str, principal: Principal) -> None:
        self._verified[str(token)] = principal
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)


def _permits(grant: Grant) -> dict[str, Any]:
    """Return the claims that say what a token is for. A join token permits nothing itself, whoever reads it."""
    scopes = sorted(Scope(scope).value for scope in grant.scopes)
    if grant.uses:
        if grant.uses > USES_MAX:
            raise ValueError(f"a join token is good for {USES_MAX} keys at most, not {grant.uses}")
        agents = sorted(grant.agents)
        for each in agents:
            check_name(each.removesuffix(ANY_AGENT) if each != ANY_AGENT else "any")
        return {"scopes": [], "agents": [], "join": {"scopes": scopes, "agents": agents, "uses": grant.uses}}
    named = sorted(map(check_name, grant.agents - {ANY_AGENT}))
    return {"scopes": scopes, "agents": ANY_AGENT if ANY_AGENT in grant.agents else named}


def claimed_namespace(token: str) -> str | None:
    """Return the namespace that a token is for as it says itself, unverified; None where it does not say."""
    if len(token) > TOKEN_CHARS_MAX:
        return None
    try:
        return check_name(json.loads(_payload(token))["ns"])
    except (ValueError, TypeError, KeyError, RecursionError, InvalidName):
        return None


def unverified_claims(token: str) -> dict[str, Any]:
    """Return what a token says of itself; nothing of it can be relied on.

    Raises:
        TokenRefused: it is no token at all.
    """
    try:
        claims = json.loads(_payload(token)) if len(token) <= TOKEN_CHARS_MAX else None
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise TokenRefused("it does not have the form of a JWT")
    return claims


def _payload(token: str) -> bytes:
    """Return the claims of a token as they are written in it.

    Raises:
        ValueError: it is no token.
    """
    _header, claims, _signature = token.split(".")
    return urlsafe_b64decode(claims + "=" * (-len(claims) % 4))


def _principal(payload: bytes, now_s: int) -> Principal:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as fault:
        raise TokenRefused(f"the token is not valid: {fault}"[:200]) from fault
    principal = _read(claims)
    if max(claims["iat"], claims.get("nbf", 0)) > now_s + SKEW_S:
        raise TokenRefused("the token was issued in the future; check the clocks", "not_yet")
    return principal


def _read(claims: Any) -> Principal:
    """Return who the claims of a token name, once they are those of a token of ours.

    Raises:
        TokenRefused: they are not.
    """
    if not isinstance(claims, dict) or not _CLAIMS.keys() <= claims.keys():
        raise TokenRefused("the token is not valid: it lacks claims that every token has")
    audience = claims.get("aud")
    if claims["iss"] != PARTY or PARTY not in (audience if isinstance(audience, list) else [audience]):
        raise TokenRefused("the token is not valid: it is of another issuer, or for another audience")
    scopes, agents = claims["scopes"], claims.get("agents", [])
    if agents == ANY_AGENT:
        agents = [ANY_AGENT]
    words_fit = all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in (scopes, agents))
    types_fit = all(type(claims[name]) is kind for name, kind in _CLAIMS.items())
    if not (types_fit and words_fit and type(claims.get("nbf", 0)) is int):
        raise TokenRefused("the token's claims do not have the types of a token's claims")
    try:
        return Principal(
            name=check_name(claims["sub"]),
            namespace=check_name(claims["ns"]),
            scopes=frozenset(scopes),
            agents=frozenset(agents),
            expires_s=claims["exp"],
            id=claims["jti"],
            issued_s=claims["iat"],
            join=_join(claims["join"]) if "join" in claims else None,
        )
    except InvalidName as fault:
        raise TokenRefused(f"the token names what is no name: {fault}") from fault


def _join(claim: Any) -> Join:
    """Return what a join token is for.

    Raises:
        TokenRefused: its claim is none.
    """
    said = claim if isinstance(claim, dict) else {}
    scopes, agents, uses = said.get("scopes"), said.get("agents"), said.get("uses")
    words_fit = all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in (scopes, agents))
    if not words_fit or type(uses) is not int or not 1 <= uses <= USES_MAX:
        raise TokenRefused("the token's claims do not have the types of a join token's claims")
    return Join(frozenset(scopes or ()), frozenset(agents or ()), uses)
