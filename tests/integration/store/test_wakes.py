"""Wake hints between hubs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orchestrator.store import keys
from orchestrator.store.base import Durability, Letter, Store, Wake
from orchestrator.store.redis import RedisStore
from protocol.codec import pack_script_arguments
from protocol.ids import partition_of
from tests.integration.store.conftest import World
from tests.support.commits import append, commit, done, topic
from tests.support.stores import StoreServer
from tests.support.timing import deadline, eventually

LOG = topic()


async def listen(store: Store, hear: Callable[[Wake], None]) -> None:
    """Hand on the hints that a store hears, until it is closed."""
    async for wake in store.wakes():
        if isinstance(wake, Wake):
            hear(wake)


async def read(store: Store, hear: Callable[[bytes], None]) -> None:
    """Hand on the letters that a store is sent, until it is closed."""
    async for letter in store.wakes():
        if isinstance(letter, Letter):
            hear(letter.body)


@asynccontextmanager
async def hearing(store: Store) -> AsyncIterator[list[Wake]]:
    """What a store hears while the body runs."""
    heard: list[Wake] = []
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(listen(store, heard.append))
        yield heard
        task.cancel()


async def knock(speaker: Store, heard: list[Wake]) -> None:
    """Commit until the listener hears: subscribing takes a moment."""

    async def is_heard() -> bool:
        await done(speaker, commit(append(topic("knock"), b"x")))
        return bool(heard)

    await eventually(is_heard)


async def test_other_hubs_hear_heads_and_hints(world: World) -> None:
    speaker, listener = await world.store("hub-a"), await world.store("hub-b")
    async with hearing(listener) as heard:
        await knock(speaker, heard)
        await done(speaker, commit(append(LOG, b"1", b"2"), hints=("queue/q", "run/r")))

        wake = await eventually(lambda: next((wake for wake in heard if wake.hints), None))

    assert wake == Wake(partition_of(LOG), {"default/topic/news": 2}, ("queue/q", "run/r"))


async def test_a_hub_does_not_hear_itself(world: World) -> None:
    speaker, listener = await world.store("hub-a"), await world.store("hub-b")
    async with hearing(listener) as heard, hearing(speaker) as own:
        await knock(speaker, heard)
        await knock(listener, own)

        names = {name for wake in own for name in wake.heads}
        await done(speaker, commit(append(LOG, b"1")))
        await eventually(lambda: any("default/topic/news" in wake.heads for wake in heard))
        await done(listener, commit(append(topic("last"), b"1")))
        await eventually(lambda: any("default/topic/last" in wake.heads for wake in own))

        assert names == {"default/topic/knock"}
        assert not any("default/topic/news" in wake.heads for wake in own)


async def test_nothing_is_said_about_what_did_not_happen(world: World) -> None:
    speaker, listener = await world.store("hub-a"), await world.store("hub-b")
    async with hearing(listener) as heard:
        await knock(speaker, heard)
        proposed = commit(append(LOG, b"1"), hints=("once",))
        await done(speaker, proposed)
        await done(speaker, proposed)
        await speaker.commit(commit(append(LOG, b"2", expect=9), hints=("refused",)))
        await done(speaker, commit(append(LOG, b"3"), hints=("last",)))
        await eventually(lambda: any("last" in wake.hints for wake in heard))

    assert [hint for wake in heard for hint in wake.hints] == ["once", "last"]


async def test_a_letter_is_for_one_hub_alone_and_nothing_is_kept_of_it(world: World) -> None:
    speaker, listener, other = [await world.store(f"hub-{name}") for name in "abc"]
    heard: list[bytes] = []
    assert not await speaker.post("hub-z", b"nobody")
    async with asyncio.TaskGroup() as tasks:
        readers = [tasks.create_task(read(store, heard.append)) for store in (listener, other)]
        assert await eventually(lambda: speaker.post("hub-b", b"\x00 first"))
        assert await speaker.post("hub-b", b"second")
        await eventually(lambda: heard == [b"\x00 first", b"second"])
        for reader in readers:
            reader.cancel()


async def test_listening_ends_when_the_store_is_closed(world: World) -> None:
    speaker, listener = await world.store("hub-a"), await world.store("hub-b")
    heard: list[Wake] = []
    async with asyncio.TaskGroup() as tasks, deadline(20):
        task = tasks.create_task(listen(listener, heard.append))
        await knock(speaker, heard)
        await listener.close()
        await task


async def test_hints_come_again_after_the_server_was_away(server: StoreServer, redis_store: RedisStore) -> None:
    async with hearing(redis_store) as heard:
        await _knock_raw(server, heard, "before")
        await server.restart()
        heard.clear()
        await _knock_raw(server, heard, "after")

    assert {hint for wake in heard for hint in wake.hints} == {"after"}


async def test_a_hub_that_is_alone_is_not_told_of_what_it_does(server: StoreServer, redis_store: RedisStore) -> None:
    other = RedisStore(server.url, Durability.MEMORY, "hub-other")
    async with hearing(redis_store) as own:
        await _knock_raw(server, own, "hello")
        before = await _told(server)
        await done(redis_store, commit(append(LOG, b"1"), hints=("said",)))
        assert await _told(server) == before
        await other.open()
        async with hearing(other) as heard:
            await knock(redis_store, heard)
        await other.close()
    assert await _told(server) > before


async def test_others_are_told_while_a_hub_does_not_listen_itself(server: StoreServer, redis_store: RedisStore) -> None:
    other = RedisStore(server.url, Durability.MEMORY, "hub-other")
    await other.open()
    async with hearing(other) as heard:
        await knock(redis_store, heard)
    await other.close()


async def _told(server: StoreServer) -> int:
    """Return how many hints the server has passed on, or tried to."""
    stats = (await server.command("INFO", "commandstats")).decode()
    (line,) = (line for line in stats.splitlines() if line.startswith("cmdstat_spublish:"))
    return int(line.partition("calls=")[2].partition(",")[0])


def _publish(hint: str) -> tuple[bytes | str, ...]:
    return ("SPUBLISH", keys.wake(5), pack_script_arguments(("hub-z", [], [hint])))


async def _knock_raw(server: StoreServer, heard: list[Wake], hint: str) -> None:
    async def is_heard() -> bool:
        await server.command(*_publish(hint))
        return bool(heard)

    await eventually(is_heard)
