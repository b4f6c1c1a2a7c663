"""Tokens: who a peer is, signed by a key of the hub's.

A token is a JWT (EdDSA) with issuer and audience `fleetline`, `sub` the name, `ns` the namespace, `scopes`,
`agents` (ids that it may identify as, or `*`), `iat`, `exp` and `jti`.

To check a signature costs more than all else that a hub does for an agent that comes back. So the agent's session
leaves a mark of the token that opened it: a keyed hash, which only a hub of the deployment can make. A token that has
the mark is one whose signature was checked; what it says is looked at every time (docs/decisions/0011).

A token names the key that signed it (`kid`); the mark is of that key, so that both end with it. Tokens of old name none
and are tried with each key.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.auth.foreign import foreign_claims
from orchestrator.auth.headers import ALGORITHM, HeaderRefused, decoded, foreign_key_id, own_key_id
from orchestrator.auth.issuers import Issuers
from orchestrator.auth.keys import Keyring, SigningKey
from orchestrator.auth.principal import ANY_AGENT, USES_MAX, Grant, Join, Principal
from orchestrator.core.patterns import ANYTHING, InvalidPattern, Patterns
from orchestrator.core.permissions import Scope
from protocol.codes import CloseCode
from protocol.errors import FleetlineError, InvalidName
from protocol.ids import check_name

__all__ = ["KeysUnknown", "Token", "TokenRefused", "Tokens", "claimed_namespace", "unverified_claims"]

PARTY = "fleetline"
Name = TypeVar("Name", str, str | None)
TOKEN_CHARS_MAX = 8192
VERIFIED_MAX = 16_384
"""Tokens whose signature this hub has checked, kept until they end."""
MARK_BYTES = 16
_KEY_ENDED = "the token is not valid: no key that is believed now signed it; get a new one"
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
        code: what a connection is closed with on which somebody comes with it.
    """

    code = CloseCode.UNAUTHENTICATED

    def __init__(self, message: str, reason: str = "invalid") -> None:
        super().__init__(message)
        self.reason = reason


class KeysUnknown(TokenRefused):
    """Nobody can say yet whether the token is good: the keys of its issuer were never read."""

    code = CloseCode.ISSUER_UNAVAILABLE


class Tokens:
    """Issues and verifies tokens with the keys of one deployment.

    Attributes:
        look: called where a token names a key that is not known, before it is refused.
    """

    def __init__(self, keys: Keyring | Ed25519PrivateKey, issuers: Issuers | None = None) -> None:
        self.issuers = issuers or Issuers({})
        self._keys = keys if isinstance(keys, Keyring) else Keyring.of(keys)
        self.look: Callable[[], object] | None = None
        # Only the signature is left to the library: its checks of the claims cost as much as a third of that one.
        self._signatures = jwt.PyJWS(algorithms=[ALGORITHM])
        self._verified: OrderedDict[str, Principal] = OrderedDict()

    @property
    def signer(self) -> str:
        """The id of the key that signs."""
        return self._keys.signer.id

    def renew(self, keys: Keyring) -> bool:
        """Take these keys in the place of those that there were. Returns whether they are others."""
        before, self._keys = self._keys, keys
        return (before.signer.id, before.ends()) != (keys.signer.id, keys.ends())

    def ends_s(self, principal: Principal) -> int:
        """Return until when a token is good: until it expires, or its key does. 0 where its key is believed no more."""
        if not principal.signer:
            return principal.expires_s  # it was no token that let it in
        key = self._keys.keys.get(principal.signer)
        if key is None:
            return principal.expires_s if self.issuers.believes(principal.signer) else 0
        return principal.expires_s if key.until_s is None else min(principal.expires_s, key.until_s)

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
        signer = self._keys.signer
        return Token(jwt.encode(claims, signer.private, algorithm=ALGORITHM, headers={"kid": signer.id}))

    def verify(self, token: str, now_s: int, mark: str | None = None) -> Principal:
        """Return who a token says that somebody is.

        Args:
            token: what the peer sent.
            now_s: the time, in seconds since the epoch of Unix.
            mark: of a token that a hub of this deployment has verified, as `mark` made it.

        Raises:
            TokenRefused: with what is wrong, in words that say nothing of the token itself.
        """
        principal = self._verified.get(token) or self._judge(token, now_s, mark)
        if principal.expires_s <= now_s:
            self._verified.pop(token, None)
            raise TokenRefused(f"the token expired {now_s - principal.expires_s} s ago", "expired")
        if self.ends_s(principal) <= now_s:
            self._verified.pop(token, None)
            raise TokenRefused(_KEY_ENDED, "key_ended")
        return principal

    def mark(self, token: str, key_id: str | None = None) -> str:
        """Return the mark of a token that this key verified (the one that signs, without): no hub checks it again."""
        key = self._keys.keys.get(key_id or self.signer)
        return "" if key is None else _mark(token, key)  # tokens of other issuers leave none

    def signed(self, token: str, now_s: int) -> bool:
        """Return whether the signature of a token is by a key that is believed now, whatever it says."""
        try:
            self._decode(token, self._candidates(token, now_s))
        except TokenRefused:
            return False
        return True

    async def prepare(self, token: str) -> None:
        """Look for the key of a token of another issuer, where it is not known yet; `verify` judges it after that."""
        if self.issuers and token not in self._verified:
            with contextlib.suppress(TokenRefused):
                await self.issuers.seek(unverified_claims(token).get("iss"), _named(foreign_key_id, token))

    def _judge(self, token: str, now_s: int, mark: str | None) -> Principal:
        """Return who a token names that this hub has not verified, and keep what was costly to find."""
        if len(token) > TOKEN_CHARS_MAX:
            raise TokenRefused(f"a token of {len(token)} characters; the limit is {TOKEN_CHARS_MAX}")
        principal = self._foreign(token, now_s)
        if principal is None:
            candidates = self._candidates(token, now_s)
            marked = next((key for key in candidates if mark is not None and _same(mark, _mark(token, key))), None)
            if marked is not None:
                return _principal(_payload(token), now_s, marked.id)
            payload, key = self._decode(token, candidates)
            principal = _principal(payload, now_s, key.id)
        self._keep(token, principal)
        return principal

    def _foreign(self, token: str, now_s: int) -> Principal | None:
        """Verify a token of another issuer; None where it is of none that is trusted, for it may be of ours.

        Raises:
            TokenRefused: it is not valid.
        """
        issuer = self.issuers.get(unverified_claims(token).get("iss")) if self.issuers else None
        if issuer is None:
            return None
        key_id = _named(foreign_key_id, token)
        key, signer = issuer.keys.get(key_id), issuer.signer(key_id)
        if key is None or signer is None:
            if not issuer.known:
                raise KeysUnknown(f"the keys of the issuer {issuer.name} could not be read yet", "issuer")
            raise TokenRefused("the token is not valid: no key of its issuer that is known here signed it")
        try:
            payload = self._signatures.decode(token, key, algorithms=[ALGORITHM])
        except (jwt.InvalidTokenError, ValueError) as fault:
            raise TokenRefused(f"the token is not valid: {fault}"[:200]) from fault
        claims = foreign_claims(token, payload, issuer.name, issuer.issuer)
        if isinstance(claims, str):
            raise TokenRefused(f"the token is not valid: {claims}")
        return _judged({**claims, "iss": PARTY, "aud": PARTY}, now_s, signer)

    def _candidates(self, token: str, now_s: int) -> list[SigningKey]:
        """Return the keys that a token may be signed with: the one that it names, or all where it names none.

        Raises:
            TokenRefused: its header is not that of a token of ours, or names a key that is not believed.
        """
        key_id = _named(own_key_id, token)
        if key_id is None:
            return list(self._keys.good(now_s))
        if key_id not in self._keys.keys and self.look is not None:
            self.look()  # a key that was made a moment ago signs already
        key = self._keys.get(key_id, now_s)
        if key is None:
            raise TokenRefused(_KEY_ENDED)
        return [key]

    def _decode(self, token: str, candidates: list[SigningKey]) -> tuple[bytes, SigningKey]:
        fault: Exception | None = None
        for key in candidates:
            try:
                return self._signatures.decode(token, key.public, algorithms=[ALGORITHM]), key
            except (jwt.InvalidTokenError, ValueError) as wrong:
                fault = wrong
        raise TokenRefused(f"the token is not valid: {fault}"[:200]) from fault

    def _keep(self, token: str, principal: Principal) -> None:
        self._verified[str(token)] = principal
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)


