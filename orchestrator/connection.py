"""One connection: carries out what its session and the hub's core decide.

One task reads. Everything that takes time (a commit, a request, a verdict) runs beside it, so that many
publishes are in flight at once and the store can commit them together; they are started in the order in which
they came, and the store keeps that order. Frames to send are gathered and leave as one message at the end of
the turn of the event loop.

Nothing queues without bound: what is sent on subscriptions is bound by their windows and stops while the
transport is full; requests and publishes are not read on while as many as announced are under way, or while the
peer does not take their answers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import structlog
from websockets.asyncio.server import ServerConnection, broadcast
from websockets.exceptions import ConnectionClosed

from orchestrator.acks import Acks
from orchestrator.auth.scopes import Action, may, may_follow
from orchestrator.auth.tokens import TokenRefused, Tokens
from orchestrator.core import publish as publishing
from orchestrator.core.sessions import VERSIONS
from orchestrator.following import Subscription, refused
from orchestrator.line import Line, monotonic_ms
from orchestrator.methods import Methods
from orchestrator.opening import Opened, close_agent, open_session
from orchestrator.peers import Peer, Peers
from orchestrator.registry import Registry
from orchestrator.settings import Settings
from orchestrator.store.base import Refused, StoreUnavailable
from orchestrator.telemetry import Counters
from orchestrator.work import Work
from protocol.codec import encode
from protocol.codes import CloseCode, ErrorCode
from protocol.effects import Fail, SendHeartbeat
from protocol.errors import InvalidName, RemoteProtocolError
from protocol.frames import (
    Ack,
    Bye,
    Error,
    Fault,
    Frame,
    Goaway,
    Heartbeat,
    Hello,
    Identify,
    Nack,
    Part,
    Puback,
    Publish,
    Ready,
    Refresh,
    Refreshed,
    Release,
    Request,
    Response,
    Role,
    Subscribe,
    Subscribed,
    SubscriptionVerdict,
    Tags,
    Unsubscribe,
)
from protocol.ids import LogKind, LogName
from protocol.session import Phase, Session, Side

__all__ = ["Connection", "Services", "Socket"]

MESSAGE_BYTES_TARGET = 256 * 1024
"""Frames are gathered into one message up to about this size."""
REASON_BYTES_MAX = 120
"""WebSocket close reasons end at 123 bytes."""
ACKED_PRODUCERS_MAX = 256
"""Producers of one session whose acknowledged seq is remembered, to tell when the store lost some."""
REMOTE_FAULTS_FROM = 4500

log_ = structlog.get_logger()


@dataclass(slots=True)
class Services:
    """What the connections of one hub share."""

    settings: Settings
    line: Line
    tokens: Tokens
    peers: Peers
    registry: Registry
    work: Work
    methods: Methods
    acks: Acks
    counters: Counters
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    connections: set[Connection] = field(default_factory=set)
    unidentified: int = 0
    draining: bool = False


class Socket(ServerConnection):
    """A websocket that tells its connection when it takes more."""

    reader: Connection | None = None

    def resume_writing(self) -> None:
        """Take more: the transport's buffer ran low."""
        super().resume_writing()
        if self.reader is not None:
            self.reader.on_drained()


