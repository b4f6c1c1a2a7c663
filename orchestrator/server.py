"""Listens, lets connections in as far as there is room, and answers plain HTTP beside them.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import Server as WebSocketServer
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.frames import CloseCode as WebSocketCode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from orchestrator.connection import Connection
from orchestrator.services import Services
from orchestrator.telemetry import exposition
from orchestrator.web.health import Health
from protocol.codes import CloseCode
from protocol.errors import FleetlineError
from protocol.limits import UNIDENTIFIED_BYTES_MAX
from protocol.version import SUBPROTOCOL

__all__ = ["CannotListen", "Server"]

BEARER = "Bearer "
WRITE_HIGH_BYTES = 256 * 1024
WRITE_LOW_BYTES = 64 * 1024
QUEUED_MESSAGES_MAX = 4
"""Messages of one connection that were received and not yet looked at; more are left to TCP."""
CLOSE_TIMEOUT_S = 2.0
BACKLOG = 4096

_CODES = {
    WebSocketCode.MESSAGE_TOO_BIG: CloseCode.TOO_LARGE,
    WebSocketCode.INVALID_DATA: CloseCode.MALFORMED,
}
_FORGOTTEN = Request("/", Headers())
"""Stands for the request of every open connection; the real one would cost a kilobyte each."""


class CannotListen(FleetlineError):
    """The address cannot be listened on."""


class LineProtocol(ServerProtocol):
    """The websocket protocol, closing with our codes what it refuses before we see it."""

    def fail(self, code: WebSocketCode | int, reason: str = "") -> None:
        """Close; our codes say whether to come back."""
        super().fail(_CODES.get(WebSocketCode(code), code) if code in _CODES else code, reason)


class Socket(ServerConnection):
    """A websocket that tells its connection when it takes more."""

    reader: Connection | None = None
    greets = True
    """The answer to the handshake waits for `hello` and leaves with it."""

    def __init__(self, protocol: ServerProtocol, *arguments: Any, **options: Any) -> None:
        protocol.__class__ = LineProtocol
        super().__init__(protocol, *arguments, **options)

    def send_data(self) -> None:
        """Write what the protocol has to say, in one piece where that is more than one."""
        if self.greets and self.protocol.state is State.OPEN:
            return
        writes = self.protocol.writes
        if len(writes) > 1 and all(writes):  # an empty one ends the stream
            self.protocol.writes = [b"".join(writes)]
        super().send_data()

    def resume_writing(self) -> None:
        """Take more: the transport's buffer ran low."""
        super().resume_writing()
        if self.reader is not None:
            self.reader.on_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: whoever waits for room to write is not told otherwise."""
        super().connection_lost(exc)
        if self.reader is not None:
            self.reader.on_drained()


class Server:
    """The listening side of a hub."""

    def __init__(self, hub: Services, health: Health) -> None:
        self._hub = hub
        self._health = health
        self._server: WebSocketServer | None = None

    async def start(self) -> str:
        """Listen; return the address as a URL.

        Raises:
            CannotListen: the address is in use, is not ours, or is no address.
        """
        host, port = self._hub.settings.address
        try:
            self._server = await serve(
                self._talk,
                host,
                port,
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                compression=None,
                process_request=self._admit,
                server_header=None,
                open_timeout=self._hub.settings.handshake_ms / 1000,
                ping_interval=None,
                close_timeout=CLOSE_TIMEOUT_S,
                max_size=UNIDENTIFIED_BYTES_MAX,
                max_queue=QUEUED_MESSAGES_MAX,
                write_limit=(WRITE_HIGH_BYTES, WRITE_LOW_BYTES),
                create_connection=Socket,
                backlog=BACKLOG,
            )
        except OSError as fault:
            raise CannotListen(f"cannot listen on {self._hub.settings.listen}: {fault.strerror or fault}") from fault
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def stop_listening(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._server is not None:
            self._server.close(close_connections=False)

    async def wait_closed(self) -> None:
        """Wait until every connection is gone."""
        if self._server is not None:
            await self._server.wait_closed()

    async def _talk(self, socket: ServerConnection) -> None:
        assert isinstance(socket, Socket)
        token = _bearer(socket.request)
        socket.request, socket.response = _FORGOTTEN, None
        socket.greets = False
        await Connection(self._hub, socket, token).run()

    async def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer what is no websocket, and refuse what there is no room for."""
        hub = self._hub
        match request.path.partition("?")[0]:
            case "/healthz":
                report = await self._health.report()
                status = HTTPStatus.OK if report.healthy else HTTPStatus.SERVICE_UNAVAILABLE
                return socket.respond(status, report.message + "\n")
            case "/metrics":
                gauges = {
                    "connected": lambda: len(hub.connections),
                    "unidentified": lambda: hub.unidentified,
                    "agents": lambda: len(hub.peers),
                    "tails": lambda: len(hub.line.tails),
                    "tasks": lambda: len(asyncio.all_tasks()),
                }
                return socket.respond(HTTPStatus.OK, exposition(hub.counters, gauges))
            case "/" | "":
                return self._refuse(socket)
            case _:
                return socket.respond(HTTPStatus.NOT_FOUND, "there is /, /healthz and /metrics\n")

    def _refuse(self, socket: ServerConnection) -> Response | None:
        hub = self._hub
        full = len(hub.connections) >= hub.settings.connections_max
        if hub.draining:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the hub is stopping\n")
        if full or hub.unidentified >= hub.settings.unidentified_max:
            return socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "there is no room for another connection now\n")
        return None


def _bearer(request: Request | None) -> str | None:
    """Return the token of the `Authorization` header; a header that is there twice is as good as none."""
    values = request.headers.get_all("Authorization") if request is not None else []
    if len(values) != 1 or not values[0].startswith(BEARER):
        return None
    return values[0].removeprefix(BEARER).strip()
