"""Opening and closing a session: authenticate, fence, take up attempts, verify subscriptions.

The order is the point. Nothing about a log is said before the peer is known and permitted; an agent's session
is fenced in the store, and the new holder of every attempt that goes on is committed, before `ready` is sent.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from orchestrator.audit import SESSIONS
from orchestrator.auth.binding import Words
from orchestrator.auth.principal import NEVER_S, Principal
from orchestrator.auth.revocation import why_ended
from orchestrator.auth.tokens import TokenRefused
from orchestrator.core import sessions
from orchestrator.core.permissions import Permit, may_open
from orchestrator.core.sessions import Denied, Newcomer
from orchestrator.core.standing import Standing
from orchestrator.follows import Follows
from orchestrator.line import Line, monotonic_ms
from orchestrator.pace import Pace
from orchestrator.peers import Peer
from orchestrator.store.base import StoreError
from orchestrator.store.commits import Outcome
from orchestrator.verdicts import Known
from protocol.codes import CloseCode
from protocol.errors import RemoteProtocolError, RequestError
from protocol.frames import (
    AttemptClaim,
    AttemptVerdict,
    Heartbeat,
    Identify,
    Ready,
    Role,
    Subscribe,
    SubscriptionVerdict,
)
from protocol.ids import LogName
from protocol.refusals import What

if TYPE_CHECKING:
    from orchestrator.auth.enrolment import Identified
    from orchestrator.connection import Connection
    from orchestrator.services import Services

__all__ = ["BYE", "Opened", "check_fence", "hear", "join", "leave", "open_session", "refresh", "supersede"]

OPEN_TRIES_MAX = 8
BYE = "bye: "
"""What the reason begins with for which a session ended that its peer ended on purpose."""

log_ = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Opened:
    """A session that was opened."""

    peer: Peer
    resumed: bool
    expires_s: int
    attempts: tuple[AttemptVerdict, ...]
    subscriptions: tuple[SubscriptionVerdict, ...]
    pace: Pace | None = None

    def ready(self) -> Ready:
        """Return what the peer is told."""
        peer = self.peer
        return Ready(
            session=peer.session,
            fence=peer.fence,
            resumed=self.resumed,
            principal=peer.principal,
            namespace=peer.namespace,
            scopes=tuple(sorted(peer.permit.scopes)),
            expires_ms=None if self.expires_s >= NEVER_S else self.expires_s * 1000,
            subscriptions=self.subscriptions,
            attempts=self.attempts,
        )


async def open_session(
    hub: Services, connection: Connection, frame: Identify, token: str | None, nonce: bytes
) -> Opened | Denied:
    """Open the session that a peer asks for, on the connection that was given this nonce.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    words = hub.binding.words
    known_as = await hub.enrolment.identify(frame, token, nonce, int(time.time()))
    if isinstance(known_as, Denied):
        return known_as
    principal = known_as.principal
    permit = _permit(hub, frame, principal, known_as.key)
    if isinstance(permit, Denied):
        return permit
    peer = _peer(connection, frame, known_as, permit, hub.settings.limits.attempts_max)
    if not hub.sessions.enter(peer.account):
        limit = hub.settings.limits.sessions_per_principal_max
        message = f"{limit} sessions are open with tokens of {principal.name}"
        return Denied(CloseCode.OVERLOADED, message, SESSIONS, principal)
    meter = hub.meters.enter(peer.account, monotonic_ms())
    try:
        opened = await _open(hub, connection, frame, known_as, peer, words)
    finally:
        if connection.peer is None:  # else its end counts it out
            _count_out(hub, peer)
    if meter is None or isinstance(opened, Denied):
        return opened
    return replace(opened, pace=Pace(meter, peer, hub.settings.interval_ms, hub.audit))


def _count_out(hub: Services, peer: Peer) -> None:
    hub.sessions.leave(peer.account)
    hub.meters.leave(peer.account, monotonic_ms())


