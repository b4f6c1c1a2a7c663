"""One websocket of a hub: websockets' protocol on a transport of the event loop.

    transport -> Socket -> websockets' protocol -> Socket -> Door (the request), Talker (messages)

There is no task and no queue in here. What arrives is handed on at once; whoever cannot take it pauses reading, and
it stays in the peer's socket. What is written leaves at once; whoever writes looks at `congested` first.

Specification: RFC 6455; docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import Protocol, cast

from websockets.frames import CloseCode as WebSocketCode
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from protocol.codes import CloseCode
from protocol.limits import UNIDENTIFIED_BYTES_MAX

__all__ = ["Door", "Socket", "Talker"]

WRITE_HIGH_BYTES = 256 * 1024
WRITE_LOW_BYTES = 64 * 1024
PONGS_BYTES_MAX = 4 * WRITE_HIGH_BYTES
"""A peer that pings and does not read is cut off when this much waits for it."""
CLOSE_TIMEOUT_S = 2.0

_CODES = {
    WebSocketCode.MESSAGE_TOO_BIG: CloseCode.TOO_LARGE,
    WebSocketCode.INVALID_DATA: CloseCode.MALFORMED,
}
_MESSAGES = (Opcode.BINARY, Opcode.TEXT, Opcode.CONT)


class Door(Protocol):
    """Who lets connections in."""

    def on_opened(self, socket: Socket) -> None:
        """A connection was made."""

    def on_request(self, socket: Socket, request: Request) -> None:
        """A request came: `accept` it, or `respond`, now or later."""

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


class _Protocol(ServerProtocol):
    """The protocol of the websocket, closing with our codes what it refuses before we see it."""

    def fail(self, code: WebSocketCode | int, reason: str = "") -> None:
        """Close; our codes say whether to come back."""
        super().fail(_CODES.get(WebSocketCode(code), code) if code in _CODES else code, reason)


class Socket(asyncio.Protocol):
    """One connection, from its first byte to its last.

    Args:
        door: who lets it in.
        subprotocol: that it must speak.
        handshake_s: how long its request may take.
    """

    __slots__ = (
        "_door",
        "_parts",
        "_paused",
        "_protocol",
        "_reading",
        "_talker",
        "_timer",
        "_transport",
    )

    def __init__(self, door: Door, subprotocol: Subprotocol, handshake_s: float) -> None:
        self._door = door
        self._protocol = _Protocol(subprotocols=(subprotocol,), max_size=UNIDENTIFIED_BYTES_MAX)
        self._talker: Talker | None = None
        self._parts: bytearray | None = None
        self._paused = False
        self._reading = True
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(handshake_s, self.abort)
        self._transport: asyncio.Transport

    # ── letting it in ────────────────────────────────────────────────────────

    @property
    def nonce(self) -> bytes:
        """Sixteen random bytes, new for each connection."""
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
        """Set how large a message may be."""
        self._protocol.max_message_size = message_bytes_max

    def write(self, message: bytes) -> None:
        """Send a binary message. Nothing happens on a connection that is closing."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(message)
            self.flush()

    def pause_reading(self) -> None:
        """Leave what comes to the peer's socket."""
        if self._reading:
            self._reading = False
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take what comes again."""
        if not self._reading:
            self._reading = True
            self._transport.resume_reading()

    def close(self, code: int, reason: str) -> None:
        """Say good-bye with a code, and close once the peer has answered, or soon."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            self.flush()
            self.resume_reading()  # for the peer's answer; messages are discarded

    def abort(self) -> None:
        """Close at once; what was written is lost."""
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
        if self._timer is None and self._protocol.close_expected():
            self._timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self.abort)

    # ── what the transport tells ─────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_BYTES, WRITE_LOW_BYTES)
        self._door.on_opened(self)

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                self._door.on_request(self, cast(Request, event))
            elif event.opcode in _MESSAGES:
                self._on_frame(event)
            elif self.congested and self.buffered > PONGS_BYTES_MAX:
                self.abort()
        self.flush()

    def eof_received(self) -> None:
        """End: the peer sends no more."""
        self._protocol.receive_eof()
        self.flush()

    def connection_lost(self, _: Exception | None) -> None:
        """End: the connection is gone."""
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

    def _on_frame(self, frame: Frame) -> None:
        """Hand a message on, once it is whole."""
        talker = self._talker
        if talker is None:
            return
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

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
