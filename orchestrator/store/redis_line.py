"""One connection to the server, with requests sent as they come and replies taken in the same order.

Theory of operation: `send` puts packed commands on a list and returns a future. `run`, owned by the store,
connects when there is something to send, and then writes whatever waits in one go while it reads replies; so
requests of one tick of the event loop leave in one write, and none waits for another's reply. When the
connection breaks, every request fails: those that were written with `unknown=True`. Nothing is sent twice by
this module, and the client's own retries are off. The next request connects again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.exceptions import (
    BusyLoadingError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from orchestrator.store.base import StoreError, StoreUnavailable
from orchestrator.store.redis_scripts import Script, pack_command

__all__ = [
    "CONNECT_TIMEOUT_S",
    "REPLY_TIMEOUT_S",
    "REQUESTS_MAX",
    "Line",
    "Run",
    "ServerRefused",
    "connect",
    "disconnect",
    "greet_on",
    "to_store_error",
]

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 15.0
"""A server that owes a reply for this long counts as gone."""
REQUESTS_MAX = 65_536
"""Requests of one connection that wait for a reply."""

Run = Callable[..., Awaitable[Any]]
"""Executes a command, given as its words, and returns the reply."""

_CODES: dict[type[RedisError], str] = {
    NoScriptError: "NOSCRIPT",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    BusyLoadingError: "LOADING",
    MasterDownError: "MASTERDOWN",
}
_FULL = frozenset({"OOM", "MISCONF"})
_PASSING = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "NOREPLICAS", "READONLY", "TRYAGAIN", "MOVED", "ASK"}
)


class ServerRefused(StoreError):
    """The server answered with an error. Nothing of the request was done, unless it was a script's fault.

    Attributes:
        code: the first word of the error, `OOM` say.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code} {message}" if code else message)
        self.code = code


def to_store_error(refused: ServerRefused) -> StoreError:
    """Return what a caller of the store is told about an error reply."""
    if refused.code in _FULL:
        return StoreUnavailable(f"the store takes no more writes: {refused}", full=True)
    if refused.code in _PASSING:
        return StoreUnavailable(f"the store cannot serve now: {refused}")
    return StoreError(f"the store refused a request: {refused}")


def _refused(fault: RedisError) -> ServerRefused:
    code = _CODES.get(type(fault))
    message = str(fault)
    if code is None:
        word, _, rest = message.partition(" ")
        code, message = (word, rest) if word.isupper() else ("", message)
    return ServerRefused(code, message)


def _said(fault: BaseException) -> str:
    return str(fault) or type(fault).__name__


class _Broken(Exception):
    """The connection cannot be used any more."""


class _Request:
    __slots__ = ("count", "future", "packed", "replies", "sent_s")

    def __init__(self, packed: bytes, count: int, future: asyncio.Future[list[Any]]) -> None:
        self.packed = packed
        self.count = count
        self.future = future
        self.replies: list[Any] = []
        self.sent_s = 0.0


async def connect(url: str) -> AbstractConnection:
    """Return a new connection.

    Raises:
        StoreUnavailable: nobody answers there, or not with what the server's protocol says.
    """
    pool = ConnectionPool.from_url(
        url,
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        decode_responses=False,
        driver_info=None,  # else it says which library it is, by a command that the user may not be permitted
    )
    connection: AbstractConnection = pool.make_connection()  # type: ignore[no-untyped-call]
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
    except (RedisError, OSError, TimeoutError) as fault:
        await disconnect(connection)
        raise StoreUnavailable(f"the store does not answer: {_said(fault)}") from fault
    return connection


async def disconnect(connection: AbstractConnection) -> None:
    """Close a connection, whatever state it is in."""
    try:
        await connection.disconnect(nowait=True)
    except (RedisError, OSError):
        return  # it is gone, which is all that was asked for


async def greet_on(connection: AbstractConnection, greet: Callable[[Run], Awaitable[None]]) -> None:
    """Let `greet` look at the server, on a connection that nobody else uses yet.

    Raises:
        StoreError: the connection broke, the server refused a command, or what `greet` raises.
    """

    async def run(*args: bytes | str | int) -> Any:
        return await _run(connection, *args)

    try:
        await greet(run)
    except ResponseError as fault:
        raise to_store_error(_refused(fault)) from fault


async def _run(connection: AbstractConnection, *args: bytes | str | int) -> Any:
    try:
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            await connection.send_packed_command([pack_command(*args)], check_health=False)
            return await connection.read_response()
    except ResponseError:
        raise  # `greet` knows what to make of a refusal
    except (RedisError, OSError, TimeoutError) as fault:
        raise StoreUnavailable(f"the store's connection broke: {_said(fault)}") from fault


