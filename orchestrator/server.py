"""Listens, lets connections in as far as there is room, and answers plain HTTP beside them.

Specification: docs/protocol.md, section "Transport".
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket as net
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus

from websockets.http11 import Request
from websockets.typing import Subprotocol

from orchestrator.connection import Connection
from orchestrator.core.addresses import crowd_of, is_trusted, networks, peer_address
from orchestrator.core.crowd import Crowd
from orchestrator.doorstep import Caller, Doorstep
from orchestrator.room import Room
from orchestrator.services import Services
from orchestrator.settings import Settings
from orchestrator.telemetry import exposition
from orchestrator.tls import Certificates
from orchestrator.turns import Turns
from orchestrator.web.health import Health
from orchestrator.websocket import CLOSE_TIMEOUT_S, Socket
from protocol.codes import CloseCode
from protocol.errors import FleetlineError

__all__ = ["SUBPROTOCOL", "CannotListen", "Server", "bind"]

SUBPROTOCOL = Subprotocol("fleetline.v1")
BEARER = "Bearer "
BACKLOG = 4096
SILENT, FULL, ORIGIN = "silent", "full", "origin"
"""Why somebody is not let in: it was the longest silent and made way, there was no room, or a page sent it."""


class CannotListen(FleetlineError):
    """The address cannot be listened on."""


async def bind(settings: Settings) -> Sequence[net.socket]:
    """Listen on the address of the settings, for any number of hubs; whoever connects waits until one serves.

    Raises:
        CannotListen: the address is in use, is not ours, or is no address.
    """
    host, port = settings.address
    sockets: list[net.socket] = []
    try:
        found = await asyncio.get_running_loop().create_server(asyncio.Protocol, host, port, start_serving=False)
        sockets += [net.fromfd(bound.fileno(), bound.family, bound.type) for bound in found.sockets]
        found.close()
        for each in sockets:
            each.listen(BACKLOG)
    except OSError as fault:
        for each in sockets:
            each.close()
        raise CannotListen(f"cannot listen on {settings.listen}: {_why_not(fault)}") from fault
    return sockets


def _why_not(fault: OSError) -> str:
    """Return why an address cannot be listened on, and what to do; the library's own words repeat the address."""
    if fault.errno == errno.EADDRINUSE:
        return (
            "another program does, perhaps a hub; end it, or name another address with --listen (port 0 is a free one)"
        )
    if fault.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; --listen names one of its own, or 0.0.0.0 for all of them"
    if fault.errno == errno.EACCES:
        return "this user may not have ports that low; name a port from 1024 up with --listen"
    return fault.strerror or str(fault)


