"""The methods `token.*` of `request`: what each takes and what it answers.

Specification: docs/protocol.md, sections "Requests" and "Revocation".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames.part import Name, Part, UInt
from protocol.requests_agents import LIST_MAX

__all__ = [
    "RevokedList",
    "RevokedListed",
    "RevokedMark",
    "TokenCheck",
    "TokenChecked",
    "TokenId",
    "TokenRevoke",
    "TokenRevoked",
    "TokenUnrevoke",
    "TokenUnrevoked",
]

TokenId = Annotated[str, Field(min_length=1, max_length=160)]


class TokenRevoke(Part):
    """`token.revoke`: one token by its id, or all of a name that were issued until now. Errors: `limit_reached`."""

    token: TokenId | None = None
    name: Name | None = None
    expires_ms: UInt | None = None
    """When it expires, or the last of them: an hour after that, nothing is kept of its having been revoked."""


class TokenRevoked(Part):
    """Since when it is revoked, and until when that is kept; for good without."""

    since_ms: UInt
    until_ms: UInt | None = None


class TokenUnrevoke(Part):
    """`token.unrevoke`: one token, or all of a name, that were revoked are good again."""

    token: TokenId | None = None
    name: Name | None = None


class TokenUnrevoked(Part):
    """Whether it was revoked until now."""

    was_revoked: bool


class RevokedList(Part):
    """`token.revoked`: what is revoked in the namespace, latest first."""

    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX


class RevokedMark(Part):
    """That a `token`, all tokens of a `name` issued until `since_ms`, an `agent` or a `key` is revoked, and by whom."""

    subject: str
    id: str
    since_ms: UInt
    until_ms: UInt | None = None
    by: str


class RevokedListed(Part):
    """What is revoked, latest first."""

    marks: tuple[RevokedMark, ...]


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