async def _open(
    hub: Services, connection: Connection, frame: Identify, known_as: Identified, peer: Peer, words: Words
) -> Opened | Denied:
    attempts: tuple[AttemptVerdict, ...] = ()
    resumed = frame.session is not None
    connection.follows = follows = Follows(hub, connection, peer)
    joined = follows.join(_once(frame.subscriptions))  # first, so that they are given what the fence appends
    known: dict[LogName, Known] = {}
    if peer.role is Role.AGENT:
        if known_as.meta is None:
            try:
                await hub.making.log(peer)
            except RequestError as fault:
                return Denied(CloseCode.OVERLOADED, fault.message, principal=known_as.principal)
        previous = await _fence(hub.line, peer, known_as.mark, known_as.meta, known)
        if isinstance(previous, Denied):
            return previous
        resumed = frame.session == previous
        connection.peer = peer  # from here on its end is written down
        attempts = await hub.work.reopen(peer, frame.attempts)
    connection.peer = peer
    subscriptions = await follows.resume(joined, known)
    why = why_ended(hub, peer)  # it may have been revoked before `connection.peer` was there for all to see
    if why is not None:
        return Denied(CloseCode.REVOKED, why, principal=known_as.principal)
    denied = await hub.binding.changed_since(words, peer)  # likewise
    if denied is not None:
        return replace(denied, principal=known_as.principal)
    return Opened(peer, resumed, hub.tokens.ends_s(known_as.principal), attempts, subscriptions)


def join(hub: Services, connection: Connection, peer: Peer, claims: tuple[AttemptClaim, ...]) -> None:
    """Count an agent in and let it work; end an older session of it on this hub. A newer one ends this session."""
    hub.agents[peer.session] = connection
    before = hub.peers.agent(peer.namespace, peer.id)
    if before is not None and before.fence > peer.fence:
        supersede(hub, peer, before.instance)
        return
    hub.peers.add(peer)
    hub.registry.connected(peer)
    hub.work.joined(peer)
    if before is not None:
        supersede(hub, before, peer.instance)
    if peer.held:
        connection.spawn(hub.work.opened(peer, claims))
    else:
        hub.work.offer(peer)
    if hub.peers.missed(peer):
        hub.spawn(check_fence(hub, peer))


def hear(hub: Services, peer: Peer, beat: Heartbeat) -> bool:
    """Take what a heartbeat says of an agent's load. Returns whether there are leases to renew or to doubt."""
    if beat.load is not None and beat.load != peer.load and hub.peers.agent(peer.namespace, peer.id) is peer:
        peer.load = beat.load
        hub.registry.loaded(peer)
        hub.work.offer(peer)
    return bool(beat.attempts) or (bool(peer.held) and beat.attempts is not None)  # it may have lost all it held


async def check_fence(hub: Services, peer: Peer) -> None:
    """End the session if a newer one of the same agent has opened, here or on another hub; else heed what is said."""
    try:
        meta = await hub.line.store.meta(sessions.agent_log(peer.namespace, peer.id))
    except StoreError:
        return
    if meta is not None and int(meta.get("fence", 0)) > peer.fence:
        supersede(hub, peer, meta.get("instance", ""))
    else:
        hub.work.heed(peer, Standing.parse(meta))


def leave(hub: Services, peer: Peer, reason: str) -> None:
    """Count a session out; write down that an agent's ended, unless a newer one opened."""
    peer.leaving = True
    _count_out(hub, peer)
    if peer.role is not Role.AGENT:
        return
    hub.agents.pop(peer.session, None)
    hub.querying.gone(peer)
    if hub.peers.agent(peer.namespace, peer.id) is peer:
        hub.peers.remove(peer)
        hub.peers.miss(peer.namespace, peer.id, monotonic_ms())  # an older session of it may still be opening
        hub.registry.disconnected(peer)
    hub.spawn(_close(hub.line, peer, reason))


def supersede(hub: Services, peer: Peer, instance: str) -> None:
    """End the session of an agent on this hub: a newer one of the same agent, of the process `instance`, took over.

    Where it is the same process, that may have been a connection which it gave up and whose `identify` came late:
    it is told to come back, for there is nobody else.
    """
    connection = hub.agents.get(peer.session)
    if connection is None:
        return
    hub.counters.superseded += 1
    if instance == peer.instance:
        connection.fail(CloseCode.GOING_AWAY, "another connection of the same process took over")
    else:
        connection.fail(CloseCode.SUPERSEDED, "a newer session of the same agent took over")


