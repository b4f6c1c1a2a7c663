"""What is fed arbitrary bytes: the codec, a session, and a whole hub; and the corpus, the inputs that reach most of it.

A target takes bytes and returns, or raises: then there is a bug. `scripts/fuzz` looks for such bytes, guided by what
code they reach, and `tests/property/test_corpus.py` goes through what it has found worth keeping.
"""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import structlog

from orchestrator.auth.principal import ANY_AGENT, Grant
from orchestrator.connection import Connection
from orchestrator.core import runs
from orchestrator.core.permissions import Scope
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codec import decode, encode, pack_value, unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.effects import Fail
from protocol.errors import RemoteProtocolError
from protocol.frames import HandlerSpec, Identify, Part, Ready, Request, Role
from protocol.ids import LogKind, LogName
from protocol.requests import METHODS, RunSubmit
from protocol.session import Phase, Session, Side
from tests.support.samples import INSTANCE, NOW_MS, RUN, SAMPLES
from tests.support.simulation.hubs import TOKENS, Doorless, settings_of

__all__ = ["CORPUS", "TARGETS", "InternalFault", "read_corpus", "seeds", "words", "write_corpus"]

CORPUS = Path(__file__).parents[1] / "property" / "corpus"
BYTES_MAX = 64 * 1024
PREFIX_BYTES = 2
"""Before each message, its length; the last one is what is left."""
TURNS_MAX = 400
QUIET_TURNS = 12
"""Turns of the event loop in which nothing was said, after which nothing more is."""
HEARTBEAT_MS = 5_000


class InternalFault(AssertionError):
    """The hub took something for its own fault, or holds on to what is over."""


def codec(data: bytes) -> None:
    """Whatever is decoded is what its own bytes decode to; whatever is not is the other side's fault."""
    for read in (unpack_value, unpack_record):
        with suppress(ValueError):
            read(data)
    try:
        frames = list(decode(data, BYTES_MAX))
    except RemoteProtocolError:
        return
    for frame in frames:
        again = encode(frame)
        # Not the frames: one with a number that is none (NaN) is not equal to itself.
        assert list(map(encode, decode(again, len(again)))) == [again], frame


def session(data: bytes) -> None:
    """A session ends with a code, and delivers nothing after it."""
    if not data:
        return
    sides, phases = tuple(Side), tuple(Phase)
    machine = Session(sides[data[0] % len(sides)], 0, heartbeat_ms=HEARTBEAT_MS)
    machine.phase = phases[data[0] // len(sides) % len(phases)]
    now_ms, ended = 0, False
    for message in _messages(data[1:]):
        now_ms += len(message)
        for effect in machine.receive(message, now_ms):
            assert not ended, effect
            ended = isinstance(effect, Fail)
        if not ended and isinstance(machine.tick(now_ms), Fail):
            machine.end()
            ended = True


def hub(data: bytes) -> None:
    """A hub takes nothing that it is told for a fault of its own, and forgets whoever has gone."""
    if data:
        with asyncio.Runner() as runner:
            runner.run(_feed(data[0], _messages(data[1:])))


TARGETS: dict[str, Callable[[bytes], None]] = {"codec": codec, "session": session, "hub": hub}


def read_corpus(target: str) -> list[bytes]:
    """Return the inputs that are kept for a target."""
    path = CORPUS / f"{target}.txt"
    return [b64decode(line) for line in path.read_text().split()] if path.exists() else []


def write_corpus(target: str, inputs: Sequence[bytes]) -> None:
    """Keep these inputs for a target."""
    lines = (b64encode(each).decode() for each in sorted(inputs, key=lambda each: (len(each), each)))
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))


def seeds(target: str) -> list[bytes]:
    """Return the inputs to begin with: one of each frame, and of each method."""
    frames = [encode(frame) for frame in SAMPLES.values()]
    if target == "codec":
        return frames
    asked = [encode(Request(id=1, method=name, op="op-1", params=_params(name))) for name in METHODS]
    kinds = (len(tuple(Side)) * len(tuple(Phase))) if target == "session" else len(_PEERS)
    return [bytes((kind,)) + _joined((frame,)) for kind in range(kinds) for frame in (*frames, *asked)]


_PARAMS: dict[str, object] = {
    "agent": "a",
    "answer": pack_value(True),
    "attempt": 1,
    "body": pack_value(None),
    "cron": "* * * * *",
    "fence": 1,
    "handler": "review",
    "input": pack_value(None),
    "key": "k2",
    "kind": "note",
    "log": f"run/{RUN}",
    "name": "n",
    "number": 1,
    "paused": True,
    "producer": "p",
    "queue": "coding",
    "run": RUN,
    "schedule": "s",
    "size": 1,
    "wait_ms": 1,
}


