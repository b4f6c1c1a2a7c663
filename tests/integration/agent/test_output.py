"""What handlers write, against the real hub: as it comes, in order, however the hub is cut off, within a limit."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent import Agent, Client, Entry, Run, SyncClient
from agent.outbox import Outbox
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.limits import Limits
from protocol.output import output_of
from tests.support.proxy import FaultProxy
from tests.support.talkers import LINE_BYTES, PIPE_BYTES_MAX, make_talker
from tests.support.timing import deadline, eventually

FLOODS = ("flood", "flood_plain", "flood_thread", "flood_process")
WINDOW = Limits(publish_entries_max=64, publish_bytes_max=64 * 1024)


@pytest.fixture
async def narrow(tmp_path: Path) -> AsyncIterator[Hub]:
    """A hub whose publish window is small."""
    settings = Settings(data=tmp_path, listen="127.0.0.1:0", durability=Durability.MEMORY, limits=WINDOW)
    server = MemoryServer(lambda: time.time_ns() // 1_000_000)
    async with Hub(settings, MemoryStore(server, "hub")) as running:
        yield running


@contextlib.asynccontextmanager
async def serving(hub: Hub, agent: Agent, url: str | None = None) -> AsyncIterator[Outbox]:
    token = (hub.settings.data / "local.token").read_text().strip() if url else None
    task = asyncio.create_task(agent.serve(url, token=token, directory=None if url else hub.settings.data))
    try:
        await eventually(lambda: agent._service is not None)
        assert agent._service is not None
        yield agent._service._link.peer.outbox
    finally:
        agent.stop(0.0)
        await task


async def test_what_is_written_is_read_as_it_is_while_it_is_written(hub: Hub) -> None:
    async with deadline(40), serving(hub, make_talker()), Client.connect(directory=hub.settings.data) as client:
        run = await client.submit("dictate", ["one ", "two\n", "three"])
        async with contextlib.aclosing(run.output(follow=True)) as pieces:
            seen = b""
            while seen != b"one two\nthree":
                seen += (await anext(pieces)).data
                assert b"one two\nthree".startswith(seen)
            await run.steer(" and on")
            said = [(piece.stream, piece.data, piece.attempt) async for piece in pieces]
        assert said == [("stderr", b"heard\n", 1), ("stdout", b" and on", 1)]
        everything = b"".join([piece.data async for piece in run.output()])
        assert everything == b"one two\nthreeheard\n and on"

        def read() -> bytes:
            with SyncClient.connect(directory=hub.settings.data) as blocking:
                return b"".join(piece.data for piece in blocking.run(run.id).output(follow=True))

        assert await asyncio.to_thread(read) == everything


async def test_small_pieces_make_few_entries(hub: Hub) -> None:
    async with deadline(40), serving(hub, make_talker()), Client.connect(directory=hub.settings.data) as client:
        run = await client.submit("type", 3000)
        await run.result()
        written = [output_of(entry.kind, entry.body) async for entry in client.read(run.log)]
        pieces = [each for each in written if each]
        assert b"".join(pieces) == b"".join(b"%d\n" % number for number in range(3000))
        assert len(pieces) < 1000


async def test_handlers_that_are_cut_off_wait_and_nothing_is_lost_or_out_of_order(narrow: Hub, tmp_path: Path) -> None:
    hub_at, lines = urlsplit(narrow.url), 600
    async with (
        deadline(60),
        FaultProxy((hub_at.hostname or "", hub_at.port or 0)) as proxy,
        serving(narrow, make_talker(), proxy.url) as outbox,
        Client.connect(directory=tmp_path) as client,
    ):
        runs: dict[str, Run] = {}
        for handler in FLOODS:
            options = {"count": str(tmp_path / handler), "go": str(tmp_path / "go"), "lines": lines}
            runs[handler] = await client.submit(handler, options)
        for run in runs.values():
            async with run.watch() as watched:
                assert [entry.kind async for entry in take_until(watched, "ready")][-1] == "ready"
        proxy.refuse()
        proxy.cut()
        (tmp_path / "go").touch()
        await eventually(lambda: len(outbox._room) == len(FLOODS), 20.0)
        tried = proxy.accepted
        await eventually(lambda: proxy.accepted > tried)
        assert outbox.bytes <= WINDOW.publish_bytes_max
        assert outbox.entries <= WINDOW.publish_entries_max
        ahead = sum(int((tmp_path / handler).read_text() or 0) for handler in FLOODS)
        assert ahead * LINE_BYTES <= WINDOW.publish_bytes_max + PIPE_BYTES_MAX < lines * LINE_BYTES
        proxy.refuse(False)
        for run in runs.values():
            await run.result()
            assert await told(client, run) == list(range(lines))


async def take_until(entries: AsyncIterator[Entry], kind: str) -> AsyncIterator[Entry]:
    async for entry in entries:
        yield entry
        if entry.kind == kind:
            return


async def told(client: Client, run: Run) -> list[int]:
    """Return the numbers that a run emitted or wrote, in order; what was written with others counts behind the last."""
    numbers: list[int] = []
    async for entry in client.read(run.log):
        if entry.kind == "n":
            numbers.append(entry.body["n"])
        written = output_of(entry.kind, entry.body) or b""
        numbers += [int(line.split()[0]) for line in written.splitlines()]
    return numbers
