"""The network between machines: connections in memory, in place of websockets.

A connection keeps its order, as TCP does; different connections overtake each other. What was written and not
yet read counts against the writer, so that a slow or frozen reader makes it wait. A connection can be cut, with
what is on its way lost and each end told at its own time or never; and two machines can be parted for a while,
during which nothing arrives and nothing is lost.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Protocol
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosedError
from websockets.frames import Close

from orchestrator.websocket import Talker
from tests.support.simulation.loop import Machine, SimulationLoop, current_machine, outside
from tests.support.simulation.trace import Trace

__all__ = ["Dial", "End", "HubEnd", "Network", "PeerEnd", "Wire"]

WRITE_HIGH_BYTES = 24 * 1024
WRITE_LOW_BYTES = 6 * 1024
OPEN_TIMEOUT_S = 10.0
SLOW_SHARE = 0.03
"""Of messages that take up to `SLOW_S`; the others take up to `QUICK_S`."""
SLOW_S = 0.4
QUICK_S = 0.006


@dataclass(frozen=True, slots=True)
class _Closing:
    """The last thing on a connection: a close frame, or (`frame` is None) its end."""

    frame: Close | None


class Pipe:
    """One direction of a connection."""

    def __init__(self, network: Network, name: str) -> None:
        self.blocked = False
        self.broken = False
        self.size = 0
        self._network = network
        self.name = name
        self._on_way: deque[tuple[float, bytes | _Closing]] = deque()
        self._latest_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.arrive: Callable[[bytes | _Closing], None]

    def put(self, item: bytes | _Closing) -> None:
        """Send something after all that was sent before."""
        if self.broken:
            return
        self._latest_s = max(self._latest_s, self._network.loop.time() + self._network.latency_s())
        self._on_way.append((self._latest_s, item))
        self.size += len(item) if isinstance(item, bytes) else 0
        self._arm()

    def lose(self, keep: int = 0) -> None:
        """Lose what is on its way, but for the first `keep` messages."""
        while len(self._on_way) > keep:
            _, item = self._on_way.pop()
            self.size -= len(item) if isinstance(item, bytes) else 0

    def unblock(self) -> None:
        """Let through what was held."""
        self.blocked = False
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._on_way and not self.blocked:
            self._timer = self._network.loop.call_at(self._on_way[0][0], self._due, context=outside())

    def _due(self) -> None:
        self._timer = None
        loop = self._network.loop
        while self._on_way and not self.blocked and self._on_way[0][0] <= loop.time():
            _, item = self._on_way.popleft()
            if isinstance(item, bytes):
                self.size -= len(item)
                self._network.trace.note(loop.time(), self.name, "message", item)
            else:
                self._network.trace.note(loop.time(), self.name, f"closed {item.frame}")
            self.arrive(item)
        self._arm()


class End(ABC):
    """One end of a connection."""

    def __init__(self, network: Network, machine: Machine, out: Pipe, into: Pipe) -> None:
        self.machine = machine
        self.closed: ConnectionClosedError | None = None
        self.paused = False
        self._network = network
        self._out = out
        self._into = into
        self._inbox: deque[bytes] = deque()
        self._unread = 0
        self.other: End
        into.arrive = self._arrive

    def write(self, message: bytes) -> None:
        """Send a message, however full the transport is. Nothing happens on a closed connection."""
        if self.closed is None and self.machine.alive:
            self._out.put(message)
            self.paused = self.held > WRITE_HIGH_BYTES

    @property
    def held(self) -> int:
        """Bytes that the other end has not read."""
        return self._out.size + self.other._unread

    def shut(self, frame: Close | None) -> None:
        """End this end, and let the other know once it has read what was written."""
        if self.closed is None:
            if self.machine.alive or frame is None:
                self._out.put(_Closing(frame))
            self.end(ConnectionClosedError(None, frame))

    def end(self, error: ConnectionClosedError) -> None:
        """This end is closed."""
        if self.closed is None:
            self.closed = error
            self._network.forget(self)
            self._wake()

    def drained(self) -> None:
        """The other end has read something."""
        if self.paused and self.held <= WRITE_LOW_BYTES:
            self.paused = False
            self._wake()

    def _arrive(self, item: bytes | _Closing) -> None:
        if self.closed is not None or not self.machine.alive:
            return
        if isinstance(item, _Closing):
            self.end(ConnectionClosedError(item.frame, None))
            return
        self._inbox.append(item)
        self._unread += len(item)
        self._wake()

    @abstractmethod
    def _wake(self) -> None:
        """Something came, or may be written again, or the end is closed."""


class PeerEnd(End):
    """One end, as a peer's link uses it."""

    def __init__(self, network: Network, machine: Machine, out: Pipe, into: Pipe) -> None:
        super().__init__(network, machine, out, into)
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None

    async def recv(self) -> bytes:
        """Return the next message.

        Raises:
            ConnectionClosedError: there will be none.
        """
        while not self._inbox:
            if self.closed is not None:
                raise self.closed
            self._readable = self._network.loop.create_future()
            await self._readable
        message = self._inbox.popleft()
        self._unread -= len(message)
        self.other.drained()
        return message

    async def send(self, message: bytes) -> None:
        """Send a message, and wait while the transport is full.

        Raises:
            ConnectionClosedError: the connection is closed.
        """
        self.write(message)
        while self.paused and self.closed is None:
            self._writable = self._network.loop.create_future()
            await self._writable
        if self.closed is not None:
            raise self.closed

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection, after all that was written."""
        self.shut(Close(int(code), reason))
        await asyncio.sleep(0)

    def _wake(self) -> None:
        for future in (self._readable, self._writable):
            if future is not None and not future.done():
                future.set_result(None)


class HubEnd(End):
    """The other end, as a hub's connection uses it."""

    def __init__(self, network: Network, machine: Machine, out: Pipe, into: Pipe, number: int) -> None:
        super().__init__(network, machine, out, into)
        self.nonce = number.to_bytes(16, "big")
        self.address = "192.0.2.1"
        self._talker: Talker | None = None
        self._reading = True

    def accept(self, talker: Talker) -> None:
        """Tell `talker` what came and what comes."""
        self._talker = talker
        self._tell()

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""
        return self.paused

    @property
    def buffered(self) -> int:
        """Bytes that the other end has not read."""
        return self.held

    def take_up_to(self, message_bytes_max: int) -> None:
        """Set how large a message may be; here they are of any size."""

    def pause_reading(self) -> None:
        """Leave what comes unread."""
        self._reading = False

    def resume_reading(self) -> None:
        """Read on."""
        self._reading = True
        self._network.loop.call_soon(self._tell, context=outside())

    def close(self, code: int, reason: str) -> None:
        """Close the connection, after all that was written."""
        self.shut(Close(int(code), reason))

    def drained(self) -> None:
        """The peer has read something."""
        before = self.paused
        super().drained()
        if before and not self.paused and self._talker is not None:
            self.machine.run(self._talker.on_drained)

    def _wake(self) -> None:
        self._tell()

    def _tell(self) -> None:
        """Hand on what came."""
        while self._reading and self._inbox and self._talker is not None and self.machine.alive:
            message = self._inbox.popleft()
            self._unread -= len(message)
            self.other.drained()
            self.machine.run(partial(self._talker.on_message, message))
        if self.closed is not None and self._talker is not None and self.machine.alive:
            talker, self._talker = self._talker, None
            self.machine.run(talker.on_lost)