def _params(method: str) -> dict[str, object]:
    """Return parameters with which a method does something; those that it need not have it mostly has not."""
    fields = METHODS[method].params.model_fields
    return {name: _PARAMS.get(name, 1) for name, field in fields.items() if field.is_required()}


def words() -> Iterator[str]:
    """Yield the words that inputs are made of: types of frames, their fields, methods and their parameters."""
    known = {*SAMPLES, *METHODS}
    models: list[Any] = [type(frame) for frame in SAMPLES.values()]
    models += [method.params for method in METHODS.values()]
    for model in models:
        known |= {field.alias or name for name, field in model.model_fields.items()}
    yield from sorted({word.partition(" ")[0] for word in known})


def _messages(data: bytes) -> Iterator[bytes]:
    while data:
        size = int.from_bytes(data[:PREFIX_BYTES], "big")
        yield data[PREFIX_BYTES:][:size]
        data = data[PREFIX_BYTES + size :]


def _joined(messages: Sequence[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(PREFIX_BYTES, "big") + each for each in messages)


_PEERS: tuple[Identify | None, ...] = (
    None,
    Identify(version=1, role=Role.CLIENT, id="c", instance=INSTANCE),
    Identify(
        version=1,
        role=Role.AGENT,
        id="a",
        instance=INSTANCE,
        queues=("coding",),
        slots=2,
        handlers=(HandlerSpec(name="review"),),
    ),
)
"""Who talks: somebody who has not said who they are, a client, an agent."""


class _Socket:
    """A websocket, as a connection sees it."""

    congested = False
    buffered = 0
    nonce = b"n" * 16
    address = "192.0.2.1"

    def __init__(self) -> None:
        self.heard: list[Part] = []
        self.closed: int | None = None

    def write(self, message: bytes) -> None:
        self.heard.extend(decode(message, 1 << 24))

    def close(self, code: int, _reason: str) -> None:
        self.closed = code

    def take_up_to(self, _message_bytes_max: int) -> None:
        """Any length will do."""

    def pause_reading(self) -> None:
        """Nothing is read that could be paused."""

    def resume_reading(self) -> None:
        """Nothing was paused."""


async def _feed(peer: int, messages: Iterator[bytes]) -> None:
    _raise_errors()
    server = MemoryServer(lambda: NOW_MS)
    async with AsyncExitStack() as stack:
        store = MemoryStore(server, "store-1")
        hub = await stack.enter_async_context(Doorless(settings_of(30_000, HEARTBEAT_MS), store))
        asked = RunSubmit(queue="coding", handler="review", input=pack_value(None), key="k")
        commit = runs.submit(runs.Ids("setup.1", "client:c", "e"), LogName("default", LogKind.RUN, RUN), asked, NOW_MS)
        assert isinstance(await hub.services.line.commit(commit), Outcome)
        socket: Any = _Socket()
        connection = Connection(hub.services, socket, _token())
        connection.greet()
        said = _PEERS[peer % len(_PEERS)]
        if said is not None:
            connection.on_message(encode(said))
            await _quiet(socket)
            assert any(isinstance(frame, Ready) for frame in socket.heard)
        for message in messages:
            if socket.closed is not None:
                break
            connection.on_message(message)
            await _quiet(socket)
        if socket.closed == CloseCode.INTERNAL_ERROR:
            raise InternalFault("the session was ended for a fault of the hub's")
        connection.on_lost()
        await _quiet(socket)
        services = hub.services
        left = (len(services.connections), len(services.peers), len(services.waiting), services.unidentified)
        if any(left):
            raise InternalFault(f"connections, peers, waits, unidentified are left: {left}")


async def _quiet(socket: _Socket) -> None:
    quiet, heard = 0, len(socket.heard)
    for _ in range(TURNS_MAX):
        await asyncio.sleep(0)
        quiet = quiet + 1 if len(socket.heard) == heard else 0
        heard = len(socket.heard)
        if quiet == QUIET_TURNS:
            return


@lru_cache(maxsize=1)
def _token() -> str:
    grant = Grant("fuzz", "default", frozenset({Scope.OPERATOR, Scope.AGENT}), frozenset({ANY_AGENT}))
    return TOKENS.issue(grant, now_s=int(time.time()), ttl_s=24 * 3600, token_id="t")


def _raise_errors() -> None:
    """Let what the hub logs as an error be one."""

    def check(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method in ("error", "exception", "critical"):
            fault = event.get("exc_info")
            raise InternalFault(str(event)) from (fault if isinstance(fault, BaseException) else None)
        raise structlog.DropEvent

    structlog.configure(processors=[check])
