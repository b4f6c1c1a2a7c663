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
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

import structlog
from websockets.asyncio.server import broadcast
from websockets.exceptions import ConnectionClosed

from orchestrator.follows import Follows
from orchestrator.intake import Intake
from orchestrator.line import monotonic_ms
from orchestrator.opening import Opened, greeting, join, leave, open_session, refresh
from orchestrator.outgoing import Outgoing
from orchestrator.peers import Peer
from orchestrator.services import Services
from orchestrator.store.base import StoreUnavailable
from protocol.codec import encode
from protocol.codes import CloseCode, is_terminal
from protocol.effects import Fail, SendHeartbeat
from protocol.errors import RemoteProtocolError
from protocol.frames import (
    Ack,
    Bye,
    Error,
    Frame,
    Goaway,
    Heartbeat,
    Identify,
    Part,
    Puback,
    Publish,
    Ready,
    Refresh,
    Refreshed,
    Release,
    Request,
    Role,
    Subscribe,
    Tags,
    Unsubscribe,
)
from protocol.session import Phase, Session, Side

if TYPE_CHECKING:
    from orchestrator.server import Socket

__all__ = ["Connection"]

REASON_BYTES_MAX = 120
"""WebSocket close reasons end at 123 bytes."""

BYE_CHARACTERS_MAX = 200
"""What is kept, in the agent's log, of the reason that a peer gives for leaving."""

WEBSOCKET_NORMAL = 1000
ASKED_MAX = 64
"""Subscriptions and releases of one session under way at once."""

log_ = structlog.get_logger()


