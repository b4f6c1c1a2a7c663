"""The attempts that this agent holds, as the hub is told of them.

Held here and not where the handlers run, since the heartbeats that renew the leases go out whatever the
handlers do. An attempt is held from its `assign` until it has ended or the hub says that it is not ours.

Specification: docs/protocol.md, sections "Work" and "Sessions".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import ProducerFenced
from agent.outbox import Outbox
from agent.stream import Stream
from agent.threads import Channel
from protocol.codes import ErrorCode
from protocol.errors import FleetlineError
from protocol.frames import Assign, AttemptClaim, AttemptVerdict, HeldAttempt, Verdict

__all__ = ["Assigned", "Attempts", "DrainAsked", "Event", "Held", "Stopped"]


@dataclass(frozen=True, slots=True)
class Held:
    """One attempt: what the hub said of it, and where its entries go."""

    assign: Assign
    stream: Stream

    @property
    def log(self) -> str:
        """The run's log."""
        return self.stream.log


@dataclass(frozen=True, slots=True)
class Assigned:
    """The hub gave this agent an attempt."""

    held: Held


@dataclass(frozen=True, slots=True)
class Stopped:
    """An attempt is not this agent's any more: its handler is to stop, and nothing of it will be taken."""

    held: Held
    reason: str


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """This process is to finish what it works on, within so long where that is said, and to end."""

    within_ms: int | None


Event = Assigned | Stopped | DrainAsked


class Attempts:
    """What this agent holds, by run. Used by the link's thread only, but for `events` and `count`."""

    def __init__(self, outbox: Outbox, events: Channel[Event]) -> None:
        self._outbox = outbox
        self._events = events
        self._held: dict[str, Held] = {}

    def __iter__(self) -> Iterator[Held]:
        return iter(tuple(self._held.values()))

    @property
    def count(self) -> int:
        """How many attempts are held."""
        return len(self._held)

    def claims(self, most: int) -> tuple[AttemptClaim, ...]:
        """Return the attempts to list when a connection opens, at most so many."""
        claims = [
            AttemptClaim(run=run, fence=held.assign.fence, seq=held.stream.made) for run, held in self._held.items()
        ]
        return tuple(claims[:most])

    def heartbeat(self) -> tuple[HeldAttempt, ...]:
        """Return the attempts to list in a heartbeat."""
        return tuple(
            HeldAttempt(run=run, fence=held.assign.fence, attempt=held.assign.attempt)
            for run, held in self._held.items()
        )

    def producers(self) -> frozenset[tuple[str, str]]:
        """Return the (log, producer) of every attempt: those whose fate a new connection has yet to tell."""
        return frozenset((held.log, held.stream.producer) for held in self._held.values())

    def on_verdict(self, verdict: AttemptVerdict) -> None:
        """Take the hub's word on an attempt that was listed."""
        held = self._held.get(verdict.run)
        if held is None or held.assign.fence != verdict.fence:
            return
        if verdict.verdict is Verdict.CONTINUE:
            self._resume(held, verdict.seq or 0)
        elif verdict.verdict is Verdict.FENCED:
            self.stop(held, "fenced: the run goes on elsewhere, or is waiting to")
        else:
            self.stop(held, "finished: the run is over")

    def on_assign(self, frame: Assign) -> bool:
        """Take an attempt: a new one, or one that the hub was not told of when the connection opened.

        Returns False where the attempt is to be handed back: it was worked on here and is held no more (the
        store lost its end, say). To begin it again would repeat its entries under the same number.
        """
        held = self._held.get(frame.run)
        if held is not None and held.assign.fence == frame.fence:
            self._resume(held, frame.seq)
            return True
        if held is not None:
            if frame.fence < held.assign.fence:
                return True
            self.stop(held, "fenced: a newer attempt of the run was assigned")
        if frame.seq > 0:
            return False
        stream = Stream(self._outbox, f"run/{frame.run}", f"attempt/{frame.attempt}", frame.fence, frame.seq)
        held = self._held[frame.run] = Held(frame, stream)
        self._outbox.add(stream)
        self._events.put(Assigned(held))
        return True

    def stop(self, held: Held, reason: str) -> None:
        """The hub will take nothing more of this attempt."""
        if self._held.get(held.assign.run) is held:
            self.drop(held, ProducerFenced(held.log, ErrorCode.FENCED, reason))
            self._events.put(Stopped(held, reason))

    def on_dead(self, log: str, producer: str, error: FleetlineError) -> None:
        """The hub refused an attempt's entries for good."""
        for held in self:
            if (held.log, held.stream.producer) == (log, producer):
                self.stop(held, str(error))

    def drop(self, held: Held, error: FleetlineError | None = None) -> None:
        """Hold an attempt no more: it has ended, or was handed back."""
        if self._held.get(held.assign.run) is held:
            del self._held[held.assign.run]
        self._outbox.remove(held.stream, error)

    def stop_all(self, reason: str) -> None:
        """The link has ended: nothing is ours."""
        for held in self:
            self.stop(held, reason)

    def _resume(self, held: Held, last: int) -> None:
        with self._outbox.lock:
            held.stream.resume(last)
            dead = held.stream.dead
        if dead is not None:
            self.stop(held, str(dead))
