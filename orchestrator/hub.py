"""The hub: builds the parts, owns every task, and ends all of it in good order.

    async with Hub(settings) as hub:      # listening at hub.url
        ...

Stopping tells every peer to go elsewhere, waits for what is under way, closes, and only then lets go of the
store. A hub that is killed instead loses nothing that was acknowledged: it has no state of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import signal
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from socket import socket
from types import TracebackType
from typing import Any, Self

import structlog

from orchestrator.acks import Acks
from orchestrator.announcing import HUB_FILE, TOKEN_FILE, announce, leave_token, withdraw
from orchestrator.artifacts import Artifacts
from orchestrator.audit import Audit
from orchestrator.auth.binding import Binding
from orchestrator.auth.enrolment import Enrolment
from orchestrator.auth.issuers import Issuers
from orchestrator.auth.keys import load_keys
from orchestrator.auth.keywatch import KeyWatch, adjust
from orchestrator.auth.revocation import Revocations, enforce
from orchestrator.auth.tokens import Tokens
from orchestrator.dispatch import Dispatch
from orchestrator.expiry import tick
from orchestrator.families import Families
from orchestrator.forgetting import FORGET_S, Forgetting
from orchestrator.greeting import Greeting
from orchestrator.line import Line, monotonic_ms
from orchestrator.making import Making
from orchestrator.methods import Methods
from orchestrator.opening import check_fence
from orchestrator.peers import Peers
from orchestrator.querying import Querying
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.retention import Retention
from orchestrator.schedules import Schedules
from orchestrator.server import Server, bind
from orchestrator.services import Services
from orchestrator.settings import EnrolAccept, Settings
from orchestrator.store.address import address_of
from orchestrator.store.base import Letter, Store, StoreError, Wake
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from orchestrator.timekeeper import Timekeeper
from orchestrator.tls import Certificates, check_plaintext
from orchestrator.waiting import Waiting
from orchestrator.web.health import Health
from orchestrator.work import Work
from orchestrator.workers import Workers
from protocol.ids import LogKind

__all__ = ["HUB_FILE", "TOKEN_FILE", "Hub", "calm_collector"]

TICKS_A_HEARTBEAT = 4
TICK_S_MAX = 1.0
WAKES_RETRY_S = 0.2
LOOP_PAUSE_S = 1.0
GOAWAY_SPREAD_MS = 2_000
"""Peers of a stopping hub come back spread over this long."""
FAREWELL_S = 4.0
FENCES_AT_ONCE_MAX = 64
GC_THRESHOLDS = (20_000, 20, 50)
"""With thousands of publishes in flight the collector's own thresholds have it look at all of them again and again."""

log_ = structlog.get_logger()


