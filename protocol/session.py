"""The session state machine, the same for both ends.

Theory of operation
-------------------
A session is one conversation over one connection. The two ends run the same machine and differ only in
which side they are: every frame, sent or received, is a step that one side takes, and `STEPS` says
which steps exist. So what one end may send is by construction what the other end may receive.

    OPENED --hub: hello--> GREETED --peer: identify--> IDENTIFIED --hub: ready--> READY
    READY  --hub: goaway--> LEAVING            any phase --bye, error--> ENDED

In READY and LEAVING both sides talk: LEAVING differs only in that the peer knows to come back elsewhere.
After ENDED nothing may be said. A step that is not in the table is an error: our own raises
`LocalProtocolError`, since it is a bug; the other side's ends the connection with `UNEXPECTED_FRAME`.

Liveness is counted here as well. A side that has sent nothing for a heartbeat interval is told to send a
heartbeat; a side that has heard nothing for two is told that the connection is dead. An agent's heartbeats
renew its leases, so an agent asks for `steady` ones, which other traffic does not put off. Until READY
one deadline holds for the whole handshake.

The machine is synchronous and total: it takes bytes or frames, and the time, and returns effects. It knows
nothing of logs, positions or runs; those belong to `protocol.window`, to the hub's core and to the agent.

Specification: docs/protocol.md, section "Sessions".
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from protocol.codec import decode, encode
from protocol.codes import CloseCode
from protocol.effects import Deliver, Fail, SendHeartbeat
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frames import FRAMES, Part
from protocol.limits import DEFAULT_HANDSHAKE_MS, DEFAULT_LIMITS, NESTING_MAX, UNIDENTIFIED_BYTES_MAX

__all__ = ["STEPS", "Phase", "Session", "Side"]

MISSED_INTERVALS_MAX = 2


class Side(StrEnum):
    """Who takes a step."""

    HUB = "hub"
    PEER = "peer"


class Phase(StrEnum):
    """Where the session is."""

    OPENED = "opened"
    GREETED = "greeted"
    IDENTIFIED = "identified"
    READY = "ready"
    LEAVING = "leaving"
    ENDED = "ended"


_HUB_TALK = (
    *("heartbeat", "refreshed", "subscribed", "entries", "reset", "probe"),
    *("puback", "nack", "response", "assign", "query"),
)
_PEER_TALK = (
    *("heartbeat", "refresh", "subscribe", "tags", "ack", "unsubscribe"),
    *("publish", "request", "release", "reply"),
)
_TALKING = (Phase.READY, Phase.LEAVING)

STEPS: dict[tuple[Phase, Side, str], Phase] = {
    (Phase.OPENED, Side.HUB, "hello"): Phase.GREETED,
    (Phase.GREETED, Side.PEER, "identify"): Phase.IDENTIFIED,
    (Phase.IDENTIFIED, Side.HUB, "ready"): Phase.READY,
    (Phase.READY, Side.HUB, "goaway"): Phase.LEAVING,
    **{(phase, Side.HUB, kind): phase for phase in _TALKING for kind in _HUB_TALK},
    **{(phase, Side.PEER, kind): phase for phase in _TALKING for kind in _PEER_TALK},
    **{(phase, Side.HUB, "error"): Phase.ENDED for phase in Phase if phase is not Phase.ENDED},
    **{(phase, side, "bye"): Phase.ENDED for phase in _TALKING for side in Side},
}
"""(phase, who takes the step, type of the frame) -> the phase after it."""


class Session:
    """One end of one session.

    Attributes:
        side: which end this is.
        phase: where the session is.
        bytes_max: limit of a received message; the hub raises it once the peer is identified, the
            peer sets it from `hello`.
        nesting_max: limit of the levels of a received frame, in parts that no schema bounds.
        heartbeat_ms: the interval; the peer sets it from `hello`.
    """

    __slots__ = (
        "_deadline_ms",
        "_heard_ms",
        "_other",
        "_said_ms",
        "bytes_max",
        "heartbeat_ms",
        "nesting_max",
        "phase",
        "side",
        "steady",
    )

    def __init__(
        self,
        side: Side,
        now_ms: int,
        *,
        heartbeat_ms: int,
        handshake_ms: int = DEFAULT_HANDSHAKE_MS,
        nesting_max: int = NESTING_MAX,
        steady: bool = False,
    ) -> None:
        self.side = side
        self.phase = Phase.OPENED
        self.heartbeat_ms = heartbeat_ms
        self.nesting_max = nesting_max
        self.steady = steady
        self.bytes_max = UNIDENTIFIED_BYTES_MAX if side is Side.HUB else DEFAULT_LIMITS.message_bytes_max
        self._other = Side.PEER if side is Side.HUB else Side.HUB
        self._deadline_ms = now_ms + handshake_ms
        self._heard_ms = now_ms
        self._said_ms = now_ms

    def receive(self, message: bytes, now_ms: int) -> list[Deliver | Fail]:
        """Take a message from the other side.

        Returns the frames to act on, in order; the last effect is `Fail` where the message broke a rule,
        and the frames before it still count. After the end of a session everything is ignored.
        """
        effects: list[Deliver | Fail] = []
        if self.phase is Phase.ENDED:
            return effects
        self._heard_ms = now_ms
        try:
            for frame in decode(message, self.bytes_max, self.nesting_max):
                self._step_received(frame.t)
                effects.append(Deliver(frame))
        except RemoteProtocolError as fault:
            self.phase = Phase.ENDED
            effects.append(Fail(fault.code, str(fault)))
        return effects

    def send(self, frames: Iterable[Part], now_ms: int) -> bytes:
        """Return the bytes that say `frames`, as one message.

        Raises:
            LocalProtocolError: this side may not say that now.
        """
        parts = []
        silent = self.phase is Phase.IDENTIFIED
        for frame in frames:
            self.step_sent(frame.t)  # type: ignore[attr-defined]
            parts.append(encode(frame))
        if silent and self.phase is Phase.READY:
            self._heard_ms = now_ms  # until now the peer had nothing that it might say
        self.said(now_ms)
        return b"".join(parts)

    def step_sent(self, kind: str) -> None:
        """Take a step of this side for a frame that was encoded elsewhere.

        Raises:
            LocalProtocolError: this side may not say that now.
        """
        phase = STEPS.get((self.phase, self.side, kind))
        if phase is None:
            raise LocalProtocolError(
                CloseCode.INTERNAL_ERROR, f"{self.side.value} may not send {kind} in {self.phase.value}"
            )
        self.phase = phase

    def said(self, now_ms: int) -> None:
        """Note that something was sent."""
        if not self.steady:
            self._said_ms = now_ms

    def tick(self, now_ms: int) -> SendHeartbeat | Fail | None:
        """Return what the clock asks for now. Call it at `due_ms` or later, as often as you like."""
        if self.phase is Phase.ENDED:
            return None
        if self.phase not in _TALKING:
            if now_ms < self._deadline_ms:
                return None
            self.phase = Phase.ENDED
            return Fail(CloseCode.HANDSHAKE_TIMEOUT, "the session was not identified in time")
        if now_ms - self._heard_ms >= MISSED_INTERVALS_MAX * self.heartbeat_ms:
            self.phase = Phase.ENDED
            silence_ms = now_ms - self._heard_ms
            return Fail(CloseCode.HEARTBEAT_TIMEOUT, f"nothing was heard for {silence_ms} ms")
        if now_ms - self._said_ms >= self.heartbeat_ms:
            self._said_ms = now_ms
            return SendHeartbeat()
        return None

    def due_ms(self) -> int:
        """Return when `tick` next has something to say, if nothing happens before."""
        if self.phase not in _TALKING:
            return self._deadline_ms
        dead_ms = self._heard_ms + MISSED_INTERVALS_MAX * self.heartbeat_ms
        return min(dead_ms, self._said_ms + self.heartbeat_ms)

    def end(self) -> None:
        """Note that the connection is gone."""
        self.phase = Phase.ENDED

    def validate(self) -> None:
        """Check what must hold at any time. A failure is a bug of ours."""
        assert self.heartbeat_ms > 0, self.heartbeat_ms
        assert self.bytes_max >= UNIDENTIFIED_BYTES_MAX, self.bytes_max
        assert all(kind in FRAMES for _, _, kind in STEPS)

    def _step_received(self, kind: str) -> None:
        phase = STEPS.get((self.phase, self._other, kind))
        if phase is None:
            raise RemoteProtocolError(
                CloseCode.UNEXPECTED_FRAME,
                f"{self._other.value} may not send {kind} in {self.phase.value}",
            )
        self.phase = phase
