"""Queries of a handler that works: who asks is the hub, who answers a function that the handler named.

    link's thread -> Switchboard -> Queries -> the function, a child process or a program -> reply -> link's thread

Asking never waits: the function of an async handler runs on the handler's loop, that of a plain one in a thread of
its own beside the handler, and what is asked of a child process or a program is passed on. Nothing is recorded, and
nothing of it outlives the connection that it came by: its number means nothing on another one.

Specification: docs/protocol.md, section "Queries".
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from agent.errors import Cancelled
from agent.operations import describe_error
from protocol.codec import pack_value, unpack_value
from protocol.codes import ErrorCode
from protocol.conversation import QUERIES_AT_ONCE_MAX, QUERY_VALUE_BYTES_MAX
from protocol.frames import Fault, Query, Reply

__all__ = ["RETRY_MS", "Answer", "Queries", "Switchboard", "refusal"]

RETRY_MS = 1000
"""When a query that nobody replied to may be asked again."""

Answer = bytes | Fault
"""What a query came to: a packed value, or why there is none."""

_Say = Callable[[Reply], object]


def refusal(code: ErrorCode, message: str) -> Fault:
    """Return why a query has no reply."""
    return Fault(code=code.value, message=message, retry_ms=RETRY_MS if code is ErrorCode.NO_REPLY else None)


class Queries:
    """What one attempt is asked. Safe in any thread.

    Args:
        handler: its name, for people.
    """

    def __init__(self, handler: str) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._functions: dict[str, Callable[..., Any]] = {}
        self._under_way: dict[int, tuple[Query, _Say]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._forward: Callable[[int, Query], object] | None = None
        self._over = False

    # The handler's side

    def on(self, name: str, function: Callable[..., Any]) -> None:
        """Have a function answer the queries of this name."""
        self._functions[name] = function

    def answer_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """Have functions run on the handler's loop."""
        self._loop = loop

    def forward(self, call: Callable[[int, Query], object] | None) -> None:
        """Have `call` pass everything on, which must not wait; `answered` takes what comes back."""
        self._forward = call

    def answered(self, number: int, answer: Answer) -> None:
        """Reply to a query, once; the first answer counts."""
        with self._lock:
            query, say = self._under_way.pop(number, (None, None))
        if query is None or say is None:
            return
        if isinstance(answer, bytes) and len(answer) > QUERY_VALUE_BYTES_MAX:
            message = f"the reply to {query.name!r} takes {len(answer)} bytes; the limit is {QUERY_VALUE_BYTES_MAX}"
            answer = refusal(ErrorCode.QUERY_FAILED, message)
        fault = answer if isinstance(answer, Fault) else None
        say(Reply(id=query.id, value=None if isinstance(answer, Fault) else answer, error=fault))

    def close(self) -> None:
        """The handler is over: nothing more is answered."""
        self._over = True
        for number in tuple(self._under_way):
            self.answered(number, self._ended())

    # The hub's side

    def ask(self, query: Query, say: _Say) -> None:
        """Have a query answered, by `say`, from whatever thread. Never waits."""
        with self._lock:
            number, full = next(self._numbers), len(self._under_way) >= QUERIES_AT_ONCE_MAX
            if not full:
                self._under_way[number] = query, say
        if full:
            why = f"handler {self._handler} has not replied to the last {QUERIES_AT_ONCE_MAX} queries"
            say(Reply(id=query.id, error=refusal(ErrorCode.NO_REPLY, why)))
        elif self._over:
            self.close()
        elif self._forward is not None:
            self._forward(number, query)
        elif (function := self._functions.get(query.name)) is None:
            self.answered(number, self._unknown(query.name))
        else:
            self._begin(number, query, function)

    def _begin(self, number: int, query: Query, function: Callable[..., Any]) -> None:
        if self._loop is None:
            name = f"query {query.name} of {query.run}"
            threading.Thread(target=self._in_thread, args=(number, query, function), name=name, daemon=True).start()
            return
        try:
            self._loop.call_soon_threadsafe(self._on_loop, self._loop, number, query, function)
        except RuntimeError:  # the loop is closed: the handler has ended just now
            self.answered(number, self._ended())

    def _on_loop(
        self, loop: asyncio.AbstractEventLoop, number: int, query: Query, function: Callable[..., Any]
    ) -> None:
        task = loop.create_task(self._answer(number, query, function), name=f"query {query.name} of {query.run}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _in_thread(self, number: int, query: Query, function: Callable[..., Any]) -> None:
        asyncio.run(self._answer(number, query, function))

    async def _answer(self, number: int, query: Query, function: Callable[..., Any]) -> None:
        try:
            async with asyncio.timeout(query.timeout_ms / 1000):
                value = function() if query.args is None else function(unpack_value(query.args))
                if inspect.isawaitable(value):
                    value = await value
            answer: Answer = pack_value(value)
        except asyncio.CancelledError:  # the handler's loop ends, and with it the handler
            self.answered(number, self._ended())
            raise
        except (Exception, Cancelled) as error:  # noqa: BLE001 - the boundary between the handler and us
            said = describe_error(error)
            answer = refusal(ErrorCode.QUERY_FAILED, f"{said.type}: {said.message}")
        self.answered(number, answer)

    def _ended(self) -> Fault:
        return refusal(ErrorCode.NOT_RUNNING, f"handler {self._handler} has ended")

    def _unknown(self, name: str) -> Fault:
        known = ", ".join(sorted(self._functions)) or "none"
        message = f"handler {self._handler} answers no query {name!r}; those that it answers now: {known}"
        return refusal(ErrorCode.NO_SUCH_QUERY, message)


class Switchboard:
    """Which attempt of this agent a query is for. `ask`, `replies` and `disconnected` are the link's thread's.

    Args:
        wake: called from any thread when there is a reply to send.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake = wake
        self._attempts: dict[str, tuple[int, Queries]] = {}
        self._replies: deque[tuple[int, Reply]] = deque()
        self._connection = 0

    def disconnected(self) -> None:
        """The connection is gone: nobody waits for what was asked on it."""
        self._connection += 1

    def put(self, run: str, fence: int, queries: Queries) -> None:
        """Let an attempt be asked."""
        self._attempts[run] = fence, queries

    def remove(self, run: str, queries: Queries) -> None:
        """Let it be asked no more."""
        if self._attempts.get(run, (0, None))[1] is queries:
            del self._attempts[run]

    def ask(self, query: Query) -> None:
        """Pass a query on. Never waits."""
        fence, queries = self._attempts.get(query.run, (0, None))
        say = partial(self._say, self._connection)
        if queries is not None and fence == query.fence:
            queries.ask(query, say)
        else:
            why = f"this agent works on no such attempt of run {query.run}"
            say(Reply(id=query.id, error=refusal(ErrorCode.NOT_RUNNING, why)))

    def replies(self) -> list[Reply]:
        """Return what there is to say, on the connection that it was asked on."""
        said = []
        while self._replies:
            connection, reply = self._replies.popleft()
            if connection == self._connection:
                said.append(reply)
        return said

    def _say(self, connection: int, reply: Reply) -> None:
        self._replies.append((connection, reply))
        self._wake()
