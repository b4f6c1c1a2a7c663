"""What the hub asks of a server before it trusts it, against replies as servers and clients give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from orchestrator.store.base import Durability, StoreMisconfigured
from orchestrator.store.durability import Finding, check_server, inspect_server

GOOD_INFO = {
    "redis_version": "7.2.4",
    "valkey_version": "9.1.2",
    "server_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
}
GOOD_CONFIG = {
    "maxmemory-policy": "noeviction",
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "aof-load-truncated": "yes",
}


class Server:
    """Answers INFO and CONFIG GET as a server would."""

    def __init__(self, info: Mapping[str, str] | None = None, config: Mapping[str, str] | None = None) -> None:
        self.info = {**GOOD_INFO, **(info or {})}
        self.config = {**GOOD_CONFIG, **(config or {})}
        self.config_refusal: ResponseError | None = None
        self.asked: list[tuple[str, ...]] = []

    async def run(self, *words: str) -> Any:
        self.asked.append(words)
        if words == ("INFO",):
            return b"# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in self.info.items()).encode()
        assert words[:2] == ("CONFIG", "GET")
        if self.config_refusal is not None:
            raise self.config_refusal
        name = words[2]
        return [name.encode(), self.config[name].encode()] if name in self.config else []

    async def run_decoded(self, *words: str) -> Any:
        """Answer as a client does that makes maps and numbers of the replies."""
        if words == ("INFO",):
            return {name: int(value) if value.isdigit() else value for name, value in self.info.items()}
        return {words[2]: self.config[words[2]]}


async def refusal(server: Server, durability: Durability) -> str:
    with pytest.raises(StoreMisconfigured) as caught:
        await check_server(server.run, durability)
    return str(caught.value)


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_server_with_the_right_settings_passes(durability: Durability) -> None:
    server = Server()
    await check_server(server.run, durability)
    await check_server(server.run_decoded, durability)
    assert all(finding.ok for finding in await inspect_server(server.run, durability))


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("appendonly", "no", "yes"),
        ("appendfsync", "everysec", "always"),
        ("appendfsync", "no", "always"),
        ("no-appendfsync-on-rewrite", "yes", "no"),
    ],
)
async def test_local_durability_names_the_setting_to_change(setting: str, value: str, wanted: str) -> None:
    server = Server(config={setting: value})
    message = await refusal(server, Durability.LOCAL)
    assert f"{setting} is {value}" in message
    assert f"CONFIG SET {setting} {wanted}" in message
    await check_server(server.run, Durability.MEMORY)


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_evict_is_refused_at_every_level(durability: Durability, policy: str) -> None:
    message = await refusal(Server(config={"maxmemory-policy": policy}), durability)
    assert f"maxmemory-policy is {policy}" in message
    assert "CONFIG SET maxmemory-policy noeviction" in message


@pytest.mark.parametrize(
    ("info", "fits"),
    [
        ({"valkey_version": "8.0.0"}, True),
        ({"valkey_version": "10.0.1"}, True),
        ({"valkey_version": "7.2.9"}, False),
        ({"valkey_version": "", "redis_version": "7.0.15"}, True),
        ({"valkey_version": "", "redis_version": "6.2.14"}, False),
        ({"valkey_version": "", "redis_version": "unstable"}, False),
    ],
)
async def test_old_servers_are_refused(info: dict[str, str], fits: bool) -> None:
    finding = next(f for f in await inspect_server(Server(info=info).run, Durability.MEMORY) if f.name == "version")
    assert finding.ok is fits


async def test_an_old_server_is_told_by_its_version_before_anything_else() -> None:
    server = Server(info={"valkey_version": "", "redis_version": "6.2.14"}, config={"appendonly": "no"})
    message = await refusal(server, Durability.LOCAL)
    assert "Redis 6.2.14" in message
    assert "upgrade" in message


async def test_a_replica_is_refused_and_its_primary_named() -> None:
    message = await refusal(
        Server(info={"role": "slave", "master_host": "db-1", "master_port": "6380"}), Durability.LOCAL
    )
    assert "role is slave" in message
    assert "db-1:6380" in message


@pytest.mark.parametrize("mode", ["cluster", "sentinel"])
async def test_cluster_and_sentinel_are_refused(mode: str) -> None:
    assert f"mode is {mode}" in await refusal(Server(info={"server_mode": mode}), Durability.LOCAL)


async def test_a_managed_server_that_hides_its_settings_is_refused_with_what_to_do() -> None:
    server = Server()
    server.config_refusal = ResponseError("unknown command 'CONFIG'")
    message = await refusal(server, Durability.LOCAL)
    assert "appendfsync is unreadable" in message
    assert "CONFIG GET is refused (unknown command 'CONFIG')" in message
    assert "--durability memory" in message


async def test_a_managed_server_serves_memory_durability_from_what_info_tells() -> None:
    server = Server(info={"maxmemory_policy": "noeviction"})
    server.config_refusal = NoPermissionError("no permissions to run config|get")
    await check_server(server.run, Durability.MEMORY)
    server.info["maxmemory_policy"] = "allkeys-lru"
    message = await refusal(server, Durability.MEMORY)
    assert "maxmemory-policy is allkeys-lru" in message
    assert "where this server is managed" in message


async def test_advice_does_not_refuse_a_server() -> None:
    server = Server(config={"aof-load-truncated": "no"})
    await check_server(server.run, Durability.LOCAL)
    findings = await inspect_server(server.run, Durability.LOCAL)
    advice = next(finding for finding in findings if not finding.ok)
    assert (advice.name, advice.required) == ("aof-load-truncated", False)


async def test_a_server_that_refuses_info_is_told_so() -> None:
    async def run(*words: str) -> Any:
        raise NoPermissionError(f"no permissions to run {words[0].lower()}")

    findings = await inspect_server(run, Durability.LOCAL)
    assert [type(finding) for finding in findings] == [Finding]
    with pytest.raises(StoreMisconfigured, match=r"INFO is refused .*\+info"):
        await check_server(run, Durability.LOCAL)


async def test_a_setting_that_the_server_does_not_know_is_refused() -> None:
    server = Server()
    del server.config["appendfsync"]
    assert "appendfsync is not known to this server" in await refusal(server, Durability.LOCAL)
