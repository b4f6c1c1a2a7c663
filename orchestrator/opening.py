"""Opening and closing a session: authenticate, fence, take up attempts, verify subscriptions.

The order is the point. Nothing about a log is said before the peer is known and permitted; an agent's session
is fenced in the store, and the new holder of every attempt that goes on is committed, before `ready` is sent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from orchestrator.auth.principal import Principal
from orchestrator.auth.tokens import TokenRefused
from orchestrator.core import sessions
from orchestrator.core.sessions import Denied, Newcomer
from orchestrator.following import Subscription
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store.base import Outcome, StoreUnavailable
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import AttemptVerdict, Identify, Role, Subscribe, SubscriptionVerdict

if TYPE_CHECKING:
    from orchestrator.connection import Connection, Services

__all__ = ["Opened", "close_agent", "open_session"]

OPEN_TRIES_MAX = 8

log_ = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened."""

    peer: Peer
    resumed: bool
    expires_s: int
    attempts: tuple[AttemptVerdict, ...]
    subscriptions: tuple[SubscriptionVerdict, ...]


async def open_session(hub: Services, connection: Connection, frame: Identify, token: str | None) -> Opened | Denied:
    """Open the session that a peer asks for.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    principal = _authenticate(hub, frame, token)
    if isinstance(principal, Denied):
        return principal
    peer = _peer(connection, frame, principal)
    attempts: tuple[AttemptVerdict, ...] = ()
    resumed = frame.session is not None
    if peer.role is Role.AGENT:
        previous = await _fence(hub.line, peer)
        if previous is None:
            return Denied(CloseCode.OVERLOADED, "other sessions of this agent open at the same time")
        resumed = frame.session == previous
        connection.peer = peer  # from here on its end is written down
        attempts = await hub.work.reopen(peer, frame.attempts)
    connection.peer = peer
    subscriptions = await asyncio.gather(*(_follow(connection, each) for each in _once(frame.subscriptions)))
    if any(verdict.code == ErrorCode.UNAVAILABLE for verdict in subscriptions):
        raise StoreUnavailable("the store does not answer")
    return Opened(peer, resumed, principal.expires_s, attempts, tuple(subscriptions))


async def close_agent(line: Line, peer: Peer, reason: str) -> None:
    """Write down that an agent's session ended, unless a newer one opened."""
    log = sessions.agent_log(peer.namespace, peer.id)
    commit = sessions.close_session(log, peer.session, reason, line.src, line.new_commit_id())
    try:
        await line.commit(commit)
    except StoreUnavailable as fault:
        log_.debug("disconnect_not_stored", agent=peer.id, reason=str(fault))


def _authenticate(hub: Services, frame: Identify, token: str | None) -> Principal | Denied:
    if not token:
        return Denied(CloseCode.UNAUTHENTICATED, "no token: send it in the Authorization header or in identify")
    try:
        principal = hub.tokens.verify(token, int(time.time()))
    except TokenRefused as fault:
        return Denied(CloseCode.UNAUTHENTICATED, str(fault))
    denied = sessions.judge(frame, principal)
    if denied is not None:
        return denied
    limits = hub.settings.limits
    if len(frame.attempts) > limits.attempts_max:
        return Denied(CloseCode.LIMIT_EXCEEDED, f"{len(frame.attempts)} attempts; the limit is {limits.attempts_max}")
    return principal


def _peer(connection: Connection, frame: Identify, principal: Principal) -> Peer:
    return Peer(
        namespace=principal.namespace,
        principal=sessions.principal_name(principal, frame),
        role=frame.role,
        id=frame.id,
        instance=frame.instance,
        session=secrets.token_hex(8),
        fence=0,
        scopes=principal.scopes,
        send=connection.send,
        labels=frame.labels,
        queues=frame.queues,
        handlers={handler.name: handler for handler in frame.handlers},
        slots=frame.slots,
    )


async def _fence(line: Line, peer: Peer) -> str | None:
    """Commit the session; return the one before it (or ""), or None where others were always first."""
    log = sessions.agent_log(peer.namespace, peer.id)
    for _ in range(OPEN_TRIES_MAX):
        meta = await line.store.meta(log)
        newcomer = Newcomer(peer.session, peer.instance, line.hub_id, line.src, line.new_commit_id(), line.new_epoch())
        opening = sessions.open_session(log, meta, newcomer, line.now_ms())
        if isinstance(await line.commit(opening.commit), Outcome):
            peer.fence = opening.fence
            log_.info("session_opened", agent=peer.id, session=peer.session, takeover=opening.takeover)
            return opening.previous
    return None


def _once(subscriptions: tuple[Subscribe, ...]) -> tuple[Subscribe, ...]:
    """Of several subscriptions to one log, the last counts."""
    return tuple({each.log: each for each in subscriptions}.values())


async def _follow(connection: Connection, frame: Subscribe) -> SubscriptionVerdict:
    followed = connection.follow(frame)
    if not isinstance(followed, Subscription):
        return followed
    return await connection.judge(frame, followed)
