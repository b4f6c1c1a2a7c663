"""A subscriber that was away gets exactly what it missed, or the exact range that it cannot get."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis

from agent.client import Client
from orchestrator.store import keys
from protocol.frames import ResetReason, Start
from protocol.ids import LogName
from tests.chaos.histories import away, restore, snapshot, store_of
from tests.chaos.watching import Watch, watched
from tests.support.checkers import Began, assert_kept, check_delivered, check_log
from tests.support.fleet import Fleet, HubProcess, dump_log
from tests.support.proxy import FaultProxy
from tests.support.timing import eventually

TOPIC = "feed"
LOG = LogName.parse(f"topic/{TOPIC}")


async def publish(client: Client, *lines: str) -> int:
    """Append lines to the topic, in order; return the last one's offset."""
    offsets = await asyncio.gather(*(client.publish(TOPIC, "said", line) for line in lines))
    assert list(offsets) == sorted(offsets)
    return offsets[-1]


def numbered(first: int, last: int, what: str = "line") -> list[str]:
    return [f"{what} {number}" for number in range(first, last + 1)]


def lines(watch: Watch) -> list[object]:
    return [entry.body for entry in watch.entries]


@asynccontextmanager
async def connected(fleet: Fleet, hub: HubProcess) -> AsyncIterator[tuple[Client, Client, FaultProxy]]:
    """Yield a client that publishes, one that subscribes through a proxy, and the proxy."""
    async with (
        FaultProxy(hub.address, patient=True) as proxy,
        Client.connect(hub.url, token=hub.token) as publisher,
        Client.connect(proxy.url, token=hub.token) as subscriber,
    ):
        yield publisher, subscriber, proxy


async def test_a_subscriber_that_was_away_gets_exactly_what_came_after_its_acknowledged_offset() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with Client.connect(hub.url, token=hub.token) as client:
            await publish(client, *numbered(1, 10))
            async with client.subscribe(f"topic/{TOPIC}", Start.ACKED, durable="reader", auto_ack=False) as reader:
                entries = [await anext(reader) for _ in range(10)]
                entries[5].ack()
                with redis.Redis(unix_socket_path=str(hub.store_socket)) as store:
                    await eventually(lambda: [value.split()[0] for value in store.hvals(keys.acks(LOG))] == [b"6"])
        await hub.restart()
        async with Client.connect(hub.url, token=hub.token) as client:
            await publish(client, *numbered(11, 20))
            async with watched(client, LOG.path, Start.ACKED, began=6, durable="reader") as watch:
                await eventually(lambda: watch.upto == 20)
            assert lines(watch) == numbered(7, 20)
            assert_kept(check_delivered(await dump_log(client, LOG.path), watch.events))


async def test_a_subscriber_whose_connection_was_gone_gets_exactly_what_it_missed() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, proxy):
            await publish(publisher, *numbered(1, 5))
            async with watched(subscriber, LOG.path) as watch:
                await eventually(lambda: watch.upto == 5)
                for first in range(6, 66, 10):
                    async with away(proxy):
                        await publish(publisher, *numbered(first, first + 9))
                    await eventually(lambda first=first: watch.upto == first + 9, 30)  # type: ignore[misc]
            assert (lines(watch), watch.resets) == (numbered(1, 65), [])
            assert_kept(check_delivered(await dump_log(publisher, LOG.path), watch.events))


async def test_trimmed_history_is_reported_with_its_exact_range() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, proxy), store_of(hub) as store:
            await publish(publisher, *numbered(1, 5))
            async with watched(subscriber, LOG.path) as watch:
                await eventually(lambda: watch.upto == 5)
                async with away(proxy):
                    await publish(publisher, *numbered(6, 20))
                    cut = await store.trim(LOG, 13)
                assert cut is not None
                assert cut.offset == 12
                await eventually(lambda: watch.upto == 20)
            (reset,) = watch.resets
            assert (reset.reason, reset.first, reset.last, reset.exact) == (ResetReason.TRIMMED, 6, 12, True)
            assert lines(watch) == numbered(1, 5) + numbered(13, 20)
            dump = await dump_log(publisher, LOG.path)
            assert dump.before == cut
            assert_kept(check_log(dump), check_delivered(dump, watch.events))


