"""The agent: handlers, slots, and the attempts that the hub assigns.

The program's own loop runs async handlers and this module; the link's thread holds the leases. What the hub
assigns is taken while a slot is free, else handed back. A drain takes nothing more, lets what runs finish
within its time, hands back the rest, and says goodbye.
"""

from __future__ import annotations

import asyncio
import math
import multiprocessing
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import SecretStr

from agent.attempt import Attempt
from agent.discovery import locator
from agent.errors import BadHandler
from agent.executors import Rooms
from agent.handlers import BACKOFF_MAX_S, BACKOFF_S, Handler
from agent.held import Assigned, DrainAsked, Event
from agent.labels import with_version
from agent.links import Links
from agent.logs import ensure_logging
from agent.messages import Messages
from agent.program import Program, ProgramHandler
from agent.signals import Signals
from agent.threads import LoopThread
from agent.watchdog import watch
from agent.willing import LoadMeter, Offer, accepts
from protocol.control import is_control
from protocol.errors import FleetlineError
from protocol.frames import Identify, ReleaseReason, Role
from protocol.ids import check_name
from protocol.version import VERSION

__all__ = ["DRAIN_S", "Agent"]

log = structlog.get_logger("fleetline.agent")

Function = TypeVar("Function", bound=Callable[..., Any])

DRAIN_S = 30.0
"""How long attempts that run may take to finish when the agent is told to stop."""

LEAVE_S = 2.0


class Agent:
    """A worker: the handlers it serves, and the program that serves them.

    Args:
        name: the agent's id. One process a time has it.
        labels: facts about this agent, which runs can ask for with `where`: up to 64, as docs/protocol.md, section
            "Selectors", says.
        slots: how many runs it works on at a time.
        queues: where its runs come from.
        version: of its code: a label called `version`.

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
    ) -> None:
        self.name = check_name(name)
        self.labels = with_version(labels or {}, version)
        self.slots = slots
        self.queues = tuple(check_name(queue) for queue in queues)
        self._handlers: dict[str, Handler | ProgramHandler] = {}
        self._on_message: dict[str, Callable[..., Any]] = {}
        self._accept: Callable[[Offer], Any] | None = None
        self._load: Callable[[], Any] | None = None
        self._service: _Service | None = None

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
    def message_kinds(self) -> tuple[str, ...]:
        """The kinds of messages that are taken."""
        return tuple(self._on_message)

    def run(
        self,
        hub: str | None = None,
        *,
        token: str | SecretStr | None = None,
        token_file: str | Path | None = None,
        directory: str | Path | None = None,
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
            self.serve(hub, token=token, token_file=token_file, directory=directory, drain_s=drain_s, signals=True)
        )

    async def serve(
        self,
        hub: str | None = None,
        *,
        token: str | SecretStr | None = None,
        token_file: str | Path | None = None,
        directory: str | Path | None = None,
        drain_s: float = DRAIN_S,
        signals: bool = False,
        on_ready: Callable[[], object] | None = None,
    ) -> None:
        """Serve until `stop` is called, the hub asks for it or, with `signals`, a signal comes; then drain.

        `on_ready` is called once, when the hub has accepted the agent for the first time.

        Raises:
            HubNotFound: nothing says where the hub is.
            LinkEnded: the hub ended the session for good.
        """
        ensure_logging()
        locate = locator(hub, token, token_file, directory=directory)
        locate()
        service = self._service = _Service(self, locate, self._on_message, self._accept, self._load)
        try:
            with Signals(self, drain_s) if signals else Signals(None, drain_s):
                await service.run(on_ready)
        finally:
            self._service = None

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more work, let what runs finish within `drain_s` seconds, and return from `serve`."""
        if self._service is not None:
            self._service.drain(drain_s)


