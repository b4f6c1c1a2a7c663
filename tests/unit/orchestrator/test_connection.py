"""What a connection makes of the frames that it hears, without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.acks import Acks
from orchestrator.auth.principal import ANY_AGENT, Principal
from orchestrator.auth.tokens import Tokens
from orchestrator.connection import Connection
from orchestrator.core import attempts, runs
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.methods import Methods
from orchestrator.peers import Peer, Peers
from orchestrator.registry import Registry
from orchestrator.services import Services
from orchestrator.settings import Settings
from orchestrator.store.base import Outcome
from orchestrator.store.memory import MemoryServer
from orchestrator.telemetry import Counters
from orchestrator.work import Work
from protocol.codec import decode, encode
from protocol.frames import HandlerSpec, Heartbeat, Identify, Nack, Part, Ready, Role
from protocol.ids import LogName
from tests.unit.orchestrator.parts import NOW_MS, line_to, settled, start_run

LEASE_MS = 1_000


class Socket:
    """A websocket, as a connection sees it: what the peer says is put in, what the hub says is kept."""

    def __init__(self) -> None:
        self.reader: object = None
        self.paused = False
        self.id = SimpleNamespace(bytes=b"n" * 16)
        self.protocol = SimpleNamespace(max_message_size=0)
        self.heard: list[Part] = []
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()

    def say(self, frame: Part) -> None:
        self._inbox.put_nowait(encode(frame))

    def hang_up(self) -> None:
        self._inbox.put_nowait(None)

    def write(self, message: bytes) -> None:
        self.heard.extend(decode(message, 1 << 20))

    @property
    def nacks(self) -> list[Nack]:
        return [frame for frame in self.heard if isinstance(frame, Nack)]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (message := await self._inbox.get()) is not None:
            yield message


class Desk:
    """A hub without a door: all that its connections use."""

    def __init__(self, line: Line) -> None:
        peers, registry = Peers(), Registry(line)
        work = Work(line, peers, Dispatch(line, peers, LEASE_MS), LEASE_MS)
        principal = Principal("p", "default", frozenset({"agent"}), frozenset({ANY_AGENT}), 1 << 40, "t")
        tokens = cast(Tokens, SimpleNamespace(verify=lambda *_: principal))
        settings, methods = Settings(data=Path("nowhere")), cast(Methods, None)
        self.line = line
        self.hub = Services(settings, line, tokens, peers, registry, work, methods, Acks(line), Counters(), self.spawn)
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

    async def agent(self) -> tuple[Socket, Peer]:
        """Open a session of agent `a`, with one slot."""
        socket: Any = Socket()
        self._sockets.append(socket)
        self.spawn(Connection(self.hub, socket, "token").run())
        handlers = (HandlerSpec(name="h"),)
        socket.say(
            Identify(version=1, role=Role.AGENT, id="a", instance="i", queues=("q",), slots=1, handlers=handlers)
        )
        await settled(lambda: any(isinstance(frame, Ready) for frame in socket.heard))
        peer = self.hub.peers.agent("default", "a")
        assert peer is not None
        return socket, peer


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    def broadcast(sockets: tuple[Socket, ...], message: bytes) -> None:
        for socket in sockets:
            socket.write(message)

    monkeypatch.setattr("orchestrator.connection.broadcast", broadcast)
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