class Connection:
    """One peer's connection, from the handshake to its end.

    Attributes:
        peer: the session, once it is open; `follows` the logs that it follows.
    """

    __slots__ = (
        "_asked",
        "_buffered",
        "_closing",
        "_expires_s",
        "_hub",
        "_intake",
        "_outgoing",
        "_reason",
        "_session",
        "_socket",
        "_token",
        "_waiter",
        "follows",
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
        self.follows: Follows | None = None
        self._expires_s: int | None = None
        self._outgoing = Outgoing(self._session, self._write, hub.counters)
        self._intake: Intake | None = None
        self._closing = False
        self._asked = 0
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
            self.send(greeting(self._hub, self._socket.id.bytes))
            await self._read()
        except ConnectionClosed:
            pass
        except Exception as fault:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken(fault)
        finally:
            closing = self._closing
            self._ended()
        if closing:
            await self._socket.wait_closed()  # whoever returns earlier closes it with 1000 instead of our code

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
                await self._take_on(frame)
            elif isinstance(frame, Subscribe | Release | Refresh | Tags):
                await self._room()
                self._take(frame)
            elif isinstance(frame, Identify):
                await self._on_identify(frame)
            else:
                self._take(frame)
        except RemoteProtocolError as fault:
            self.fail(fault.code, str(fault))

    def _take(self, frame: Frame) -> None:
        match frame:
            case Ack():
                self._followed.ack(frame)
            case Heartbeat():
                holds = self.peer is not None and bool(self.peer.held)
                if frame.attempts or (holds and frame.attempts is not None):
                    self._taken_on.renew(frame.attempts)  # one that lists nothing may have lost all it held
            case Subscribe():
                self._followed.subscribe(frame)
            case Unsubscribe():
                self._followed.unsubscribe(frame.log)
            case Tags():
                self._followed.tags(frame)
            case Release():
                assert self.peer is not None
                self.spawn_asked(self._hub.work.release(self.peer, frame))
            case Refresh():
                self._on_refresh(frame)
            case Bye():
                self._close(WEBSOCKET_NORMAL, f"bye: {frame.reason[:BYE_CHARACTERS_MAX]}")

    @property
    def _followed(self) -> Follows:
        assert self.follows is not None
        return self.follows

    @property
    def _taken_on(self) -> Intake:
        if self._intake is None:
            assert self.peer is not None
            self._intake = Intake(self._hub, self, self.peer)
        return self._intake

    async def _take_on(self, frame: Publish | Request) -> None:
        """Take on a publish or a request, once there is room for another."""
        intake = self._taken_on
        await self._room()
        if self._closing:
            return
        if isinstance(frame, Publish):
            intake.publish(frame)
        else:
            intake.request(frame)

    async def _room(self) -> None:
        """Wait until more may be under way: what a peer asks for without reading the answers stays in its socket."""
        while not self._closing and (self._taken_on.full or self.congested or self._asked >= ASKED_MAX):
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def spawn_asked(self, work: Coroutine[Any, Any, None]) -> None:
        """Run what the peer asked for; only so much of it is under way at once."""
        self._asked += 1
        self.spawn(self._counted(work))

    async def _counted(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._asked -= 1
            self.wake()

    def wake(self) -> None:
        """Read on: there is room again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ── sending ──────────────────────────────────────────────────────────────

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""
        return self._socket.paused

    def send(self, frame: Part) -> None:
        """Put a frame on its way, in order. Nothing happens where the session is over."""
        self._outgoing.send(frame)

    def send_puback(self, puback: Puback) -> None:
        """Put a puback on its way; a later one of the same producer stands for it."""
        self._outgoing.send_puback(puback)

    def send_entries(self, frame: bytes, entries: int) -> None:
        """Put an encoded `entries` frame on its way."""
        self._hub.counters.entries_out += entries
        self._outgoing.send_encoded("entries", frame)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for this connection; what goes wrong in it ends the connection."""
        self._hub.spawn(self._guarded(work))

    def on_drained(self) -> None:
        """Go on: the transport takes more."""
        self.wake()
        if self.follows is not None:
            self.follows.pump()

    def _write(self, message: bytes) -> None:
        broadcast((self._socket,), message)

    # ── opening ──────────────────────────────────────────────────────────────

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
        if self._closing or self._session.phase is Phase.ENDED:
            return  # it was told to go while it was opened; what was opened is closed by `_ended`
        self._expires_s = opened.expires_s
        self._session.bytes_max = hub.settings.limits.message_bytes_max
        self._socket.protocol.max_message_size = self._session.bytes_max
        hub.unidentified -= 1
        hub.counters.sessions += 1
        ready = Ready.model_construct(
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
        self._outgoing.put(self._session.send((ready,), monotonic_ms()))
        if peer.role is Role.AGENT:
            join(hub, self, peer, frame.attempts)
        self._followed.begin()

    # ── what keeps a session ─────────────────────────────────────────────────

    def _on_refresh(self, frame: Refresh) -> None:
        assert self.peer is not None
        self._expires_s = refresh(self._hub.tokens, self.peer, frame.token, int(time.time()))
        self.send(Refreshed(expires_ms=self._expires_s * 1000))

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
            self._outgoing.send_encoded("heartbeat", heartbeat)
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
        if is_terminal(code) and code is not CloseCode.SUPERSEDED:
            self._hub.counters.faults += 1
        self._outgoing.flush()
        self._outgoing.put(encode(Error(code=code.value, message=message)))
        self._outgoing.flush()
        self._close(code, f"{code.name.lower()}: {message}")

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
            self._outgoing.flush()
        self._close(CloseCode.GOING_AWAY, reason)

    @property
    def busy(self) -> bool:
        """Whether a publish or a request is under way."""
        return self._intake is not None and self._intake.busy

    def _close(self, code: int, reason: str) -> None:
        self._closing = True
        self._reason = reason
        self._session.end()
        self.wake()
        self._hub.spawn(self._socket.close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore")))

    def _ended(self) -> None:
        """Clear up: the connection is gone."""
        hub, peer = self._hub, self.peer
        self._closing = True
        self._session.end()
        hub.connections.discard(self)
        self._socket.reader = None
        if self.follows is not None:
            self.follows.end()
        if peer is None or self._expires_s is None:
            hub.unidentified -= 1
        if peer is not None and peer.role is Role.AGENT:
            leave(hub, peer, self._reason or "the connection broke")
        log_.info(
            "connection_ended",
            principal=peer.principal if peer else None,
            session=peer.session if peer else None,
            reason=self._reason or "the connection broke",
        )

    def _broken(self, fault: Exception) -> None:
        log_.error("connection_failed", principal=self.peer.principal if self.peer else None, exc_info=fault)
        self.fail(CloseCode.INTERNAL_ERROR, "the hub failed on this session")

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except StoreUnavailable as fault:
            log_.debug("work_put_off", reason=str(fault))
        except Exception as fault:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken(fault)
