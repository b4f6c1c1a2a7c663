"""What becomes of connections as time goes by.

When its token ends, a session is told, has a time of grace for a newer one, and then ends. A token whose key is
believed no more has no such time.

Specification: docs/protocol.md, section "Tokens".
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from orchestrator.auth.principal import NEVER_S
from orchestrator.line import monotonic_ms
from orchestrator.opening import refresh
from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.errors import RemoteProtocolError
from protocol.frames import Heartbeat, Refresh, Refreshed

if TYPE_CHECKING:
    from orchestrator.connection import Connection
    from orchestrator.services import Services

__all__ = ["expire", "take_refresh", "tick"]

TICKED_AT_ONCE_MAX = 64
"""Connections that are looked at in one turn of the event loop: they may all be over, after a flood of them."""


async def tick(hub: Services) -> None:
    """Do for all connections what the clock asks for."""
    heartbeat = encode(Heartbeat(store_ms=hub.line.now_ms()))
    now_ms, now_s = monotonic_ms(), int(time.time())
    for place, connection in enumerate(tuple(hub.connections), 1):
        if connection in hub.connections:  # others had their turn meanwhile
            connection.tick(now_ms, now_s, heartbeat)
        if place % TICKED_AT_ONCE_MAX == 0:
            await asyncio.sleep(0)


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