def refresh(hub: Services, peer: Peer, token: str, now_s: int) -> int:
    """Take a new token for an open session; return until when it is good.

    Raises:
        RemoteProtocolError: the token is not valid, is somebody else's, or was revoked; or a key let the peer in.
    """
    if peer.key:
        raise RemoteProtocolError(CloseCode.FORBIDDEN, "a key let this session in: there is no token to refresh")
    try:
        principal = hub.tokens.verify(token, now_s)
    except TokenRefused as fault:
        hub.audit.forbidden(peer, What.SESSION, "refresh", fault.reason)
        raise RemoteProtocolError(fault.code, str(fault)) from fault
    same_agent = peer.role is not Role.AGENT or principal.may_be(peer.id)
    same_client = peer.role is not Role.CLIENT or peer.principal == f"client:{principal.name}"
    permitted = may_open(principal.scopes, peer.role)
    permit = sessions.permit_of(principal, peer.role, peer.id)
    if principal.namespace != peer.namespace or not (same_agent and same_client and permitted):
        hub.audit.forbidden(peer, What.SESSION, "refresh", "another")
        raise RemoteProtocolError(CloseCode.FORBIDDEN, "the new token does not permit this session")
    why = hub.revocations.why(principal, peer.id if peer.role is Role.AGENT else None, peer.key)
    if why is not None:
        hub.audit.forbidden(peer, What.SESSION, "refresh", "revoked")
        raise RemoteProtocolError(CloseCode.REVOKED, why)
    if not permit.covers(peer.permit):  # what it follows and serves is decided when a session opens
        raise RemoteProtocolError(CloseCode.GOING_AWAY, "the new token permits less: open the session anew")
    peer.permit, peer.bearer = permit, principal
    return hub.tokens.ends_s(principal)


async def _close(line: Line, peer: Peer, reason: str) -> None:
    log = sessions.agent_log(peer.namespace, peer.id)
    drained = peer.instance if peer.draining and reason.startswith(BYE) else ""
    commit = sessions.close_session(log, peer.session, reason, line.src, line.new_commit_id(), drained_instance=drained)
    try:
        await line.commit(commit)
    except StoreError as fault:
        log_.debug("disconnect_not_stored", agent=peer.id, reason=str(fault))


def _permit(hub: Services, frame: Identify, principal: Principal, key: str | None) -> Permit | Denied:
    """Return what a peer that is known, by this key if any, may do in the session that it asks for, or why none."""
    permit = sessions.judge(frame, principal)
    if isinstance(permit, Denied):
        return permit
    why = hub.revocations.why(principal, frame.id if frame.role is Role.AGENT else None, key)
    if why is not None:
        return Denied(CloseCode.REVOKED, why, principal=principal)
    limits = hub.settings.limits
    if len(frame.attempts) > limits.attempts_max:
        return Denied(CloseCode.LIMIT_EXCEEDED, f"{len(frame.attempts)} attempts; the limit is {limits.attempts_max}")
    return permit


def _peer(connection: Connection, frame: Identify, known_as: Identified, permit: Permit, attempts_max: int) -> Peer:
    principal = known_as.principal
    whose = f"{frame.role.value}/" if known_as.key else ""  # who enrols as an agent chooses its name, a client's even
    return Peer(
        namespace=principal.namespace,
        principal=sessions.principal_name(principal, frame),
        role=frame.role,
        id=frame.id,
        instance=frame.instance,
        session=secrets.token_hex(8),
        fence=0,
        permit=permit,
        send=connection.send,
        labels=frame.labels,
        queues=frame.queues,
        handlers={handler.name: handler for handler in frame.handlers},
        slots=min(frame.slots, attempts_max),  # it could not list more
        load=frame.load,
        bearer=principal,
        key=known_as.key,
        account=f"{principal.namespace}/{whose}{principal.name}",
    )


async def _fence(
    line: Line, peer: Peer, mark: str, meta: dict[str, str] | None, known: dict[LogName, Known]
) -> str | Denied:
    """Commit the session; return the one before it (or ""), or why there is none. Notes how the log was left."""
    log = sessions.agent_log(peer.namespace, peer.id)
    for _ in range(OPEN_TRIES_MAX):
        if sessions.was_superseded(meta, peer.instance):
            return Denied(CloseCode.SUPERSEDED, "another process has taken this agent's id over since")
        newcomer = Newcomer(
            peer.session, peer.instance, line.hub_id, line.src, line.new_commit_id(), line.new_epoch(), mark
        )
        opening = sessions.open_session(log, meta, newcomer, line.now_ms())
        outcome = await line.commit(opening.commit)
        if isinstance(outcome, Outcome):
            peer.fence, peer.standing = opening.fence, Standing.parse(meta)
            left = None if outcome.repeated else Known.after(meta, outcome.appended[0])
            if left is not None:
                known[log] = left
            if opening.takeover:
                log_.info("agent_taken_over", agent=peer.id, session=peer.session, instance=peer.instance)
            return opening.previous
        meta = await line.store.meta(log)
    return Denied(CloseCode.OVERLOADED, "other sessions of this agent open at the same time")


def _once(subscriptions: tuple[Subscribe, ...]) -> tuple[Subscribe, ...]:
    """Of several subscriptions to one log, the last counts."""
    return tuple({each.log: each for each in subscriptions}.values())
