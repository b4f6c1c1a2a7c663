"""Everything that can break, breaking at random: what is in the log and what subscribers saw is still exact."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from functools import partial

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from orchestrator.hub import Hub
from orchestrator.store.memory import Fault
from protocol.codec import unpack_record
from protocol.entry import Entry, Position
from protocol.frames import Ack, Entries, Hello, Nack, Part, Puback, Ready, Request, Response, Resumption, Start
from protocol.window import Cursor
from tests.support.hub_peer import HubPeer, identify, publish, subscribe
from tests.support.hub_world import World, topic
from tests.support.timing import deadline, eventually

LOG = "topic/a"
ENTRIES = 300
AWAY = (ConnectionClosed, InvalidStatus, OSError, EOFError)


class Storm:
    """One publisher, some subscribers, two hubs, and what happens to them."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random.Random(seed)
        self.sockets: list[HubPeer] = []
        self.done = asyncio.Event()
        self.opens = 0

    @contextlib.asynccontextmanager
    async def peer(self, name: str) -> AsyncIterator[HubPeer]:
        """Connect to either hub."""
        async with self.world.peer(hub=self.random.choice(self.world.hubs)) as peer:
            self.sockets.append(peer)
            try:
                await peer.expect(Hello)
                yield peer
            finally:
                self.sockets.remove(peer)

    async def publisher(self) -> None:
        acked = 0
        while acked < ENTRIES:
            with contextlib.suppress(*AWAY):
                async with self.peer("publisher") as peer:
                    await peer.send(identify("publisher"))
                    await peer.expect(Ready)
                    acked = await self.publish(peer, acked)
        self.done.set()

    async def publish(self, peer: HubPeer, acked: int) -> int:
        # The same op until it is answered: an open that is still under way somewhere then fences nobody.
        params = {"log": LOG, "producer": "p"}
        await peer.send(Request(id=1, method="producer.open", params=params, op=f"open-{self.opens}"))
        opened = await peer.expect(Response)
        if opened.error is not None:
            return acked
        self.opens += 1
        fence, acked = opened.result["fence"], opened.result["last"]
        sent = acked
        while acked < ENTRIES:
            while sent < min(ENTRIES, acked + 50):
                size = min(self.random.randint(1, 5), ENTRIES - sent)
                await peer.send(publish(LOG, fence, sent + 1, *(b"%d" % (sent + 1 + n) for n in range(size))))
                sent += size
            answer = await peer.expect(Part, lambda frame: isinstance(frame, Puback | Nack))
            if isinstance(answer, Puback):
                acked = max(acked, answer.seq)
            elif isinstance(answer, Nack):
                assert answer.code in ("unavailable", "out_of_order"), answer
                sent = acked
        return acked

    async def subscriber(self, name: str, window: int) -> list[Entry]:
        seen: list[Entry] = []
        position: Position | None = None
        while len(seen) < ENTRIES:
            with contextlib.suppress(*AWAY):
                async with self.peer(name) as peer:
                    wish = subscribe(LOG, position or Start.EARLIEST, window=window)
                    await peer.send(identify(name, subscriptions=(wish,)))
                    verdict = (await peer.expect(Ready)).subscriptions[0]
                    assert verdict.verdict is Resumption.RESUMED, verdict
                    cursor = Cursor(verdict.at)
                    while len(seen) < ENTRIES:
                        frame = await peer.expect(Entries)
                        seen += cursor.accept(frame)
                        position = cursor.position
                        await peer.send(Ack(log=LOG, offset=frame.upto))
        return seen

    async def weather(self) -> None:
        """Let something break every few milliseconds until the publisher is done."""
        while not self.done.is_set():
            await asyncio.sleep(self.random.random() * 0.05)
            store = self.random.choice(self.world.stores)
            match self.random.randrange(6):
                case 0 | 1:
                    store.fail_next(self.random.choice(list(Fault)[:3]), self.random.randint(1, 3))
                case 2 if self.sockets:
                    self.random.choice(self.sockets).socket.transport.abort()
                case 3:
                    self.world.server.down = True
                    await asyncio.sleep(self.random.random() * 0.02)
                    self.world.server.down = False
                case 4:
                    store._heard.clear()
                case _:
                    pass


def idle(hub: Hub) -> bool:
    return not (hub.services.connections or len(hub.services.line.tails) or hub._work)


@pytest.mark.parametrize("seed", range(4))
async def test_a_storm_loses_nothing_and_repeats_nothing(world: World, seed: int) -> None:
    await world.start(heartbeat_ms=10_000, recheck_ms=100)
    await world.start(heartbeat_ms=10_000, recheck_ms=100)
    storm = Storm(world, seed)
    async with deadline(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(storm.publisher())
        tasks.create_task(storm.weather())
        watchers = [tasks.create_task(storm.subscriber(f"s{window}", window)) for window in (3, 50, 1024)]
    page = await world.store.read(topic("a"), 0, 10_000)
    assert page is not None
    wanted = [b"%d" % number for number in range(1, ENTRIES + 1)]
    assert [unpack_record(entry.packed).body for entry in page.entries] == wanted
    for watcher in watchers:
        assert watcher.result() == list(page.entries)
    for hub in world.hubs:
        await eventually(partial(idle, hub))
