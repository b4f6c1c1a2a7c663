"""Tokens of other issuers: what a deployment trusts each for, and what one of their tokens permits. Pure.

An issuer is trusted to say who somebody is, in the namespace that the settings name, and to give at most the scopes and
agents' ids that stand there. Its keys come from its key set and from nowhere else: a token names one by `kid`, and
whatever else a header could say of keys makes the token refused. Only Ed25519 is taken (docs/decisions/0021).

Specification: docs/protocol.md, section "Other issuers".
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from orchestrator.auth.principal import ANY_AGENT
from orchestrator.settings_issuers import ALL, Issuer
from protocol.errors import FleetlineError

__all__ = ["KeySetInvalid", "foreign_claims", "read_key_set"]

KEYS_MAX = 64
KID_CHARS_MAX = 256
ID_CHARS_MAX = 160


class KeySetInvalid(FleetlineError):
    """What should be a key set is none that can be used."""


def read_key_set(content: bytes) -> dict[str, Ed25519PublicKey]:
    """Return the keys of a JWKS by `kid`: those of Ed25519, others are for others.

    Raises:
        KeySetInvalid: it is none, it has a key twice or a private one.
    """
    try:
        listed = json.loads(content)["keys"]
        found = [each for each in listed if each.get("kty") == "OKP" and each.get("crv") == "Ed25519"]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as fault:
        raise KeySetInvalid("it does not have the form of a JWKS") from fault
    keys: dict[str, Ed25519PublicKey] = {}
    for each in found[: KEYS_MAX + 1]:
        kid = each.get("kid")
        if each.get("use", "sig") != "sig" or each.get("alg", "EdDSA") != "EdDSA":
            continue
        if not isinstance(kid, str) or not 1 <= len(kid) <= KID_CHARS_MAX or kid in keys or len(keys) >= KEYS_MAX:
            raise KeySetInvalid(f"it has a key without a kid of its own, or more than {KEYS_MAX}")
        try:
            key = jwt.algorithms.OKPAlgorithm.from_jwk(
                {name: each[name] for name in ("kty", "crv", "x", "d") if name in each}
            )
        except (jwt.InvalidKeyError, ValueError, TypeError) as fault:
            raise KeySetInvalid(f"its key {kid[:40]!r} cannot be read") from fault
        if not isinstance(key, Ed25519PublicKey):
            raise KeySetInvalid(f"its key {kid[:40]!r} is a private key, which nobody should be shown")
        keys[kid] = key
    return keys


def foreign_claims(token: str, payload: bytes, name: str, issuer: Issuer) -> dict[str, Any] | str:
    """Return what a verified token of another issuer says, as the claims of a token of ours; else what is wrong."""
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict) or claims.get("iss") != name:
        return "it is not of the issuer that it names"
    audience = claims.get("aud")
    if issuer.audience not in (audience if isinstance(audience, list) else [audience]):
        return "it is for another audience"
    namespace = claims.get("ns", issuer.namespace)
    if namespace == ALL or issuer.namespace not in (ALL, namespace):
        return "its issuer is not trusted for this namespace"
    scopes, agents = (
        _most(claims.get(what), most) for what, most in (("scopes", issuer.scopes), ("agents", issuer.agents))
    )
    if scopes is None or agents is None:
        return "its claims do not have the types of a token's claims"
    token_id = claims.get("jti", hashlib.sha256(token.encode()).hexdigest()[:32])
    if not isinstance(token_id, str) or not 1 <= len(token_id) <= ID_CHARS_MAX:
        return f"its id is not of 1 to {ID_CHARS_MAX} characters"
    said = {word: claims[word] for word in ("sub", "iat", "exp", "nbf", "may") if word in claims}
    return {**said, "ns": namespace, "scopes": scopes, "agents": agents, "jti": token_id}


def _most(asked: Any, most: tuple[str, ...]) -> list[str] | None:
    """Return what is asked for as far as it may be had; all of that where nothing is asked for."""
    if asked is None:
        return list(most)
    words = [asked] if asked == ANY_AGENT else asked
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    if ANY_AGENT in most:
        return words
    return list(most) if ANY_AGENT in words else [word for word in words if word in most]
