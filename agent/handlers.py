"""Handlers, as an agent knows them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Any, TypeVar

from agent.binding import Binder
from agent.errors import BadHandler
from agent.submission import span_ms
from protocol.errors import InvalidName
from protocol.frames import HandlerSpec, Recover
from protocol.ids import check_name

__all__ = ["BACKOFF_MAX_S", "BACKOFF_S", "MEMORY_MIB_MIN", "Handler", "Isolation", "check_memory"]

BACKOFF_S = 1.0
BACKOFF_MAX_S = 60.0
MEMORY_MIB_MIN = 32
"""The least limit on memory: an interpreter alone takes nearly as much."""


class Isolation(StrEnum):
    """Where a handler runs.

    Plain functions never run on the program's loop: with `inline` they get a thread.
    """

    INLINE = "inline"
    """On the program's own loop."""
    THREAD = "thread"
    """In a thread of its own, an async handler with a loop of its own."""
    PROCESS = "process"
    """In a child process: for what holds the interpreter, or must be stoppable whatever it does."""


Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Handler:
    """One handler: what it is called, how it is run, and how it picks up after a lost attempt."""

    name: str
    function: Callable[..., Any]
    binder: Binder
    recover: Recover
    isolation: Isolation
    retries: int
    timeout: float | None
    backoff: float
    backoff_max: float
    memory_mib: int | None
    suspend_after: float | None

    @classmethod
    def make(
        cls,
        function: Callable[..., Any],
        name: str,
        *,
        recover: str = "restart",
        isolation: str = "inline",
        retries: int = 0,
        timeout: float | None = None,
        backoff: float = BACKOFF_S,
        backoff_max: float = BACKOFF_MAX_S,
        memory_mib: int | None = None,
        suspend_after: float | None = None,
    ) -> Handler:
        """Check a handler. Times are in seconds.

        Raises:
            BadHandler: it cannot be what it is to be; the message says why.
        """
        try:
            check_name(name)
        except InvalidName as fault:
            raise BadHandler(f"handler {name!r}: {fault}") from None
        how, where = _one_of(Recover, "recover", recover, name), _one_of(Isolation, "isolation", isolation, name)
        limits = (retries, timeout, backoff, backoff_max, memory_mib, suspend_after)
        handler = cls(name, function, Binder(function), how, where, *limits)
        if suspend_after is not None:
            _check_suspends(name, how, suspend_after)
        if retries < 0:
            raise BadHandler(f"handler {name!r}: retries is {retries}; it counts further tries, from 0")
        try:
            _ = handler.spec
        except ValueError as fault:
            raise BadHandler(f"handler {name!r}: {fault}") from None
        if handler.isolation is Isolation.PROCESS and "<locals>" in function.__qualname__:
            raise BadHandler(
                f"handler {name!r} is defined inside a function, where a child process cannot find it; "
                'move it to the top of its module, or leave out isolation="process"'
            )
        if memory_mib is not None and handler.isolation is not Isolation.PROCESS:
            raise BadHandler(f'handler {name!r}: memory_mib limits a child process; add isolation="process"')
        check_memory(name, memory_mib)
        return handler

    @property
    def is_async(self) -> bool:
        """Whether it is a coroutine function."""
        return inspect.iscoroutinefunction(self.function)

    def bind(self, given: Any) -> dict[str, Any]:
        """Return the arguments for an input. See `agent.binding.Binder.bind`."""
        return self.binder.bind(given)

    @property
    def spec(self) -> HandlerSpec:
        """What the hub is told of it."""
        return HandlerSpec(
            name=self.name,
            recover=self.recover,
            retries=self.retries,
            timeout_ms=span_ms("timeout", self.timeout),
            backoff_ms=span_ms("backoff", self.backoff) or 1,
            backoff_max_ms=span_ms("backoff_max", self.backoff_max) or 1,
        )


def check_memory(handler: str, memory_mib: int | None, least_mib: int = MEMORY_MIB_MIN) -> None:
    """Do nothing where a limit on memory can be held to.

    Raises:
        BadHandler: it cannot.
    """
    if memory_mib is None:
        return
    if memory_mib < least_mib:
        raise BadHandler(f"handler {handler!r}: memory_mib is {memory_mib}; it is in MiB, from {least_mib}")
    if sys.platform != "linux":
        raise BadHandler(f"handler {handler!r}: memory is limited on Linux only; leave out memory_mib here")


def _check_suspends(name: str, recover: Recover, suspend_after: float) -> None:
    if recover is not Recover.JOURNAL:
        raise BadHandler(
            f"handler {name!r} has suspend_after without a journal: it would begin anew when it is brought back; "
            'give it recover="journal"'
        )
    if not 0 <= suspend_after < inf:
        raise BadHandler(f"handler {name!r}: suspend_after is {suspend_after}; it is seconds, from 0")


def _one_of(choices: type[Choice], what: str, value: str, handler: str) -> Choice:
    try:
        return choices(value)
    except ValueError:
        raise BadHandler(f"handler {handler!r}: {what} is {value!r}; it is one of {', '.join(choices)}") from None
