"""The agent: what it can do, what it says of itself, and how it is run. What it does then is `agent.service`."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog

from agent.discovery import TokenSource, locator
from agent.errors import BadHandler
from agent.handlers import BACKOFF_MAX_S, BACKOFF_S, Handler
from agent.identity import find_credentials
from agent.labels import with_version
from agent.logs import ensure_logging
from agent.program import Program, ProgramHandler
from agent.service import Service
from agent.signals import Signals
from agent.willing import Offer
from protocol.control import is_control
from protocol.frames import Role
from protocol.ids import check_name

__all__ = ["DRAIN_S", "Agent"]

log = structlog.get_logger("fleetline.agent")

Function = TypeVar("Function", bound=Callable[..., Any])

DRAIN_S = 30.0
"""How long attempts that run may take to finish when the agent is told to stop."""


class Agent:
    """A worker: the handlers it serves, and the program that serves them.

    Args:
        name: the agent's id. One process a time has it.
        labels: facts about this agent, which runs can ask for with `where`: up to 64, as docs/protocol.md, section
            "Selectors", says.
        slots: how many runs it works on at a time.
        queues: where its runs come from.
        version: of its code: a label called `version`.
        processes: child processes that are started ahead for handlers with `isolation="process"`; without, as many as
            there are slots, up to the cores of this machine.

    Raises:
        InvalidName, InvalidLabel: a name or label is none.
    """

    def __init__(
        self,
        name: str,
        labels: Mapping[str, str] | None = None,
        slots: int = 1,
        queues: Sequence[str] = ("default",),
        version: str | None = None,
        processes: int | None = None,
    ) -> None:
        self.name = check_name(name)
        self.labels = with_version(labels or {}, version)
        self.slots = slots
        self._processes = processes
        self.queues = tuple(check_name(queue) for queue in queues)
        self._handlers: dict[str, Handler | ProgramHandler] = {}
        self._on_message: dict[str, Callable[..., Any]] = {}
        self._accept: Callable[[Offer], Any] | None = None
        self._load: Callable[[], Any] | None = None
        self._service: Service | None = None

    def handler(
        self,
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
    ) -> Callable[[Function], Function]:
        """Register a handler. Its first parameter is the context; the others are validated from the input.

        Args:
            name: what runs name it by.
            recover: how a new attempt picks up: "restart" starts over, "journal" repeats what is recorded,
                "checkpoint" begins with the last checkpoint.
            isolation: "inline" (async on the agent's loop, plain in a thread), "thread" or "process".
            retries: how often a failed attempt is tried again.
            timeout: how many seconds one attempt may take, after which it is stopped and counts as failed.
            backoff: the longest wait before the first further try, in seconds; it doubles with each.
            backoff_max: the longest wait before any.
            memory_mib: with "process", how much memory its process may take; a run that needs more fails.
            suspend_after: how many seconds the handler may wait, in a sleep, for an answer or for a message, before it
                is put away and its slot is free; it is brought back, anywhere, with what it waits for. Without, never.
                It needs `recover="journal"`.

        Raises:
            BadHandler: it cannot be what it is to be.
        """

        def register(function: Function) -> Function:
            made = Handler.make(
                function,
                name,
                recover=recover,
                isolation=isolation,
                retries=retries,
                timeout=timeout,
                backoff=backoff,
                backoff_max=backoff_max,
                memory_mib=memory_mib,
                suspend_after=suspend_after,
            )
            self._register(made)
            return function

        return register

    def program(self, name: str, program: Program, *, retries: int = 0, timeout: float | None = None) -> None:
        """Register a program as a handler: each run starts it. See docs/guide.md, section "Programs".

        Args:
            name: what runs name it by.
            program: which program, and how it is spoken to.
            retries: how often a failed attempt is tried again.
            timeout: how many seconds one attempt may take, after which it is stopped and counts as failed.

        Raises:
            BadHandler: it cannot be what it is to be.
        """
        self._register(ProgramHandler.make(name, program, retries, timeout))

    def _register(self, handler: Handler | ProgramHandler) -> None:
        if handler.name in self._handlers:
            raise BadHandler(f"agent {self.name} has a handler {handler.name!r} already; give this one another name")
        self._handlers[handler.name] = handler

    def on_message(self, kind: str) -> Callable[[Function], Function]:
        """Register what takes messages of a kind to this agent. A message is handled when that returns."""

        def register(function: Function) -> Function:
            if kind in self._on_message or is_control(kind):
                raise BadHandler(f"messages of kind {kind!r} are taken already, or are not for programs")
            self._on_message[kind] = function
            return function

        return register

    def accept(self, function: Function) -> Function:
        """Register what looks at each run that is given to this agent, an `Offer`, before its handler starts.

        Where it returns nothing true, or raises, the run goes back to its queue, for others, and that costs it nothing.
        This agent is not given it again for a while, which doubles each time. Either kind of function will do.
        """
        if self._accept is not None:
            raise BadHandler(f"agent {self.name} has an accept function already")
        self._accept = function
        return function

    def load(self, function: Function) -> Function:
        """Register what is asked, every second, how busy this agent is: 0 is not at all, at 1 it is given nothing."""
        if self._load is not None:
            raise BadHandler(f"agent {self.name} has a load function already")
        self._load = function
        return function

    @property
    def handlers(self) -> tuple[Handler | ProgramHandler, ...]:
        """The handlers registered."""
        return tuple(self._handlers.values())

    @property
    def processes(self) -> int:
        """How many child processes are started ahead, where handlers want them."""
        return min(self.slots, os.cpu_count() or 1) if self._processes is None else min(self.slots, self._processes)

    @processes.setter
    def processes(self, processes: int) -> None:
        self._processes = processes

    @property
    def message_kinds(self) -> tuple[str, ...]:
        """The kinds of messages that are taken."""
        return tuple(self._on_message)

    def run(
        self,
        hub: str | None = None,
        *,
        token: TokenSource | None = None,
        token_file: str | Path | None = None,
        join_token_file: str | Path | None = None,
        state_dir: str | Path | None = None,
        directory: str | Path | None = None,
        ca_file: str | Path | None = None,
        drain_s: float = DRAIN_S,
    ) -> None:
        """Serve until SIGTERM or SIGINT, or until the hub asks for it, then drain.

        A second signal does not wait for what runs.

        In a child process that imports the program's main module this does nothing, so that
        `isolation="process"` needs no guard around it.

        Raises:
            LinkEnded: the hub ended the session for good.
        """
        if multiprocessing.parent_process() is not None:
            return
        asyncio.run(
            self.serve(
                hub,
                token=token,
                token_file=token_file,
                join_token_file=join_token_file,
                state_dir=state_dir,
                directory=directory,
                ca_file=ca_file,
                drain_s=drain_s,
                signals=True,
            )
        )

    async def serve(
        self,
        hub: str | None = None,
        *,
        token: TokenSource | None = None,
        token_file: str | Path | None = None,
        join_token_file: str | Path | None = None,
        state_dir: str | Path | None = None,
        directory: str | Path | None = None,
        ca_file: str | Path | None = None,
        drain_s: float = DRAIN_S,
        signals: bool = False,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        """Serve until `stop` is called, the hub asks for it or, with `signals`, a signal comes; then drain.

        `on_ready` is called once, when the hub has accepted the agent for the first time. Where `state_dir`, else the
        usual place, has a key of this agent, or there is a join token (`join_token_file`, `FLEETLINE_JOIN_TOKEN`) to
        enrol one with, the agent comes with that: see docs/deploy.md, section "Keys".

        Raises:
            IdentityUnusable: that key cannot be used.
            HubNotFound: nothing says where the hub is.
            LinkEnded: the hub ended the session for good.
        """
        ensure_logging()
        credentials = find_credentials(Role.AGENT, self.name, directory=state_dir, join_token_file=join_token_file)
        locate = locator(hub, token, token_file, directory=directory, ca_file=ca_file, credentials=credentials)
        locate()
        service = self._service = Service(self, locate, self._on_message, self._accept, self._load)
        try:
            with Signals(self, drain_s) if signals else Signals(None, drain_s):
                await service.run(on_ready)
        finally:
            self._service = None

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more work, let what runs finish within `drain_s` seconds, and return from `serve`."""
        if self._service is not None:
            self._service.drain(drain_s)
