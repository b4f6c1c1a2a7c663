"""The reconnecting connection to a hub, in the link thread.

The shell around `Peer` and the session machine: it opens sockets, moves bytes and watches the clock. It
reconnects for ever, with full jitter, unless the hub ends the session with a terminal code; then everything
that waits for the hub is given an error that says so.

    reader   bytes -> Session -> Peer
    writer   Peer -> Session -> bytes: all that was said in one tick goes out as one message
    watcher  the session's clock: heartbeats out, and the connection's death

The link's thread does nothing else, so a handler that blocks the program's own loop costs no heartbeat.

Specification: docs/protocol.md, sections "Transport" and "Sessions".
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
from websockets.typing import Subprotocol

from agent.absence import Absence
from agent.discovery import Endpoint
from agent.drops import Dropped, first_cause, link_ended, messages, now_ms
from agent.errors import FleetlineError, HubUnreachable, LinkClosed
from agent.held import Held
from agent.peer import Peer
from agent.requests import Asked
from agent.subscriptions import Subscription
from agent.threads import LoopThread, reject, resolve
from agent.trust import explain_fault
from protocol.codes import CloseCode, explain, is_terminal
from protocol.effects import Deliver, Fail, SendHeartbeat
from protocol.errors import RemoteProtocolError
from protocol.frames import (
    Assign,
    Bye,
    Entries,
    Heartbeat,
    Hello,
    Identify,
    Part,
    Puback,
    Ready,
    ReleaseReason,
    Response,
    Role,
)
from protocol.frames import Error as ErrorFrame
from protocol.limits import DEFAULT_HANDSHAKE_MS
from protocol.session import Phase, Session, Side
from protocol.version import SUBPROTOCOL

__all__ = ["Link"]

log = structlog.get_logger("fleetline.link")

OPEN_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
RECEIVED_BYTES_MAX = 64 * 1024 * 1024
"""Of one message, whatever the hub announces."""
REASON_CHARS_MAX = 100
"""Of a close frame's reason, which may have 123 bytes."""
HEARTBEAT_MS = 10_000
"""Until the hub announces its own."""
_USEFUL = (Heartbeat, Puback, Response, Entries, Assign)
"""Frames that show that a session is of use: the next failure is the first again."""
_HTTP_ENDINGS = {401: CloseCode.UNAUTHENTICATED, 403: CloseCode.FORBIDDEN}


