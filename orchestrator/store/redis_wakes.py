"""The wake channels of all partitions and this hub's own for letters, on a connection of their own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from orchestrator.store import keys
from orchestrator.store.base import Letter, StoreUnavailable, Wake
from orchestrator.store.redis_encoding import decode_wake
from orchestrator.store.redis_line import connect, disconnect
from orchestrator.store.redis_scripts import pack_command
from protocol.ids import PARTITIONS

__all__ = ["RECONNECT_WAIT_S", "WakeChannel"]

RECONNECT_WAIT_S = 0.5
"""Between tries to subscribe. Hints that are missed meanwhile are made up for by the timers of their readers."""

_PARTITIONS = {keys.wake(partition).encode(): partition for partition in range(PARTITIONS)}


class WakeChannel:
    """Subscribes, yields other hubs' hints and letters, and subscribes again when the connection breaks.

    Attributes:
        listening: the server has this hub among those who listen, as far as is known.
    """

    def __init__(self, url: str, hub: str) -> None:
        self._url = url
        self._hub = hub
        self.listening = False
        self._letters = keys.letters(hub).encode()
        self._closed = asyncio.Event()
        self._connection: AbstractConnection | None = None

    async def close(self) -> None:
        """End the iteration of `wakes`."""
        self._closed.set()
        if self._connection is not None:
            await disconnect(self._connection)

    async def wakes(self) -> AsyncIterator[Wake | Letter]:
        """Yield hints and letters until closed."""
        while not self._closed.is_set():
            try:
                connection = self._connection = await connect(self._url)
            except StoreUnavailable:
                await self._rest()
                continue
            try:
                command = pack_command("SSUBSCRIBE", *_PARTITIONS, self._letters)
                await connection.send_packed_command([command], check_health=False)
                while True:
                    message = await connection.read_response(timeout=math.inf)
                    if message[0] == b"ssubscribe":
                        self.listening = message[2] > len(_PARTITIONS)
                    elif message[0] == b"smessage" and (wake := self._read(message)) is not None:
                        yield wake
            except (RedisError, OSError):
                await self._rest()
            finally:
                self._connection = None
                self.listening = False
                await disconnect(connection)

    def _read(self, message: list[bytes]) -> Wake | Letter | None:
        if message[1] == self._letters:
            return Letter(message[2])
        hub, wake = decode_wake(_PARTITIONS[message[1]], message[2])
        return None if hub == self._hub else wake

    async def _rest(self) -> None:
        try:
            async with asyncio.timeout(RECONNECT_WAIT_S):
                await self._closed.wait()
        except TimeoutError:
            return
