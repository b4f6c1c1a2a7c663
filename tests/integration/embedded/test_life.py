"""The embedded store from start to stop, in this process."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from pathlib import Path

import pytest
import redis.asyncio

from orchestrator.store.base import Durability, StoreUnavailable
from orchestrator.store.datadir import SOCKET_PATH_BYTES_MAX, FileLock
from orchestrator.store.durability import check_server
from orchestrator.store.embedded import EmbeddedStore
from tests.integration.embedded.values import answers, get, gone, put
from tests.support.timing import eventually


def socket_of(url: str) -> Path:
    return Path(url.removeprefix("unix://"))


def append_only_file(data: Path) -> Path:
    return next((data / "store" / "appendonlydir").glob("*.incr.aof"))


async def test_start_stop_start_keeps_the_data(data: Path) -> None:
    store = EmbeddedStore(data)
    url = await store.start()
    pid = store.pid
    assert pid is not None
    put(url, "k", "1")
    await store.stop()
    assert store.pid is None
    await eventually(lambda: gone(pid))
    assert await store.start() == url
    assert get(url, "k") == "1"
    await store.stop()


async def test_the_server_gives_local_durability_and_listens_on_no_port(data: Path) -> None:
    store = EmbeddedStore(data)
    async with redis.asyncio.Redis.from_url(await store.start()) as client:
        await check_server(client.execute_command, Durability.LOCAL)
        assert (await client.info("server"))["tcp_port"] == 0
    await store.stop()


async def test_everything_in_the_directory_is_for_its_owner_alone(data: Path) -> None:
    store = EmbeddedStore(data)
    url = await store.start()
    put(url, "k", "1")
    assert stat.S_ISSOCK(socket_of(url).stat().st_mode)
    assert [path for path in [data, *data.rglob("*")] if path.stat().st_mode & 0o077] == []
    await store.stop()


async def test_stop_leaves_nothing_but_the_data(data: Path) -> None:
    store = EmbeddedStore(data)
    await store.start()
    await store.stop()
    assert {path.name for path in (data / "store").iterdir()} == {"appendonlydir", "hub.lock", "lock", "server.log"}


async def test_a_long_data_path_gets_a_short_private_socket(data: Path) -> None:
    store = EmbeddedStore(data / ("d" * 60) / ("e" * 60))
    url = await store.start()
    socket = socket_of(url)
    assert len(os.fsencode(socket)) <= SOCKET_PATH_BYTES_MAX
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    put(url, "k", "1")
    await store.stop()
    assert not socket.parent.exists()
    url = await store.start()
    assert get(url, "k") == "1"
    await store.stop()


async def test_a_path_with_marks_in_it_is_quoted_in_the_address(data: Path) -> None:
    store = EmbeddedStore(data / 'a "b" %41?c#d')
    url = await store.start()
    put(url, "k", "1")
    assert get(url, "k") == "1"
    await store.stop()


async def test_a_socket_that_a_cleaner_removed_comes_back_at_the_same_address(data: Path) -> None:
    store = EmbeddedStore(data / ("d" * 60) / ("e" * 60))
    url = await store.start()
    put(url, "k", "1")
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(store.watch())
        socket_of(url).unlink()
        socket_of(url).parent.rmdir()
        await eventually(lambda: answers(url, "k") == "1")
        watching.cancel()
    await store.stop()


async def test_a_hub_that_may_open_no_more_files_keeps_its_server(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, looks = EmbeddedStore(data), 0
    url = await store.start()

    def refuse(_: FileLock) -> bool:
        nonlocal looks
        looks += 1
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(store.watch())
        with monkeypatch.context() as patch:
            patch.setattr(FileLock, "acquire", refuse)
            await eventually(lambda: looks > 1)
        put(url, "k", "1")
        assert not watching.done()
        watching.cancel()
    await store.stop()


async def test_a_cut_tail_of_the_append_only_file_is_accepted(data: Path) -> None:
    store = EmbeddedStore(data)
    url = await store.start()
    put(url, "whole", "1")
    put(url, "cut", "2" * 100)
    await store.stop()
    aof = append_only_file(data)
    os.truncate(aof, aof.stat().st_size - 10)
    url = await store.start()
    assert get(url, "whole") == "1"
    assert get(url, "cut") is None
    await store.stop()


async def test_a_damaged_file_is_reported_in_the_servers_own_words_and_nothing_is_lost(data: Path) -> None:
    store = EmbeddedStore(data)
    url = await store.start()
    for number in range(20):
        put(url, f"k{number}", "1")
    await store.stop()
    aof = append_only_file(data)
    whole = aof.read_bytes()
    damaged = whole[:200] + b"\xff" * 40 + whole[240:]
    aof.write_bytes(damaged)
    with pytest.raises(StoreUnavailable, match=r"(?s)ended while starting: .*Bad file format"):
        await store.start()
    assert aof.read_bytes() == damaged
    aof.write_bytes(whole)
    url = await store.start()
    assert get(url, "k19") == "1"
    await store.stop()


async def test_a_server_program_that_does_not_start_is_reported(data: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"(?s)ended while starting"):
        await EmbeddedStore(data, program=Path("/bin/false")).start()
    store = EmbeddedStore(data)
    await store.start()
    await store.stop()
