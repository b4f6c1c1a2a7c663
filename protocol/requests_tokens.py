"""The methods `token.*` of `request`: what each takes and what it answers.

Specification: docs/protocol.md, sections "Requests" and "Revocation".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames.part import Name, Part, UInt

__all__ = ["TokenCheck", "TokenChecked", "TokenId", "TokenRevoke", "TokenRevoked"]

TokenId = Annotated[str, Field(min_length=1, max_length=160)]


class TokenRevoke(Part):
    """`token.revoke`: one token by its id, or all of a name that were issued until now. Errors: `limit_reached`."""

    token: TokenId | None = None
    name: Name | None = None
    expires_ms: UInt | None = None
    """When that token expires: after that, nothing more is kept of its having been revoked."""


class TokenRevoked(Part):
    """Since when it is revoked, and until when that is kept; for good without."""

    since_ms: UInt
    until_ms: UInt | None = None


class TokenCheck(Part):
    """`token.check`: whether a token with this id, issued to this name at this time, is revoked."""

    token: TokenId
    name: Name
    issued_s: UInt


class TokenChecked(Part):
    """Whether it is revoked, and how, in the namespace of whoever asked."""

    namespace: str
    revoked: bool
    reason: str | None = None