class Line:
    """A pipelined connection that comes back by itself."""

    def __init__(self, url: str, greet: Callable[[Run], Awaitable[None]]) -> None:
        """Make a line; it does nothing until `run`.

        Args:
            url: where the server is.
            greet: looks at the server on every new connection, before anything else is sent on it; it may
                raise `StoreError` to refuse the connection.
        """
        self._url = url
        self._greet = greet
        self._unsent: deque[_Request] = deque()
        self._sent: deque[_Request] = deque()
        self._wanted = asyncio.Event()
        self._connection: AbstractConnection | None = None
        self._open = False

    def send(self, packed: bytes, count: int = 1) -> asyncio.Future[list[Any]]:
        """Send packed commands; the future gives their `count` replies, errors among them as values.

        The future raises `StoreUnavailable` where the replies cannot come.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if not self._open:
            future.set_exception(StoreUnavailable("the store is not open"))
        elif len(self._unsent) + len(self._sent) >= REQUESTS_MAX:
            future.set_exception(StoreUnavailable(f"{REQUESTS_MAX} requests wait for the store already"))
        else:
            self._unsent.append(_Request(packed, count, future))
            self._wanted.set()
        return future

    async def call(self, *args: bytes | str | int) -> Any:
        """Execute a command.

        Raises:
            StoreError: as `to_store_error` has it.
        """
        [reply] = await self.call_all(args)
        return reply

    async def call_all(self, *commands: Sequence[bytes | str | int]) -> list[Any]:
        """Execute commands that belong together, in their order.

        Raises:
            StoreError: one was refused, as `to_store_error` has it; what the others did is done.
        """
        replies = await self.send(b"".join([pack_command(*each) for each in commands]), len(commands))
        for reply in replies:
            if isinstance(reply, ServerRefused):
                raise to_store_error(reply)
        return replies

    async def call_script(self, script: Script, keys: list[bytes], *args: bytes | str | int) -> Any:
        """Execute a script, sending the whole of it where the server does not know it.

        Raises:
            StoreError: as `to_store_error` has it.
        """
        packed_args = [arg if isinstance(arg, bytes) else str(arg).encode() for arg in args]
        [reply] = await self.send(script.pack(keys, packed_args))
        if isinstance(reply, ServerRefused) and reply.code == "NOSCRIPT":
            [reply] = await self.send(script.pack(keys, packed_args, whole=True))
        if isinstance(reply, ServerRefused):
            raise to_store_error(reply)
        return reply

    async def break_off(self) -> None:
        """Give up the connection; the next request makes a new one, and greets the server again."""
        if self._connection is not None:
            await disconnect(self._connection)

    async def run(self) -> None:
        """Serve requests until cancelled."""
        self._open = True
        try:
            while True:
                await self._wanted.wait()
                try:
                    connection = await self._connect()
                except StoreError as fault:
                    self._wanted.clear()
                    self._fail(str(fault))
                    continue
                await self._serve(connection)
        finally:
            self._open = False
            self._fail("the store is closed")

    async def _connect(self) -> AbstractConnection:
        connection = await connect(self._url)
        try:
            await greet_on(connection, self._greet)
        except BaseException:
            await disconnect(connection)
            raise
        return connection

    async def _serve(self, connection: AbstractConnection) -> None:
        self._connection = connection
        reason = "the store's connection broke"
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection))
                tasks.create_task(self._watch())
        except* _Broken as broken:
            reason = "; ".join(str(fault) for fault in broken.exceptions)
        finally:
            self._connection = None
            await disconnect(connection)
            self._fail(reason)

    async def _write(self, connection: AbstractConnection) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if not connection.is_connected:  # else the client would connect again by itself
                raise _Broken("the store's connection was given up")
            chunks = []
            now_s = loop.time()
            while self._unsent:
                request = self._unsent.popleft()
                request.sent_s = now_s
                self._sent.append(request)
                chunks.append(request.packed)
            try:
                await connection.send_packed_command(chunks, check_health=False)
            except (RedisError, OSError) as fault:
                raise _Broken(_said(fault)) from fault

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            reply: Any
            try:
                reply = await connection.read_response(disconnect_on_error=False)
            except ResponseError as fault:
                reply = _refused(fault)
            except BusyLoadingError as fault:
                reply = _refused(fault)
            except (RedisError, OSError) as fault:
                raise _Broken(_said(fault)) from fault
            if not self._sent:
                raise _Broken(f"the store said something that it was not asked: {reply!r:.100}")
            request = self._sent[0]
            request.replies.append(reply)
            if len(request.replies) == request.count:
                self._sent.popleft()
                if not request.future.done():
                    request.future.set_result(request.replies)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            oldest_s = self._sent[0].sent_s if self._sent else loop.time()
            wait_s = oldest_s + REPLY_TIMEOUT_S - loop.time()
            if wait_s <= 0:
                raise _Broken(f"the store did not answer for {REPLY_TIMEOUT_S:.0f} s")
            await asyncio.sleep(wait_s)

    def _fail(self, reason: str) -> None:
        """Fail every request; one that was never written certainly did not happen."""
        for requests, unknown in ((self._sent, True), (self._unsent, False)):
            while requests:
                future = requests.popleft().future
                if not future.done():
                    future.set_exception(StoreUnavailable(reason, unknown=unknown))
