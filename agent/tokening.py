"""Tokens, as a client takes them back.

Specification: docs/protocol.md, section "Revocation".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from protocol.frames import Part
from protocol.requests_tokens import (
    RevokedList,
    RevokedListed,
    RevokedMark,
    TokenCheck,
    TokenChecked,
    TokenRevoke,
    TokenRevoked,
    TokenUnrevoke,
    TokenUnrevoked,
)

__all__ = ["TokenMethods"]


class TokenMethods(ABC):
    """What a client can do with tokens that others have."""

    @abstractmethod
    async def ask(self, method: str, params: Part) -> Any:
        """Ask the hub."""

    async def revoke_token(self, token_id: str, expires_ms: int | None = None) -> TokenRevoked:
        """Take one token back: its sessions end within a second, on every hub.

        Args:
            token_id: its `jti`, which `fleetline token inspect` shows.
            expires_ms: when it expires, so that its having been revoked is not kept for ever.
        """
        revoked: TokenRevoked = await self.ask("token.revoke", TokenRevoke(token=token_id, expires_ms=expires_ms))
        return revoked

    async def revoke_tokens_of(self, name: str, expires_ms: int | None = None) -> TokenRevoked:
        """Take back all tokens that were issued to a name until now; those issued later are good.

        Args:
            name: whose.
            expires_ms: when the last of them expires, as for one token.
        """
        revoked: TokenRevoked = await self.ask("token.revoke", TokenRevoke(name=name, expires_ms=expires_ms))
        return revoked

    async def unrevoke_token(self, token_id: str) -> bool:
        """Let one token be good again. Returns whether it was revoked."""
        lifted: TokenUnrevoked = await self.ask("token.unrevoke", TokenUnrevoke(token=token_id))
        return lifted.was_revoked

    async def unrevoke_tokens_of(self, name: str) -> bool:
        """Let the tokens of a name be good again that `revoke_tokens_of` took back. Returns whether it did."""
        lifted: TokenUnrevoked = await self.ask("token.unrevoke", TokenUnrevoke(name=name))
        return lifted.was_revoked

    async def revoked_tokens(self) -> tuple[RevokedMark, ...]:
        """Return what is revoked in the namespace, latest first: tokens, names, agents and keys."""
        listed: RevokedListed = await self.ask("token.revoked", RevokedList())
        return listed.marks

    async def check_token(self, token_id: str, name: str, issued_s: int) -> TokenChecked:
        """Return whether a token with this id, issued to this name at this time, is revoked."""
        checked: TokenChecked = await self.ask("token.check", TokenCheck(token=token_id, name=name, issued_s=issued_s))
        return checked