class Link:
    """One peer's connection, kept open. Methods may be called from any thread unless they say otherwise.

    Args:
        identity: who we are; what changes from one connection to the next is added to it.
        locate: where the hub is and with what token; asked before every connection.
        thread: where the link lives; it is not the link's to stop.
    """

    def __init__(self, identity: Identify, locate: Callable[[], Endpoint], thread: LoopThread) -> None:
        self.peer = Peer(identity)
        self.thread = thread
        self.url = ""
        self._locate = self.peer.refreshing.noting(locate)
        self._something = asyncio.Event()
        self._greeted = asyncio.Event()
        self._urgent: list[Part] = []
        self._bye: tuple[Bye, ...] = ()
        self._absence, self._lacks = Absence(identity), ""
        self._opened: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._connection: ClientConnection | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self.peer.outbox.on_wake(lambda: thread.post(self._wake))

    # Any thread

    def open(self) -> None:
        """Begin to connect."""
        self.thread.post(self._begin)

    @property
    def opened(self) -> Future[None]:
        """Done when the first session is ready; fails with what ended the link before."""
        return self._opened

    @property
    def ended(self) -> Future[None]:
        """Done when the link was closed by `close`; fails with what else ended it."""
        return self._ended

    def unreachable(self, within_s: float | None) -> HubUnreachable:
        """Return the error for a hub that did not answer."""
        return self._absence.unreachable(self.url or "?", within_s)

    def request(self, method: str, params: Part, op: str | None = None) -> Future[Any]:
        """Ask the hub; the answer is the method's result model, or fails with `RequestError`."""
        asked = Asked(method, params, op, Future(), getattr(params, "wait_ms", None) is not None)
        self.thread.post(self._ask, asked)
        return asked.answer

    def follow(self, subscription: Subscription) -> None:
        """Follow a log, one subscription each."""
        self.thread.post(self._follow, subscription)

    def unfollow(self, subscription: Subscription) -> None:
        """Follow it no more."""
        self.thread.post(self._unfollow, subscription)

    def handled(self, subscription: Subscription, generation: int, offset: int) -> None:
        """Say that everything up to `offset` was handled."""
        self.thread.post(self._handled, subscription, generation, offset)

    def drop(self, held: Held) -> None:
        """An attempt has ended, and its last entry is acknowledged."""
        self.thread.post(self.peer.attempts.drop, held)

    def release(self, held: Held, reason: ReleaseReason) -> None:
        """Hand an attempt back."""
        self.thread.post(self._release, held, reason)

    def leave(self, reason: str) -> Future[None]:
        """Say goodbye and end; returns what is done when that has happened."""
        self.thread.post(self._leave, reason)
        return self._ended

    # The link's thread

    def _begin(self) -> None:
        if self.thread.over:
            self._end(LinkClosed())
            return
        self._task = asyncio.get_running_loop().create_task(self._run(), name="link")

    def _wake(self) -> None:
        self._something.set()

    def _ask(self, asked: Asked) -> None:
        if self._ended.done():
            reject(asked.answer, self._ended.exception() or LinkClosed())
            return
        self.peer.requests.ask(asked)
        self._wake()

    def _follow(self, subscription: Subscription) -> None:
        if self._ended.done():
            error = self._ended.exception()
            subscription.end(error if isinstance(error, FleetlineError) else LinkClosed())
            return
        self.peer.subscriptions.add(subscription)
        self._wake()

    def _unfollow(self, subscription: Subscription) -> None:
        self.peer.subscriptions.remove(subscription)
        self._wake()

    def _handled(self, subscription: Subscription, generation: int, offset: int) -> None:
        self.peer.subscriptions.handled(subscription, generation, offset, now_ms())
        self._wake()

    def _release(self, held: Held, reason: ReleaseReason) -> None:
        self.peer.attempts.drop(held)
        self.peer.release(held.assign.run, held.assign.fence, reason)
        self._wake()

    def _leave(self, reason: str) -> None:
        if self._task is None or self._closing:
            return
        self._closing = True
        if self._connection is not None and self.peer.ready:
            self._urgent += self.peer.subscriptions.last_acks()
            self._bye = (Bye(reason=reason),)
            self._wake()
        else:
            self._task.cancel()

    async def _run(self) -> None:
        error: FleetlineError | None = None
        try:
            while not self._closing:
                pause_ms = await self._connect_once()
                if not self._closing:
                    await asyncio.sleep(pause_ms / 1000)
        except FleetlineError as ending:
            error = ending
        except asyncio.CancelledError:
            if not self._closing:
                error = LinkClosed("the link's thread was stopped")
        finally:
            self._end(error)

    def _end(self, error: FleetlineError | None) -> None:
        if error is not None:
            log.debug("link_ended", peer=self.peer.identity.id, error=str(error))  # whoever waits is given it
        self.peer.close(error or LinkClosed())
        if error is None:
            resolve(self._ended, None)
        else:
            reject(self._ended, error)
        reject(self._opened, error or LinkClosed())

    async def _connect_once(self) -> int:
        """Live through one connection. Returns how long to wait before the next, in ms.

        Raises:
            LinkEnded: the hub ended the session for good.
        """
        try:
            endpoint = self._locate()
            self.url, self.peer.credentials, self._lacks = endpoint.url, endpoint.credentials, endpoint.lacks
            async with connect(
                endpoint.url,
                ssl=endpoint.tls(),
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                ping_interval=None,
                additional_headers=endpoint.headers(),
                max_size=RECEIVED_BYTES_MAX,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                proxy=None,
            ) as connection:
                await self._converse(connection)
        except Dropped as drop:
            return self._after(drop)
        except InvalidStatus as refused:
            return self._after_refusal(refused)
        except (OSError, TimeoutError, InvalidHandshake, HubUnreachable) as fault:
            return self._after_failure(*explain_fault(fault, self.url, garbled=isinstance(fault, InvalidMessage)))
        except (InvalidURI, ValueError) as fault:
            raise HubUnreachable(self.url, f"that is no hub's address: {fault}") from fault
        except Exception as bug:
            log.exception("link_failed", peer=self.peer.identity.id)
            return self._after_failure(f"a fault of this program, see its log: {type(bug).__name__} {bug}")
        raise AssertionError("a connection ends with a reason")

    async def _converse(self, connection: ClientConnection) -> None:
        """Run one connection until it is dropped.

        Raises:
            Dropped: always.
        """
        steady = self.peer.identity.role is Role.AGENT
        session = Session(Side.PEER, now_ms(), heartbeat_ms=HEARTBEAT_MS, steady=steady)
        self._connection = connection
        self._urgent.clear()
        self._greeted.clear()
        self.peer.connected()
        drop: Dropped | None = None
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(connection, session))
                tasks.create_task(self._write(connection, session))
                tasks.create_task(self._watch(session))
        except* Dropped as drops:
            drop = first_cause(drops)
        finally:
            session.end()
            self._connection = None
            self.peer.disconnected()
        assert drop is not None, "a connection ends with a reason"
        if not drop.by_hub:
            await connection.close(drop.code, str(drop).encode("ascii", "replace").decode()[:REASON_CHARS_MAX])
        raise drop

    async def _read(self, connection: ClientConnection, session: Session) -> None:
        try:
            while True:
                message = await connection.recv()
                if isinstance(message, str):
                    raise Dropped(CloseCode.MALFORMED, "a text message", by_hub=False)
                for effect in session.receive(message, now_ms()):
                    self._take(effect, session)
        except ConnectionClosed as closed:
            raise _why(closed) from None

    def _take(self, effect: Deliver | Fail, session: Session) -> None:
        if isinstance(effect, Fail):
            raise Dropped(effect.code, effect.message, by_hub=False)
        frame = effect.frame
        try:
            answer = self.peer.on_frame(frame, now_ms())
        except RemoteProtocolError as fault:
            raise Dropped(fault.code, str(fault), by_hub=False) from None
        if isinstance(frame, Hello):
            session.heartbeat_ms = frame.heartbeat_ms
            session.bytes_max = max(session.bytes_max, frame.limits.message_bytes_max)
        elif isinstance(frame, Ready):
            self._absence.over(frame)
            self._greeted.set()
            resolve(self._opened, None)
        elif isinstance(frame, _USEFUL):
            self._absence.useful()
        elif isinstance(frame, Bye):
            raise Dropped(CloseCode.GOING_AWAY, frame.reason, by_hub=False)
        elif isinstance(frame, ErrorFrame):
            raise Dropped(frame.code, frame.message, by_hub=True)
        if answer is not None:
            self._urgent.append(answer)
        self._wake()

    async def _write(self, connection: ClientConnection, session: Session) -> None:
        timer: asyncio.TimerHandle | None = None
        loop = asyncio.get_running_loop()
        try:
            while session.phase is not Phase.ENDED:
                self._something.clear()
                now = now_ms()
                frames = [*self._urgent, *self.peer.outgoing(now), *self._bye]
                self._urgent.clear()
                if frames:
                    await self._say(connection, session, frames)
                    continue
                due_ms = self.peer.due_ms()
                if due_ms is not None:
                    timer = loop.call_later(max(1, due_ms - now) / 1000, self._something.set)
                await self._something.wait()
                if timer is not None:
                    timer.cancel()
        except ConnectionClosed as closed:
            raise _why(closed) from None
        finally:
            if timer is not None:
                timer.cancel()

    async def _say(self, connection: ClientConnection, session: Session, frames: list[Part]) -> None:
        now = now_ms()
        parts = [session.send((frame,), now) for frame in frames if session.phase is not Phase.ENDED]
        for message in messages(parts, self.peer.limits.message_bytes_max):
            await connection.send(message)
        if session.phase is Phase.ENDED:
            raise Dropped(1000, "goodbye", by_hub=False)

    async def _watch(self, session: Session) -> None:
        try:
            async with asyncio.timeout(DEFAULT_HANDSHAKE_MS / 1000):
                await self._greeted.wait()
        except TimeoutError:
            raise Dropped(CloseCode.HANDSHAKE_TIMEOUT, "the hub opened no session in time", by_hub=False) from None
        while True:
            match session.tick(now_ms()):
                case SendHeartbeat():
                    self._urgent.append(self.peer.heartbeat())
                    self._wake()
                case Fail(code, message):
                    raise Dropped(code, message, by_hub=False)
                case None:
                    await asyncio.sleep(max(1, session.due_ms() - now_ms()) / 1000)

    def _after(self, drop: Dropped) -> int:
        if self._closing:
            return 0
        if drop.by_hub and is_terminal(drop.code):
            raise link_ended(drop.code, str(drop), self._lacks)
        after_ms = self.peer.goaway_ms
        pause_ms = self._after_failure(f"{drop.code}: {explain(drop.code)} ({drop})", code=drop.code)
        return pause_ms if after_ms is None else after_ms

    def _after_refusal(self, refused: InvalidStatus) -> int:
        status = refused.response.status_code
        said = bytes(refused.response.body or b"").decode(errors="replace").strip()[:300]
        if status in _HTTP_ENDINGS:
            raise link_ended(_HTTP_ENDINGS[status], said or f"HTTP {status}", self._lacks) from None
        return self._after_failure(f"it answered HTTP {status} {said}".rstrip())

    def _after_failure(self, reason: str, remedy: str = "", *, code: int = 0) -> int:
        return self._absence.failed(reason, self.url, random.random(), code, remedy)


def _why(closed: ConnectionClosed) -> Dropped:
    code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was cut")
    return Dropped(code, reason, by_hub=True)
