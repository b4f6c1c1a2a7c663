"""Artifacts against the real hub: whole or not there, whatever is cut off or killed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from agent import Agent, Client, RequestError, Run, RunCancelled, SyncClient
from agent.outbox import FLIGHT_CHUNKS
from agent.program import Program
from agent.results import ArtifactBroken
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Durability
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.artifacts import CHUNK_BYTES
from protocol.limits import Limits
from tests.support.attachers import make_attacher
from tests.support.programs import python
from tests.support.proxy import Direction, FaultProxy
from tests.support.timing import deadline, eventually

CHECKOUT = Path(__file__).parents[3]
HANDLERS = ("attach", "attach_plainly", "attach_apart")
LIMITS = Limits(artifact_bytes_max=8 * 1024 * 1024, run_artifacts_bytes_max=12 * 1024 * 1024)


@pytest.fixture
async def small(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Hub]:
    """A hub that takes few bytes of artifacts."""
    settings = Settings(
        data=tmp_path,
        listen="127.0.0.1:0",
        durability=Durability.MEMORY,
        limits=LIMITS,
        heartbeat_ms=500,
        lease_ms=getattr(request, "param", 15_000),
    )
    async with Hub(settings, MemoryStore(MemoryServer(lambda: time.time_ns() // 1_000_000), "hub")) as running:
        yield running


@contextlib.asynccontextmanager
async def serving(hub: Hub, agent: Agent, url: str | None = None) -> AsyncIterator[Agent]:
    token = (hub.settings.data / "local.token").read_text().strip() if url else None
    task = asyncio.create_task(agent.serve(url, token=token, directory=None if url else hub.settings.data))
    try:
        await eventually(lambda: agent._service is not None)
        yield agent
    finally:
        agent.stop(0.0)
        await task


@pytest.fixture
async def client(small: Hub) -> AsyncIterator[Client]:
    async with Client.connect(directory=small.settings.data) as connected:
        yield connected


def made(path: Path, size: int) -> Path:
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def kinds(client: Client, run: Run) -> list[str]:
    return [entry.kind async for entry in client.read(run.log)]


async def test_files_of_every_size_come_back_as_they_were(small: Hub, client: Client, tmp_path: Path) -> None:
    sizes = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES]
    files = [made(tmp_path / f"file {size}.bin", size) for size in sizes]
    (tmp_path / "got").mkdir()
    async with deadline(40), serving(small, make_attacher()):
        run = await client.submit("attach_each", [str(file) for file in files])
        logs = await run.result()
        listed = await run.artifacts()
        assert {one.name: (one.size, one.sha256, one.attempt) for one in listed} == {
            file.name: (file.stat().st_size, digest(file), 1) for file in files
        }
        assert logs == [f"artifact/{run.id}.1.{number}" for number in range(1, len(sizes) + 1)]
        for file in files:
            place = await run.fetch(file.name, tmp_path / "got")
            assert place == tmp_path / "got" / file.name
            assert place.read_bytes() == file.read_bytes()
        assert sorted(path.name for path in (tmp_path / "got").iterdir()) == sorted(file.name for file in files)
        assert (await kinds(client, run)).count("$attached") == len(files)
        with pytest.raises(RequestError, match=r"has no artifact 'x'; it has 'file 0\.bin'"):
            await run.fetch("x", tmp_path)

        def fetch() -> bytes:
            with SyncClient.connect(directory=small.settings.data) as blocking:
                handle = blocking.run(run.id)
                assert handle.artifacts() == listed
                return handle.fetch("file 1.bin", tmp_path / "renamed").read_bytes()

        assert await asyncio.to_thread(fetch) == files[1].read_bytes()


async def test_every_kind_of_handler_attaches(small: Hub, client: Client, tmp_path: Path) -> None:
    file = made(tmp_path / "a", 300_000)
    async with deadline(40), serving(small, make_attacher()):
        for run in [await client.submit(one, {"path": str(file), "name": "b.bin"}) for one in HANDLERS]:
            assert await run.result() == ["b.bin", 300_000, digest(file)]
            assert (await run.fetch("b.bin", tmp_path)).read_bytes() == file.read_bytes()


async def test_what_cannot_be_attached_is_said_precisely(small: Hub, client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(LIMITS.artifact_bytes_max + 1)
    cases = {
        str(tmp_path / "none"): f"AttachFailed: {tmp_path}/none cannot be attached: No such file or directory",
        str(tmp_path): f"AttachFailed: {tmp_path} cannot be attached: it is no regular file",
        str(tmp_path / "pipe"): f"AttachFailed: {tmp_path}/pipe cannot be attached: it is no regular file",
        str(large): "RequestError: .*'large' has 8388609 bytes; an artifact has 8388608 at most",
        "/": "ValueError: '' is no name for an artifact",
    }
    async with deadline(40), serving(small, make_attacher()):
        for path, why in cases.items():
            said = await (await client.submit("fails", {"path": path})).result()
            assert all(part in said for part in why.split(".*")), said
        run = await client.submit("attach_each", [str(made(tmp_path / str(n), 7 * 1024 * 1024)) for n in range(2)])
        with pytest.raises(Exception, match="the run's artifacts have 14680064 bytes; together they have 12582912"):
            await run.result()
        assert [one.name for one in await run.artifacts()] == ["0"]


async def carries(proxy: FaultProxy, more_than: int) -> None:
    """Wait until so many bytes went to the hub."""
    await eventually(lambda: proxy.carried(Direction.TO_TARGET) > more_than, 20.0)


def shortened(file: Path) -> None:
    os.truncate(file, 1000)


def grown(file: Path) -> None:
    with file.open("ab") as opened:
        opened.write(b"more")


async def test_a_file_that_changes_meanwhile_is_not_attached(small: Hub, client: Client, tmp_path: Path) -> None:
    hub_at = urlsplit(small.url)
    for change in (shortened, grown):
        file = made(tmp_path / "log", 40 * CHUNK_BYTES - 5_000_000)
        async with (
            deadline(40),
            FaultProxy((hub_at.hostname or "", hub_at.port or 0)) as proxy,
            serving(small, make_attacher(), proxy.url),
        ):
            proxy.throttle(4_000_000, Direction.TO_TARGET)
            run = await client.submit("fails", {"path": str(file)})
            await carries(proxy, 4 * CHUNK_BYTES)
            change(file)
            proxy.throttle(None)
            assert "log changed while it was attached, so it was not" in await run.result()
            assert await run.artifacts() == ()


async def test_an_upload_goes_on_after_the_connection_was_cut(small: Hub, client: Client, tmp_path: Path) -> None:
    file = made(tmp_path / "file", 20 * CHUNK_BYTES + 17)
    hub_at = urlsplit(small.url)
    async with (
        deadline(60),
        FaultProxy((hub_at.hostname or "", hub_at.port or 0)) as proxy,
        serving(small, make_attacher(), proxy.url) as agent,
    ):
        proxy.throttle(4_000_000, Direction.TO_TARGET)
        run = await client.submit("attach", {"path": str(file)})
        for part in (3, 10):
            await carries(proxy, part * CHUNK_BYTES)
            proxy.cut()
        service = agent._service
        assert service is not None
        most = FLIGHT_CHUNKS * (CHUNK_BYTES + 1024)
        assert service._link.peer.outbox.bytes <= most
        proxy.throttle(None)
        await run.result()
        assert (await run.fetch("file", tmp_path / "got")).read_bytes() == file.read_bytes()
        assert proxy.carried(Direction.TO_TARGET) < file.stat().st_size + 3 * most, "it was not sent anew"


@pytest.mark.parametrize("small", [2000], indirect=True)
async def test_a_killed_agent_leaves_no_part_and_the_next_attempt_uploads_only_what_is_not_recorded(
    small: Hub, client: Client, tmp_path: Path
) -> None:
    files = [made(tmp_path / "done", 100), made(tmp_path / "large", 25 * CHUNK_BYTES)]
    hub_at = urlsplit(small.url)
    async with deadline(60), FaultProxy((hub_at.hostname or "", hub_at.port or 0)) as proxy:
        environment = os.environ | {
            "FLEETLINE_HUB": proxy.url,
            "FLEETLINE_TOKEN": (tmp_path / "local.token").read_text().strip(),
        }
        program = [sys.executable, "-m", "tests.support.attachers", str(tmp_path / "nothing")]
        first = subprocess.Popen(program, cwd=CHECKOUT, env=environment, stderr=subprocess.DEVNULL)
        try:
            proxy.throttle(4_000_000, Direction.TO_TARGET)
            run = await client.submit("attach_each", [str(file) for file in files])
            await carries(proxy, 6 * CHUNK_BYTES)
            first.send_signal(signal.SIGKILL)
        finally:
            first.kill()
            first.wait()
        assert [one.name for one in await run.artifacts()] == ["done"]
        assert {log.log for log in await client.logs("artifact")} == {f"artifact/{run.id}.1.{n}" for n in (1, 2)}
        with pytest.raises(RequestError, match="has no artifact 'large'"):
            await run.fetch("large", tmp_path)
        async with serving(small, make_attacher("second")):
            logs = await run.result()
        assert logs == [f"artifact/{run.id}.1.1", f"artifact/{run.id}.2.1"]
        assert (await run.fetch("large", tmp_path / "got")).read_bytes() == files[1].read_bytes()
        assert (await kinds(client, run)).count("$attached") == 2
        assert {log.log for log in await client.logs("artifact")} == set(logs), "what was abandoned is gone"


async def test_the_last_of_one_name_counts_and_what_was_not_waited_for_is_not_there(
    small: Hub, client: Client, tmp_path: Path
) -> None:
    first, second = made(tmp_path / "x", 10), made(tmp_path / "sub", 20)
    second = second.rename(tmp_path / "y")
    (tmp_path / "deep").mkdir()
    second = second.rename(tmp_path / "deep" / "x")
    async with deadline(40), serving(small, make_attacher()):
        run = await client.submit("attach_each", [str(first), str(second)])
        await run.result()
        assert [(one.name, one.size) for one in await run.artifacts()] == [("x", 20)]
        assert (await run.fetch("x", tmp_path / "got")).read_bytes() == second.read_bytes()
        forgotten = await client.submit("forget", {"path": str(made(tmp_path / "big", 7_000_000))})
        await forgotten.result()
        assert await forgotten.artifacts() == ()


async def all_begun(client: Client, count: int) -> bool:
    """Whether so many files are on their way."""
    return len(await client.logs("artifact")) == count


async def test_a_cancelled_handler_waits_for_no_upload(small: Hub, client: Client, tmp_path: Path) -> None:
    file = made(tmp_path / "file", 25 * CHUNK_BYTES)
    hub_at = urlsplit(small.url)
    async with (
        deadline(60),
        FaultProxy((hub_at.hostname or "", hub_at.port or 0)) as proxy,
        serving(small, make_attacher(), proxy.url) as agent,
    ):
        for count, handler in enumerate(HANDLERS, 1):
            proxy.throttle(1_000_000, Direction.TO_TARGET)
            run = await client.submit(handler, {"path": str(file)})
            await eventually(partial(all_begun, client, count), 20.0)
            await run.cancel()
            proxy.throttle(None)
            with pytest.raises(RunCancelled):
                await run.result()
            assert await run.artifacts() == ()
        service = agent._service
        assert service is not None
        await eventually(lambda: service._link.peer.outbox.entries == 0)


async def test_a_program_attaches_a_file_of_its_directory(small: Hub, client: Client, tmp_path: Path) -> None:
    agent = Agent("programs")
    file = made(tmp_path / "report", 1000)
    wrong = python("say(type='attach', path='/nowhere/at/all'); say(type='result')")
    right = python(f"say(type='attach', path={str(file)!r}, name='r.bin'); say(type='result', result=1)")
    agent.program("right", Program(right))
    agent.program("wrong", Program(wrong))
    async with deadline(40), serving(small, agent):
        run = await client.submit("right")
        assert await run.result() == 1
        assert (await run.fetch("r.bin", tmp_path)).read_bytes() == file.read_bytes()
        with pytest.raises(Exception, match="AttachFailed: /nowhere/at/all cannot be attached: No such file"):
            await (await client.submit("wrong")).result()


async def test_what_is_not_what_was_attached_is_not_fetched(
    small: Hub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = made(tmp_path / "file", 1000)
    async with deadline(40), serving(small, make_attacher()):
        run = await client.submit("attach", {"path": str(file)})
        await run.result()
        [artifact] = await run.artifacts()
        said = artifact.model_copy(update={"sha256": "0" * 64})

        async def artifacts(_: Run) -> tuple[object, ...]:
            return (said,)

        monkeypatch.setattr(Run, "artifacts", artifacts)
        (tmp_path / "got").mkdir()
        with pytest.raises(ArtifactBroken, match="nothing was written"):
            await run.fetch("file", tmp_path / "got")
        assert list((tmp_path / "got").iterdir()) == []
