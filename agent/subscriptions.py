"""The logs that a link follows: where each is, what was handled, and what to say to the hub about it.

    WANTED --subscribe--> ASKED --verdict resumed--> OPEN --mismatch, connection lost--> WANTED
                            |----verdict probing--> PROBING --reset--> OPEN
                            |----verdict refused--> ENDED (or WANTED again later)

A frame is taken only in OPEN; what still arrives of a subscription that was given up is ignored. Entries go
to the subscription's sink with the tags that the cursor verified. The sink's reader says what it has
handled; the acknowledgement follows when half of the window is handled, or a few milliseconds later.

Specification: docs/protocol.md, sections "Following a log" and "Diverged histories".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum

from agent.errors import Reset, SubscriptionRefused
from agent.sinks import NOBODY, Batch, Sink
from protocol.codes import ErrorCode
from protocol.entry import Position
from protocol.errors import FleetlineError
from protocol.frames import (
    Ack,
    Entries,
    Lost,
    Part,
    Probe,
    ResetReason,
    Resumption,
    Start,
    Subscribe,
    SubscriptionVerdict,
    Tags,
    Unsubscribe,
    Window,
)
from protocol.frames import Reset as ResetFrame
from protocol.window import Cursor, Mismatch

__all__ = ["ACK_DELAY_MS", "Subscription", "Subscriptions"]

ACK_DELAY_MS = 5
"""How long a handled entry may wait for others to be acknowledged with."""

RETRY_MS = 1000
"""When to ask again after a refusal that passes."""


class _State(Enum):
    WANTED = "wanted"
    ASKED = "asked"
    PROBING = "probing"
    OPEN = "open"
    ENDED = "ended"


class Subscription:
    """One log that is followed. Used by the link's thread only, but for `log`.

    Making one raises `ValueError` where the protocol has no words for it: `kinds` without any, say.
    """

    def __init__(
        self,
        log: str,
        start: Position | Start,
        sink: Sink,
        *,
        window: Window | None = None,
        kinds: tuple[str, ...] | None = None,
        durable: str | None = None,
    ) -> None:
        self.log = log
        self._wish = Subscribe(log=log, from_=start, window=window or Window(), kinds=kinds, durable=durable)
        self.state = _State.WANTED
        self.not_before_ms = 0
        self.generation = 0
        self._sink = sink
        self._cursor = Cursor(start if isinstance(start, Position) else None, filtered=kinds is not None)
        self._unhandled: deque[tuple[int, int]] = deque()
        self._handled = 0
        self._said = 0
        self._resets = 0
        self._ack_due_ms: int | None = None
        self.abandoned = False

    def abandon(self) -> None:
        """Nobody reads it any more; what still comes is not for anyone."""
        self.abandoned = True
        self._sink = NOBODY

    def ask(self) -> Subscribe:
        """Return the wish to follow the log from where it is."""
        self.state = _State.ASKED
        self._resets = 0
        if self._cursor.position is None:
            return self._wish
        return self._wish.model_copy(update={"from_": self._cursor.position})

    def disconnected(self) -> None:
        """Begin a new connection: ask again, from the verified position."""
        if self.state is not _State.ENDED:
            self.state = _State.WANTED
            self._said = 0
            self._ack_due_ms = None

    def on_verdict(self, verdict: SubscriptionVerdict, now_ms: int) -> None:
        """Take the hub's answer to `ask`, or its word that a log which is followed is gone."""
        gone = verdict.verdict is Resumption.REFUSED and self.state in (_State.OPEN, _State.PROBING)
        if self.state is not _State.ASKED and not gone:
            return
        match verdict.verdict:
            case Resumption.RESUMED:
                self._open(verdict, now_ms)
            case Resumption.RESET:
                self._restart(verdict.reason or ResetReason.UNKNOWN, verdict.lost, verdict.at)
            case Resumption.PROBING:
                self.state = _State.PROBING
            case Resumption.REFUSED if verdict.code in (ErrorCode.UNAVAILABLE, ErrorCode.TOO_MANY):
                self.state = _State.WANTED
                self.not_before_ms = now_ms + RETRY_MS
            case _:
                self.state = _State.ENDED
                self._sink.on_end(SubscriptionRefused(self.log, verdict.code or "", verdict.message or ""))

    def on_entries(self, frame: Entries, now_ms: int) -> bool:
        """Take entries. Returns False where they do not continue what is there: ask again."""
        if self.state is not _State.OPEN or self._cursor.position is None:
            return True
        epoch = self._cursor.position.epoch
        try:
            entries = self._cursor.accept(frame)
        except Mismatch:
            self.state = _State.WANTED
            return False
        if entries:
            self._unhandled.append((entries[-1].offset, frame.upto))
            self._sink.on_batch(Batch(self.generation, epoch, entries, self._tags(frame), frame.upto))
        elif not self._unhandled:
            self._note(frame.upto, now_ms)
        else:
            last, _ = self._unhandled[-1]
            self._unhandled[-1] = (last, frame.upto)
        if frame.caught_up:
            self._sink.on_live(frame.upto)
        return True

    def on_reset(self, frame: ResetFrame) -> None:
        """Take over the place where the hub goes on."""
        if self.state in (_State.OPEN, _State.PROBING):
            self._resets += 1
            self._restart(frame.reason, frame.lost, frame.at)

    def on_probe(self, frame: Probe) -> Tags:
        """Return the tags that are known at the hub's offsets."""
        return Tags(log=self.log, tags=self._cursor.tags_at(frame.offsets))

    def handled(self, generation: int, offset: int, now_ms: int) -> None:
        """The reader is done with everything up to `offset` of this generation."""
        if generation != self.generation:
            return
        upto = offset
        while self._unhandled and self._unhandled[0][0] <= offset:
            upto = max(upto, self._unhandled.popleft()[1])
        self._note(upto, now_ms)

    def ack(self, now_ms: int) -> Ack | None:
        """Return the acknowledgement to send now, if one is due."""
        if self.state is not _State.OPEN or self._ack_due_ms is None:
            return None
        half = self._handled - self._said >= max(1, self._wish.window.entries // 2)
        if now_ms < self._ack_due_ms and not half:
            return None
        self._ack_due_ms = None
        self._said = self._handled
        return Ack(log=self.log, offset=self._handled, resets=self._resets)

    def last_ack(self) -> Ack | None:
        """Return the acknowledgement that is still to be sent, due or not: there will be no more."""
        return None if self.ack_due_ms is None else self.ack(self.ack_due_ms)

    @property
    def ack_due_ms(self) -> int | None:
        """When `ack` next has something to say."""
        return self._ack_due_ms if self.state is _State.OPEN else None

    def end(self, error: FleetlineError) -> None:
        """The link has ended."""
        if self.state is not _State.ENDED:
            self.state = _State.ENDED
            self._sink.on_end(error)

    def _open(self, verdict: SubscriptionVerdict, now_ms: int) -> None:
        self.state = _State.OPEN
        if verdict.at is not None and self._cursor.position is None:
            self._cursor.start(verdict.at)
            self._said = self._handled = verdict.at.offset
        elif self._wish.durable is not None and self._handled:
            self._ack_due_ms = now_ms  # handled before, or while there was no connection; what was said may be lost
        if self._cursor.position is not None and verdict.head == self._cursor.position.offset:
            self._sink.on_live(verdict.head)

    def _restart(self, reason: ResetReason, lost: Lost | None, at: Position | None) -> None:
        if at is None:
            self.state = _State.ENDED
            self._sink.on_end(SubscriptionRefused(self.log, "internal", "the hub's reset names no position"))
            return
        self.state = _State.OPEN
        self.generation += 1
        self._cursor.start(at)
        self._unhandled.clear()
        self._handled = self._said = at.offset
        self._ack_due_ms = None
        first, last, exact = (lost.from_, lost.to, lost.exact) if lost else (at.offset + 1, at.offset, False)
        reset = Reset(self.log, reason, first, last, exact, at.epoch, at.offset)
        self._sink.on_reset(reset, self.generation)

    def _tags(self, frame: Entries) -> tuple[str | None, ...]:
        if self._wish.kinds is not None:
            return (None,) * len(frame.entries)
        if len(frame.entries) == 1:
            return (frame.tag,)
        return self._cursor.tags_at([entry.offset for entry in frame.entries])

    def _note(self, upto: int, now_ms: int) -> None:
        if upto > self._handled:
            self._handled = upto
            if self._ack_due_ms is None:
                self._ack_due_ms = now_ms + ACK_DELAY_MS


class Subscriptions:
    """All logs that one link follows, by log. Used by the link's thread only."""

    def __init__(self) -> None:
        self._all: dict[str, Subscription] = {}
        self._wanted: dict[str, Subscription] = {}
        self._acking: dict[str, Subscription] = {}
        self._given_up: list[Part] = []
        self._next: dict[str, Subscription] = {}

    def __contains__(self, log: str) -> bool:
        """Whether the log is followed, or was until a moment ago."""
        return log in self._all

    def add(self, subscription: Subscription) -> None:
        """Follow a log. There is one subscription to a log on a link: another one gives way.

        Where the hub has yet to answer that one, this one waits for it, so as not to take its answer.
        """
        log = subscription.log
        before = self._all.get(log)
        if before is not None:
            self.remove(before)
        self._next[log] = subscription
        if log not in self._all:
            self._let_next(log)

    def remove(self, subscription: Subscription) -> None:
        """Follow a log no more."""
        log = subscription.log
        if self._next.get(log) is subscription:
            del self._next[log]
        if self._all.get(log) is not subscription:
            return
        self._wanted.pop(log, None)
        self._acking.pop(log, None)
        subscription.abandon()
        if subscription.state is _State.ASKED:  # the answer must not be taken for that to a later wish
            return
        if subscription.state not in (_State.WANTED, _State.ENDED):
            last = subscription.last_ack()
            self._given_up += [Unsubscribe(log=log)] if last is None else [last, Unsubscribe(log=log)]
        subscription.state = _State.ENDED
        del self._all[log]

    def disconnected(self) -> None:
        """Begin a new connection: every log is asked for again."""
        for log, subscription in tuple(self._all.items()):
            subscription.disconnected()
            if subscription.abandoned:
                del self._all[log]
        self._all |= self._next
        self._next.clear()
        self._wanted = {log: sub for log, sub in self._all.items() if sub.state is _State.WANTED}
        self._acking.clear()
        self._given_up.clear()

    def take_wanted(self, now_ms: int) -> Iterator[Subscribe]:
        """Yield what is to be asked for now; take as many as can be said."""
        for log, subscription in tuple(self._wanted.items()):
            if subscription.not_before_ms <= now_ms:
                del self._wanted[log]
                yield subscription.ask()

    def take(self, now_ms: int) -> list[Part]:
        """Return what is to be said about subscriptions now."""
        frames, self._given_up = self._given_up, []
        if self._wanted:
            frames.extend(self.take_wanted(now_ms))
        for log, subscription in tuple(self._acking.items()):
            ack = subscription.ack(now_ms)
            if ack is not None:
                frames.append(ack)
            if subscription.ack_due_ms is None:
                del self._acking[log]
        return frames

    def last_acks(self) -> list[Part]:
        """Return every acknowledgement that is still to be said: the link is about to leave."""
        acks = [subscription.last_ack() for subscription in self._acking.values()]
        return [ack for ack in acks if ack is not None]

    def due_ms(self) -> int | None:
        """Return when `take` next has something that it held back."""
        times = [sub.ack_due_ms for sub in self._acking.values() if sub.ack_due_ms is not None]
        times.extend(sub.not_before_ms for sub in self._wanted.values())
        return min(times, default=None)

    def on_verdict(self, verdict: SubscriptionVerdict, now_ms: int) -> None:
        """Take the hub's answer to a wish."""
        subscription = self._all.get(verdict.log)
        if subscription is None:
            return
        subscription.on_verdict(verdict, now_ms)
        if subscription.abandoned and subscription.state is not _State.ENDED:
            self._given_up.append(Unsubscribe(log=verdict.log))
            self._let_next(verdict.log)
        elif subscription.state is _State.WANTED:
            self._wanted[verdict.log] = subscription
        elif subscription.state is _State.ENDED:
            self._let_next(verdict.log)
        elif subscription.ack_due_ms is not None:
            self._acking[verdict.log] = subscription

    def on_entries(self, frame: Entries, now_ms: int) -> None:
        """Take entries; where they do not fit, ask again from the verified position."""
        subscription = self._all.get(frame.log)
        if subscription is None:
            return
        if not subscription.on_entries(frame, now_ms):
            self._given_up.append(Unsubscribe(log=frame.log))
            self._wanted[frame.log] = subscription
        elif subscription.ack_due_ms is not None:
            self._acking[frame.log] = subscription

    def on_reset(self, frame: ResetFrame) -> None:
        """Take a reset."""
        subscription = self._all.get(frame.log)
        if subscription is not None:
            subscription.on_reset(frame)

    def on_probe(self, frame: Probe) -> Tags | None:
        """Take a question about tags."""
        subscription = self._all.get(frame.log)
        return subscription.on_probe(frame) if subscription is not None else None

    def handled(self, subscription: Subscription, generation: int, offset: int, now_ms: int) -> None:
        """Its reader is done with everything up to `offset`."""
        if self._all.get(subscription.log) is subscription:
            subscription.handled(generation, offset, now_ms)
            if subscription.ack_due_ms is not None:
                self._acking[subscription.log] = subscription

    def close(self, error: FleetlineError) -> None:
        """End every subscription: the link has ended."""
        for subscription in (*self._all.values(), *self._next.values()):
            subscription.end(error)
        self._all.clear()
        self._next.clear()
        self._wanted.clear()
        self._acking.clear()

    def _let_next(self, log: str) -> None:
        """Let go of a log's subscription; one that waited for that is asked for now."""
        self._all.pop(log, None)
        following = self._next.pop(log, None)
        if following is not None:
            self._all[log] = self._wanted[log] = following