class Server:
    """The listening side of a hub.

    Args:
        hub: what connections share.
        health: what `/healthz` answers.
        certificates: what TLS begins with.
        worker: which of the hub's processes this is.
    """

    def __init__(self, hub: Services, health: Health, certificates: Certificates, worker: int = 1) -> None:
        self._hub = hub
        self._health = health
        self._certificates = certificates
        self._worker = worker
        self._proxies = networks(hub.settings.trusted_proxies)
        self._bound: Sequence[net.socket] = ()
        self._turns: Turns | None = None
        self._room = Room(hub.settings)
        self._crowd = Crowd(self._room.strangers_max, self._room.address_strangers_max)
        self._doorstep = Doorstep(self._open, hub.settings.limits.handshake_ms / 1000, self._room.strangers_max)
        self._sockets: set[Socket] = set()
        self._strangers: set[Socket] = set()
        self._beginning: set[asyncio.Task[None]] = set()
        self._turns_away = False
        self._emptied = asyncio.Event()

    def start(self, sockets: Sequence[net.socket]) -> str:
        """Let in whoever connects to these sockets, which are this server's from now on; return their address."""
        settings = self._hub.settings
        host = settings.listen.rpartition(":")[0]
        self._bound = sockets
        self._turns = Turns(sockets, self._take, shared=settings.workers > 1, full=lambda: self._doorstep.full)
        port = sockets[0].getsockname()[1]
        scheme = "ws" if self._certificates.context is None else "wss"
        return f"{scheme}://{host}:{port}"

    def _take(self, connection: net.socket) -> None:
        """Have somebody wait at the door, as far as there is room."""
        try:
            connection.setsockopt(net.IPPROTO_TCP, net.TCP_NODELAY, 1)  # asyncio does not, for one that is given
            address = str(connection.getpeername()[0])
        except OSError:  # whoever called has gone
            connection.close()
            return
        crowd = "" if is_trusted(address, self._proxies) else crowd_of(address)
        guest = self._crowd.enter(crowd, partial(self._cut, partial(self._doorstep.drop, connection), address, SILENT))
        if guest is None:
            self._cut(connection.close, address, FULL)
        elif self.connected >= self._room.sockets_max:
            guest.leave()
            self._cut(connection.close, address, FULL)
        else:
            self._doorstep.wait(connection, crowd, guest)

    def _open(self, caller: Caller) -> None:
        self._hub.spawn(self._serve(caller))

    async def _serve(self, caller: Caller) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._beginning.add(task)
        begun = False
        try:
            if not caller.guest.come_back(partial(self._cut, task.cancel, caller.crowd, SILENT)):
                self._cut(caller.connection.close, caller.crowd, FULL)
                return
            with contextlib.suppress(OSError):  # whoever called has gone, or speaks no TLS that will do
                await self._begin(caller)
                begun = True  # the guest is the socket's
        finally:
            self._beginning.discard(task)
            if not begun:
                caller.guest.leave()

    async def _begin(self, caller: Caller) -> None:
        loop, context = asyncio.get_running_loop(), self._certificates.context
        make = partial(Socket, self, SUBPROTOCOL, caller.left_s, caller.guest)
        if context is None:
            await loop.connect_accepted_socket(make, caller.connection)
            return
        await loop.connect_accepted_socket(
            make,
            caller.connection,
            ssl=context,
            ssl_handshake_timeout=caller.left_s,
            ssl_shutdown_timeout=CLOSE_TIMEOUT_S,
        )

    def _cut(self, end: Callable[[], object], address: str, reason: str) -> None:
        """Cut off somebody for whom there is no room, or who makes room for another."""
        self._refused(address, reason)
        end()

    def _make_way(self, socket: Socket) -> None:
        self._cut(socket.abort, socket.address, SILENT)

    def _refused(self, address: str, reason: str) -> None:
        self._hub.counters.refused += 1
        self._hub.audit.turned_away(address, CloseCode.OVERLOADED, reason)

    @property
    def connected(self) -> int:
        """How many connections there are, in whatever state."""
        return len(self._sockets) + len(self._doorstep)

    def stop_listening(self) -> None:
        """Let nobody in any more; those who are in stay."""
        if self._turns is not None:
            self._turns.close()
        for bound in self._bound:
            bound.close()

    async def wait_closed(self) -> None:
        """Wait until every connection is gone."""
        while self._sockets:
            self._emptied.clear()
            await self._emptied.wait()

    def turn_away(self) -> None:
        """Cut off those who have not been let in, and whoever still comes."""
        self._turns_away = True
        self._doorstep.clear()
        for task in tuple(self._beginning):
            task.cancel()
        for socket in tuple(self._strangers):
            socket.abort()

    def abort(self) -> None:
        """Cut off whoever is still there."""
        self._doorstep.clear()
        for socket in tuple(self._sockets):
            socket.abort()

    # ── what sockets tell ────────────────────────────────────────────────────

    def on_opened(self, socket: Socket) -> None:
        """Keep a connection in mind; one for which there is no room at all is not heard."""
        self._sockets.add(socket)
        self._strangers.add(socket)
        socket.guest.cut = partial(self._make_way, socket)
        if self._turns_away:
            socket.abort()
        elif len(self._sockets) > self._room.sockets_max:
            self._cut(socket.abort, socket.address, FULL)

    def on_gone(self, socket: Socket) -> None:
        """Forget a connection."""
        socket.guest.leave()
        self._sockets.discard(socket)
        self._strangers.discard(socket)
        if not self._sockets:
            self._emptied.set()

    def on_request(self, socket: Socket, request: Request) -> None:
        """Let a websocket in as far as there is room; answer plain HTTP."""
        headers = request.headers
        forwarded = headers.get_all("Forwarded"), headers.get_all("X-Forwarded-For")
        socket.address = peer_address(socket.address, *forwarded, self._proxies)
        strange = [origin for origin in headers.get_all("Origin") if origin not in self._hub.settings.origins]
        if strange:
            self._hub.audit.turned_away(socket.address, CloseCode.FORBIDDEN, ORIGIN)
            text = "a request from a web page that the hub does not know: its setting `origins` names those that may\n"
            socket.respond(HTTPStatus.FORBIDDEN, text)
            return
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
        elif not socket.guest.move(crowd_of(socket.address)) or len(hub.connections) >= hub.settings.connections_max:
            self._refused(socket.address, FULL)
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
        labels = {"worker": str(self._worker)} if hub.settings.workers > 1 else {}
        return exposition(hub.counters, gauges, hub.line.hub_id, labels)


def _bearer(request: Request) -> str | None:
    """Return the token of the `Authorization` header; a header that is there twice is as good as none."""
    values = request.headers.get_all("Authorization")
    if len(values) != 1 or not values[0].startswith(BEARER):
        return None
    return values[0].removeprefix(BEARER).strip()
