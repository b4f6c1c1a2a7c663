"""Agents that enrol a key of their own, on a real hub: the whole way, and copies that are of no use."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.client import Client
from agent.context import RunContext
from agent.errors import NotAuthenticated
from agent.identity import IDENTITY_FILE, KeyRefused
from agent.worker import Agent
from orchestrator.auth.principal import Grant
from orchestrator.hub import Hub
from orchestrator.settings import EnrolAccept, Settings
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.requests import KeyChange, KeyList
from tests.support.timing import deadline, eventually


@asynccontextmanager
async def a_hub(tmp_path: Path, policy: EnrolAccept) -> AsyncIterator[Hub]:
    store = MemoryStore(MemoryServer(lambda: time.time_ns() // 1_000_000), "s")
    settings = Settings(data=tmp_path / "hub", listen="127.0.0.1:0", enrol_accept=policy)
    async with Hub(settings, store) as hub:
        yield hub


def join_token(hub: Hub, file: Path, agents: str = "m1") -> Path:
    grant = Grant("rack", "default", frozenset({"agent"}), frozenset({agents}), 1)
    now_s = int(time.time())
    file.write_text(hub.services.tokens.issue(grant, now_s=now_s, ttl_s=60, token_id=secrets.token_hex(8)))
    return file


def worker() -> Agent:
    agent = Agent("m1")

    @agent.handler("add")
    async def add(ctx: RunContext, a: int, b: int) -> int:
        del ctx
        return a + b

    return agent


@asynccontextmanager
async def serving(hub: Hub, state: Path, join: Path | None = None) -> AsyncIterator[asyncio.Event]:
    """Let an agent serve that has no token; the event is set once it is let in."""
    agent, ready = worker(), asyncio.Event()
    run = agent.serve(hub.url, join_token_file=join, state_dir=state, directory=state, on_ready=ready.set)
    task = asyncio.create_task(run)
    try:
        yield ready
    finally:
        agent.stop(0.0)
        await task


async def test_an_agent_enrols_once_and_works_without_a_token_from_then_on(tmp_path: Path) -> None:
    async with (
        deadline(30),
        a_hub(tmp_path, EnrolAccept.JOIN) as hub,
        Client.connect(directory=tmp_path / "hub") as client,
    ):
        join = join_token(hub, tmp_path / "join")
        async with serving(hub, tmp_path / "state", join) as ready:
            await ready.wait()
        join.unlink()
        async with serving(hub, tmp_path / "state", join):
            assert await client.execute("add", {"a": 1, "b": 2}) == 3
        (shown,) = (await client.ask("key.list", KeyList())).keys
        assert (shown.name, shown.state, shown.by) == ("agent/m1", "accepted", "join:rack")


async def test_an_agent_that_is_pending_is_in_soon_after_it_is_accepted(tmp_path: Path) -> None:
    async with (
        deadline(30),
        a_hub(tmp_path, EnrolAccept.MANUAL) as hub,
        Client.connect(directory=tmp_path / "hub") as client,
    ):
        join = join_token(hub, tmp_path / "join")
        async with serving(hub, tmp_path / "state", join) as ready:

            async def pending() -> bool:
                return [key.state for key in (await client.ask("key.list", KeyList())).keys] == ["pending"]

            await eventually(pending)
            assert not ready.is_set()
            await client.ask("key.accept", KeyChange(name="agent/m1"))
            async with deadline(8):
                await ready.wait()


async def test_a_copied_state_directory_without_the_key_is_of_no_use(tmp_path: Path) -> None:
    async with deadline(30), a_hub(tmp_path, EnrolAccept.JOIN) as hub:
        join = join_token(hub, tmp_path / "join")
        async with serving(hub, tmp_path / "state", join) as ready:
            await ready.wait()
        stolen = tmp_path / "stolen"
        shutil.copytree(tmp_path / "state", stolen)
        said = json.loads((stolen / IDENTITY_FILE).read_text())
        other = Ed25519PrivateKey.generate()
        said["private_key"] = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        (stolen / IDENTITY_FILE).write_text(json.dumps(said))
        with pytest.raises(NotAuthenticated):
            await worker().serve(hub.url, state_dir=stolen, directory=stolen)
        (stolen / IDENTITY_FILE).unlink()
        again = join_token(hub, tmp_path / "another")
        with pytest.raises(KeyRefused):
            await worker().serve(hub.url, join_token_file=again, state_dir=stolen, directory=stolen)
