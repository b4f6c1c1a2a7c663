"""The blocking twin of `agent.tokening`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar

from agent.tokening import TokenMethods
from protocol.requests_tokens import RevokedMark, TokenChecked, TokenRevoked

__all__ = ["SyncTokenMethods"]

T = TypeVar("T")


class SyncTokenMethods(ABC):
    """What a blocking client can do with tokens that others have."""

    @property
    @abstractmethod
    def _twin(self) -> TokenMethods:
        """The client that does the work."""

    @abstractmethod
    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work of the client's, and wait for it."""

    def revoke_token(self, token_id: str, expires_ms: int | None = None) -> TokenRevoked:
        """Take one token back. See `Client.revoke_token`."""
        return self._wait(self._twin.revoke_token(token_id, expires_ms))

    def revoke_tokens_of(self, name: str, expires_ms: int | None = None) -> TokenRevoked:
        """Take back all tokens that were issued to a name until now. See `Client.revoke_tokens_of`."""
        return self._wait(self._twin.revoke_tokens_of(name, expires_ms))

    def unrevoke_token(self, token_id: str) -> bool:
        """Let one token be good again. See `Client.unrevoke_token`."""
        return self._wait(self._twin.unrevoke_token(token_id))

    def unrevoke_tokens_of(self, name: str) -> bool:
        """Let the tokens of a name be good again. See `Client.unrevoke_tokens_of`."""
        return self._wait(self._twin.unrevoke_tokens_of(name))

    def revoked_tokens(self) -> tuple[RevokedMark, ...]:
        """Return what is revoked. See `Client.revoked_tokens`."""
        return self._wait(self._twin.revoked_tokens())

    def check_token(self, token_id: str, name: str, issued_s: int) -> TokenChecked:
        """Return whether a token is revoked. See `Client.check_token`."""
        return self._wait(self._twin.check_token(token_id, name, issued_s))