async def test_a_log_that_was_replaced_is_reported_as_unknown() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, proxy), store_of(hub) as store:
            await publish(publisher, *numbered(1, 5))
            async with watched(subscriber, LOG.path) as watch:
                await eventually(lambda: watch.upto == 5)
                async with away(proxy):
                    assert await store.delete(LOG)
                    async with Client.connect(hub.url, token=hub.token) as other:
                        await publish(other, *numbered(1, 8, "other"))
                await eventually(lambda: watch.resets and watch.upto == 8)
            (reset,) = watch.resets
            assert (reset.reason, reset.first, reset.last) == (ResetReason.UNKNOWN, 1, 5)
            assert lines(watch) == numbered(1, 5) + numbered(1, 8, "other")
            assert_kept(check_delivered(await dump_log(publisher, LOG.path), watch.events))


async def test_a_log_that_is_replaced_under_a_live_subscriber_is_reported_too() -> None:
    rarely = "600000"  # where the hub looks between the two steps, the log is gone: that is another story
    async with Fleet({"FLEETLINE_RECHECK_MS": rarely}) as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, _), store_of(hub) as store:
            await publish(publisher, *numbered(1, 5))
            async with watched(subscriber, LOG.path) as watch:
                await eventually(lambda: watch.upto == 5)
                assert await store.delete(LOG)
                async with Client.connect(hub.url, token=hub.token) as other:
                    await publish(other, *numbered(1, 8, "other"))
                await eventually(lambda: watch.resets and watch.upto == 8)
            assert watch.resets[-1].reason is ResetReason.UNKNOWN
            assert lines(watch)[-8:] == numbered(1, 8, "other")


async def test_diverged_history_is_reported_with_its_exact_range_and_what_took_its_place_follows() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, proxy):
            await publish(publisher, *numbered(1, 600))
            async with watched(subscriber, LOG.path) as watch:
                await eventually(lambda: watch.upto == 600)
                await snapshot(hub, "copy")
                await hub.start()
                async with Client.connect(hub.url, token=hub.token) as other:
                    await publish(other, *numbered(601, 700, "lost"))
                await eventually(lambda: watch.upto == 700)
                async with away(proxy):
                    await restore(hub, "copy")
                    await hub.start()
                    async with Client.connect(hub.url, token=hub.token) as other:
                        await publish(other, *numbered(601, 900, "new"))
                await eventually(lambda: watch.resets and watch.upto == 900, 30)
                dump = await dump_log(subscriber, LOG.path)
            (reset,) = watch.resets
            assert (reset.reason, reset.first, reset.last, reset.exact) == (ResetReason.DIVERGED, 601, 700, True)
            assert reset.at == 600
            assert lines(watch)[700:] == numbered(601, 900, "new")
            assert_kept(check_log(dump), check_delivered(dump, watch.events))


async def test_a_history_that_is_only_shorter_is_reported_as_diverged() -> None:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with connected(fleet, hub) as (publisher, subscriber, _):
            await publish(publisher, *numbered(1, 10))
            await snapshot(hub, "copy")
            await hub.start()
            async with watched(subscriber, LOG.path) as watch:
                async with Client.connect(hub.url, token=hub.token) as other:
                    await publish(other, *numbered(11, 15, "lost"))
                await eventually(lambda: watch.upto == 15)
                await restore(hub, "copy")
                await hub.start()
                await eventually(lambda: watch.resets, 30)
                async with Client.connect(hub.url, token=hub.token) as other:
                    await publish(other, *numbered(11, 13, "new"))
                await eventually(lambda: watch.upto == 13)
                assert_kept(check_delivered(await dump_log(subscriber, LOG.path), watch.events))
            (reset,) = watch.resets
            assert (reset.reason, reset.first, reset.last, reset.at) == (ResetReason.DIVERGED, 11, 15, 10)
            assert isinstance(watch.events[0], Began)
