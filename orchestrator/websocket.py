"""One websocket of a hub: websockets' protocol on a transport of the event loop.

    transport -> Socket -> websockets' protocol -> Socket -> Door (the request), Talker (messages)

There is no task and no queue in here. What arrives is handed on at once, but for a peer that sends very much: it
gets its turn of the event loop as others do. Whoever cannot take what arrives pauses reading, and it stays in the
peer's socket. What is written leaves at once; whoever writes looks at `congested` first.

Specification: RFC 6455; docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol, cast

from websockets import protocol as websocket
from websockets.frames import CloseCode as WebSocketCode
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from orchestrator.core.crowd import Guest
from protocol.codes import CloseCode
from protocol.limits import UNIDENTIFIED_BYTES_MAX

__all__ = ["CLOSE_TIMEOUT_S", "NONCE_BYTES", "Door", "Socket", "Talker"]

NONCE_BYTES = 16
WRITE_HIGH_BYTES = 256 * 1024
WRITE_LOW_BYTES = 64 * 1024
PONGS_BYTES_MAX = 4 * WRITE_HIGH_BYTES
"""A peer that pings and does not read is cut off when this much waits for it."""
REQUEST_BYTES_MAX = 32 * 1024
"""Bytes of a request, its headers and all."""
PIECE_BYTES = 2 * 1024
PIECE_BYTES_MAX = 16 * 1024
"""Pieces grow where they end no frame: what is large is taken quickly."""
TURN_FRAMES_MAX = 64
"""Frames of one peer in one turn of the event loop, but for what is left of a piece."""
TURN_BYTES_MAX = 128 * 1024
"""After this much the event loop would read on with the same peer."""
CLOSE_TIMEOUT_S = 2.0

_CODES: dict[int, CloseCode] = {
    WebSocketCode.MESSAGE_TOO_BIG: CloseCode.TOO_LARGE,
    WebSocketCode.INVALID_DATA: CloseCode.MALFORMED,
}
_NOTHING = memoryview(b"")
_MESSAGES = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class Door(Protocol):
    """Who lets connections in."""

    def on_opened(self, socket: Socket) -> None:
        """A connection was made."""

    def on_request(self, socket: Socket, request: Request) -> None:
        """A request came: `accept` it at once, or `respond`, now or later."""

    def on_gone(self, socket: Socket) -> None:
        """The connection is no more."""


class Talker(Protocol):
    """Who talks over a connection that was accepted."""

    def on_message(self, message: bytes) -> None:
        """A binary message came."""

    def on_text(self) -> None:
        """A text message came."""

    def on_drained(self) -> None:
        """The transport takes more."""

    def on_lost(self) -> None:
        """The connection is no more. Nothing else is told after this."""


class _Frames(websocket.Protocol):
    """Reads frames; whatever is sent behind a request waits until the request was answered."""

    def parse(self) -> Generator[None]:
        while self.state is State.CONNECTING and not self.reader.eof:
            yield
        yield from super().parse()


class _Protocol(ServerProtocol, _Frames):
    """The protocol of the websocket, closing with our codes what it refuses before we see it."""

    def fail(self, code: WebSocketCode | int, reason: str = "") -> None:
        """Close; our codes say whether to come back."""
        super().fail(_CODES.get(code, code), reason)


class Socket(asyncio.Protocol):
    """One connection, from its first byte to its last.

    Args:
        door: who lets it in.
        subprotocol: that it must speak.
        handshake_s: how long its request may take.
        guest: counts it until it was identified, and is told when it is heard first.

    Attributes:
        address: of the peer; whoever looks at the request knows better where there are proxies.
    """

    __slots__ = (
        "_door",
        "_handshake_s",
        "_hears",
        "_parts",
        "_paused",
        "_protocol",
        "_reading",
        "_requested_bytes",
        "_talker",
        "_timer",
        "_transport",
        "_turn",
        "_unfed",
        "_unheard",
        "address",
        "guest",
    )

    def __init__(self, door: Door, subprotocol: Subprotocol, handshake_s: float, guest: Guest) -> None:
        self._door = door
        self.guest = guest
        self._unheard = True
        self._protocol = _Protocol(subprotocols=(subprotocol,), max_size=UNIDENTIFIED_BYTES_MAX)
        self._talker: Talker | None = None
        self._parts: bytearray | None = None
        self._paused = False
        self._reading = self._hears = True
        self._unfed = _NOTHING
        self._turn: asyncio.Handle | None = None
        self._handshake_s = handshake_s
        self._requested_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.address = ""
        self._transport: asyncio.Transport

    # ── letting it in ────────────────────────────────────────────────────────

    @property
    def nonce(self) -> bytes:
        """`NONCE_BYTES` random bytes, new for each connection."""
        return self._protocol.id.bytes

    def accept(self, request: Request, talker: Talker) -> bool:
        """Answer a request as RFC 6455 has it; return whether the connection is a websocket from here on.

        The answer leaves with the first message, or with `flush`.
        """
        self._protocol.send_response(self._protocol.accept(request))
        accepted = self._protocol.state is State.OPEN
        if accepted:
            self._talker = talker
            self._disarm()
        return accepted

    def respond(self, status: HTTPStatus, text: str) -> None:
        """Answer a request with plain HTTP, and close."""
        if self._protocol.state is State.CONNECTING and not self._protocol.eof_sent:
            self._protocol.send_response(self._protocol.reject(status, text))
            self.flush()
            self.resume_reading()  # for the peer's end; what it says is discarded

    # ── talking ──────────────────────────────────────────────────────────────

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""
        return self._paused

    @property
    def buffered(self) -> int:
        """Bytes that were written and that the peer's machine has not taken."""
        return self._transport.get_write_buffer_size()

    def take_up_to(self, message_bytes_max: int) -> None:
        """Set how large a message may be of a peer that has said who it is."""
        self.guest.leave()
        self._protocol.max_message_size = message_bytes_max

    def write(self, message: bytes) -> None:
        """Send a binary message. Nothing happens on a connection that is closing."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(message)
            self.flush()

    def pause_reading(self) -> None:
        """Leave what comes to the peer's socket."""
        self._reading = False
        self._steer()

    def resume_reading(self) -> None:
        """Take what comes again."""
        self._reading = True
        self._steer()

    def close(self, code: int, reason: str) -> None:
        """Say good-bye with a code, and close once the peer has answered, or soon."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self.flush()
            self.resume_reading()  # for the peer's answer; messages are discarded

    def abort(self) -> None:
        """Close at once; what was written is lost."""
        self._unfed = _NOTHING
        self._transport.abort()

    def flush(self) -> None:
        """Write what the protocol has to say, in one piece where that is more than one."""
        writes = self._protocol.data_to_send()
        ends = bool(writes) and not writes[-1]  # an empty one ends the stream
        data = writes[0] if len(writes) == 1 else b"".join(writes)
        if data:
            self._transport.write(data)
        if ends:
            with suppress(OSError, RuntimeError):  # it is gone already
                self._transport.write_eof() if self._transport.can_write_eof() else self._transport.close()
        if self._timer is None and self._protocol.state in (State.CLOSING, State.CLOSED):
            self._arm(CLOSE_TIMEOUT_S)  # a peer that sends no more may not read either

    # ── what the transport tells ─────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self.address = str((transport.get_extra_info("peername") or ("",))[0])
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._arm(self._handshake_s)
        self._door.on_opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        if len(data) <= PIECE_BYTES and self._reading:
            self._take(data)
            self.flush()
        else:
            self._unfed = memoryview(data)
            self._read_on()
            self._steer(turn_is_over=len(data) >= TURN_BYTES_MAX)

    def eof_received(self) -> None:
        """End: the peer sends no more."""
        self._protocol.receive_eof()
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        """End: the connection is gone."""
        self._unfed = _NOTHING
        self._protocol.receive_eof()
        self._disarm()
        self._door.on_gone(self)
        talker, self._talker = self._talker, None
        if talker is not None:
            talker.on_lost()

    def pause_writing(self) -> None:
        """Take note that the transport is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """Take more: the transport's buffer ran low."""
        self._paused = False
        if self._talker is not None:
            self._talker.on_drained()

    # ── reading ──────────────────────────────────────────────────────────────

    def _read_on(self) -> None:
        """Read what came, as far as it can be taken and a turn of the event loop goes."""
        self._turn = None
        frames, size = 0, PIECE_BYTES
        while self._unfed and self._reading and frames < TURN_FRAMES_MAX:
            piece, self._unfed = bytes(self._unfed[:size]), self._unfed[size:] or _NOTHING
            ended = self._take(piece)
            frames += ended
            size = PIECE_BYTES if ended else min(2 * size, PIECE_BYTES_MAX)
        self.flush()
        self._steer()

    def _steer(self, *, turn_is_over: bool = False) -> None:
        """Go on in the next turn if there is more; listen to the transport while there is not."""
        if self._reading and self._turn is None and (self._unfed or turn_is_over):
            self._turn = asyncio.get_running_loop().call_soon(self._read_on)
        hears = self._reading and self._turn is None
        if hears is not self._hears and not self._transport.is_closing():
            self._hears = hears
            self._transport.resume_reading() if hears else self._transport.pause_reading()

    def _take(self, data: bytes) -> int:
        """Take bytes; return how many frames they ended."""
        self._protocol.receive_data(data)
        events = self._protocol.events_received()
        for event in events:
            if not isinstance(event, Frame):
                self._on_request(cast(Request, event))
            elif event.opcode in _MESSAGES:
                self._on_frame(event)
            elif self.congested and self.buffered > PONGS_BYTES_MAX:
                self.abort()
        if self._talker is None:
            self._limit_request(len(data))
        return len(events)

    def _on_request(self, request: Request) -> None:
        self._door.on_request(self, request)
        if self._protocol.state is State.OPEN:
            self._take(b"")  # what came right behind it
        elif not self._protocol.eof_sent:
            self.pause_reading()

    def _limit_request(self, more_bytes: int) -> None:
        self._requested_bytes += more_bytes
        if self._reading and self._requested_bytes > REQUEST_BYTES_MAX:
            self.respond(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the request is too large\n")

    def _on_frame(self, frame: Frame) -> None:
        """Hand a message on, once it is whole."""
        talker = self._talker
        if talker is None:
            return
        if self._unheard and frame.fin:
            self._unheard = False
            self.guest.heard()
        if frame.opcode is Opcode.TEXT:
            talker.on_text()
        elif frame.fin and self._parts is None:
            talker.on_message(bytes(frame.data))
        else:
            self._parts = self._parts or bytearray()
            self._parts += frame.data
            if frame.fin:
                message, self._parts = bytes(self._parts), None
                talker.on_message(message)

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self.abort)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
