"""One session and the rate of its principal: what it sends is charged, and who owes is not read for a while.

While the hub does not read, it hears no heartbeats: they count as heard, and the leases of the attempts that the
agent holds are renewed for it. A rest ends when what was taken is paid for, so it is bounded by one read of the socket.

Specification: docs/protocol.md, section "Limits".
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.audit import Audit
from orchestrator.core.rates import Meter
from orchestrator.peers import Peer
from protocol.effects import Deliver, Fail
from protocol.frames import Heartbeat, HeldAttempt, Publish, Role
from protocol.refusals import What

__all__ = ["Pace"]


class Pace:
    """The pace of one session.

    Args:
        meter: of its principal.
        peer: the session.
        interval_ms: between heartbeats.
        audit: told of a session that sends more than its rate.
    """

    __slots__ = ("_audit", "_beat_ms", "_interval_ms", "_meter", "_peer")

    def __init__(self, meter: Meter, peer: Peer, interval_ms: int, audit: Audit) -> None:
        self._audit = audit
        self._meter = meter
        self._peer = peer
        self._interval_ms = interval_ms
        self._beat_ms = 0

    def charge(self, message: bytes, effects: Sequence[Deliver | Fail], now_ms: int) -> int:
        """Take note of a message. Returns for how many ms nothing more is to be read."""
        entries = 0
        for effect in effects:
            if isinstance(effect, Deliver) and isinstance(effect.frame, Publish):
                entries += len(effect.frame.entries)
        rest_ms = self._meter.charge(len(effects), entries, len(message), now_ms)
        if rest_ms:
            self._audit.limited(self._peer, What.RATE, self._meter.short_of)
        return rest_ms

    def rest_ms(self, now_ms: int) -> int:
        """Return for how many ms nothing more is to be read from now on."""
        return self._meter.rest_ms(now_ms)

    def beat(self, now_ms: int) -> Heartbeat | None:
        """Return what stands for the heartbeat that is not read, once an interval, of an agent that holds attempts."""
        if self._peer.role is not Role.AGENT or not self._peer.held or now_ms - self._beat_ms < self._interval_ms:
            return None
        self._beat_ms = now_ms
        attempts = tuple(HeldAttempt(run=run, fence=held.fence) for run, held in self._peer.held.items())
        return Heartbeat(attempts=attempts)
