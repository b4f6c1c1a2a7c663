"""The store is killed and its file cut to the last sync, again and again: what was acknowledged is there, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.client import Client
from agent.errors import PublisherLost
from agent.publisher import Publisher
from protocol.codec import pack_value
from tests.chaos.amounts import rounds
from tests.support.checkers import Acknowledged, Rule, assert_kept, check_acknowledged, check_log, check_sequence
from tests.support.fleet import Fleet, HubProcess, dump_log
from tests.support.fsync_shim import ShimmedServer, build_shim
from tests.support.timing import deadline, eventually

pytestmark = pytest.mark.needs("gcc")

TOPIC = "feed"
CUTS = 6
STEP = 2000
"""Entries that must be acknowledged between two cuts."""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


@dataclass(slots=True)
class Feed:
    """A publisher that never stops, but to be judged, and what it was told is in the log.

    Attributes:
        publisher: what publishes.
        bodies: everything that it was given to publish.
        flows: set while it is given more.
    """

    publisher: Publisher
    bodies: list[bytes] = field(default_factory=list)
    flows: asyncio.Event = field(default_factory=asyncio.Event)

    def ledger(self) -> list[Acknowledged]:
        """Return everything that is acknowledged by now."""
        return [Acknowledged("line", body) for body in self.bodies[: self.publisher.acknowledged]]

    async def publish_for_ever(self) -> None:
        """Publish numbered lines as fast as they go."""
        while await self.flows.wait():
            line = f"line {len(self.bodies)}"
            self.bodies.append(pack_value(line))
            await self.publisher.publish("line", line)
            if not len(self.bodies) % 100:
                await asyncio.sleep(0)


@asynccontextmanager
async def feeding(hub: HubProcess) -> AsyncIterator[tuple[Client, Feed, asyncio.Task[None]]]:
    async with Client.connect(hub.url, token=hub.token) as client:
        publisher = await client.publisher(TOPIC)
        assert isinstance(publisher, Publisher)
        feed = Feed(publisher)
        feed.flows.set()
        task = asyncio.create_task(feed.publish_for_ever(), name="feed")
        try:
            yield client, feed, task
        finally:
            task.cancel()
            await asyncio.wait([task])


def cut_power(server: ShimmedServer) -> int:
    """Kill the store and throw away what was not synced; return how many bytes went."""
    server.kill()
    return server.cut_to_synced()


async def test_what_was_acknowledged_survives_every_power_cut(shim: Path) -> None:
    async with Fleet() as fleet:
        with ShimmedServer(fleet.directory / "store", shim) as server:
            server.start()
            hub = await fleet.hub(options=["--store", server.url])
            async with feeding(hub) as (client, feed, task):
                for _ in range(rounds(CUTS)):
                    before = feed.publisher.acknowledged
                    await eventually(lambda before=before: feed.publisher.acknowledged >= before + STEP, 60)  # type: ignore[misc]
                    cut_power(server)
                    ledger = feed.ledger()
                    server.start()
                    feed.flows.clear()  # else the log grows faster than it is judged
                    async with deadline(60):
                        dump = await dump_log(client, f"topic/{TOPIC}")
                    assert_kept(check_log(dump), check_acknowledged(dump, ledger))
                    feed.flows.set()
                task.cancel()
                await asyncio.wait([task])
                async with deadline(60):
                    await feed.publisher.flush()
                dump = await dump_log(client, f"topic/{TOPIC}")
                sent = feed.bodies[: feed.publisher.acknowledged]
                assert len(feed.bodies) - len(sent) <= 1, "the one that the cancelled task was about to publish"
                assert_kept(check_log(dump), check_sequence(dump, "line", sent))


async def test_a_store_that_does_not_sync_is_caught_by_the_same_check(shim: Path) -> None:
    """The planted bug: the checks above pass because of the fsync, and not because they see nothing."""
    async with Fleet() as fleet:
        with ShimmedServer(fleet.directory / "store", shim, {"appendfsync": "no"}) as server:
            server.start()
            hub = await fleet.hub(options=["--store", server.url, "--durability", "memory"])
            async with feeding(hub) as (_, feed, task):
                await eventually(lambda: feed.publisher.acknowledged >= STEP, 60)
                assert cut_power(server) > 0
                ledger = feed.ledger()
                server.start()
                async with Client.connect(hub.url, token=hub.token) as other:
                    await other.publish(TOPIC, "after")
                    dump = await dump_log(other, f"topic/{TOPIC}")
                found = check_acknowledged(dump, ledger)
                assert len(found) > STEP // 2
                assert {violation.rule for violation in found} == {Rule.ACKNOWLEDGED}
                with pytest.raises(PublisherLost):
                    async with deadline(60):
                        await task


async def test_a_hub_refuses_a_store_that_does_not_sync(shim: Path) -> None:
    async with Fleet() as fleet:
        with ShimmedServer(fleet.directory / "store", shim, {"appendfsync": "no"}) as server:
            server.start()
            hub = fleet.new_hub(options=["--store", server.url])
            hub.spawn()
            assert await hub.ended() != 0
            assert "appendfsync" in hub.output()
