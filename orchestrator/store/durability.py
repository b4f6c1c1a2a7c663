"""Whether a server can keep what Fleetline promises, setting by setting, and what to change where it cannot.

The hub asks at start, after every reconnect and every minute (`check_server`); `fleetline doctor` prints
what was found (`inspect_server`). Nothing is changed on the server: its settings belong to its operator.

Specification: docs/protocol.md, section "Durability".
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from orchestrator.store.base import Durability, StoreMisconfigured

__all__ = [
    "REDIS_VERSION_MIN",
    "VALKEY_VERSION_MIN",
    "Finding",
    "Run",
    "check_server",
    "inspect_server",
]

REDIS_VERSION_MIN = (7, 0)
VALKEY_VERSION_MIN = (8, 0)
UNREADABLE = "unreadable"

Run = Callable[..., Awaitable[Any]]
"""Runs one command given as words and returns its reply, in whatever form the client decodes it to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One setting of the server, and whether it will do.

    Attributes:
        name: the setting, as the server calls it.
        value: what the server has.
        wanted: what it should have.
        ok: whether the two agree.
        remedy: what to do about it, in words that can be followed.
        required: False for advice: the hub starts all the same.
    """

    name: str
    value: str
    wanted: str
    ok: bool
    remedy: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class _Wish:
    """A setting that CONFIG GET tells, what it should be, and why."""

    name: str
    wanted: str
    why: str
    required: bool = True


EVICTION = _Wish("maxmemory-policy", "noeviction", "the server may otherwise drop logs when its memory is full")
FSYNC = (
    _Wish("appendonly", "yes", "entries must be on disk before they are acknowledged"),
    _Wish("appendfsync", "always", "entries must be fsynced before they are acknowledged"),
    _Wish("no-appendfsync-on-rewrite", "no", "entries would not be fsynced while the file is rewritten"),
)
TRUNCATED = _Wish("aof-load-truncated", "yes", "the server may otherwise not start after a power cut", required=False)


async def check_server(run: Run, durability: Durability) -> None:
    """Make sure that the server can give the durability asked for.

    Whatever `run` raises where the server cannot be reached goes through.

    Raises:
        StoreMisconfigured: it cannot; the message names the first setting to change.
    """
    for finding in await inspect_server(run, durability):
        if finding.required and not finding.ok:
            raise StoreMisconfigured(
                f"the store's {finding.name} is {finding.value}; durability {durability.value!r} needs "
                f"{finding.wanted}: {finding.remedy}"
            )


async def inspect_server(run: Run, durability: Durability) -> tuple[Finding, ...]:
    """Return a finding for everything that matters at this durability, the gravest first."""
    try:
        info = _info(await run("INFO"))
    except ResponseError as refused:
        return (_unreadable("INFO", "readable", f"INFO is refused ({refused}); allow it with ACL +info"),)
    findings = [_version(info), _mode(info), _role(info)]
    wishes = [EVICTION]
    if durability is Durability.LOCAL:
        wishes += [*FSYNC, TRUNCATED]
    findings += [_judge(wish, info, await _setting(run, wish.name)) for wish in wishes]
    return tuple(findings)


def _version(info: Mapping[str, str]) -> Finding:
    valkey = info.get("valkey_version")
    product, text = ("Valkey", valkey) if valkey else ("Redis", info.get("redis_version", "unknown"))
    least = VALKEY_VERSION_MIN if valkey else REDIS_VERSION_MIN
    match = re.match(r"(\d+)\.(\d+)", text)
    return Finding(
        name="version",
        value=f"{product} {text}",
        wanted=f"{product} >= {least[0]}.{least[1]}",
        ok=match is not None and (int(match[1]), int(match[2])) >= least,
        remedy="upgrade the server to Redis 7.0 or Valkey 8.0, or a later one",
    )


def _mode(info: Mapping[str, str]) -> Finding:
    mode = info.get("server_mode") or info.get("redis_mode") or "standalone"
    return Finding(
        name="mode",
        value=mode,
        wanted="standalone",
        ok=mode == "standalone",
        remedy="name the address of one standalone primary; Cluster and Sentinel are not supported",
    )


def _role(info: Mapping[str, str]) -> Finding:
    role = info.get("role", "unknown")
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    where = f"this is a replica of {primary}; " if "master_host" in info else ""
    return Finding("role", role, "master", role == "master", f"{where}name the address of the primary")


async def _setting(run: Run, name: str) -> str | ResponseError | None:
    """Return a setting's value, None where the server has no such setting, or why it will not say."""
    try:
        reply = await run("CONFIG", "GET", name)
    except ResponseError as refused:
        return refused
    return dict(_pairs(reply)).get(name)


def _judge(wish: _Wish, info: Mapping[str, str], setting: str | ResponseError | None) -> Finding:
    """Compare a setting with what it should be; INFO knows two of them where CONFIG GET is refused."""
    remedy = f"CONFIG SET {wish.name} {wish.wanted}, and the same in the server's configuration ({wish.why})"
    if isinstance(setting, ResponseError):
        known = _from_info(wish.name, info)
        if known is None:
            return _refused(wish, setting)
        setting = known
        remedy = f"set it to {wish.wanted} where this server is managed ({wish.why})"
    value = "not known to this server" if setting is None else setting
    return Finding(wish.name, value, wish.wanted, setting == wish.wanted, remedy, wish.required)


def _from_info(name: str, info: Mapping[str, str]) -> str | None:
    if name == EVICTION.name:
        return info.get("maxmemory_policy")
    if name == "appendonly" and info.get("aof_enabled") == "0":
        return "no"
    if name == "appendonly" and info.get("aof_enabled") == "1":
        return "yes"
    return None


def _refused(wish: _Wish, refused: ResponseError) -> Finding:
    return _unreadable(
        wish.name,
        wish.wanted,
        f"CONFIG GET is refused ({refused}), so that nobody can tell; allow it with ACL +config|get, or, on a "
        f"managed server that never allows it, choose --durability {Durability.MEMORY.value}",
        required=wish.required,
    )


def _unreadable(name: str, wanted: str, remedy: str, *, required: bool = True) -> Finding:
    return Finding(name, UNREADABLE, wanted, ok=False, remedy=remedy, required=required)


def _info(reply: Any) -> dict[str, str]:
    """Read INFO's reply: text as the server sends it, or the map that a client makes of it."""
    if isinstance(reply, Mapping):
        return {_text(key): _text(value) for key, value in reply.items()}
    lines = (line.partition(":") for line in _text(reply).splitlines() if not line.startswith("#"))
    return {name: value.strip() for name, colon, value in lines if colon}


def _pairs(reply: Any) -> Iterator[tuple[str, str]]:
    """Read the reply of CONFIG GET: a map, or names and values in turns."""
    if isinstance(reply, Mapping):
        yield from ((_text(key), _text(value)) for key, value in reply.items())
    else:
        words = [_text(word) for word in reply]
        yield from zip(words[::2], words[1::2], strict=True)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
