"""Listens, lets connections in as far as there is room, and answers plain HTTP beside them.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from socket import fromfd

from websockets.http11 import Request
from websockets.typing import Subprotocol

from orchestrator.connection import Connection
from orchestrator.room import Room
from orchestrator.services import Services
from orchestrator.telemetry import exposition
from orchestrator.web.health import Health
from orchestrator.websocket import Socket
from protocol.errors import FleetlineError

__all__ = ["SUBPROTOCOL", "CannotListen", "Server"]

SUBPROTOCOL = Subprotocol("fleetline.v1")
BEARER = "Bearer "
BACKLOG = 4096
ACCEPTED_A_TURN = 8
"""Connections accepted in one turn of the event loop. uvloop accepts one for each listening socket, so there are that
many for the one address. Agents that come back together then ask the store together, which halves what that costs."""


class CannotListen(FleetlineError):
    """The address cannot be listened on."""


class Server:
    """The listening side of a hub."""

    def __init__(self, hub: Services, health: Health) -> None:
        self._hub = hub
        self._health = health
        self._listeners: list[asyncio.Server] = []
        self._room = Room(hub.settings)
        self._sockets: set[Socket] = set()
        self._strangers: set[Socket] = set()
        self._turns_away = False
        self._emptied = asyncio.Event()

    async def start(self) -> str:
        """Listen; return the address as a URL.

        Raises:
            CannotListen: the address is in use, is not ours, or is no address.
        """
        settings = self._hub.settings
        host, port = settings.address
        handshake_s = settings.handshake_ms / 1000
        listen = partial(
            asyncio.get_running_loop().create_server,
            lambda: Socket(self, SUBPROTOCOL, handshake_s),
            backlog=BACKLOG,
        )
        try:
            first = await listen(host, port)
            self._listeners.append(first)
            for bound in first.sockets:
                for _ in range(ACCEPTED_A_TURN - 1):
                    self._listeners.append(await listen(sock=fromfd(bound.fileno(), bound.family, bound.type)))
        except OSError as fault:
            raise CannotListen(f"cannot listen on {settings.listen}: {fault.strerror or fault}") from fault
        port = first.sockets[0].getsockname()[1]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def stop_listening(self) -> None:
        """Let nobody in any more; those who are in stay."""
        for listener in self._listeners:
            listener.close()

    async def wait_closed(self) -> None:
        """Wait until every connection is gone."""
        while self._sockets:
            self._emptied.clear()
            await self._emptied.wait()

    def turn_away(self) -> None:
        """Cut off those who have not been let in, and whoever still comes."""
        self._turns_away = True
        for socket in tuple(self._strangers):
            socket.abort()

    def abort(self) -> None:
        """Cut off whoever is still there."""
        for socket in tuple(self._sockets):
            socket.abort()

    # ── what sockets tell ────────────────────────────────────────────────────

    def on_opened(self, socket: Socket) -> None:
        """Keep a connection in mind; one for which there is no room at all is not heard."""
        self._sockets.add(socket)
        self._strangers.add(socket)
        if self._turns_away:
            socket.abort()
        elif len(self._sockets) > self._room.sockets_max or len(self._strangers) > self._room.strangers_max:
            self._hub.counters.refused += 1
            socket.abort()

    def on_gone(self, socket: Socket) -> None:
        """Forget a connection."""
        self._sockets.discard(socket)
        self._strangers.discard(socket)
        if not self._sockets:
            self._emptied.set()

    def on_request(self, socket: Socket, request: Request) -> None:
        """Let a websocket in as far as there is room; answer plain HTTP."""
        match request.path.partition("?")[0]:
            case "/" | "":
                self._admit(socket, request)
            case "/healthz":
                self._hub.spawn(self._tell_health(socket))
            case "/metrics":
                socket.respond(HTTPStatus.OK, self._metrics())
            case _:
                socket.respond(HTTPStatus.NOT_FOUND, "there is /, /healthz and /metrics\n")

    def _admit(self, socket: Socket, request: Request) -> None:
        hub = self._hub
        if hub.draining:
            socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "the hub is stopping\n")
        elif len(hub.connections) >= hub.settings.connections_max or hub.unidentified >= hub.settings.unidentified_max:
            hub.counters.refused += 1
            socket.respond(HTTPStatus.SERVICE_UNAVAILABLE, "there is no room for another connection now\n")
        else:
            connection = Connection(hub, socket, _bearer(request))
            if socket.accept(request, connection):
                self._strangers.discard(socket)
                connection.greet()

    async def _tell_health(self, socket: Socket) -> None:
        report = await self._health.report()
        status = HTTPStatus.OK if report.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        socket.respond(status, report.message + "\n")

    def _metrics(self) -> str:
        hub = self._hub
        gauges = {
            "connected": lambda: len(hub.connections),
            "unidentified": lambda: hub.unidentified,
            "agents": lambda: len(hub.peers),
            "tails": lambda: len(hub.line.tails),
            "tasks": lambda: len(asyncio.all_tasks()),
        }
        return exposition(hub.counters, gauges)


def _bearer(request: Request) -> str | None:
    """Return the token of the `Authorization` header; a header that is there twice is as good as none."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1 or not values[0].startswith(BEARER):
        return None
    return values[0].removeprefix(BEARER).strip()