class Connection:
    """One peer's connection, from the handshake to its end.

    Attributes:
        peer: the session, once it is open.
    """

    __slots__ = (
        "_acked",
        "_buffered",
        "_closing",
        "_expires_s",
        "_hub",
        "_out",
        "_out_bytes",
        "_pubacks",
        "_publishing_bytes",
        "_publishing_entries",
        "_reason",
        "_renewing",
        "_requests",
        "_session",
        "_socket",
        "_subscriptions",
        "_token",
        "_waiter",
        "_working",
        "peer",
    )

    def __init__(self, hub: Services, socket: Socket, token: str | None) -> None:
        """Take over an accepted websocket.

        Args:
            hub: what this hub's connections share.
            socket: the websocket, after its handshake.
            token: from the `Authorization` header, if there was one.
        """
        self._hub = hub
        self._socket = socket
        self._token = token
        self._session = Session(
            Side.HUB,
            monotonic_ms(),
            heartbeat_ms=hub.settings.interval_ms,
            handshake_ms=hub.settings.handshake_ms,
        )
        self.peer: Peer | None = None
        self._expires_s: int | None = None
        self._out: list[bytes] | None = None
        self._out_bytes = 0
        self._pubacks: dict[tuple[str, str], Puback] | None = None
        self._acked: dict[tuple[str, str], int] | None = None
        self._subscriptions: dict[str, Subscription] = {}
        self._publishing_entries = self._publishing_bytes = 0
        self._requests = self._working = 0
        self._renewing = self._closing = False
        self._waiter: asyncio.Future[None] | None = None
        self._buffered = 0
        self._reason = ""

    # ── reading ──────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Talk with the peer until the connection ends."""
        self._socket.reader = self
        self._hub.connections.add(self)
        self._hub.unidentified += 1
        self._hub.counters.connections += 1
        try:
            self._greet()
            await self._read()
        except ConnectionClosed:
            pass
        except Exception:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken()
        finally:
            self._ended()

    async def _read(self) -> None:
        async for message in self._socket:
            if isinstance(message, str):
                self.fail(CloseCode.MALFORMED, "a text message; frames are binary")
                return
            for effect in self._session.receive(message, monotonic_ms()):
                if isinstance(effect, Fail):
                    self.fail(effect.code, effect.message)
                else:
                    await self._act(effect.frame)
            if self._closing:
                return

    async def _act(self, frame: Frame) -> None:
        """Carry out one frame."""
        try:
            if isinstance(frame, Publish | Request):
                await self._room()
                (self._on_publish if isinstance(frame, Publish) else self._on_request)(frame)  # type: ignore[arg-type]
            elif isinstance(frame, Identify):
                await self._on_identify(frame)
            else:
                self._take(frame)
        except RemoteProtocolError as fault:
            self.fail(fault.code, str(fault))

    def _take(self, frame: Frame) -> None:
        match frame:
            case Ack():
                self._on_ack(frame)
            case Heartbeat():
                self._on_heartbeat(frame)
            case Subscribe():
                self._on_subscribe(frame)
            case Unsubscribe():
                self._unsubscribe(frame.log)
            case Tags():
                subscription = self._subscriptions.get(frame.log)
                if subscription is not None:
                    subscription.on_tags(frame)
            case Release():
                assert self.peer is not None
                self.spawn(self._hub.work.release(self.peer, frame))
            case Refresh():
                self._on_refresh(frame)
            case Bye():
                self._leave(f"bye: {frame.reason}"[:REASON_BYTES_MAX])

    async def _room(self) -> None:
        """Wait until another publish or request may be taken on."""
        limits = self._hub.settings.limits
        while not self._closing and (
            self._publishing_entries >= limits.publish_entries_max
            or self._publishing_bytes >= limits.publish_bytes_max
            or self.congested
        ):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ── sending ──────────────────────────────────────────────────────────────

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""
        return self._socket.paused

    def send(self, frame: Part) -> None:
        """Put a frame on its way, in order. Nothing happens where the session is over."""
        if self._closing or self._session.phase is Phase.ENDED:
            return
        if self._pubacks:
            self._put_pubacks()
        self._session.step_sent(frame.t)  # type: ignore[attr-defined]
        self._put(encode(frame))

    def send_entries(self, frame: bytes, entries: int) -> None:
        """Put an encoded `entries` frame on its way."""
        if self._closing or self._session.phase is Phase.ENDED:
            return
        self._session.step_sent("entries")
        self._hub.counters.entries_out += entries
        self._put(frame)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for this connection; what goes wrong in it ends the connection."""
        self._hub.spawn(self._guarded(work))

    def on_drained(self) -> None:
        """Go on: the transport takes more."""
        self._wake()
        for subscription in tuple(self._subscriptions.values()):
            subscription.pump()

    def _put(self, frame: bytes) -> None:
        if self._out is None:
            self._out = []
            asyncio.get_running_loop().call_soon(self._flush)
        elif self._out_bytes + len(frame) > MESSAGE_BYTES_TARGET and self._out:
            self._write()
        self._out.append(frame)
        self._out_bytes += len(frame)

    def _put_puback(self, puback: Puback) -> None:
        """Put a puback on its way; of several of a producer only the last is sent, since it stands for all."""
        if self._closing or self._session.phase is Phase.ENDED:
            return
        if self._pubacks is None:
            self._pubacks = {}
        if self._out is None:
            self._out = []
            asyncio.get_running_loop().call_soon(self._flush)
        producer = puback.log, puback.producer
        before = self._pubacks.get(producer)
        if before is None or puback.seq > before.seq:
            self._pubacks[producer] = puback

    def _put_pubacks(self) -> None:
        pubacks, self._pubacks = self._pubacks, None
        for puback in (pubacks or {}).values():
            self._session.step_sent("puback")
            self._put(encode(puback))

    def _flush(self) -> None:
        if self._pubacks and self._session.phase is not Phase.ENDED:
            self._put_pubacks()
        self._write()
        self._out = None

    def _write(self) -> None:
        """Send what was gathered, as one message."""
        frames = self._out
        if frames:
            self._hub.counters.frames_out += len(frames)
            broadcast((self._socket,), frames[0] if len(frames) == 1 else b"".join(frames))
            self._session.said(monotonic_ms())
            frames.clear()
            self._out_bytes = 0

    # ── opening ──────────────────────────────────────────────────────────────

    def _greet(self) -> None:
        hub = self._hub
        hello = Hello(
            versions=VERSIONS,
            hub=hub.line.hub_id,
            nonce=self._socket.id.bytes,
            heartbeat_ms=hub.settings.interval_ms,
            limits=hub.settings.limits,
            durability=hub.line.level,
            store_ms=hub.line.now_ms(),
        )
        self.send(hello)

    async def _on_identify(self, frame: Identify) -> None:
        token, self._token = frame.token or self._token, None
        try:
            opened = await open_session(self._hub, self, frame, token)
        except StoreUnavailable as fault:
            self.fail(CloseCode.STORE_UNAVAILABLE, str(fault))
            return
        if not isinstance(opened, Opened):
            self.fail(opened.code, opened.message)
            return
        self._ready(frame, opened)

    def _ready(self, frame: Identify, opened: Opened) -> None:
        """Tell the peer that its session is open, and start what goes on in it."""
        hub, peer = self._hub, opened.peer
        self.peer = peer
        if self._closing or self._session.phase is Phase.ENDED:
            return  # it was told to go while it was opened; what was opened is closed by `_ended`
        self._expires_s = opened.expires_s
        self._session.bytes_max = hub.settings.limits.message_bytes_max
        self._socket.protocol.max_message_size = self._session.bytes_max
        hub.unidentified -= 1
        hub.counters.sessions += 1
        ready = Ready(
            session=peer.session,
            fence=peer.fence,
            resumed=opened.resumed,
            principal=peer.principal,
            namespace=peer.namespace,
            scopes=tuple(sorted(peer.scopes)),
            expires_ms=opened.expires_s * 1000,
            subscriptions=opened.subscriptions,
            attempts=opened.attempts,
        )
        self._put(self._session.send((ready,), monotonic_ms()))
        if peer.role is Role.AGENT:
            self._join(peer)
            self.spawn(hub.work.opened(peer, frame.attempts))
        for subscription in tuple(self._subscriptions.values()):
            subscription.begin()

    def _join(self, peer: Peer) -> None:
        """Take the place of an older session of the same agent on this hub."""
        before = self._hub.peers.agent(peer.namespace, peer.id)
        if before is not None and before.fence > peer.fence:
            self.supersede()
            return
        self._hub.peers.add(peer)
        self._hub.registry.connected(peer)
        if before is not None:
            supersede(before)

    def follow(self, frame: Subscribe) -> Subscription | SubscriptionVerdict:
        """Begin a subscription, or say why there is none. One that there is for the log ends."""
        hub, peer = self._hub, self.peer
        assert peer is not None
        try:
            log = LogName.parse(frame.log, peer.namespace)
        except InvalidName as fault:
            return refused(frame.log, ErrorCode.NOT_FOUND, str(fault))
        agent_id = peer.id if peer.role is Role.AGENT else None
        if not may_follow(peer.scopes, agent_id, log):
            return refused(frame.log, ErrorCode.FORBIDDEN, f"the token does not permit to follow {frame.log}")
        self._unsubscribe(frame.log)
        limit = hub.settings.limits.subscriptions_max
        if len(self._subscriptions) >= limit:
            return refused(frame.log, ErrorCode.TOO_MANY, f"a session follows at most {limit} logs")
        subscription = Subscription(hub.line, self, log, frame, hub.settings.limits)
        self._subscriptions[frame.log] = subscription
        return subscription

    # ── following ────────────────────────────────────────────────────────────

    def _on_subscribe(self, frame: Subscribe) -> None:
        followed = self.follow(frame)
        if isinstance(followed, Subscription):
            self.spawn(self._subscribe(frame, followed))
        else:
            self.send(Subscribed(subscription=followed))

    async def _subscribe(self, frame: Subscribe, subscription: Subscription) -> None:
        verdict = await self.judge(frame, subscription)
        if self._subscriptions.get(frame.log) in (subscription, None):
            self.send(Subscribed(subscription=verdict))
        if self._subscriptions.get(frame.log) is subscription:
            subscription.begin()

    async def judge(self, frame: Subscribe, subscription: Subscription) -> SubscriptionVerdict:
        """Return the verdict on a subscription; one that is refused ends."""
        assert self.peer is not None
        try:
            verdict = await subscription.verify(frame, self.peer.principal)
        except StoreUnavailable as fault:
            verdict = refused(frame.log, ErrorCode.UNAVAILABLE, str(fault))
        if verdict.code is not None and self._subscriptions.get(frame.log) is subscription:
            self._unsubscribe(frame.log)
        return verdict

    def _unsubscribe(self, path: str) -> None:
        subscription = self._subscriptions.pop(path, None)
        if subscription is not None:
            subscription.end()
            if subscription.durable is not None:
                self._hub.acks.note(subscription.durable)

    def _on_ack(self, frame: Ack) -> None:
        subscription = self._subscriptions.get(frame.log)
        if subscription is not None:
            subscription.on_ack(frame.offset)
            if subscription.durable is not None:
                self._hub.acks.note(subscription.durable)

    # ── publishing and asking ────────────────────────────────────────────────

    def _on_publish(self, frame: Publish) -> None:
        peer = self.peer
        assert peer is not None
        try:
            log = LogName.parse(frame.log, peer.namespace)
        except InvalidName as fault:
            self._nack(publishing.refuse(frame, ErrorCode.NOT_FOUND, str(fault)))
            return
        if not may(peer.scopes, Action.publish_to(log.kind)):
            message = f"the token does not permit to publish to {frame.log}"
            self._nack(publishing.refuse(frame, ErrorCode.FORBIDDEN, message))
            return
        too_large = publishing.check_size(frame, self._hub.settings.limits)
        if too_large is not None:
            self._nack(too_large)
            return
        size = sum([len(body) for _, body, _, _ in frame.entries])
        self._publishing_entries += len(frame.entries)
        self._publishing_bytes += size
        self.spawn(self._publish(peer, log, frame, size))

    async def _publish(self, peer: Peer, log: LogName, frame: Publish, size: int) -> None:
        try:
            if log.kind is LogKind.RUN:
                answer = await self._hub.work.publish(peer, log, frame)
            else:
                answer = await self._append(peer, log, frame)
        finally:
            self._publishing_entries -= len(frame.entries)
            self._publishing_bytes -= size
            self._wake()
        if isinstance(answer, Nack):
            self._nack(self._lost(log, answer))
            return
        self._hub.counters.entries_in += len(frame.entries)
        if self._acked is None:
            self._acked = {}
        producer = frame.log, frame.producer
        self._acked[producer] = max(answer.seq, self._acked.pop(producer, 0))
        if len(self._acked) > ACKED_PRODUCERS_MAX:
            del self._acked[next(iter(self._acked))]
        self._put_puback(answer)

    async def _append(self, peer: Peer, log: LogName, frame: Publish) -> Puback | Nack:
        prepared = publishing.prepare(frame, peer.principal)
        if isinstance(prepared, Nack):
            return prepared
        line = self._hub.line
        commit = publishing.propose(line.new_commit_id(), line.new_epoch(), log, prepared, frame.expect)
        try:
            result = await line.commit(commit)
        except StoreUnavailable as fault:
            return publishing.unavailable(frame, fault)
        if isinstance(result, Refused):
            return publishing.nack(frame, result, (self._acked or {}).get((frame.log, frame.producer), 0))
        return publishing.puback(frame, result, line.level)

    def _lost(self, log: LogName, nack: Nack) -> Nack:
        """Fence an attempt where the store lost entries of it that were acknowledged."""
        acked = (self._acked or {}).get((nack.log, nack.producer), 0)
        if log.kind is LogKind.RUN and nack.code == ErrorCode.OUT_OF_ORDER and (nack.last or 0) < acked:
            message = f"entries {(nack.last or 0) + 1} to {acked} were acknowledged, and the store has lost them"
            return nack.model_copy(update={"code": ErrorCode.FENCED.value, "message": message})
        return nack

    def _nack(self, nack: Nack) -> None:
        self._hub.counters.nacks += 1
        self.send(nack)

    def _on_request(self, frame: Request) -> None:
        limit = self._hub.settings.limits.requests_max
        if self._requests >= limit:
            message = f"{self._requests} requests are not answered yet; the limit is {limit}"
            fault = Fault(code=ErrorCode.TOO_MANY.value, message=message, retry_ms=publishing.RETRY_MS)
            self.send(Response(id=frame.id, error=fault))
            return
        self._requests += 1
        self.spawn(self._answer(frame))

    async def _answer(self, frame: Request) -> None:
        assert self.peer is not None
        try:
            response = await self._hub.methods.call(self.peer, frame)
        finally:
            self._requests -= 1
        self._hub.counters.requests += 1
        self.send(response)

    # ── what keeps a session ─────────────────────────────────────────────────

    def _on_heartbeat(self, frame: Heartbeat) -> None:
        peer = self.peer
        assert peer is not None
        attempts = frame.attempts or ()
        limit = self._hub.settings.limits.attempts_max
        if len(attempts) > limit:
            raise RemoteProtocolError(CloseCode.LIMIT_EXCEEDED, f"{len(attempts)} attempts; the limit is {limit}")
        if attempts and not self._renewing:
            self._renewing = True
            self.spawn(self._renew(peer, frame))

    async def _renew(self, peer: Peer, frame: Heartbeat) -> None:
        try:
            await self._hub.work.renew(peer, frame.attempts or ())
        finally:
            self._renewing = False

    def _on_refresh(self, frame: Refresh) -> None:
        peer = self.peer
        assert peer is not None
        try:
            principal = self._hub.tokens.verify(frame.token, int(time.time()))
        except TokenRefused as fault:
            raise RemoteProtocolError(CloseCode.UNAUTHENTICATED, str(fault)) from fault
        same_agent = peer.role is not Role.AGENT or principal.may_be(peer.id)
        same_client = peer.role is not Role.CLIENT or peer.principal == f"client:{principal.name}"
        if principal.namespace != peer.namespace or not (same_agent and same_client):
            raise RemoteProtocolError(CloseCode.FORBIDDEN, "the new token is for somebody else")
        peer.scopes = principal.scopes
        self._expires_s = principal.expires_s
        self.send(Refreshed(expires_ms=principal.expires_s * 1000))

    def tick(self, now_ms: int, now_s: int, heartbeat: bytes) -> None:
        """Do what the clock asks for.

        Args:
            now_ms: this machine's clock that never steps.
            now_s: the time, for tokens.
            heartbeat: an encoded heartbeat, shared by all connections.
        """
        if self._waiter is not None:
            self._hear(now_ms)
        effect = self._session.tick(now_ms)
        if isinstance(effect, Fail):
            self.fail(effect.code, effect.message)
        elif isinstance(effect, SendHeartbeat):
            self._session.step_sent("heartbeat")
            self._put(heartbeat)
        elif self._expires_s is not None and self._expires_s <= now_s:
            self.fail(CloseCode.TOKEN_EXPIRED, "the token expired")

    def _hear(self, now_ms: int) -> None:
        """Do not count a silence that is the hub's own: it is not reading on, for want of room."""
        held = self._socket.transport.get_write_buffer_size() if self.congested else 0
        if held == 0 or held < self._buffered:
            self._session.receive(b"", now_ms)
        self._buffered = held

    # ── ending ───────────────────────────────────────────────────────────────

    def fail(self, code: CloseCode, message: str) -> None:
        """End the connection with a code, having said why."""
        if self._closing:
            return
        if code >= REMOTE_FAULTS_FROM and code is not CloseCode.SUPERSEDED:
            self._hub.counters.faults += 1
        if self._pubacks and self._session.phase is not Phase.ENDED:
            self._put_pubacks()
        self._put(encode(Error(code=code.value, message=message)))
        self._write()
        self._close(code, f"{code.name.lower()}: {message}")

    def supersede(self) -> None:
        """End this session: a newer one of the same agent took over."""
        self._hub.counters.superseded += 1
        self.fail(CloseCode.SUPERSEDED, "a newer session of the same agent took over")

    def go_away(self, after_ms: int, reason: str) -> None:
        """Tell the peer that this hub is about to close the connection."""
        if self._session.phase is Phase.READY:
            self.send(Goaway(after_ms=after_ms, reason=reason))
        if self.peer is not None:
            self.peer.leaving = True

    def say_bye(self, reason: str) -> None:
        """End the connection in good order; the peer comes back elsewhere."""
        if self._closing:
            return
        if self._session.phase in (Phase.READY, Phase.LEAVING):
            self.send(Bye(reason=reason))
            if self._out is not None:
                self._write()
        self._close(CloseCode.GOING_AWAY, reason)

    @property
    def busy(self) -> bool:
        """Whether a publish or a request is under way."""
        return self._publishing_entries > 0 or self._requests > 0

    def _leave(self, reason: str) -> None:
        self._close(1000, reason)

    def _close(self, code: int, reason: str) -> None:
        self._closing = True
        self._reason = reason
        self._session.end()
        self._wake()
        self._hub.spawn(self._shut(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")))

    async def _shut(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)

    def _ended(self) -> None:
        """Clear up: the connection is gone."""
        hub, peer = self._hub, self.peer
        self._closing = True
        self._session.end()
        hub.connections.discard(self)
        self._socket.reader = None
        for path in tuple(self._subscriptions):
            self._unsubscribe(path)
        if peer is None or self._expires_s is None:
            hub.unidentified -= 1
        if peer is not None and peer.role is Role.AGENT:
            peer.leaving = True
            if hub.peers.agent(peer.namespace, peer.id) is peer:
                hub.peers.remove(peer)
                hub.registry.disconnected(peer)
            hub.spawn(close_agent(hub.line, peer, self._reason or "the connection broke"))
        log_.info(
            "connection_ended",
            principal=peer.principal if peer else None,
            session=peer.session if peer else None,
            reason=self._reason or "the connection broke",
        )

    def _broken(self) -> None:
        log_.error("connection_failed", principal=self.peer.principal if self.peer else None, exc_info=True)
        self.fail(CloseCode.INTERNAL_ERROR, "the hub failed on this session")

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StoreUnavailable as fault:
            log_.debug("work_put_off", reason=str(fault))
        except Exception:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken()


def supersede(peer: Peer) -> None:
    """End the session of a peer on this hub."""
    connection = getattr(peer.send, "__self__", None)
    assert isinstance(connection, Connection)
    connection.supersede()