class Wire:
    """A connection: both its ends, and both its directions."""

    def __init__(self, network: Network, number: int, peer: Machine, hub: Machine) -> None:
        self.machines = (peer, hub)
        name = f"{number}:{peer.name}"
        up, down = Pipe(network, f"{name}>{hub.name}"), Pipe(network, f"{name}<{hub.name}")
        self.pipes = (up, down)
        self.peer = PeerEnd(network, peer, up, down)
        self.hub = HubEnd(network, hub, down, up, number)
        self.peer.other, self.hub.other = self.hub, self.peer

    @property
    def open(self) -> bool:
        """Whether an end of it is."""
        return self.peer.closed is None or self.hub.closed is None


class Listener(Protocol):
    """A hub, as the network sees it."""

    machine: Machine

    def accept(self, end: HubEnd, token: str | None) -> None:
        """Take a new connection."""


class Network:
    """All connections of a simulation."""

    def __init__(self, loop: SimulationLoop, rng: Random, trace: Trace) -> None:
        self.loop = loop
        self.trace = trace
        self.listeners: dict[str, Listener] = {}
        self.wires: dict[int, Wire] = {}
        self._rng = rng
        self._parted: set[frozenset[str]] = set()
        self._made = 0

    def latency_s(self) -> float:
        """Draw how long a message is on its way."""
        slow = self._rng.random() < SLOW_SHARE
        return self._rng.random() * (SLOW_S if slow else QUICK_S)

    def forget(self, _: End) -> None:
        """Forget the connections of which both ends are closed."""
        self.wires = {number: wire for number, wire in self.wires.items() if wire.open}

    # Faults

    def cut(self, wire: Wire, rng: Random) -> None:
        """Cut a connection: what is on its way is lost, and each end learns of it late, or never by itself."""
        for pipe, end in zip(wire.pipes, (wire.hub, wire.peer), strict=True):
            pipe.lose(rng.randrange(3))
            pipe.broken = True
            if rng.random() < 0.8:
                error = ConnectionClosedError(None, None)
                self.loop.call_later(rng.random() * 0.05, end.end, error, context=outside())

    def part(self, one: str, other: str) -> None:
        """Let nothing through between two machines until they are joined."""
        self._parted.add(frozenset((one, other)))
        for wire in self._between(one, other):
            for pipe in wire.pipes:
                pipe.blocked = True

    def join(self, one: str, other: str) -> None:
        """Let everything through again, what was held first."""
        self._parted.discard(frozenset((one, other)))
        for wire in self._between(one, other):
            for pipe in wire.pipes:
                pipe.unblock()

    def join_all(self) -> None:
        """Let everything through everywhere."""
        for pair in sorted(sorted(pair) for pair in self._parted):
            self.join(*pair)

    def _between(self, one: str, other: str) -> list[Wire]:
        names = {one, other}
        return [wire for wire in self.wires.values() if {machine.name for machine in wire.machines} == names]

    def drop(self, machine: Machine, rng: Random) -> None:
        """A machine is killed: what it wrote may still arrive, and then the other end learns of its end."""
        for wire in tuple(self.wires.values()):
            for pipe, end in zip(wire.pipes, (wire.peer, wire.hub), strict=True):
                if end.machine is machine:
                    pipe.lose(rng.randrange(4))
                    end.shut(None)

    # Connecting

    async def connect(self, url: str, token: str | None) -> PeerEnd:
        """Connect the machine that runs to a hub.

        Raises:
            OSError: no hub is there.
            TimeoutError: nothing comes back.
        """
        machine = current_machine()
        assert machine is not None
        await asyncio.sleep(self.latency_s())
        name = urlsplit(url).netloc
        names = [name] if name != "localhost" else sorted(self.listeners)
        if not names or any(each not in self.listeners for each in names):
            raise ConnectionRefusedError(f"{url} does not answer")
        listener = self.listeners[self._rng.choice(names)]
        if frozenset((machine.name, listener.machine.name)) in self._parted:
            await asyncio.sleep(OPEN_TIMEOUT_S)
            raise TimeoutError("nothing came back")
        self._made += 1
        wire = self.wires[self._made] = Wire(self, self._made, machine, listener.machine)
        self.trace.note(self.loop.time(), machine.name, f"connected to {listener.machine.name}")
        listener.accept(wire.hub, token)
        try:
            await asyncio.sleep(self.latency_s())
        except asyncio.CancelledError:
            wire.peer.shut(None)
            raise
        return wire.peer


class Dial:
    """Stands in for `websockets.asyncio.client.connect`."""

    def __init__(self, network: Network, url: str, additional_headers: Mapping[str, str], **_: Any) -> None:
        self._network = network
        self._url = url
        self._token = additional_headers.get("Authorization", "").removeprefix("Bearer ") or None
        self._end: PeerEnd | None = None

    async def __aenter__(self) -> PeerEnd:
        self._end = await self._network.connect(self._url, self._token)
        return self._end

    async def __aexit__(self, *_: object) -> None:
        assert self._end is not None
        await self._end.close()
