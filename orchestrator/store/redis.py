"""The store on a Redis-compatible server.

Two connections of requests, one for what changes the store and one for what reads it, so that a long page
never stands before a commit's answer; and one for wake hints. Commits go through `redis_commit.Lane`, by
partition. Nothing here retries: a reply that does not come is `StoreUnavailable`, and the next request
connects again.

Specification: docs/store.md; docs/protocol.md, section "Durability".
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.store import keys
from orchestrator.store.base import (
    DueAt,
    Durability,
    Letter,
    Page,
    StoreError,
    StoreMisconfigured,
    StoreUnavailable,
    Wake,
)
from orchestrator.store.commits import Commit, Guard, Outcome, Refused, Removal, SortedRemove
from orchestrator.store.durability import check_server
from orchestrator.store.keys import log_keys
from orchestrator.store.redis_commit import Lane
from orchestrator.store.redis_line import Line, Run, ServerRefused, connect, disconnect, greet_on, to_store_error
from orchestrator.store.redis_scripts import DELETE, READ, TAGS, TRIM, pack_command
from orchestrator.store.redis_wakes import WakeChannel
from protocol.codec import unpack_script_reply
from protocol.entry import Entry, Position
from protocol.ids import PARTITIONS, LogKind, LogName

__all__ = ["CHECK_INTERVAL_S", "RedisStore"]

CHECK_INTERVAL_S = 60.0
"""Between looks at the server's settings."""
TAGS_AT_ONCE_MAX = 512

Ranked = list[tuple[str, int]]


