"""The headers of tokens: which key each names, and what none may say. Pure.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from functools import lru_cache

from protocol.errors import FleetlineError

__all__ = ["ALGORITHM", "HeaderRefused", "decoded", "foreign_key_id", "own_key_id"]

ALGORITHM = "EdDSA"
_KEYS_BROUGHT = frozenset({"jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64"})
"""What a header must not have: keys come from the settings, and what must be understood is not."""


class HeaderRefused(FleetlineError):
    """The header is not that of a token that can be believed."""


@lru_cache(maxsize=64)
def own_key_id(header: str) -> str | None:
    """Return the key that the header of a token names; None where it names none, as those of old.

    Raises:
        HeaderRefused: it is not the header of a token of ours. What would name a key in another way is not heeded.
    """
    try:
        said = json.loads(decoded(header))
    except (ValueError, RecursionError) as fault:
        raise HeaderRefused("it has no header") from fault
    if not isinstance(said, dict) or not said.keys() <= {"alg", "typ", "kid"} or said.get("alg") != ALGORITHM:
        raise HeaderRefused(f"its header is not that of a token signed with {ALGORITHM}")
    key_id = said.get("kid")
    if key_id is not None and not isinstance(key_id, str):
        raise HeaderRefused("its header names no key")
    return key_id


def foreign_key_id(header: str) -> str:
    """Return the key that the header of another issuer's token names.

    Raises:
        HeaderRefused: it names none, names an algorithm that is not taken, or brings keys of its own.
    """
    try:
        said = json.loads(decoded(header))
        key_id = said["kid"]
    except (ValueError, TypeError, KeyError, RecursionError) as fault:
        raise HeaderRefused("its header names no key") from fault
    if said.get("alg") != ALGORITHM or not isinstance(key_id, str) or not _KEYS_BROUGHT.isdisjoint(said):
        raise HeaderRefused(f"its header is not that of a token signed with {ALGORITHM}")
    return key_id


def decoded(part: str) -> bytes:
    """Return a part of a token.

    Raises:
        ValueError: it is not base64.
    """
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))
