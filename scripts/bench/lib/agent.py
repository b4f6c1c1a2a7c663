"""An agent with nothing to do, as lean as one can be: thousands of them share the machine with the hub under test.

It authenticates, follows the log of its messages from its position, checks every entry against the tag chain,
acknowledges, and sends heartbeats. One that has a key proves on each connection that it holds it. Frames are packed
and unpacked without the models of `protocol.frames`: what the hub sends is checked only as far as the agent relies on
it, and anything that was not expected is a failure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protocol.codec import encode
from protocol.entry import Position
from protocol.frames import Entries, HandlerSpec, Heartbeat, Identify, Role, Start, Subscribe
from protocol.proof import proof_bytes
from protocol.version import VERSION
from protocol.window import Cursor
from scripts.bench.lib.child import ChildFailed

__all__ = ["IdleAgent"]

NAMESPACE = "default"
QUEUE_NAME = "bench"
HEARTBEAT = encode(Heartbeat(attempts=(), slots_free=1))


def _frames(message: bytes) -> Iterator[dict[str, Any]]:
    unpacker = msgpack.Unpacker(use_list=False)
    unpacker.feed(message)
    yield from unpacker


class IdleAgent:
    """One agent, over any number of connections.

    Args:
        agent: its id.
        key: that it proves to hold, if it has one.

    Attributes:
        resumed: how often it went on from exactly where it was.
        proved: how often it was let in with a proof.
        signing_s: the processor time that its proofs took.
        live: whether it has been given all that its log held when the session opened.
    """

    __slots__ = (
        "_agent",
        "_cursor",
        "_frame",
        "_head",
        "_heartbeat_ms",
        "_identify",
        "_key",
        "_log",
        "_said_ms",
        "live",
        "proved",
        "resumed",
        "signing_s",
    )

    def __init__(self, agent: str, key: Ed25519PrivateKey | None = None) -> None:
        self._agent = agent
        self._key = key
        self._log = f"agent/{agent}"
        self._cursor = Cursor(None)
        self._head = 0
        self._heartbeat_ms = 0
        self._said_ms = 0
        self.resumed = 0
        self.proved = 0
        self.signing_s = 0.0
        self.live = False
        self._frame = Identify(
            version=VERSION,
            role=Role.AGENT,
            id=agent,
            instance=f"{agent}-bench",
            labels={"region": "here"},
            queues=(QUEUE_NAME,),
            slots=1,
            handlers=(HandlerSpec(name="work"),),
            subscriptions=(Subscribe(log=self._log, from_=Start.LATEST),),
        )
        self._identify: dict[str, Any] = msgpack.unpackb(encode(self._frame))
        if key is not None:
            public = key.public_key().public_bytes_raw()
            self._identify["proof"] = {"namespace": NAMESPACE, "name": agent, "key": public}

    def connected(self, now_ms: int) -> None:
        """Begin anew on another connection."""
        self.live = False
        self._heartbeat_ms = 0
        self._said_ms = now_ms

    def tick(self, now_ms: int) -> bytes | None:
        """Return the heartbeat that is due, if one is."""
        if not self._heartbeat_ms or now_ms - self._said_ms < self._heartbeat_ms:
            return None
        self._said_ms = now_ms
        return HEARTBEAT

    def take(self, message: bytes) -> bytes | None:
        """Take a message of the hub; return what there is to say to it.

        Raises:
            ChildFailed: the hub said what it should not have.
            Mismatch: what it sent does not continue what it sent before.
        """
        handled = None
        for frame in _frames(message):
            match frame["t"]:
                case "hello":
                    return self._on_hello(frame)
                case "ready":
                    self._on_ready(frame)
                case "entries":
                    handled = self._on_entries(frame) or handled
                case "heartbeat":
                    pass
                case _:
                    raise ChildFailed(f"{self._agent}: did not ask for {frame}")
        return None if handled is None else _pack({"t": "ack", "log": self._log, "offset": handled})

    def _on_hello(self, frame: dict[str, Any]) -> bytes:
        assert VERSION in frame["versions"], frame
        self._heartbeat_ms = frame["heartbeat_ms"]
        if self._key is not None:
            began_s = time.thread_time()
            signed = proof_bytes(frame["hub"], frame["nonce"], self._frame, NAMESPACE, self._agent)
            self._identify["proof"]["signature"] = self._key.sign(signed)
            self.signing_s += time.thread_time() - began_s
        return _pack(self._identify)

    def _on_ready(self, frame: dict[str, Any]) -> None:
        [verdict] = frame["subscriptions"]
        if verdict["verdict"] != "resumed" or verdict["log"] != self._log:
            raise ChildFailed(f"{self._agent}: {verdict}")
        at = Position(*verdict["at"])
        if self._cursor.position is None:
            self._cursor.start(at)
        else:
            self.resumed += at == self._cursor.position
        self.proved += self._key is not None
        self._identify["session"] = frame["session"]
        self._head = verdict["head"]
        self._moved()

    def _on_entries(self, frame: dict[str, Any]) -> int | None:
        """Check a frame against the tag chain; return what can be acknowledged."""
        assert frame["log"] == self._log, frame
        taken = self._cursor.accept(Entries.model_construct(**frame))
        self._moved()
        return frame["upto"] if taken else None

    def _moved(self) -> None:
        position = self._cursor.position
        assert position is not None
        self._identify["subscriptions"][0]["from"] = position
        self.live = position.offset >= self._head


def _pack(frame: dict[str, Any]) -> bytes:
    packed: bytes = msgpack.packb(frame)
    return packed
