"""One connection: carries out what its session and the hub's core decide.

Messages are carried out as they arrive. Everything that takes time (a commit, a request, a verdict) runs beside
that, so that many publishes are in flight at once and the store can commit them together; they are started in the
order in which they came, and the store keeps that order. Frames to send are gathered and leave as one message at the
end of the turn of the event loop.

Nothing queues without bound: what is sent on subscriptions is bound by their windows and stops while the
transport is full. A frame has to wait while the session opens, while as much as announced is under way, or while
the peer does not take the answers; then everything behind it waits, and the socket is not read.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import structlog

from orchestrator.expiry import expire, take_refresh
from orchestrator.follows import Follows
from orchestrator.incoming import Incoming
from orchestrator.intake import Intake
from orchestrator.line import monotonic_ms
from orchestrator.opening import BYE, Opened, hear, join, leave, open_session
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
    Refresh,
    Release,
    Reply,
    Request,
    Role,
    Subscribe,
    Tags,
    Unsubscribe,
)
from protocol.session import Phase, Session, Side

if TYPE_CHECKING:
    from orchestrator.websocket import Socket

__all__ = ["Connection"]

REASON_BYTES_MAX = 120
"""WebSocket close reasons end at 123 bytes."""
BYE_CHARACTERS_MAX = 200
"""What is kept, in the agent's log, of the reason that a peer gives for leaving."""

WEBSOCKET_NORMAL = 1000
ASKED_MAX = 64
"""Subscriptions and releases of one session under way at once."""

_ASKING = (Publish, Request, Subscribe, Release, Refresh, Tags)
"""Frames that wait for room."""

log_ = structlog.get_logger()


