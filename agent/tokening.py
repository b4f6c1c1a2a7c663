"""Tokens, as a client takes them back.

Specification: docs/protocol.md, section "Revocation".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from protocol.frames import Part
from protocol.requests_tokens import TokenCheck, TokenChecked, TokenRevoke, TokenRevoked

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

    async def revoke_tokens_of(self, name: str) -> TokenRevoked:
        """Take back all tokens that were issued to a name until now; those issued later are good."""
        revoked: TokenRevoked = await self.ask("token.revoke", TokenRevoke(name=name))
        return revoked

    async def check_token(self, token_id: str, name: str, issued_s: int) -> TokenChecked:
        """Return whether a token with this id, issued to this name at this time, is revoked."""
        checked: TokenChecked = await self.ask("token.check", TokenCheck(token=token_id, name=name, issued_s=issued_s))
        return checked
