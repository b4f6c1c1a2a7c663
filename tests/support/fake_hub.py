"""A hub for tests of the agent's side: the protocol over a real socket, everything else in memory.

It says what the protocol has a hub say, and can be told to misbehave: to cut connections, to close them with
a code, to keep acknowledgements back, to refuse publishes, to forget what it acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from protocol import frames as f
from protocol.codec import pack_record, pack_value, unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.control import CONTROL, Kind, Submitted
from protocol.effects import Deliver, SendHeartbeat
from protocol.entry import Entry, Position, next_tag, origin
from protocol.ids import make_run_id
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import METHODS
from protocol.session import Session, Side

__all__ = ["FakeHub", "FakeLog", "Wire", "running_hub"]


@dataclass
class FakeLog:
    """One log: its entries, with the tag after each."""

    epoch: str
    entries: list[Entry] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    producers: dict[str, list[int]] = field(default_factory=dict)

    @property
    def head(self) -> Position:
        return self.at(len(self.entries))

    def at(self, offset: int) -> Position:
        return origin(self.epoch) if offset == 0 else Position(self.epoch, offset, self.tags[offset - 1])

    def append(self, packed: bytes) -> int:
        offset, ts_ms = len(self.entries) + 1, 1000 + len(self.entries)
        self.tags.append(next_tag(self.head.tag, offset, ts_ms, packed))
        self.entries.append(Entry(offset, ts_ms, packed))
        return offset


@dataclass(eq=False)
class Wire:
    """One connection."""

    socket: ServerConnection
    session: Session
    identify: f.Identify | None = None
    follows: dict[str, tuple[int, tuple[str, ...] | None]] = field(default_factory=dict)
    heard: list[f.Part] = field(default_factory=list)

    async def send(self, *frames: f.Part) -> None:
        await self.socket.send(self.session.send(frames, _now_ms()))


def _now_ms() -> int:
    return int(asyncio.get_running_loop().time() * 1000)


class FakeHub:
    """The hub. Attributes that tests set: `heartbeat_ms`, `limits`, `mute_pubacks`, `refuse`, `verdicts`, `ends_at`.

    `ends_at` says of which sessions, counted from 1, the end stands in one message with the beginning.
    """

    def __init__(self) -> None:
        self.heartbeat_ms = 200
        self.limits: Limits = DEFAULT_LIMITS
        self.token: str | None = None
        self.mute_pubacks = False
        self.frames_before_cut: int | None = None
        self.refuse: Callable[[f.Publish], f.Nack | None] = lambda frame: None
        self.verdicts: Callable[[f.AttemptClaim], f.Verdict] = lambda claim: f.Verdict.CONTINUE
        self.ends_at: tuple[int, ...] = ()
        self.logs: dict[str, FakeLog] = {}
        self.durables: dict[tuple[str, str], int] = {}
        self.wires: list[Wire] = []
        self.identified: list[f.Identify] = []
        self.heard: list[f.Part] = []
        self.runs: dict[str, Any] = {}
        self.keys: dict[str, str] = {}
        self.ops: dict[str, Any] = {}
        self.waits: list[tuple[Wire, f.Response, str]] = []
        self.counter = 0
        self.port = 0
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = await serve(
            self._serve,
            "127.0.0.1",
            self.port,
            subprotocols=["fleetline.v1"],  # type: ignore[list-item]
            compression=None,
            ping_interval=None,
            process_request=self._admit,
            max_size=64 * 1024 * 1024,
        )
        self.port = next(iter(self._server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        """Die: every connection is cut."""
        assert self._server is not None
        self.cut()
        self._server.close()
        await self._server.wait_closed()

    def cut(self) -> None:
        """Cut every connection, without a word."""
        for wire in self.wires:
            wire.socket.transport.abort()

    async def close_all(self, code: int, message: str = "", goaway_ms: int | None = None) -> None:
        """End every session with a code."""
        for wire in tuple(self.wires):
            if goaway_ms is not None:
                await wire.send(f.Goaway(after_ms=goaway_ms, reason="drain"))
            await wire.send(f.Error(code=code, message=message))
            await wire.socket.close(code, message)

    def log(self, name: str) -> FakeLog:
        if name not in self.logs:
            self.counter += 1
            self.logs[name] = FakeLog(f"epoch{self.counter}")
        return self.logs[name]

    async def append(self, log: str, kind: str, value: Any, src: str = "hub:fake", **numbers: int | None) -> int:
        """Append an entry and tell whoever follows."""
        offset = self.log(log).append(pack_record(kind, src, pack_value(value), **numbers))
        await self.pump()
        return offset

    async def pump(self) -> None:
        """Send everybody what they have not been sent."""
        for wire in tuple(self.wires):
            with suppress(ConnectionClosed):
                for name in tuple(wire.follows):
                    await self._deliver(wire, name)
        for wait in tuple(self.waits):
            wire, answer, run = wait
            last = self.log(f"run/{run}").entries[-1]
            control = CONTROL.get(unpack_record(last.packed).kind)
            if control is not None and control.terminal:
                self.waits.remove(wait)
                with suppress(ConnectionClosed):
                    await wire.send(answer.model_copy(update={"result": {**answer.result, "end": last}}))

    async def assign(self, run: str, *, attempt: int = 1, fence: int | None = None, recover: str = "restart") -> None:
        """Give a run to the first agent that is connected."""
        fence = fence or 100 + attempt
        claimed = {"attempt": attempt, "fence": fence, "agent": "a", "instance": "i", "lease_ms": 5000}
        await self.append(f"run/{run}", Kind.CLAIMED, {**claimed, "recover": recover, "retries": 0})
        await self.tell_assign(run, attempt=attempt, fence=fence, recover=recover)

    async def tell_assign(self, run: str, *, attempt: int, fence: int, recover: str = "restart", seq: int = 0) -> None:
        log, asked = self.log(f"run/{run}"), self.runs[run]
        agent = next(w for w in self.wires if w.identify is not None and w.identify.role is f.Role.AGENT)
        log.producers.setdefault(f"attempt/{attempt}", [seq, 0])
        await agent.send(
            f.Assign(
                run=run,
                queue=asked.queue,
                handler=asked.handler,
                attempt=attempt,
                fence=fence,
                input=asked.input,
                lease_ms=5000,
                position=log.head,
                recover=f.Recover(recover),
                seq=seq,
            )
        )

    @staticmethod
    def nack(
        frame: f.Publish, code: str, *, last: int | None = None, head: int | None = None, retry_ms: int | None = None
    ) -> f.Nack:
        """Return a refusal of a publish."""
        return f.Nack(
            log=frame.log,
            producer=frame.producer,
            seq=frame.seq,
            code=code,
            message="because the test says so",
            last=last,
            head=head,
            retry_ms=retry_ms,
        )

    # Inside

    def _admit(self, socket: ServerConnection, request: Any) -> Any:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return socket.respond(401, "the token is not known\n")
        return None

    async def _serve(self, socket: ServerConnection) -> None:
        wire = Wire(socket, Session(Side.HUB, _now_ms(), heartbeat_ms=self.heartbeat_ms))
        ticking = asyncio.create_task(self._tick(wire))
        try:
            await wire.send(
                f.Hello(
                    versions=(1,),
                    hub="fake",
                    nonce=b"n",
                    heartbeat_ms=self.heartbeat_ms,
                    limits=self.limits,
                    durability="memory",
                    store_ms=0,
                )
            )
            async for message in socket:
                assert isinstance(message, bytes)
                for effect in wire.session.receive(message, _now_ms()):
                    assert isinstance(effect, Deliver), effect
                    wire.heard.append(effect.frame)
                    self.heard.append(effect.frame)
                    await self._take(wire, effect.frame)
        except ConnectionClosed:
            return
        finally:
            ticking.cancel()
            if wire in self.wires:
                self.wires.remove(wire)

    async def _tick(self, wire: Wire) -> None:
        while True:
            due_ms = min(wire.session.due_ms() - _now_ms(), self.heartbeat_ms // 4)
            await asyncio.sleep(max(0.005, due_ms / 1000))
            match wire.session.tick(_now_ms()):
                case SendHeartbeat():
                    await wire.send(f.Heartbeat())
                case None:
                    pass
                case _:
                    wire.socket.transport.abort()
                    return

    async def _take(self, wire: Wire, frame: f.Part) -> None:
        if self.frames_before_cut is not None:
            self.frames_before_cut -= 1
            if self.frames_before_cut <= 0:
                self.frames_before_cut = None
                wire.socket.transport.abort()
                raise ConnectionClosed(None, None)
        match frame:
            case f.Identify():
                await self._identify(wire, frame)
            case f.Subscribe():
                await wire.send(f.Subscribed(subscription=self._subscribe(wire, frame)))
                await self._deliver(wire, frame.log)
            case f.Unsubscribe():
                wire.follows.pop(frame.log, None)
            case f.Ack():
                for log, name in self.durables:
                    if log == frame.log:
                        self.durables[log, name] = max(self.durables[log, name], frame.offset)
            case f.Publish():
                await wire.send(*self._publish(wire, frame))
                await self.pump()
            case f.Request():
                answer = self._answer(wire, frame)
                if frame.params.get("wait_ms") and answer.result is not None:
                    self.waits.append((wire, answer, frame.params.get("run") or answer.result["run"]))
                else:
                    await wire.send(answer)
                await self.pump()
            case _:
                pass

    async def _identify(self, wire: Wire, frame: f.Identify) -> None:
        wire.identify = frame
        wire.session.bytes_max = self.limits.message_bytes_max
        self.identified.append(frame)
        self.wires.append(wire)
        self.counter += 1
        verdicts = tuple(
            f.AttemptVerdict(
                run=claim.run,
                fence=claim.fence,
                verdict=self.verdicts(claim),
                seq=max((last for last, _ in self.log(f"run/{claim.run}").producers.values()), default=0),
            )
            for claim in frame.attempts
        )
        end = (f.Error(code=CloseCode.GOING_AWAY, message="at once"),) if len(self.identified) in self.ends_at else ()
        await wire.send(
            f.Ready(
                session=f"s{self.counter}",
                fence=self.counter,
                resumed=frame.session is not None,
                principal=f"{frame.role}:{frame.id}",
                namespace="default",
                scopes=("operator",),
                subscriptions=tuple(self._subscribe(wire, wish) for wish in frame.subscriptions),
                attempts=verdicts,
            ),
            *end,
        )
        await self.pump()

    def _subscribe(self, wire: Wire, wish: f.Subscribe) -> f.SubscriptionVerdict:
        log = self.log(wish.log)
        if wish.durable is not None:
            self.durables.setdefault((wish.log, wish.durable), 0)
        match wish.from_:
            case Position() as at:
                if at.epoch != log.epoch or at.offset > log.head.offset or log.at(at.offset) != at:
                    wire.follows[wish.log] = (0, wish.kinds)
                    lost = f.Lost(from_=1, to=at.offset, exact=False)
                    reason = f.ResetReason.UNKNOWN if at.epoch != log.epoch else f.ResetReason.DIVERGED
                    return f.SubscriptionVerdict(
                        log=wish.log, verdict=f.Resumption.RESET, at=log.at(0), reason=reason, lost=lost
                    )
            case f.Start.LATEST:
                at = log.head
            case f.Start.ACKED:
                at = log.at(self.durables.get((wish.log, wish.durable or ""), 0))
            case _:
                at = log.at(0)
        wire.follows[wish.log] = (at.offset, wish.kinds)
        return f.SubscriptionVerdict(log=wish.log, verdict=f.Resumption.RESUMED, at=at, head=log.head.offset)

    async def _deliver(self, wire: Wire, name: str) -> None:
        log = self.log(name)
        while name in wire.follows and wire.follows[name][0] < log.head.offset:
            sent, kinds = wire.follows[name]
            upto = min(log.head.offset, sent + 256)
            wire.follows[name] = (upto, kinds)
            entries = log.entries[sent:upto]
            if kinds is not None:
                entries = [entry for entry in entries if unpack_record(entry.packed).kind in kinds]
            await wire.send(
                f.Entries(
                    log=name,
                    prev=sent,
                    prev_tag=log.at(sent).tag,
                    upto=upto,
                    tag=log.at(upto).tag,
                    entries=tuple(entries),
                    caught_up=upto == log.head.offset,
                )
            )

    def _publish(self, wire: Wire, frame: f.Publish) -> list[f.Part]:
        log = self.log(frame.log)
        refused = self.refuse(frame)
        if refused is not None:
            return [refused]
        record = log.producers.setdefault(frame.producer, [0, 0])
        if frame.seq > record[0] + 1:
            return [self.nack(frame, "out_of_order", last=record[0])]
        if frame.expect is not None and frame.expect != log.head.offset and frame.seq > record[0]:
            return [self.nack(frame, "expect_failed", head=log.head.offset)]
        assert wire.identify is not None
        attempt = int(frame.producer[8:]) if frame.producer.startswith("attempt/") else None
        for place, (kind, body, index, cause) in enumerate(frame.entries):
            seq = frame.seq + place
            if seq > record[0]:
                src = f"{wire.identify.role}:{wire.identify.id}"
                offset = log.append(pack_record(kind, src, body, attempt=attempt, seq=seq, index=index, cause=cause))
                record[:] = [seq, offset]
        if self.mute_pubacks:
            return []
        ack = f.Puback(log=frame.log, producer=frame.producer, seq=record[0], offset=record[1], level="memory")
        return [ack]

    def _answer(self, wire: Wire, frame: f.Request) -> f.Response:
        if frame.op is not None and frame.op in self.ops:
            return f.Response(id=frame.id, result=self.ops[frame.op])
        params = METHODS[frame.method].params.model_validate(frame.params)
        result: Any = getattr(self, "_do_" + frame.method.replace(".", "_"))(params)
        if isinstance(result, f.Fault):
            return f.Response(id=frame.id, error=result)
        plain = result if isinstance(result, dict) else result.model_dump(by_alias=True, exclude_none=True)
        if frame.op is not None:
            self.ops[frame.op] = plain
        return f.Response(id=frame.id, result=plain)

    def _do_run_submit(self, asked: Any) -> Any:
        created = asked.key not in self.keys
        if created:
            self.counter += 1
            run = make_run_id(1, 1, self.counter.to_bytes(8, "big"))
            self.keys[asked.key] = run
            self.runs[run] = asked
            body = pack_value(Submitted(queue=asked.queue, handler=asked.handler, input=asked.input, key=asked.key))
            self.log(f"run/{run}").append(pack_record(Kind.SUBMITTED, "client:c", body))
        return {"run": self.keys[asked.key], "created": created}

    def _do_run_get(self, asked: Any) -> Any:
        if asked.run not in self.runs:
            return f.Fault(code="not_found", message="no such run")
        log = self.log(f"run/{asked.run}")
        state, result = "queued", None
        for entry in log.entries:
            record = unpack_record(entry.packed)
            if record.kind in CONTROL and CONTROL[record.kind].terminal:
                state = record.kind[1:]
                result = unpack_value(record.body).get("result")
        return {
            "run": asked.run,
            "state": state,
            "handler": self.runs[asked.run].handler,
            "queue": self.runs[asked.run].queue,
            "attempt": 1,
            "submitted_ms": 1,
            "result": result,
            "head": log.head.offset,
        }

    def _do_run_wait(self, asked: Any) -> Any:
        return {} if asked.run in self.runs else f.Fault(code="not_found", message="no such run")

    def _do_run_cancel(self, asked: Any) -> Any:
        offset = self.log(f"run/{asked.run}").append(
            pack_record(Kind.CANCEL, "client:c", pack_value({"reason": asked.reason} if asked.reason else {}))
        )
        return {"state": "running", "offset": offset}

    def _do_producer_open(self, asked: Any) -> Any:
        self.counter += 1
        return {"fence": self.counter, "last": self.log(asked.log).producers.get(asked.producer, [0, 0])[0]}

    def _do_log_read(self, asked: Any) -> Any:
        log = self.log(asked.log)
        after = min(asked.after, log.head.offset)
        entries = tuple(log.entries[after : after + asked.limit])
        return {
            "before": log.at(after),
            "after": log.at(after + len(entries)),
            "head": log.head.offset,
            "entries": entries,
        }

    def _do_agent_send(self, asked: Any) -> Any:
        offset = self.log(f"agent/{asked.agent}").append(pack_record(asked.kind, "client:c", asked.body))
        return {"log": f"agent/{asked.agent}", "offset": offset}


@asynccontextmanager
async def running_hub() -> AsyncIterator[FakeHub]:
    """Start a hub, and stop it at the end."""
    hub = FakeHub()
    await hub.start()
    try:
        yield hub
    finally:
        await hub.stop()
