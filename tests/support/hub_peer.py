"""A peer for tests of the hub: the protocol's own session over a real websocket, and nothing clever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from protocol.effects import Deliver
from protocol.entry import Position
from protocol.frames import (
    Entries,
    Error,
    Hello,
    Identify,
    Part,
    Puback,
    Publish,
    Ready,
    Request,
    Response,
    Role,
    Start,
    Subscribe,
    Subscribed,
    Window,
)
from protocol.session import Session, Side
from tests.support.timing import deadline

__all__ = ["HubPeer", "connected", "identify", "publish", "subscribe"]

FrameT = TypeVar("FrameT", bound=Part)
HEARTBEAT_MS = 60_000


def now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


class HubPeer:
    """One connection to a hub. Frames are kept in the order in which they came."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.session = Session(Side.PEER, now_ms(), heartbeat_ms=HEARTBEAT_MS)
        self.frames: list[Any] = []
        self.ready: Ready | None = None
        self._ops = 0

    async def send(self, *frames: Part) -> None:
        await self.socket.send(self.session.send(frames, now_ms()))

    async def send_raw(self, message: bytes | str) -> None:
        await self.socket.send(message)

    async def expect(self, kind: type[FrameT], where: Callable[[FrameT], bool] = lambda _: True) -> FrameT:
        """Take the first frame of this type for which `where` holds, waiting for it where it is not there yet."""
        async with deadline(10):
            while True:
                for place, frame in enumerate(self.frames):
                    if isinstance(frame, kind) and where(frame):
                        del self.frames[place]
                        return frame
                await self._receive()

    async def closed(self) -> int:
        """Read until the hub closes; return its code. What came before is in `frames`."""
        async with deadline(10):
            try:
                while True:
                    await self._receive()
            except ConnectionClosed:
                code = self.socket.close_code
                assert code is not None
                return code

    async def identify(self, frame: Identify) -> Ready:
        await self.expect(Hello)
        await self.send(frame)
        self.ready = await self.expect(Ready)
        return self.ready

    async def request(self, method: str, *, op: bool = True, **params: Any) -> Response:
        self._ops += 1
        assert self.ready is not None
        name = f"{self.ready.session}-{self._ops}" if op else None
        await self.send(Request(id=self._ops, method=method, params=params, op=name))
        number = self._ops
        return await self.expect(Response, lambda frame: frame.id == number)

    async def result(self, method: str, **params: Any) -> Any:
        response = await self.request(method, **params)
        assert response.error is None, response.error
        return response.result

    async def publisher(self, log: str, producer: str = "p") -> int:
        """Open a producer and return its fence."""
        return int((await self.result("producer.open", log=log, producer=producer))["fence"])

    async def publish(self, log: str, fence: int, seq: int, *bodies: bytes, producer: str = "p") -> Puback:
        await self.send(publish(log, fence, seq, *bodies, producer=producer))
        last = seq + len(bodies) - 1
        return await self.expect(Puback, lambda frame: frame.producer == producer and frame.seq >= last)

    async def follow(self, log: str, start: Position | Start = Start.EARLIEST, **options: Any) -> Subscribed:
        await self.send(subscribe(log, start, **options))
        return await self.expect(Subscribed, lambda frame: frame.subscription.log == log)

    async def entries(self, log: str, upto: int) -> list[Entries]:
        """Take `entries` frames of a log until one reaches `upto`."""
        found: list[Entries] = []
        while not found or found[-1].upto < upto:
            found.append(await self.expect(Entries, lambda frame: frame.log == log))
        return found

    async def caught_up(self, log: str) -> list[Entries]:
        """Take `entries` frames of a log up to the one that says that history is over."""
        found: list[Entries] = []
        while not found or not found[-1].caught_up:
            found.append(await self.expect(Entries, lambda frame: frame.log == log))
        return found

    async def told(self) -> tuple[int, str]:
        """Return the code that the hub closed with, and what it said before."""
        code = await self.closed()
        said = [frame for frame in self.frames if isinstance(frame, Error)]
        assert [frame.code for frame in said] in ([], [code])
        return code, said[0].message if said else ""

    async def _receive(self) -> None:
        message = await self.socket.recv()
        assert isinstance(message, bytes), message
        for effect in self.session.receive(message, now_ms()):
            assert isinstance(effect, Deliver), effect
            self.frames.append(effect.frame)


@asynccontextmanager
async def connected(
    url: str, token: str | None = None, headers: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[HubPeer]:
    """Connect to a hub; the token goes into the header. Options are those of `websockets`."""
    headers = {**(headers or {}), **({"Authorization": f"Bearer {token}"} if token else {})}
    socket = await connect(
        url,
        subprotocols=[Subprotocol("fleetline.v1")],
        compression=None,
        additional_headers=headers,
        max_size=None,
        ping_interval=None,
        close_timeout=1,
        proxy=None,
        **options,
    )
    try:
        yield HubPeer(socket)
    finally:
        if not socket.transport.is_closing():
            socket.transport.abort()
        await asyncio.wait_for(socket.wait_closed(), 5)


def identify(peer_id: str = "tester", role: Role = Role.CLIENT, instance: str = "i1", **fields: Any) -> Identify:
    return Identify(version=1, role=role, id=peer_id, instance=instance, **fields)


def publish(log: str, fence: int, seq: int, *bodies: bytes, producer: str = "p", **fields: Any) -> Publish:
    entries = tuple(("note", body, None, None) for body in bodies)
    return Publish(log=log, producer=producer, seq=seq, fence=fence, entries=entries, **fields)


def subscribe(log: str, start: Position | Start, *, window: int = 1024, **options: Any) -> Subscribe:
    return Subscribe.model_validate({"log": log, "from": start, "window": Window(entries=window), **options})
