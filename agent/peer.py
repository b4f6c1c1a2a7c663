"""What one peer says and what it makes of what it hears, whatever connection carries it.

`Link` moves bytes and watches the clock; `Peer` knows what a frame means. A peer outlives its connections:
what was asked, published, followed and held goes on when the next one opens. It is used by the link's thread
only, knows no sockets, and is told the time.

On a new connection the peer first says `identify`, with its subscriptions at their verified positions and
the attempts that it holds; everything else waits for `ready`.

Specification: docs/protocol.md, section "Sessions".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.held import Attempts, DrainAsked, Event
from agent.outbox import Outbox
from agent.queries import Switchboard
from agent.refreshing import Refreshing
from agent.requests import Requests
from agent.subscriptions import Subscriptions
from agent.threads import Channel
from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.errors import FleetlineError, RemoteProtocolError
from protocol.frames import (
    Assign,
    Entries,
    Goaway,
    Heartbeat,
    Hello,
    Identify,
    Nack,
    Part,
    Probe,
    Puback,
    Query,
    Ready,
    Refreshed,
    Release,
    ReleaseReason,
    Response,
    Role,
    Subscribe,
    Subscribed,
)
from protocol.frames import Reset as ResetFrame
from protocol.limits import DEFAULT_LIMITS, UNIDENTIFIED_BYTES_MAX
from protocol.version import VERSION

if TYPE_CHECKING:
    from agent.identity import Credentials

__all__ = ["Peer"]

CLAIM_BYTES = 96
WISH_BYTES = 12 * 1024
"""What an attempt and a subscription take of `identify`, at most."""

MESSAGE_BYTES_MAX = 256 * 1024
"""Of publishes in one message; more goes into the next, so that the hub begins while we go on."""


class Peer:
    """One peer, over all its connections.

    Attributes:
        session: id of the latest session.
        ready: a session is open.
        load: how busy the agent says it is, from 0 to 1; None where it does not.
        refreshing: finds newer tokens for the session.
        switchboard: passes on what the handlers of attempts are asked.
        credentials: the key to open sessions with, if any.
        goaway_ms: the hub asked us to come back after so long; None where it did not.
    """

    def __init__(self, identity: Identify) -> None:
        self.identity = identity
        self.outbox = Outbox()
        self.requests = Requests()
        self.subscriptions = Subscriptions()
        self.switchboard = Switchboard(self.outbox.wake)
        self.refreshing = Refreshing()
        self.events: Channel[Event] = Channel()
        self.attempts = Attempts(self.outbox, self.events)
        self.limits = DEFAULT_LIMITS
        self.session: str | None = None
        self.ready = False
        self.load: float | None = None
        self.credentials: Credentials | None = None
        self.goaway_ms: int | None = None
        self._releases: list[Release] = []
        self._handlers: dict[type[Part], Callable[[Any, int], None]] = {
            Ready: self._on_ready,
            Subscribed: self._on_subscribed,
            Entries: self.subscriptions.on_entries,
            Nack: self._on_nack,
            Response: self.requests.on_response,
            Refreshed: self.refreshing.on_refreshed,
            Heartbeat: self._on_heartbeat,
        }
        self._timeless: dict[type[Part], Callable[[Any], object]] = {
            ResetFrame: self.subscriptions.on_reset,
            Puback: self.outbox.on_puback,
            Assign: self._on_assign,
            Goaway: self._on_goaway,
            Query: self.switchboard.ask,
        }

    def connected(self) -> None:
        """A new connection is open: nothing was said on it yet."""
        self.ready = False
        self.goaway_ms = None
        self._releases.clear()
        self.switchboard.disconnected()
        self.requests.disconnected()
        self.subscriptions.disconnected()

    def disconnected(self) -> None:
        """The connection is gone."""
        self.ready = False

    def identify(self, hello: Hello) -> Identify:
        """Return who we are, in answer to `hello`.

        Raises:
            RemoteProtocolError: the hub speaks no version that we do.
        """
        if VERSION not in hello.versions:
            raise RemoteProtocolError(
                CloseCode.VERSION_UNSUPPORTED, f"the hub speaks versions {hello.versions}, this program {VERSION}"
            )
        self.limits = hello.limits
        self.outbox.announce(hello.limits)
        self.outbox.disconnected(self.attempts.producers())
        self.requests.announce(hello.limits)
        said = self.identity.model_copy(update={"session": self.session, "load": self.load})
        if self.credentials is not None:
            said = self.credentials.prove(said, hello)
        room = UNIDENTIFIED_BYTES_MAX - len(encode(said))
        attempts = self.attempts.claims(max(0, room) // 2 // CLAIM_BYTES)
        subscriptions = self._first_subscriptions(room - CLAIM_BYTES * len(attempts))
        return said.model_copy(update={"attempts": attempts, "subscriptions": subscriptions})

    def on_frame(self, frame: Part, now_ms: int) -> Part | None:
        """Take a frame. Returns what to answer at once, if anything."""
        if isinstance(frame, Hello):
            self.refreshing.on_hello(frame, now_ms)
            return self.identify(frame)
        if isinstance(frame, Probe):
            return self.subscriptions.on_probe(frame)
        timeless = self._timeless.get(type(frame))
        if timeless is not None:
            timeless(frame)
        elif type(frame) in self._handlers:
            self._handlers[type(frame)](frame, now_ms)
        return None

    def outgoing(self, now_ms: int) -> list[Part]:
        """Return everything that there is to say now, as one message's worth of frames."""
        if not self.ready:
            return []
        frames: list[Part] = [*self._releases, *self.switchboard.replies()]
        self._releases.clear()
        newer = self.refreshing.take(now_ms)
        if newer is not None:
            frames.append(newer)
        frames.extend(self.subscriptions.take(now_ms))
        frames.extend(self.requests.take(now_ms))
        frames.extend(self.outbox.take(now_ms, MESSAGE_BYTES_MAX))
        return frames

    def due_ms(self) -> int | None:
        """Return when `outgoing` next has something that it held back."""
        if not self.ready:
            return None
        times = (self.outbox.due_ms(), self.requests.due_ms(), self.subscriptions.due_ms(), self.refreshing.due_ms())
        return min((time for time in times if time is not None), default=None)

    def heartbeat(self) -> Heartbeat:
        """Return the heartbeat to say now. An agent's renews its leases."""
        if self.identity.role is Role.CLIENT:
            return Heartbeat()
        slots_free = max(0, self.identity.slots - self.attempts.count)
        return Heartbeat(attempts=self.attempts.heartbeat(), slots_free=slots_free, load=self.load)

    def release(self, run: str, fence: int, reason: ReleaseReason) -> None:
        """Hand an attempt back. One that is not said before the connection breaks is not listed on the next."""
        if self.ready:
            self._releases.append(Release(run=run, fence=fence, reason=reason))

    def close(self, error: FleetlineError) -> None:
        """End everything: there will be no more connection."""
        self.ready = False
        self.attempts.stop_all(str(error))
        self.outbox.close(error)
        self.requests.close(error)
        self.subscriptions.close(error)
        self.events.close(error)

    def _first_subscriptions(self, bytes_max: int) -> tuple[Subscribe, ...]:
        """Return the subscriptions that `identify` has room for; the others are asked for after `ready`."""
        asked: list[Subscribe] = []
        wanted = self.subscriptions.take_wanted(0)
        while bytes_max >= WISH_BYTES and len(asked) < self.limits.subscriptions_max:
            wish = next(wanted, None)
            if wish is None:
                break
            asked.append(wish)
            bytes_max -= len(encode(wish))
        return tuple(asked)

    def _on_ready(self, frame: Ready, now_ms: int) -> None:
        self.session = frame.session
        self.ready = True
        self.refreshing.on_ready(frame, now_ms)
        if self.credentials is not None:
            self.credentials.accepted()
        for attempt in frame.attempts:
            self.attempts.on_verdict(attempt)
        for verdict in frame.subscriptions:
            self.subscriptions.on_verdict(verdict, now_ms)

    def _on_nack(self, frame: Nack, now_ms: int) -> None:
        dead = self.outbox.on_nack(frame, now_ms)
        if dead is not None:
            self.attempts.on_dead(frame.log, frame.producer, dead)

    def _on_subscribed(self, frame: Subscribed, now_ms: int) -> None:
        self.subscriptions.on_verdict(frame.subscription, now_ms)

    def _on_assign(self, frame: Assign) -> None:
        if not self.attempts.on_assign(frame):
            self.release(frame.run, frame.fence, ReleaseReason.REFUSED)

    def _on_heartbeat(self, frame: Heartbeat, now_ms: int) -> None:
        self.refreshing.on_heartbeat(frame, now_ms)
        if frame.drain:
            self.events.put(DrainAsked(frame.drain_ms))

    def _on_goaway(self, frame: Goaway) -> None:
        self.goaway_ms = frame.after_ms
