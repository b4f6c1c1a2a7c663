"""What becomes of a session when its token ends: it is told, has a time of grace for a newer one, and then ends.

A token whose key is believed no more has no such time.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from orchestrator.auth.principal import NEVER_S
from orchestrator.opening import refresh
from protocol.codes import CloseCode
from protocol.errors import RemoteProtocolError
from protocol.frames import Heartbeat, Refresh, Refreshed

if TYPE_CHECKING:
    from orchestrator.connection import Connection
    from orchestrator.services import Services

__all__ = ["expire", "take_refresh"]


def expire(hub: Services, connection: Connection, now_s: int) -> None:
    """Warn a session whose token has ended, once, or end it."""
    peer, expires_s = connection.peer, connection.expires_s
    assert peer is not None
    assert expires_s is not None
    left_ms = expires_s * 1000 + hub.settings.token_grace_ms - now_s * 1000
    if left_ms <= 0:
        connection.fail(CloseCode.TOKEN_EXPIRED, "the token expired, and no newer one came in time")
    elif peer.warned_s != expires_s:
        peer.warned_s = expires_s
        connection.send(Heartbeat(store_ms=hub.line.now_ms(), refresh_ms=left_ms))


async def take_refresh(hub: Services, connection: Connection, frame: Refresh) -> None:
    """Take a newer token for a session, or end it."""
    assert connection.peer is not None
    await hub.tokens.prepare(frame.token)
    try:
        expires_s = refresh(hub, connection.peer, frame.token, int(time.time()))
    except RemoteProtocolError as fault:
        connection.fail(fault.code, str(fault))
        return
    connection.expires_s = expires_s
    connection.send(Refreshed(expires_ms=None if expires_s >= NEVER_S else expires_s * 1000))
