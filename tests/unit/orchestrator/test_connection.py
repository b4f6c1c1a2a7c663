"""What a connection makes of the frames that it hears, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import AsyncMock

import pytest

from orchestrator.acks import Acks
from orchestrator.artifacts import Artifacts
from orchestrator.audit import Audit
from orchestrator.auth.binding import Binding
from orchestrator.auth.enrolment import Enrolment
from orchestrator.auth.principal import ANY_AGENT, Principal
from orchestrator.auth.revocation import Revocations
from orchestrator.auth.tokens import Tokens
from orchestrator.connection import Connection
from orchestrator.core import attempts, runs
from orchestrator.dispatch import Dispatch
from orchestrator.greeting import Greeting
from orchestrator.line import Line
from orchestrator.methods import Methods
from orchestrator.peers import Peer, Peers
from orchestrator.querying import Querying
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.services import Services
from orchestrator.settings import Settings
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer
from orchestrator.telemetry import Counters
from orchestrator.waiting import Waiting
from orchestrator.work import Work
from protocol.codec import decode, encode, unpack_record
from protocol.entry import Entry
from protocol.frames import Error, HandlerSpec, Heartbeat, Identify, Nack, Part, Ready, Role
from protocol.ids import LogKind, LogName
from tests.unit.orchestrator.parts import NOW_MS, line_to, making_for, settled, start_run

LEASE_MS = 1_000
HELLO = Identify(
    version=1, role=Role.AGENT, id="a", instance="i", queues=("q",), slots=1, handlers=(HandlerSpec(name="h"),)
)


async def entries_of(line: Line, agent: str) -> tuple[Entry, ...]:
    """Return what an agent's log holds."""
    page = await line.store.read(LogName("default", LogKind.AGENT, agent), 0, 100)
    assert page is not None
    return page.entries


class Socket:
    """A websocket, as a connection sees it: what the peer says is handed on, what the hub says is kept."""

    congested = False
    buffered = 0
    nonce = b"n" * 16
    address = "192.0.2.1"

    def __init__(self) -> None:
        self.connection: Connection
        self.pauses = self.resumes = 0
        self.heard: list[Part] = []

    def say(self, frame: Part) -> None:
        self.connection.on_message(encode(frame))

    def hang_up(self) -> None:
        self.connection.on_lost()

    def write(self, message: bytes) -> None:
        self.heard.extend(decode(message, 1 << 20))

    def take_up_to(self, message_bytes_max: int) -> None:
        pass

    def pause_reading(self) -> None:
        self.pauses += 1

    def resume_reading(self) -> None:
        self.resumes += 1

    @property
    def nacks(self) -> list[Nack]:
        return [frame for frame in self.heard if isinstance(frame, Nack)]


class Desk:
    """A hub without a door: all that its connections use."""

    def __init__(self, line: Line) -> None:
        peers, registry = Peers(1_000), Registry(line)
        making = making_for(line)
        work = Work(line, peers, Dispatch(line, peers, LEASE_MS), making, LEASE_MS)
        principal = Principal("p", "default", frozenset({"agent"}), frozenset({ANY_AGENT}), 1 << 40, "t")
        said: dict[str, Any] = {"verify": lambda *_: principal, "mark": lambda *_: "m", "ends_s": lambda _: 1 << 40}
        tokens = cast(Tokens, SimpleNamespace(**said, prepare=AsyncMock()))
        settings, methods = Settings(data=Path("nowhere")), cast(Methods, None)
        self.line = line
        greeting = Greeting(settings, line)
        reading = Reading(line, registry)
        querying, waiting = Querying(line, reading, registry, peers, self.spawn), Waiting(line, reading)
        counters = Counters()
        revocations = Revocations(line)
        enrolment, binding = Enrolment(line, tokens, revocations, asks=False), Binding(line)
        shared = (line, greeting, tokens, enrolment, binding, peers, registry, work, Artifacts(line, settings.limits))
        more = (reading, methods, querying, waiting, Acks(line), revocations, making, Audit(line, counters))
        self.hub = Services(settings, *shared, *more, counters, self.spawn)
        self._tasks: set[asyncio.Task[None]] = set()
        self._sockets: list[Socket] = []

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for socket in self._sockets:
            socket.hang_up()
        while self._tasks:
            await asyncio.gather(*self._tasks)

    def socket(self) -> Socket:
        """Open a connection."""
        socket: Any = Socket()
        self._sockets.append(socket)
        socket.connection = Connection(self.hub, socket, "token")
        socket.connection.greet()
        return cast(Socket, socket)

    async def agent(self) -> tuple[Socket, Peer]:
        """Open a session of agent `a`, with one slot."""
        socket = self.socket()
        socket.say(HELLO)
        await settled(lambda: any(isinstance(frame, Ready) for frame in socket.heard))
        peer = self.hub.peers.agent("default", "a")
        assert peer is not None
        return socket, peer


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk(await line_to(MemoryServer(lambda: NOW_MS)))
    yield made
    await made.close()


async def test_a_heartbeat_that_lists_nothing_frees_the_slots_of_attempts_that_were_lost(desk: Desk) -> None:
    line = desk.line
    socket, peer = await desk.agent()
    run, held = await start_run(line, peer)
    peer.held[run.log.name] = held
    lost = await line.commit(attempts.lose(runs.Ids(line.new_commit_id(), "hub:other"), run, "its lease ran out"))
    assert isinstance(lost, Outcome)
    assert peer.slots_free == 0
    socket.say(Heartbeat(attempts=()))
    await settled(lambda: bool(socket.nacks))
    (told,) = socket.nacks
    assert (told.log, told.producer, told.seq, told.code) == (run.log.path, "attempt/1", 0, "fenced")
    assert peer.slots_free == 1


async def test_a_heartbeat_that_lists_nothing_takes_nothing_that_is_on_its_way_to_the_agent(desk: Desk) -> None:
    socket, peer = await desk.agent()
    run, held = await start_run(desk.line, peer)
    peer.held[run.log.name] = held
    looks: list[str] = []
    ask = desk.line.store.meta

    async def meta(log: LogName) -> dict[str, str] | None:
        found = await ask(log)
        looks.append(log.path)
        return found

    desk.line.store.meta = meta  # type: ignore[method-assign]
    socket.say(Heartbeat(attempts=()))
    await settled(lambda: run.log.path in looks)
    await asyncio.sleep(0)
    assert peer.held == {run.log.name: held}
    assert socket.nacks == []


async def test_what_comes_while_the_session_opens_waits_its_turn_and_is_not_read_on(desk: Desk) -> None:
    socket = desk.socket()
    socket.say(HELLO)
    socket.say(Heartbeat(attempts=()))
    assert (socket.pauses, socket.resumes) == (1, 0)
    await settled(lambda: any(isinstance(frame, Ready) for frame in socket.heard))
    assert (socket.pauses, socket.resumes) == (1, 1)
    assert not any(isinstance(frame, Error) for frame in socket.heard)


async def test_a_connection_that_is_lost_while_its_session_opens_leaves_no_session_behind(desk: Desk) -> None:
    socket = desk.socket()
    socket.say(HELLO)
    socket.hang_up()
    await desk.close()
    assert not any(isinstance(frame, Ready) for frame in socket.heard)
    assert desk.hub.peers.agent("default", "a") is None
    assert (len(desk.hub.connections), desk.hub.unidentified) == (0, 0)
    kinds = [unpack_record(entry.packed).kind for entry in await entries_of(desk.line, "a")]
    assert kinds == ["$connected", "$disconnected"]