class _Service:
    """An agent that serves."""

    def __init__(
        self,
        agent: Agent,
        locate: Callable[[], Any],
        on_message: Mapping[str, Callable[..., Any]],
        accept: Callable[[Offer], Any] | None,
        load: Callable[[], Any] | None,
    ) -> None:
        self._handlers = {handler.name: handler for handler in agent.handlers}
        self._accept = accept
        self._slots = agent.slots
        self._loop = asyncio.get_running_loop()
        identity = Identify(
            version=VERSION,
            role=Role.AGENT,
            id=agent.name,
            instance=secrets.token_hex(8),
            labels=agent.labels,
            queues=agent.queues,
            slots=agent.slots,
            handlers=tuple(handler.spec for handler in agent.handlers),
        )
        self._thread = LoopThread("fleetline-link")
        self._links = Links(identity, locate, self._thread)
        self._link = self._links.main
        self._rooms = Rooms()
        self._messages = Messages(self._links, agent.name, on_message) if on_message else None
        self._meter = None if load is None else LoadMeter(load, self._say_load)
        self._attempts: dict[Attempt, asyncio.Task[None]] = {}
        self._drain: asyncio.Future[None] = self._loop.create_future()
        self._drain_until = math.inf
        self._hurry = asyncio.Event()

    async def run(self, on_ready: Callable[[], object] | None = None) -> None:
        """Serve until drained, or until the hub ends the session for good."""
        watching = self._thread.start(watch(self._loop, self._running))
        asyncio.wrap_future(self._link.opened).add_done_callback(
            lambda opened: None if opened.cancelled() or opened.exception() or on_ready is None else on_ready()
        )
        if self._meter is not None:
            await self._meter.measure()  # known before the hub gives anything
        self._link.open()
        try:
            async with asyncio.TaskGroup() as tasks:
                helpers = [tasks.create_task(self._take_events(tasks))]
                if self._messages is not None:
                    helpers.append(tasks.create_task(self._messages.run()))
                if self._meter is not None:
                    helpers.append(tasks.create_task(self._meter.run()))
                await asyncio.wait((self._drain, self._link_ended()), return_when=asyncio.FIRST_COMPLETED)
                await self._finish(helpers)
        except* FleetlineError as group:
            log.debug("agent_failed", errors=[str(error) for error in group.exceptions])  # the caller is given them
            raise
        finally:
            watching.cancel()
            await self._rooms.close()
            await self._leave()

    def drain(self, drain_s: float) -> None:
        """Stop taking work. May be called again, to hurry: the earliest end that was asked for counts."""
        self._drain_until = min(self._drain_until, self._loop.time() + drain_s)
        self._hurry.set()
        if not self._drain.done():
            log.info("agent_draining", running=self._running(), drain_s=drain_s)
            self._drain.set_result(None)

    async def _take_events(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            try:
                event = await self._link.peer.events.get()
            except FleetlineError:  # the link has ended; `run` sees to it
                return
            self._on_event(event, tasks)

    def _on_event(self, event: Event, tasks: asyncio.TaskGroup) -> None:
        if isinstance(event, DrainAsked):
            self.drain(math.inf if event.within_ms is None else event.within_ms / 1000)
            return
        if not isinstance(event, Assigned):
            for attempt in self._attempts:
                if attempt.held is event.held:
                    log.warning("attempt_stopped", run=event.held.assign.run, reason=event.reason)
                    attempt.stop(event.reason)
            return
        handler = self._handlers.get(event.held.assign.handler)
        if self._drain.done():
            self._link.release(event.held, ReleaseReason.DRAIN)
        elif handler is None:
            self._link.release(event.held, ReleaseReason.REFUSED)
        elif sum(not attempt.over for attempt in self._attempts) >= self._slots:
            self._link.release(event.held, ReleaseReason.NO_SLOT)
        else:
            attempt = Attempt(event.held, handler, self._link, self._rooms)
            task = tasks.create_task(self._work_on(attempt), name=f"attempt of {event.held.assign.run}")
            self._attempts[attempt] = task
            task.add_done_callback(lambda _: self._attempts.pop(attempt))

    async def _work_on(self, attempt: Attempt) -> None:
        """Live through an attempt, if the agent takes it. Its slot is held while that is decided."""
        if self._accept is not None and attempt.held.assign.seq == 0:
            taken = await accepts(self._accept, attempt.held.assign)
            if attempt.state.fenced:
                return  # it is another's already
            if not taken or self._drain.done():
                attempt.over = True
                self._link.release(attempt.held, ReleaseReason.DRAIN if taken else ReleaseReason.REFUSED)
                return
        await attempt.run()

    def _say_load(self, load: float) -> None:
        self._link.peer.load = load

    async def _finish(self, helpers: list[asyncio.Task[None]]) -> None:
        """Let what runs finish, hand back the rest."""
        while self._attempts and (left_s := self._drain_until - self._loop.time()) > 0 and not self._link.ended.done():
            self._hurry.clear()
            hurry = self._loop.create_task(self._hurry.wait())
            waited: tuple[asyncio.Future[Any], ...] = (*self._attempts.values(), hurry, self._link_ended())
            await asyncio.wait(
                waited, timeout=None if math.isinf(left_s) else left_s, return_when=asyncio.FIRST_COMPLETED
            )
            hurry.cancel()
        for attempt, task in tuple(self._attempts.items()):
            self._hand_back(attempt, task)
        for helper in helpers:
            helper.cancel()

    def _hand_back(self, attempt: Attempt, task: asyncio.Task[None]) -> None:
        if not self._link.ended.done():
            self._link.release(attempt.held, ReleaseReason.DRAIN)
        attempt.stop("the agent is stopping")
        task.cancel()

    def _link_ended(self) -> asyncio.Future[None]:
        """Return what is done when the link has ended. With what error, `_leave` tells; nobody asks this one."""
        ended = asyncio.wrap_future(self._link.ended)
        ended.add_done_callback(lambda done: done.cancelled() or done.exception())
        return ended

    async def _leave(self) -> None:
        """Say goodbye, and end the link's thread. Raises what ended the link, if that was not us."""
        ended = asyncio.wrap_future(self._links.main.ended)
        self._links.close("drained")
        await asyncio.wait((ended,), timeout=LEAVE_S)
        self._thread.stop()
        if ended.done() and not ended.cancelled():
            error = ended.exception()
            if error is not None:
                raise error

    def _running(self) -> list[str]:
        return [f"{attempt.held.assign.handler} ({attempt.held.assign.run})" for attempt in tuple(self._attempts)]