def _permits(grant: Grant) -> dict[str, Any]:
    """Return the claims that say what a token is for. A join token permits nothing itself, whoever reads it."""
    scopes, patterns = sorted(Scope(scope).value for scope in grant.scopes), grant.may.claim()
    may = {"may": patterns} if patterns else {}
    if grant.uses:
        if grant.uses > USES_MAX:
            raise ValueError(f"a join token is good for {USES_MAX} keys at most, not {grant.uses}")
        agents = sorted(grant.agents)
        for each in agents:
            check_name(each.removesuffix(ANY_AGENT) if each != ANY_AGENT else "any")
        return {"scopes": [], "agents": [], "join": {"scopes": scopes, "agents": agents, "uses": grant.uses, **may}}
    named = sorted(map(check_name, grant.agents - {ANY_AGENT}))
    return {"scopes": scopes, "agents": ANY_AGENT if ANY_AGENT in grant.agents else named, **may}


def _named(read: Callable[[str], Name], token: str) -> Name:
    """Return the key that a token's header names.

    Raises:
        TokenRefused: the header will not do.
    """
    try:
        return read(token.partition(".")[0])
    except HeaderRefused as fault:
        raise TokenRefused(f"the token is not valid: {fault}") from fault


def _mark(token: str, key: SigningKey) -> str:
    text = token.encode(errors="backslashreplace")
    return hashlib.blake2b(text, key=key.mark_key, digest_size=MARK_BYTES).hexdigest()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


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
    return decoded(claims)


def _principal(payload: bytes, now_s: int, key_id: str) -> Principal:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError) as fault:
        raise TokenRefused(f"the token is not valid: {fault}"[:200]) from fault
    return _judged(claims, now_s, key_id)


def _judged(claims: Any, now_s: int, key_id: str) -> Principal:
    """Return who the claims of a verified token name, if they hold by now.

    Raises:
        TokenRefused: they do not, or are not those of a token.
    """
    principal = _read(claims, key_id)
    if max(claims["iat"], claims.get("nbf", 0)) > now_s + SKEW_S:
        raise TokenRefused("the token was issued in the future; check the clocks", "not_yet")
    return principal


def _read(claims: Any, key_id: str) -> Principal:
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
            signer=key_id,
            may=Patterns.parse(claims["may"]) if "may" in claims else ANYTHING,
        )
    except InvalidName as fault:
        raise TokenRefused(f"the token names what is no name: {fault}") from fault
    except InvalidPattern as fault:
        raise TokenRefused(f"the token has a pattern that is none: {fault}") from fault


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
    may = Patterns.parse(said["may"]) if "may" in said else ANYTHING
    return Join(frozenset(scopes or ()), frozenset(agents or ()), uses, may)