class Connection:
    """One peer's connection, from the handshake to its end.

    Attributes:
        peer: the session, once it is open; `follows` the logs that it follows; `expires_s`, when its token ends.
    """

    __slots__ = (
        "_asked",
        "_closing",
        "_hub",
        "_incoming",
        "_intake",
        "_opening",
        "_outgoing",
        "_over",
        "_reason",
        "_session",
        "_socket",
        "_token",
        "expires_s",
        "follows",
        "peer",
    )

    def __init__(self, hub: Services, socket: Socket, token: str | None) -> None:
        """Make one; `greet` begins it.

        Args:
            hub: what this hub's connections share.
            socket: the websocket.
            token: from the `Authorization` header, if there was one.
        """
        self._hub = hub
        self._socket = socket
        self._token = token
        self._session = Session(
            Side.HUB,
            monotonic_ms(),
            heartbeat_ms=hub.settings.interval_ms,
            handshake_ms=hub.settings.limits.handshake_ms,
            nesting_max=hub.settings.limits.nesting_max,
        )
        self.peer: Peer | None = None
        self.follows: Follows | None = None
        self.expires_s: int | None = None
        self._incoming = Incoming(self._session, socket, self._act, self.wake)
        self._outgoing = Outgoing(self._session, socket.write, hub.counters)
        self._intake: Intake | None = None
        self._opening = self._closing = self._over = False
        self._asked = 0
        self._reason = ""

    # ── reading ──────────────────────────────────────────────────────────────

    def greet(self) -> None:
        """Begin: the handshake is over."""
        self._hub.connections.add(self)
        self._hub.unidentified += 1
        self._hub.counters.connections += 1
        self._outgoing.send_encoded("hello", self._hub.greeting.frame(self._socket.nonce))
        self._outgoing.flush()

    def on_message(self, message: bytes) -> None:
        """Take a message."""
        self._carefully(self._incoming.take, message)

    def on_text(self) -> None:
        """Refuse a text message."""
        self.fail(CloseCode.MALFORMED, "a text message; frames are binary")

    def wake(self) -> None:
        """Read on, if there is room again."""
        if self._incoming.waits and not self._opening:
            self._carefully(self._incoming.go_on)

    def _carefully(self, read: Callable[..., None], *what: bytes) -> None:
        try:
            read(*what)
        except Exception as fault:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken(fault)

    def _has_room(self) -> bool:
        """Whether more may be under way: what a peer asks for without reading the answers stays in its socket."""
        return not (self._taken_on.full or self.congested or self._asked >= ASKED_MAX)

    def _act(self, frame: Frame | Fail) -> bool:
        """Carry out one frame, or what is wrong with one. Returns False where it has to wait."""
        if isinstance(frame, _ASKING) and not self._has_room():
            return False
        try:
            match frame:
                case Fail():
                    self.fail(frame.code, frame.message)
                case Publish():
                    self._taken_on.publish(frame)
                case Request():
                    self._taken_on.request(frame)
                case Identify():
                    self._opening = True
                    self._incoming.hold()
                    self._hub.spawn(self._on_identify(frame))
                case _:
                    self._take(frame)
        except RemoteProtocolError as fault:
            self.fail(fault.code, str(fault))
        return True

    def _take(self, frame: Frame) -> None:
        match frame:
            case Ack():
                self._followed.ack(frame)
            case Heartbeat():
                if self.peer is not None and hear(self._hub, self.peer, frame):
                    self._taken_on.renew(frame.attempts or ())
            case Subscribe():
                self._followed.subscribe(frame)
            case Unsubscribe():
                self._followed.unsubscribe(frame.log)
            case Tags():
                self._followed.tags(frame)
            case Release():
                self.spawn_asked(self._taken_on.release(frame))
            case Reply():
                self._taken_on.reply(frame)
            case Refresh():
                self.spawn_asked(take_refresh(self._hub, self, frame))
            case Bye():
                self._close(WEBSOCKET_NORMAL, f"{BYE}{frame.reason[:BYE_CHARACTERS_MAX]}")

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

    # ── sending ──────────────────────────────────────────────────────────────

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""
        return self._socket.congested

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

    # ── opening ──────────────────────────────────────────────────────────────

    async def _on_identify(self, frame: Identify) -> None:
        token, self._token = frame.token or self._token, None
        try:
            opened = await open_session(self._hub, self, frame, token, self._socket.nonce)
            if isinstance(opened, Opened):
                self._ready(frame, opened)
            else:
                self._hub.audit.denied(frame, opened, self._socket.address)
                self.fail(opened.code, opened.message)
        except StoreUnavailable as fault:
            self.fail(CloseCode.STORE_UNAVAILABLE, str(fault))
        except Exception as fault:  # noqa: BLE001 - a fault of ours ends this connection, not the hub
            self._broken(fault)
        finally:
            self._opening = False
            if self._closing:
                self._end()  # it was told to go while it was opened
            else:
                self.wake()

    def _ready(self, frame: Identify, opened: Opened) -> None:
        """Tell the peer that its session is open, and start what goes on in it."""
        hub, peer = self._hub, opened.peer
        if self._closing or self._session.phase is Phase.ENDED:
            return  # what was opened is closed by `_end`
        self.expires_s, self._incoming.pace = opened.expires_s, opened.pace
        self._session.bytes_max = hub.settings.limits.message_bytes_max
        self._socket.take_up_to(self._session.bytes_max)
        hub.unidentified -= 1
        hub.counters.sessions += 1
        self._outgoing.put(self._session.send((opened.ready(),), monotonic_ms()))
        if peer.role is Role.AGENT:
            join(hub, self, peer, frame.attempts)
        self._followed.begin()

    # ── what keeps a session ─────────────────────────────────────────────────

    def tick(self, now_ms: int, now_s: int, heartbeat: bytes) -> None:
        """Do what the clock asks for.

        Args:
            now_ms: this machine's clock that never steps.
            now_s: the time, for tokens.
            heartbeat: an encoded heartbeat, shared by all connections.
        """
        self._incoming.excuse(now_ms)
        effect = self._session.tick(now_ms)
        if isinstance(effect, Fail):
            self.fail(effect.code, effect.message)
        elif isinstance(effect, SendHeartbeat):
            self._outgoing.send_encoded("heartbeat", heartbeat)
        elif self.expires_s is not None and self.expires_s <= now_s:
            expire(self._hub, self, now_s)

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

    def on_lost(self) -> None:
        """End: the connection is gone."""
        self._closing = True
        self._end()

    def _close(self, code: int, reason: str) -> None:
        self._closing = True
        self._reason = reason
        self._end()
        self._socket.close(code, reason.encode()[:REASON_BYTES_MAX].decode(errors="ignore"))

    def _end(self) -> None:
        """Clear up, once, and not before what is being opened was opened."""
        self._session.end()
        self._incoming.end()
        if self._over or self._opening:
            return
        self._over = True
        hub, peer = self._hub, self.peer
        hub.connections.discard(self)
        if self.follows is not None:
            self.follows.end()
        if peer is None or self.expires_s is None:
            hub.unidentified -= 1
        if peer is not None:
            leave(hub, peer, self._reason or "the connection broke")
        who = {"principal": peer.principal, "session": peer.session} if peer else {}
        log_.info(
            "connection_ended", **who, address=self._socket.address, reason=self._reason or "the connection broke"
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
