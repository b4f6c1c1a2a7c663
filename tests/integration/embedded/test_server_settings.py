"""The settings check against real servers: what it names is what has to be changed, and changing it helps."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis.asyncio

from orchestrator.store.base import Durability, StoreMisconfigured
from orchestrator.store.durability import check_server, inspect_server
from tests.support.stores import BINARIES, Binary, binary_path
from tests.support.timing import deadline, eventually

OUT_OF_THE_BOX = ["--port", "0", "--save", "", "--daemonize", "no"]
SETTINGS_MAX = 5


@pytest.fixture(params=BINARIES)
async def client(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[redis.asyncio.Redis]:
    """Run a server as it comes out of the box, and connect to it."""
    binary: Binary = request.param
    socket = tmp_path / "s"
    process = await asyncio.create_subprocess_exec(
        *[binary_path(binary), *OUT_OF_THE_BOX, "--unixsocket", str(socket), "--dir", str(tmp_path)],
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        await eventually(socket.exists)
        async with redis.asyncio.Redis(unix_socket_path=str(socket)) as client:
            yield client
    finally:
        process.kill()
        await process.wait()


def remedy_in(message: str) -> tuple[str, str]:
    """Return the setting that a refusal says to change, and the value."""
    words = re.search(r"CONFIG SET (\S+) (\S+),", message)
    assert words is not None, message
    return words[1], words[2]


async def permit(client: redis.asyncio.Redis, *rules: str) -> None:
    """Change what the user of this connection may do."""
    await client.execute_command("ACL", "SETUSER", "default", *rules)  # type: ignore[no-untyped-call]


async def test_following_the_remedies_one_by_one_ends_in_a_server_that_passes(client: redis.asyncio.Redis) -> None:
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await client.config_set("no-appendfsync-on-rewrite", "yes")
    changed = []
    async with deadline(20):
        for _ in range(SETTINGS_MAX):
            try:
                await check_server(client.execute_command, Durability.LOCAL)
                break
            except StoreMisconfigured as error:
                setting, value = remedy_in(str(error))
                changed.append(setting)
                await client.config_set(setting, value)
    assert changed == ["maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite"]
    findings = await inspect_server(client.execute_command, Durability.LOCAL)
    assert all(finding.ok for finding in findings), findings


async def test_memory_durability_needs_no_append_only_file(client: redis.asyncio.Redis) -> None:
    await check_server(client.execute_command, Durability.MEMORY)


async def test_a_user_who_may_not_read_the_settings_is_told_what_to_allow(client: redis.asyncio.Redis) -> None:
    await permit(client, "-config")
    await check_server(client.execute_command, Durability.MEMORY)
    with pytest.raises(StoreMisconfigured, match=r"appendonly is no|\+config\|get"):
        await check_server(client.execute_command, Durability.LOCAL)
    await permit(client, "+config|get", "+config|set")
    for setting, value in [("appendonly", "yes"), ("appendfsync", "always")]:
        await client.config_set(setting, value)
    await check_server(client.execute_command, Durability.LOCAL)
    await permit(client, "-config")
    with pytest.raises(StoreMisconfigured, match=r"appendfsync is unreadable.*\+config\|get"):
        await check_server(client.execute_command, Durability.LOCAL)


async def test_a_replica_is_refused_with_its_primary_named(client: redis.asyncio.Redis) -> None:
    await client.replicaof("127.0.0.1", "1")
    with pytest.raises(StoreMisconfigured, match=r"role is slave.*replica of 127\.0\.0\.1:1"):
        await check_server(client.execute_command, Durability.MEMORY)
