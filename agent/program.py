"""Programs that an agent's runs start: which, how they are spoken to, and how long they may take to stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent.errors import BadHandler, ChildRaised
from agent.handlers import Isolation, check_memory
from agent.operations import run_error
from agent.submission import span_ms
from protocol.errors import InvalidName
from protocol.frames import HandlerSpec, Recover
from protocol.ids import check_name

__all__ = [
    "LEFT_GRACE_S",
    "MESSAGE_GRACE_S",
    "TERM_GRACE_S",
    "Graces",
    "Program",
    "ProgramHandler",
    "program_error",
]

MESSAGE_GRACE_S = 10.0
"""How long a program may take to end after it was told to in a message, or after it gave its result."""

TERM_GRACE_S = 10.0
"""How long what is left of its group may take to end after SIGTERM."""

LEFT_GRACE_S = 2.0
"""How long what a program leaves behind in its group may take to end by itself, before SIGTERM."""


@dataclass(frozen=True, slots=True)
class Graces:
    """The times between the rungs of the ladder. See `agent.executors.ladder`."""

    message_s: float = MESSAGE_GRACE_S
    term_s: float = TERM_GRACE_S
    left_s: float = LEFT_GRACE_S


@dataclass(frozen=True, slots=True)
class Program:
    """A program, as it is started for each run.

    Attributes:
        command: the program and its arguments; the program is looked up on PATH.
        plain: it speaks no JSON lines. What it writes is text, its exit code alone says how it went, and its
            standard input is the run's input.
        graces: how long it may take to stop.
        memory_mib: how much memory it and what it starts, its group, may hold; more ends the run. Linux only.
    """

    command: tuple[str, ...]
    plain: bool = False
    graces: Graces = field(default_factory=Graces)
    memory_mib: int | None = None

    @property
    def memory_bytes(self) -> int | None:
        """How many bytes its group may hold; None for any number."""
        return None if self.memory_mib is None else self.memory_mib * 1024 * 1024

    @property
    def name(self) -> str:
        """The program, without its arguments."""
        return self.command[0]


@dataclass(frozen=True, slots=True)
class ProgramHandler:
    """A handler that is a program. A new attempt starts it over, and tells it the last checkpoint."""

    name: str
    program: Program
    retries: int = 0
    timeout: float | None = None

    @classmethod
    def make(cls, name: str, program: Program, retries: int = 0, timeout: float | None = None) -> ProgramHandler:
        """Check a handler. `timeout` is in seconds.

        Raises:
            BadHandler: it cannot be what it is to be; the message says why.
        """
        try:
            check_name(name)
        except InvalidName as fault:
            raise BadHandler(f"handler {name!r}: {fault}") from None
        if not program.command or not program.name:
            raise BadHandler(f"handler {name!r} has no program; its command begins with the program's name or path")
        if any("\0" in word for word in program.command):
            raise BadHandler(f"handler {name!r}: a word of its command has a zero byte in it, which no program can get")
        if retries < 0:
            raise BadHandler(f"handler {name!r}: retries is {retries}; it counts further tries, from 0")
        graces = (program.graces.message_s, program.graces.term_s, program.graces.left_s)
        if not all(0 <= grace < float("inf") for grace in graces):
            raise BadHandler(f"handler {name!r}: its grace times are {graces}; they are seconds, from 0")
        check_memory(name, program.memory_mib, least_mib=1)
        handler = cls(name, program, retries, timeout)
        try:
            _ = handler.spec
        except ValueError as fault:
            raise BadHandler(f"handler {name!r}: {fault}") from None
        return handler

    @property
    def recover(self) -> Recover:
        """A plain program cannot say where it is."""
        return Recover.RESTART if self.program.plain else Recover.CHECKPOINT

    @property
    def suspend_after(self) -> None:
        """A program is never put away: it has no journal."""
        return

    @property
    def isolation(self) -> Isolation:
        """A program is a process of its own."""
        return Isolation.PROCESS

    @property
    def spec(self) -> HandlerSpec:
        """What the hub is told of it."""
        timeout_ms = span_ms("timeout", self.timeout)
        return HandlerSpec(name=self.name, recover=self.recover, retries=self.retries, timeout_ms=timeout_ms)

    def bind(self, given: Any) -> dict[str, Any]:
        """Return no arguments: a program is told the run's input whole, whatever it is."""
        del given
        return {}


def program_error(name: str, message: str, trace: str | None = None, *, retryable: bool = True) -> ChildRaised:
    """Return the error that a program's run fails with."""
    return ChildRaised(run_error(name, message, trace), None, retryable)
