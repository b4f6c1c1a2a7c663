"""Takes up keys while the hub runs: a new one to sign with, the end of an old one, and those of other issuers.

The directory of keys is looked at every second, and at once where a token names a key that is not known. A session
whose key is believed no more ends as one whose token has expired.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from orchestrator.auth.keys import KeyUnusable, keys_stamp, load_keys
from orchestrator.auth.tokens import Tokens

if TYPE_CHECKING:
    from orchestrator.services import Services

__all__ = ["KeyWatch", "adjust"]

WATCH_S = 1.0
LOOKS_APART_S = 0.2
"""How often, at most, tokens that name unknown keys make the directory be looked at."""

log_ = structlog.get_logger()


class KeyWatch:
    """Keeps the keys of one process's tokens up to date.

    Args:
        data: the data directory.
        tokens: told of new keys, and asks for a look where it knows a key not.
        on_change: called after the keys have changed.
    """

    def __init__(self, data: Path, tokens: Tokens, on_change: Callable[[], None]) -> None:
        self._data = data
        self._tokens = tokens
        self._on_change = on_change
        self._stamp: object = None  # the keys may have changed since the tokens got theirs
        self._looked_s = 0.0
        tokens.look = self._look_now

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(WATCH_S)
            self.look()
            if await self._tokens.issuers.load():
                self._on_change()

    def look(self) -> None:
        """Read the keys where the files have changed; where they cannot be read, what was known holds."""
        try:
            stamp = keys_stamp(self._data)
            if stamp == self._stamp:
                return
            keys = load_keys(self._data)
        except (KeyUnusable, OSError) as fault:
            log_.error("keys_not_read", reason=str(fault))
            return
        self._stamp = stamp
        if self._tokens.renew(keys):
            log_.info("keys_changed", signer=keys.signer.id, keys=len(keys.keys))
            self._on_change()

    def _look_now(self) -> None:
        now_s = time.monotonic()
        if now_s - self._looked_s >= LOOKS_APART_S:
            self._looked_s = now_s
            self.look()


def adjust(hub: Services) -> None:
    """Let every session end when its token does, by the keys that there are now."""
    for connection in tuple(hub.connections):
        peer = connection.peer
        if peer is not None and peer.bearer is not None and connection.expires_s is not None:
            connection.expires_s = hub.tokens.ends_s(peer.bearer)
