"""A client written from docs/protocol.md alone: the standard library, `websockets` and `msgpack`, nothing else.

It checks the document: whatever this needs and the page does not say is missing from the page. One task, no
queue: whoever waits for something reads the connection until it is there, and keeps what comes meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

__all__ = ["Following", "Producer", "RawClient", "Refused", "first_tag", "next_tag", "pack", "unpack"]

SUBPROTOCOL = "fleetline.v1"
VERSION = 1
MESSAGE_BYTES_MAX = 4 * 1024 * 1024

Frame = dict[str, Any]
Position = list[Any]


class Refused(Exception):
    """A request, subscription or publish that the hub refused, with its frame or error."""

    def __init__(self, code: str, message: str, details: Frame) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.details = details


def pack(value: Any) -> bytes:
    """Return a packed value."""
    packed: bytes = msgpack.packb(value)
    return packed


def unpack(packed: bytes) -> Any:
    """Return what a packed value says; no bytes say nothing."""
    return msgpack.unpackb(packed, strict_map_key=False) if packed else None


def first_tag(epoch: str) -> str:
    """Return tag_0."""
    return hashlib.sha1(b"fleetline1" + epoch.encode()).hexdigest()[:16]


def next_tag(tag: str, offset: int, ts_ms: int, packed: bytes) -> str:
    """Return tag_n from tag_{n-1}."""
    return hashlib.sha1(f"{tag}{offset}:{ts_ms}:".encode() + packed).hexdigest()[:16]


def frames_of(message: bytes) -> list[Frame]:
    """Return the frames of a message."""
    unpacker = msgpack.Unpacker(max_buffer_size=len(message))
    unpacker.feed(message)
    return list(unpacker)


@dataclass
class Following:
    """A log that is followed: what was given of it, checked link by link."""

    log: str
    filtered: bool
    position: Position | None = None
    entries: list[list[Any]] = field(default_factory=list)
    tags: dict[int, str] = field(default_factory=dict)
    resets: list[Frame] = field(default_factory=list)
    caught_up: bool = False

    def start(self, position: Position) -> None:
        """Go on after this position."""
        if position != self.position:
            self.tags.clear()
        self.position = position
        self.tags[position[1]] = position[2]

    def take(self, frame: Frame) -> None:
        """Take an `entries` frame, which must continue the history."""
        assert self.position is not None, f"{self.log}: entries before a verdict"
        epoch, offset, tag = self.position
        assert (frame["prev"], frame["prev_tag"]) == (offset, tag), f"{self.log}: {frame} at {self.position}"
        for entry_offset, ts_ms, packed in frame["entries"]:
            if self.filtered:
                assert offset < entry_offset <= frame["upto"]
            else:
                assert entry_offset == offset + 1
                tag = self.tags[entry_offset] = next_tag(tag, entry_offset, ts_ms, packed)
            offset = entry_offset
        if not self.filtered:
            assert (offset, tag) == (frame["upto"], frame["tag"]), f"{self.log}: the chain does not verify"
        self.tags[frame["upto"]] = frame["tag"]
        self.position = [epoch, frame["upto"], frame["tag"]]
        self.entries += frame["entries"]
        self.caught_up = self.caught_up or bool(frame.get("caught_up"))

    def records(self) -> list[list[Any]]:
        """Return [kind, src, attempt, seq, index, cause, body] of each entry."""
        return [msgpack.unpackb(packed) for _, _, packed in self.entries]


@dataclass
class Producer:
    """A producer of a log: what it numbered, and what of that is acknowledged."""

    log: str
    name: str
    fence: int
    seq: int = 0
    acked: int = 0
    offset: int = 0
    level: str = ""
    nacks: list[Frame] = field(default_factory=list)


class RawClient:
    """One session. Make it with `RawClient.open`, end it with `close`.

    Attributes:
        hello: the hub's first frame.
        ready: its answer to `identify`.
        error: what the hub said before it closed.
        attempts: run -> fence of what this agent works on; its heartbeats list them.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self.hello: Frame = {}
        self.ready: Frame = {}
        self.error: Frame | None = None
        self.goaway: Frame | None = None
        self.attempts: dict[str, int] = {}
        self.following: dict[str, Following] = {}
        self._connection = connection
        self._producers: dict[tuple[str, str], Producer] = {}
        self._verdicts: dict[str, Frame] = {}
        self._responses: dict[int, Frame] = {}
        self._assigns: deque[Frame] = deque()
        self._heartbeats = 0
        self._last_id = 0
        self._said_s = asyncio.get_running_loop().time()

    @classmethod
    async def open(
        cls, url: str, token: str, *, name: str, role: str = "client", in_header: bool = True, **identify: Any
    ) -> RawClient:
        """Connect and identify. `identify` are further fields of that frame."""
        headers = {"Authorization": f"Bearer {token}"} if in_header else {}
        connection = await connect(
            url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]
            additional_headers=headers,
            compression=None,
            max_size=MESSAGE_BYTES_MAX,
            proxy=None,
        )
        client = cls(connection)
        try:
            await client._until(lambda: client.hello)
            assert VERSION in client.hello["versions"]
            frame = {"t": "identify", "version": VERSION, "role": role, "id": name, "instance": secrets.token_hex(8)}
            if not in_header:
                frame["token"] = token
            frame |= identify
            for listed in identify.get("subscriptions", ()):
                client._follow(listed)
            await client.send(frame)
            await client._until(lambda: client.ready)
        except BaseException:
            await connection.close()
            raise
        return client

    async def close(self) -> None:
        """End the session on purpose."""
        with contextlib.suppress(ConnectionClosed):
            await self.send({"t": "bye", "reason": "done"})
        await self._connection.close()

    async def drop(self) -> None:
        """Let the connection break, without a word."""
        self._connection.transport.abort()
        await self._connection.wait_closed()

    async def closed(self) -> int:
        """Read until the hub closes the connection; return its code."""
        try:
            while True:
                await self._read()
        except ConnectionClosed as end:
            return end.rcvd.code if end.rcvd else 1006

    async def send(self, *frames: Frame) -> None:
        """Send frames as one message."""
        await self.send_bytes(b"".join(map(pack, frames)))

    async def send_bytes(self, message: bytes) -> None:
        """Send a message as it is."""
        self._said_s = asyncio.get_running_loop().time()
        await self._connection.send(message)

    # Following

    async def subscribe(self, log: str, start: Position | str, **fields: Any) -> Frame:
        """Follow a log; return the verdict. `fields` are further fields of the frame."""
        frame = {"t": "subscribe", "log": log, "from": start, **fields}
        self._verdicts.pop(log, None)
        self._follow(frame)
        await self.send(frame)
        verdict: Frame = await self._until(lambda: self._verdicts.get(log))
        if verdict["verdict"] == "refused":
            raise Refused(verdict["code"], verdict["message"], verdict)
        return verdict

    async def wait_entries(self, log: str, count: int) -> list[list[Any]]:
        """Wait until this many entries of a log were given in all; return their records."""
        following = self.following[log]
        await self._until(lambda: len(following.entries) >= count)
        return following.records()

    async def wait_caught_up(self, log: str) -> list[list[Any]]:
        """Wait until history is over; return the records given in all."""
        following = self.following[log]
        await self._until(lambda: following.caught_up)
        return following.records()

    async def wait_reset(self, log: str) -> Frame:
        """Wait for a reset, and return it."""
        following = self.following[log]
        await self._until(lambda: following.resets)
        return following.resets[-1]

    async def ack(self, log: str, offset: int | None = None) -> None:
        """Acknowledge what was given of a log, or up to an offset."""
        following = self.following[log]
        assert following.position is not None
        upto = following.position[1] if offset is None else offset
        await self.send({"t": "ack", "log": log, "offset": upto, "resets": len(following.resets)})

    # Asking and publishing

    async def request(self, method: str, *, op: str | None = None, **params: Any) -> Any:
        """Call a method and return its result.

        Raises:
            Refused: the hub answered with an error.
        """
        self._last_id += 1
        number = self._last_id
        await self.send({"t": "request", "id": number, "method": method, "params": params, "op": op})
        response: Frame = await self._until(lambda: self._responses.pop(number, None))
        error = response.get("error")
        if error:
            raise Refused(error["code"], error["message"], error)
        return response.get("result")

    async def producer(self, log: str, name: str) -> Producer:
        """Open a producer and go on where it was."""
        opened = await self.request("producer.open", op=secrets.token_hex(8), log=log, producer=name)
        return self._own(Producer(log, name, opened["fence"], opened["last"], opened["last"]))

    def attempt(self, assign: Frame) -> Producer:
        """Return the producer of an attempt that was assigned."""
        done = assign.get("seq") or 0
        self.attempts[assign["run"]] = assign["fence"]
        return self._own(Producer(f"run/{assign['run']}", f"attempt/{assign['attempt']}", assign["fence"], done, done))

    async def publish(self, producer: Producer, entries: Iterable[Sequence[Any]], expect: int | None = None) -> int:
        """Publish [kind, body, index?, cause?] ... and wait; return the last one's offset.

        Raises:
            Refused: the hub refused it; the numbers are not used up.
        """
        rows = [[*entry, None, None][:4] for entry in entries]
        frame = {"t": "publish", "log": producer.log, "producer": producer.name, "fence": producer.fence}
        frame |= {"seq": producer.seq + 1, "entries": rows, "expect": expect}
        last = producer.seq + len(rows)
        producer.nacks.clear()
        await self.send(frame)
        await self._until(lambda: producer.acked >= last or producer.nacks)
        if producer.nacks:
            nack = producer.nacks[0]
            raise Refused(nack["code"], nack["message"], nack)
        producer.seq = last
        return producer.offset

    # Work

    async def next_assign(self) -> Frame:
        """Wait for an attempt."""
        assign: Frame = await self._until(lambda: self._assigns and self._assigns.popleft())
        return assign

    async def finish(self, producer: Producer, kind: str, body: Frame) -> int:
        """Publish the last entry of an attempt."""
        offset = await self.publish(producer, [(kind, pack(body))])
        self.attempts.pop(producer.log.removeprefix("run/"), None)
        return offset

    async def heartbeat(self) -> None:
        """Send a heartbeat, which renews the leases of an agent, and wait for the hub's next one."""
        seen = self._heartbeats
        await self._send_heartbeat()
        await self._until(lambda: self._heartbeats > seen)

    # Below

    def _follow(self, frame: Frame) -> None:
        log, start = frame["log"], frame["from"]
        before = self.following.get(log)
        following = Following(log, filtered=bool(frame.get("kinds")))
        if not isinstance(start, str):
            following.position = list(start)
            following.tags = dict(before.tags) if before and before.position == list(start) else {}
            following.tags[start[1]] = start[2]
        self.following[log] = following

    def _own(self, producer: Producer) -> Producer:
        self._producers[producer.log, producer.name] = producer
        return producer

    async def _send_heartbeat(self) -> None:
        frame: Frame = {"t": "heartbeat"}
        if self.attempts:
            frame["attempts"] = [{"run": run, "fence": fence} for run, fence in self.attempts.items()]
        await self.send(frame)

    async def _until(self, condition: Callable[[], Any]) -> Any:
        while not (answer := condition()):
            await self._read()
        return answer

    async def _read(self) -> None:
        """Read a message, sending heartbeats when it is time for one."""
        clock = asyncio.get_running_loop()
        interval_s = self.hello.get("heartbeat_ms", 60_000) / 1000
        message: str | bytes | None = None
        while message is None:
            try:
                async with asyncio.timeout_at(self._said_s + interval_s):
                    message = await self._connection.recv()
            except TimeoutError:
                await self._send_heartbeat()
            if clock.time() >= self._said_s + interval_s:
                await self._send_heartbeat()
        assert isinstance(message, bytes), "the hub sent text"
        for frame in frames_of(message):
            await self._take(frame)

    async def _take(self, frame: Frame) -> None:
        match frame["t"]:
            case "hello" | "ready" | "error" | "goaway" as kind:
                setattr(self, kind, frame)
                for verdict in frame.get("subscriptions") or ():
                    self._verdict(verdict)
            case "heartbeat":
                self._heartbeats += 1
            case "subscribed":
                self._verdict(frame["subscription"])
            case "entries":
                self.following[frame["log"]].take(frame)
            case "reset":
                self._reset(frame)
            case "probe":
                tags = self.following[frame["log"]].tags
                answer = [tags.get(offset) for offset in frame["offsets"]]
                await self.send({"t": "tags", "log": frame["log"], "tags": answer})
            case "puback":
                producer = self._producers[frame["log"], frame["producer"]]
                producer.acked, producer.offset, producer.level = frame["seq"], frame["offset"], frame["level"]
            case "nack":
                self._producers[frame["log"], frame["producer"]].nacks.append(frame)
            case "response":
                self._responses[frame["id"]] = frame
            case "assign":
                self._assigns.append(frame)

    def _verdict(self, verdict: Frame) -> None:
        self._verdicts[verdict["log"]] = verdict
        if verdict["verdict"] == "reset":
            self._reset(verdict)
        elif verdict["verdict"] == "resumed":
            self.following[verdict["log"]].start(list(verdict["at"]))

    def _reset(self, frame: Frame) -> None:
        following = self.following[frame["log"]]
        following.resets.append(frame)
        following.caught_up = False
        following.start(list(frame["at"]))
