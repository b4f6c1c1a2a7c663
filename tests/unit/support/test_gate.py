"""The gate between hub and store: what passes, and what is caught in flight."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.gate import StoreGate
from tests.support.timing import deadline, eventually


class FakeStore:
    """Answers every line, and remembers it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.heard.append(line)
                writer.write(b"+" + line)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="fl-"))
    yield path
    shutil.rmtree(path)


@asynccontextmanager
async def gated(directory: Path) -> AsyncIterator[tuple[FakeStore, StoreGate]]:
    store = FakeStore()
    server = await asyncio.start_unix_server(store.serve, directory / "socket")
    async with StoreGate.interpose(directory / "socket") as gate:
        yield store, gate
    assert sorted(path.name for path in directory.iterdir()) == ["socket"]
    server.close()


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_unix_connection(directory / "socket")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_what_has_no_mark_passes(directory: Path) -> None:
    async with gated(directory) as (store, gate), connected(directory) as (reader, writer):
        gate.arm(b"commit")
        writer.write(b"read\n")
        async with deadline(5):
            assert await reader.readline() == b"+read\n"
        assert store.heard == [b"read\n"]
        assert not gate.caught.is_set()


@pytest.mark.parametrize(("execute", "heard"), [(True, [b"commit 1\n"]), (False, [])])
async def test_a_marked_request_is_held_in_flight(directory: Path, execute: bool, heard: list[bytes]) -> None:
    async with gated(directory) as (store, gate):
        async with connected(directory) as (reader, writer):
            gate.arm(b"commit")
            writer.write(b"commit 1\n")
            async with deadline(5):
                await gate.caught.wait()
            assert (gate.request, store.heard) == (b"commit 1\n", [])
            if execute:
                gate.execute()
            await eventually(lambda: store.heard == heard)
            answer = asyncio.create_task(reader.readline())
            _, unanswered = await asyncio.wait([answer], timeout=0.05)
            assert unanswered == {answer}
        gate.open()
        async with deadline(5):
            await answer
        async with connected(directory) as (reader, writer):
            writer.write(b"commit 2\n")
            async with deadline(5):
                assert await reader.readline() == b"+commit 2\n"
        assert store.heard == [*heard, b"commit 2\n"]


async def test_a_mark_that_comes_in_two_parts_is_seen(directory: Path) -> None:
    async with gated(directory) as (store, gate), connected(directory) as (_, writer):
        gate.arm(b"commit")
        writer.write(b"first\nco")
        await eventually(lambda: store.heard == [b"first\n"])
        writer.write(b"mmit\n")
        async with deadline(5):
            await gate.caught.wait()