class RedisStore:
    """A `Store` on one Redis or Valkey primary, for use from one event loop."""

    def __init__(self, url: str, durability: Durability, hub_id: str) -> None:
        """Make a store; `open` connects it.

        Args:
            url: `redis://`, `rediss://` or `unix://` address of the server.
            durability: what `commit` waits for; the server's settings are held to it.
            hub_id: names this hub in wake hints.
        """
        self._url = url
        self._durability = durability
        self._hub = hub_id
        self._writes = Line(url, self._greet)
        self._reads = Line(url, self._greet)
        self._wakes = WakeChannel(url, hub_id)
        self._lanes: dict[int, Lane] = {}
        self._owner: asyncio.Task[None] | None = None
        self._identity = ""

    # ── opening and closing ──────────────────────────────────────────────────

    async def open(self) -> None:
        """Connect, check the server and the deployment's constants.

        Raises:
            StoreMisconfigured: the server or what it holds will not do; the message says what to change.
            StoreUnavailable: nobody answers.
        """
        assert self._owner is None, "the store is open"
        await self._look()
        started = asyncio.Event()
        self._owner = asyncio.create_task(self._run(started), name="store")
        await started.wait()

    async def close(self) -> None:
        """Disconnect. Commits under way end as `StoreUnavailable(unknown=True)`."""
        owner, self._owner = self._owner, None
        await self._wakes.close()
        if owner is not None:
            owner.cancel()
            await asyncio.wait([owner])
            if not owner.cancelled() and (fault := owner.exception()) is not None:
                raise fault

    async def _run(self, started: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._writes.run())
            tasks.create_task(self._reads.run())
            tasks.create_task(self._keep_looking())
            tasks.create_task(_set(started))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            try:
                await self._look()
            except StoreUnavailable:
                continue  # requests find that out by themselves
            except StoreError:  # each new connection finds the same, until it is put right
                await self._writes.break_off()
                await self._reads.break_off()

    async def _look(self) -> None:
        connection = await connect(self._url)
        try:
            await greet_on(connection, self._greet)
        finally:
            await disconnect(connection)

    async def _greet(self, run: Run) -> None:
        await check_server(run, self._durability)
        await _check_constants(run)
        server, replication = _info(await run("INFO", "server")), _info(await run("INFO", "replication"))
        self._identity = f"{server.get('run_id', '')}:{replication.get('master_replid', '')}"

    def identity(self) -> str:
        """Return run id and replication id of the server, as last seen."""
        return self._identity

    # ── commits ──────────────────────────────────────────────────────────────

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, together with what else waits for its partition (see `Store.commit`)."""
        lane = self._lanes.get(commit.partition)
        if lane is None:
            lane = self._lanes[commit.partition] = Lane(
                commit.partition, self._hub, self._writes.send, lambda: self._wakes.listening
            )
        return await lane.commit(commit)

    async def trim(self, log: LogName, keep_from: int) -> Position | None:
        """Drop the entries before offset `keep_from` (see `Store.trim`)."""
        names = log_keys(log)
        reply = await self._writes.call_script(TRIM, [names.stream.encode(), names.meta.encode()], keep_from)
        if reply is None:
            return None
        epoch, offset, tag = reply
        return Position(epoch.decode(), int(offset), tag.decode())

    async def delete(self, log: LogName, guards: Sequence[Guard] = (), also: Sequence[Removal] = ()) -> bool:
        """Drop a log with all its keys, in one step (see `Store.delete`)."""
        names = log_keys(log)
        removals = [each for removal in also for each in _removals(removal)]
        declared = (names.stream, names.meta, names.producers, names.acks, names.listed_in)
        used = (*declared, *(guard.key for guard in guards), *(key for key, _, _ in removals))
        said = [word for guard in guards for word in (guard.field, guard.expected or "")]
        said += [word for _, command, which in removals for word in (command, which)]
        reply = await self._writes.call_script(DELETE, [key.encode() for key in used], log.name, len(guards), *said)
        return bool(reply)

    async def hash_put(self, key: str, fields: Mapping[str, str | bytes | None]) -> None:
        """Set fields of a hash outside any partition; None deletes the field."""
        given = [item for name, value in fields.items() if value is not None for item in (name, value)]
        gone = [name for name, value in fields.items() if value is None]
        commands = []
        if given:
            commands.append(pack_command("HSET", key, *given))
        if gone:
            commands.append(pack_command("HDEL", key, *gone))
        await _replies(self._writes, commands)

    async def sorted_put(self, key: str, member: str, score: int | None) -> None:
        """Put a member into a sorted set outside any partition; None takes it out."""
        if score is None:
            await self._writes.call("ZREM", key, member)
        else:
            await self._writes.call("ZADD", key, score, member)

    # ── reads ────────────────────────────────────────────────────────────────

    async def meta(self, log: LogName) -> dict[str, str] | None:
        """Return the log's meta fields, or None where there is no such log."""
        return _meta(await self._reads.call("HGETALL", log_keys(log).meta))

    async def meta_beside(self, log: LogName, key: str, field: str) -> tuple[dict[str, str] | None, bytes | None]:
        """Return what `meta` does and a field of a hash elsewhere: one request, though not one instant."""
        flat, value = await self._reads.call_all(("HGETALL", log_keys(log).meta), ("HGET", key, field))
        return _meta(flat), value

    async def read(self, log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        """Return up to `limit` entries after offset `after` (see `Store.read`)."""
        names = log_keys(log)
        declared = [names.stream.encode(), names.meta.encode()]
        reply = await self._reads.call_script(READ, declared, after, limit, bytes_max)
        return None if reply is None else _decode_page(reply)

    async def tags(self, log: LogName, offsets: Sequence[int]) -> list[str | None]:
        """Return the tag at each offset; None where there is no such entry (any more)."""
        names = log_keys(log)
        declared = [names.stream.encode(), names.meta.encode()]
        found: list[str | None] = []
        for start in range(0, len(offsets), TAGS_AT_ONCE_MAX):
            part = offsets[start : start + TAGS_AT_ONCE_MAX]
            reply = await self._reads.call_script(TAGS, declared, *part)
            found += [None if tag is None else tag.decode() for tag in reply]
        return found

    async def hash_get(self, key: str, *fields: str) -> list[bytes | None]:
        """Return fields of a hash."""
        if not fields:
            return []
        found: list[bytes | None] = await self._reads.call("HMGET", key, *fields)
        return found

    async def hash_all(self, key: str) -> dict[str, bytes]:
        """Return a whole hash."""
        flat = await self._reads.call("HGETALL", key)
        return {name.decode(): value for name, value in _pairs(flat)}

    async def hash_size(self, key: str) -> int:
        """Return how many fields a hash has."""
        return int(await self._reads.call("HLEN", key))

    async def sorted_size(self, key: str) -> int:
        """Return how many members a sorted set has."""
        return int(await self._reads.call("ZCARD", key))

    async def sorted_score(self, key: str, member: str) -> int | None:
        """Return the score of a member of a sorted set; None where it is none."""
        score = await self._reads.call("ZSCORE", key, member)
        return None if score is None else int(float(score))

    async def sorted_range(self, key: str, limit: int, *, score_max: int | None = None) -> Ranked:
        """Return members with scores, lowest score first."""
        return _ranked(await self._reads.call(*_lowest(key, limit, score_max)))

    async def set_members(self, key: str) -> frozenset[str]:
        """Return the members of a set."""
        return frozenset(member.decode() for member in await self._reads.call("SMEMBERS", key))

    async def log_names(
        self, namespace: str, kind: LogKind, limit: int, before: tuple[int, str] | None = None
    ) -> Ranked:
        """Return names of logs of one kind over all partitions with the time each was made, in ms, newest first."""
        indexes = [keys.log_index(partition, namespace, kind) for partition in range(PARTITIONS)]
        if before is None:
            commands = [pack_command("ZRANGE", index, 0, limit - 1, "REV", "WITHSCORES") for index in indexes]
            found = list(map(_ranked, await _replies(self._reads, commands)))
        else:
            found = await asyncio.gather(*(self._older(index, limit, before) for index in indexes))
        names = [item for some in found for item in some]
        names.sort(key=lambda item: (item[1], item[0]), reverse=True)
        return names[:limit]

    async def _older(self, index: str, limit: int, before: tuple[int, str]) -> Ranked:
        """Return what comes after `before` in one index. Any number may have been made in the same millisecond."""
        older: Ranked = []
        skipped = 0
        while True:
            place = (index, before[0], "-inf", "BYSCORE", "REV", "LIMIT", skipped, limit, "WITHSCORES")
            some = _ranked(await self._reads.call("ZRANGE", *place))
            older += [(name, made_ms) for name, made_ms in some if (made_ms, name) < before]
            skipped += len(some)
            if len(some) < limit or len(older) >= limit:
                return older

    async def due(
        self, now_ms: int, limit: int, partitions: Collection[int], ahead_ms: int = 0
    ) -> tuple[list[DueAt], list[DueAt]]:
        """Return leases that are due in some partitions, and timers that are or will be within `ahead_ms`."""
        commands = [
            pack_command(*_lowest(key_of(partition), limit, until_ms))
            for key_of, until_ms in ((keys.leases, now_ms), (keys.timers, now_ms + ahead_ms))
            for partition in partitions
        ]
        replies = [_ranked(reply) for reply in await _replies(self._reads, commands)]
        leases = zip(partitions, replies[: len(partitions)], strict=True)
        timers = zip(partitions, replies[len(partitions) :], strict=True)
        return _earliest(leases, limit), _earliest(timers, limit)

    async def now_ms(self) -> int:
        """Return the store's clock."""
        seconds, micros = await self._reads.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    async def post(self, hub: str, letter: bytes) -> bool:
        """Say something to one other hub. Returns whether that hub listens."""
        return int(await self._writes.call("SPUBLISH", keys.letters(hub), letter)) > 0

    def wakes(self) -> AsyncIterator[Wake | Letter]:
        """Yield hints of other hubs' commits, and letters, while the store is open; both may be lost."""
        return self._wakes.wakes()


def _removals(removal: Removal) -> Iterable[tuple[str, str, str]]:
    """Return key, command and what it takes away, of each thing that goes with a log."""
    if isinstance(removal, SortedRemove):
        return [(removal.key, "ZREM", removal.member)]
    return [(removal.key, "HDEL", name) for name in removal.fields]


async def _set(event: asyncio.Event) -> None:
    event.set()


async def _check_constants(run: Run) -> None:
    """Compare the deployment's constants, and write those that are not there: a hub may have died between two."""
    wanted = {"layout": b"%d" % keys.LAYOUT_VERSION, "partitions": b"%d" % PARTITIONS}
    for name, value in wanted.items():
        held = await run("HGET", keys.CONFIG, name)
        if held is None:
            await run("HSETNX", keys.CONFIG, name, value)
            held = await run("HGET", keys.CONFIG, name)
        if held != value:
            raise StoreMisconfigured(
                f"the store holds a deployment whose {name} is {held.decode(errors='replace')}, and this hub needs "
                f"{value.decode()}: use another store, or the version of Fleetline that made this one"
            )


async def _replies(line: Line, commands: Sequence[bytes]) -> list[Any]:
    """Send packed commands together and return their replies."""
    if not commands:
        return []
    replies = await line.send(b"".join(commands), len(commands))
    for reply in replies:
        if isinstance(reply, ServerRefused):
            raise to_store_error(reply)
    return replies


def _lowest(key: str, limit: int, score_max: int | None) -> tuple[str | int, ...]:
    top = "+inf" if score_max is None else score_max
    return ("ZRANGE", key, "-inf", top, "BYSCORE", "LIMIT", 0, limit, "WITHSCORES")


def _meta(flat: Sequence[bytes]) -> dict[str, str] | None:
    return {name.decode(): value.decode(errors="replace") for name, value in _pairs(flat)} or None


def _pairs(flat: Sequence[bytes]) -> Iterable[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _ranked(flat: Sequence[bytes]) -> Ranked:
    return [(member.decode(), int(float(score))) for member, score in _pairs(flat)]


def _earliest(by_partition: Iterable[tuple[int, Ranked]], limit: int) -> list[DueAt]:
    found = [DueAt(score, partition, member) for partition, items in by_partition for member, score in items]
    return sorted(found)[:limit]


def _info(reply: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in reply.decode(errors="replace").splitlines())
    return {name: value for name, colon, value in lines if colon}


def _decode_page(reply: bytes) -> Page:
    epoch, head, before, tag_before, tag_after, flat = unpack_script_reply(reply)
    times, values = flat[::2], flat[1::2]
    entries = tuple(map(Entry, range(before + 1, before + 1 + len(values)), times, values))
    name = epoch.decode()
    return Page(
        Position(name, before, tag_before.decode()),
        Position(name, before + len(values), tag_after.decode()),
        entries,
        head,
    )