class Hub:
    """One coordinator.

    Args:
        settings: what it is told.
        store: an open or unopened store to use instead of the one that the settings name; the hub opens and
            closes it.
        worker: which of its processes this is. The first owns the data directory and starts the others.
        sockets: where the others listen, opened by the first.

    Attributes:
        url: where it listens, once it does.
        services: what its connections share.
    """

    def __init__(
        self, settings: Settings, store: Store | None = None, *, worker: int = 1, sockets: Sequence[socket] = ()
    ) -> None:
        assert store is None or settings.workers == 1, "a store that is given is this process's alone"
        assert (worker == 1) is (not sockets)
        self.settings = settings
        self._worker = worker
        self._sockets = sockets
        self._store_url = ""
        self._certificates = Certificates(settings)
        self._workers: Workers | None = None
        self.url = ""
        self.hub_id = secrets.token_hex(8)
        self._given_store = store
        self._stack = contextlib.AsyncExitStack()
        self._tasks = asyncio.TaskGroup()
        self._work: set[asyncio.Task[None]] = set()
        self._background: list[asyncio.Task[None]] = []
        self._stopping = asyncio.Event()

    # ── starting ─────────────────────────────────────────────────────────────

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            await self._start()
        except BaseException:
            self._cancel_all()
            await self._stack.aclose()
            raise
        return self

    async def _start(self) -> None:
        check_plaintext(self.settings)
        data = self.settings.data
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        tokens = Tokens(load_keys(data), Issuers(self.settings.issuers))
        await tokens.issuers.load()
        store = await self._open_store()
        await self._stack.enter_async_context(self._tasks)
        self._build(store, tokens)
        await self.services.revocations.load()
        watch = KeyWatch(data, tokens, self._on_keys)
        self._background.append(self._tasks.create_task(self._keep("keys", watch.run), name="keys"))
        sockets = self._sockets or await bind(self.settings)
        for each in sockets:
            self._stack.callback(each.close)
        if self._worker == 1 and self.settings.workers > 1:
            await self._start_workers(sockets)
        self.url = self._server.start(sockets)
        if self._worker == 1:
            announce(self.settings, self.url, tokens)
        log_.info("hub_started", url=self.url, hub=self.hub_id, durability=self.settings.durability.value)

    async def _open_store(self) -> Store:
        """Open the store; what was opened is closed at the end, after everything that uses it."""
        store = self._given_store
        if store is None:
            from orchestrator.store.redis import RedisStore

            self._store_url = address_of(self.settings) or await self._embedded()
            store = RedisStore(self._store_url, self.settings.durability, self.hub_id)
        await store.open()
        self._stack.push_async_callback(store.close)
        return store

    async def _embedded(self) -> str:
        from orchestrator.store.embedded import EmbeddedStore

        embedded = EmbeddedStore(self.settings.data)
        url = await embedded.start()
        self._stack.push_async_callback(embedded.stop)
        watch = await self._stack.enter_async_context(asyncio.TaskGroup())
        task = watch.create_task(embedded.watch(), name="embedded store")
        self._stack.callback(task.cancel)
        return url

    def _build(self, store: Store, tokens: Tokens) -> None:
        settings, counters, peers = self.settings, Counters(), Peers(self.settings.limits.handshake_ms)
        tails = Tails(store, self._spawn, settings.replay_reads_max)
        line = Line(store, tails, self.hub_id, settings.durability.value, counters)
        registry, acks, audit = Registry(line), Acks(line), Audit(line, counters)
        making = Making(line, settings.limits, audit)
        dispatch = Dispatch(line, peers, settings.lease_ms)
        work = Work(line, peers, dispatch, making, settings.lease_ms, settings.losses_max)
        schedules = Schedules(line, dispatch.look, settings.keep_ms)
        families = Families(line, dispatch.look)
        timekeeper = Timekeeper(line, work, schedules, families, registry, settings.lease_ms, monotonic_ms, self._spawn)
        line.on_timer = timekeeper.note
        reading = Reading(line, registry)
        querying = Querying(line, reading, registry, peers, self._spawn)
        artifacts, waiting, revocations = Artifacts(line, settings.limits), Waiting(line, reading), Revocations(line)
        methods = Methods(
            line,
            reading,
            registry,
            schedules,
            dispatch,
            querying,
            artifacts,
            waiting,
            revocations,
            making,
            settings.limits.body_bytes_max,
            settings.keep_ms,
            settings.runs_kept_least_s * 1000,
        )
        greeting = Greeting(settings, line)
        enrolment = Enrolment(line, tokens, revocations, asks=settings.enrol_accept is EnrolAccept.MANUAL)
        binding = Binding(line)
        known = (line, greeting, tokens, enrolment, binding, peers, registry)
        shared = (*known, work, artifacts, reading, methods, querying, waiting, acks, revocations, making)
        self.services = Services(settings, *shared, audit, counters, self._spawn)
        revocations.on_change = partial(enforce, self.services)
        self._dispatch, self._registry, self._acks = dispatch, registry, acks
        self._server = Server(self.services, Health(line), self._certificates, self._worker)
        interval_s, recheck_s = settings.interval_ms / 1000, settings.recheck_ms / 1000
        loops: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "clock": line.run,
            "tails": partial(tails.run, recheck_s),
            "ranges": partial(tails.close_ranges, interval_s),
            "acks": acks.run,
            "audit": audit.run,
            "dispatch": dispatch.run,
            "timekeeper": timekeeper.run,
            "registry": registry.run,
            "retention": Retention(line, settings.log_entries_max).run,
            "forgetting": Forgetting(line, registry, min(FORGET_S, recheck_s)).run,
            "revocations": revocations.run,
            "binding": partial(binding.run, self.services),
            "wakes": partial(self._listen, store),
            "ticks": partial(self._tick, min(TICK_S_MAX, interval_s / TICKS_A_HEARTBEAT)),
            "fences": partial(self._check_fences, recheck_s),
        }
        for name, run in (loops | self._certificates.loops()).items():
            self._background.append(self._tasks.create_task(self._keep(name, run), name=name))

    async def _start_workers(self, sockets: Sequence[socket]) -> None:
        """Start the other processes; returns once they serve, so that whoever waits is shared out."""
        whole = {"store": self._store_url, "store_password": None, "store_password_file": None, "store_ca_file": None}
        settings = self.settings.model_copy(update=whole)
        self._workers = Workers(settings, sockets)
        for number in range(2, settings.workers + 1):
            work = self._contain(self._workers.keep(number))
            self._background.append(self._tasks.create_task(work, name=f"worker {number}"))
        await self._workers.ready()

    def _on_keys(self) -> None:
        """Go by other keys: sessions end with theirs, and this machine's user gets a token that is signed anew."""
        adjust(self.services)
        if self._worker == 1:
            leave_token(self.settings.data, self.services.tokens)

    # ── running ──────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain and stop."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGTERM, signal.SIGINT)
        for number in numbers:
            loop.add_signal_handler(number, self._stopping.set)
        try:
            async with self:
                await self._stopping.wait()
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside everything else; what goes wrong in it ends nothing else."""
        contained = self._contain(work)
        try:
            task = self._tasks.create_task(contained)
        except RuntimeError:  # the hub has stopped
            contained.close()
            work.close()
            return
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    @staticmethod
    async def _contain(work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            log_.exception("work_failed")

    @staticmethod
    async def _keep(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run one of the hub's loops; one that fails is begun again."""
        while True:
            try:
                await run()
            except Exception:
                log_.exception("loop_failed", loop=name)
            await asyncio.sleep(LOOP_PAUSE_S)

    async def _listen(self, store: Store) -> None:
        """Pass on what other hubs hint at, and what they say to this one."""
        while True:
            try:
                async for wake in store.wakes():
                    if isinstance(wake, Letter):
                        self.services.querying.hear(wake.body)
                    else:
                        self._hear(wake)
            except StoreError as fault:
                log_.debug("wakes_interrupted", reason=str(fault))
            await asyncio.sleep(WAKES_RETRY_S)

    def _hear(self, wake: Wake) -> None:
        self.services.line.tails.hint(wake.heads)
        for word in wake.hints:
            self._dispatch.hint(word)
            self.services.revocations.hint(word)
            self.services.binding.hint(word)
        for name in wake.heads:
            namespace, kind, agent_id = name.split("/", 2)
            if kind != LogKind.AGENT:
                continue
            self.services.peers.miss(namespace, agent_id, monotonic_ms())
            peer = self.services.peers.agent(namespace, agent_id)
            if peer is not None:
                self._spawn(check_fence(self.services, peer))

    async def _tick(self, period_s: float) -> None:
        while True:
            await asyncio.sleep(period_s)
            await tick(self.services)

    async def _check_fences(self, period_s: float) -> None:
        """See every so often whether an agent here was taken over by another hub, in case a hint was lost."""
        while True:
            await asyncio.sleep(period_s)
            agents = tuple(self.services.peers)
            for start in range(0, len(agents), FENCES_AT_ONCE_MAX):
                some = agents[start : start + FENCES_AT_ONCE_MAX]
                await asyncio.gather(*(check_fence(self.services, peer) for peer in some))

    # ── stopping ─────────────────────────────────────────────────────────────

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        log_.info("hub_stopping", connections=len(self.services.connections))
        if self._workers is not None:
            self._workers.dismiss()
        try:
            await self._drain()
            if self._workers is not None:
                await self._workers.gone(self.settings.drain_ms / 1000 + FAREWELL_S)
        finally:
            self._server.abort()
            self._cancel_all()
            await self._stack.__aexit__(kind, fault, trace)
        if self._worker == 1:
            self._withdraw()
        log_.info("hub_stopped", hub=self.hub_id)

    async def _drain(self) -> None:
        services = self.services
        services.draining = True
        self._server.stop_listening()
        connections = tuple(services.connections)
        for place, connection in enumerate(connections):
            connection.go_away(GOAWAY_SPREAD_MS * place // len(connections), "the hub is stopping")
        services.querying.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.drain_ms / 1000):
                while any(connection.busy for connection in services.connections):
                    await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
        for connection in tuple(services.connections):
            connection.say_bye("the hub is stopping")
        self._server.turn_away()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                await self._server.wait_closed()
                while self._work:
                    await asyncio.wait(self._work)
                await self._acks.flush()
                await self.services.audit.write(everything=True)
                await self._leave()

    async def _leave(self) -> None:
        try:
            await self._registry.leave()
        except StoreError as fault:
            log_.debug("registry_not_left", reason=str(fault))

    def _cancel_all(self) -> None:
        for task in (*self._background, *self._work):
            task.cancel()

    def _withdraw(self) -> None:
        withdraw(self.settings.data, self.url)


def calm_collector() -> None:
    """Let the collector look less often, in a process that is a hub and little else; see `GC_THRESHOLDS`."""
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
