"""An agent that serves: slots, and the attempts that the hub assigns.

The program's own loop runs async handlers and this module; the link's thread holds the leases. What the hub
assigns is taken while a slot is free, else handed back. A drain takes nothing more, lets what runs finish
within its time, hands back the rest, and says goodbye.
"""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from agent.attempt import Attempt
from agent.executors import Rooms
from agent.held import Assigned, DrainAsked, Event
from agent.links import Links
from agent.messages import Messages
from agent.threads import LoopThread, in_loop
from agent.watchdog import watch
from agent.willing import LoadMeter, Offer, accepts
from protocol.errors import FleetlineError
from protocol.frames import Identify, ReleaseReason, Role
from protocol.version import VERSION

if TYPE_CHECKING:
    from agent.worker import Agent

__all__ = ["Service"]

log = structlog.get_logger("fleetline.agent")

LEAVE_S = 2.0


class Service:
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
        self._rooms = Rooms(agent.handlers, agent.processes)
        self._messages = Messages(self._links, agent.name, on_message) if on_message else None
        self._meter = None if load is None else LoadMeter(load, self._say_load)
        self._attempts: dict[Attempt, asyncio.Task[None]] = {}
        self._drain: asyncio.Future[None] = self._loop.create_future()
        self._drain_until = math.inf
        self._hurry = asyncio.Event()

    async def run(self, on_ready: Callable[[], object] | None = None) -> None:
        """Serve until drained, or until the hub ends the session for good."""
        watching = self._thread.start(watch(self._loop, self._running))
        in_loop(self._link.opened).add_done_callback(
            lambda opened: None if opened.cancelled() or opened.exception() or on_ready is None else on_ready()
        )
        if self._meter is not None:
            await self._meter.measure()  # known before the hub gives anything
        self._rooms.prepare()
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
        ended = in_loop(self._link.ended)
        ended.add_done_callback(lambda done: done.cancelled() or done.exception())
        return ended

    async def _leave(self) -> None:
        """Say goodbye, and end the link's thread. Raises what ended the link, if that was not us."""
        ended = in_loop(self._links.main.ended)
        self._links.close("drained")
        await asyncio.wait((ended,), timeout=LEAVE_S)
        self._thread.stop()
        if ended.done() and not ended.cancelled():
            error = ended.exception()
            if error is not None:
                raise error

    def _running(self) -> list[str]:
        return [f"{attempt.held.assign.handler} ({attempt.held.assign.run})" for attempt in tuple(self._attempts)]
