"""One subscription of one session: whether its position is in the log's history, and where the next entries come from.

A subscription is verified (is its position in the log's history?), perhaps searched (where did the histories
part?), and then sends: from the tail's ring where the next entry is in it, else page by page from the store.
It sends as far as the peer's window is open and the connection takes it; the rest stays in the log. So a
slow peer costs lag, not memory. What it was sent, and how, is its `orchestrator.delivery`.

Specification: docs/protocol.md, section "Following a log".
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Protocol

import structlog

from orchestrator.acks import DURABLES_MAX, DurableAck
from orchestrator.chunks import Chunk
from orchestrator.core.resume import ResetTo, Resumed, Search, start_at
from orchestrator.delivery import Delivery, Outlet
from orchestrator.line import Line
from orchestrator.store.base import StoreUnavailable
from orchestrator.tail import Tail
from orchestrator.verdicts import BeforeMaking, Decision, Known, answer, decide, log_state, refused
from protocol.codes import CloseCode, ErrorCode
from protocol.entry import Position
from protocol.errors import RemoteProtocolError
from protocol.frames import (
    Ack,
    Frame,
    Probe,
    Reset,
    Start,
    Subscribe,
    Subscribed,
    SubscriptionVerdict,
    Tags,
)
from protocol.ids import LogName
from protocol.limits import Limits

__all__ = ["Reader", "Subscription"]

PAGE_ENTRIES_MAX = 512
PAGE_BYTES_MAX = 512 * 1024
STORE_RETRY_S = 0.2

log_ = structlog.get_logger()


class Reader(Outlet, Protocol):
    """The connection, as its subscriptions see it."""

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should; `pump` is called when that is over."""

    def send(self, frame: Frame) -> None:
        """Put a frame on its way."""

    def spawn_asked(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something that the peer asked for; only so much of it is under way at once."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for this connection; what goes wrong in it ends the connection."""


class Stage(Enum):
    """What a subscription is doing."""

    VERIFYING = "verifying"
    PROBING = "probing"
    REPLAYING = "replaying"
    FOLLOWING = "following"
    ENDED = "ended"


class Subscription:
    """One log, for one session.

    Attributes:
        tail: the log's tail; it calls `pump` and `reverify`.
        delivery: what it was sent, and what of that is acknowledged.
    """

    __slots__ = (
        "_begun",
        "_line",
        "_reader",
        "_resets",
        "_search",
        "_stage",
        "_turn",
        "_unanswered",
        "delivery",
        "tail",
    )

    def __init__(self, line: Line, reader: Reader, log: LogName, frame: Subscribe, limits: Limits) -> None:
        self._line = line
        self._reader = reader
        self._stage = Stage.VERIFYING
        self._turn = 0
        self._resets = self._unanswered = 0
        self._search: Search | None = None
        self._begun = False
        self.delivery = Delivery(reader, frame, limits)
        self.tail: Tail = line.tails.join(log, self)

    @property
    def durable(self) -> DurableAck | None:
        """Where acks are stored, for a durable subscription."""
        return self.delivery.durable

    # ── verifying ────────────────────────────────────────────────────────────

    async def verify(
        self, frame: Subscribe, principal: str, known: Known | None, make: BeforeMaking = None
    ) -> SubscriptionVerdict:
        """Decide where delivery begins, asking the store where the log is not known. Nothing is sent before `begin`.

        With `make` a topic that is not there is made.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        line, log = self._line, self.tail.log
        state = known.state if known else await log_state(line, self.tail, make)
        if state is None:
            self.end()
            return refused(frame.log, ErrorCode.NOT_FOUND, f"there is no log {frame.log}")
        if frame.durable is not None:
            self.delivery.durable = await DurableAck.load(line.store, log, principal, frame.durable)
            if self.durable is None:
                self.end()
                message = (
                    f"{principal} has {DURABLES_MAX} durable subscriptions to {frame.log}: take one of their names"
                )
                return refused(frame.log, ErrorCode.FORBIDDEN, message)
        start = frame.from_
        decision: Decision
        if isinstance(start, Position):
            decision = await decide(line, log, state, start, known.before if known else None)
        elif start is not Start.ACKED:
            decision = Resumed(start_at(state, start))
        elif self.durable is None:
            self.end()
            return refused(frame.log, ErrorCode.INVALID_PARAMS, "only a durable subscription has stored acks")
        else:
            decision = await decide(line, log, state, self.durable.stored)
        self._settle(decision)
        if self.durable is not None and isinstance(start, Position) and isinstance(decision, Resumed):
            self.durable.sent(decision.at)  # in an earlier session; the peer may not have handled it then
        if self.durable is not None and not isinstance(start, Position) and not isinstance(decision, Search):
            self.durable.begin(decision.at)
            await self.durable.save(line)
        return answer(frame.log, state.head, decision)

    def _settle(self, decision: Decision) -> None:
        """Take over what was decided at first; nothing is sent yet."""
        if isinstance(decision, Search):
            self._search = decision
            self._stage = Stage.PROBING
            self.delivery.place(decision.position)
            return
        self.delivery.place(decision.at)
        if isinstance(decision, ResetTo) and self.durable is not None:
            self.durable.reset(decision.at)

    def begin(self) -> None:
        """Start sending: the peer has been told the verdict."""
        self._begun = True
        if self._turn:
            self.reverify()  # the history changed since the verdict
        elif self._stage is Stage.PROBING:
            self._probe()
        elif self._stage is Stage.VERIFYING:
            self._stage = Stage.FOLLOWING
            self.pump()

    def reverify(self) -> None:
        """Verify the position anew, since the log's history may not be what it was."""
        self._turn += 1
        if self._stage is not Stage.ENDED and self._begun:
            self._stage = Stage.VERIFYING
            self._search = None
            self._reader.spawn(self._verify_again(self._turn))

    async def _verify_again(self, turn: int) -> None:
        while self._turn == turn:
            try:
                state = await log_state(self._line, self.tail)
                closed = self.delivery.closed
                decision = await decide(self._line, self.tail.log, state, closed) if state else None
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if self._turn == turn:
                self._go_on(decision)
            return

    def _go_on(self, decision: Decision | None) -> None:
        match decision:
            case None:
                self._reader.send(
                    Subscribed(subscription=refused(self.tail.path, ErrorCode.NOT_FOUND, "the log was deleted"))
                )
                self.end()
            case Resumed(at):
                self.delivery.at = at
                self._stage = Stage.FOLLOWING
                self.pump()
            case ResetTo():
                self._reset(decision)
            case Search():
                self._search = decision
                self._stage = Stage.PROBING
                self._probe()

    # ── searching ────────────────────────────────────────────────────────────

    def on_tags(self, frame: Tags) -> None:
        """Take the peer's answer to a probe.

        Raises:
            RemoteProtocolError: it does not answer the probe.
        """
        search = self._search
        if not self._unanswered:
            return  # the answer to a probe of an earlier subscription
        self._unanswered -= 1
        if search is None or self._stage is not Stage.PROBING or self._unanswered:
            return  # the answer to a search that is over
        if len(frame.tags) != len(search.asked):
            message = f"tags: {len(frame.tags)} tags for {len(search.asked)} offsets of {frame.log}"
            raise RemoteProtocolError(CloseCode.INVALID_FRAME, message)
        self._reader.spawn(self._compare(search, frame.tags, self._turn))

    async def _compare(self, search: Search, theirs: tuple[str | None, ...], turn: int) -> None:
        while self._turn == turn and self._search is search:
            try:
                ours = await self._line.store.tags(self.tail.log, search.asked)
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if self._turn == turn and self._search is search:
                search.answer(theirs, ours)
                self._probe()
            return

    def _probe(self) -> None:
        assert self._search is not None
        if self._search.result is not None:
            self._reset(self._search.result)
        else:
            self._unanswered += 1
            self._reader.send(Probe(log=self.tail.path, offsets=self._search.asked))

    def _reset(self, to: ResetTo) -> None:
        self._search = None
        self._resets += 1
        self.delivery.place(to.at)
        self._reader.send(Reset(log=self.tail.path, reason=to.reason, lost=to.lost, at=to.at))
        log_.info("subscription_reset", log=self.tail.path, reason=to.reason.value, at=to.at.offset)
        if self.durable is not None:
            self.durable.reset(to.at)
        self._stage = Stage.FOLLOWING
        self.pump()

    # ── sending ──────────────────────────────────────────────────────────────

    def on_ack(self, frame: Ack) -> None:
        """Take an acknowledgement; one that crossed a reset is of another history.

        Raises:
            RemoteProtocolError: the peer acknowledged what it was never sent.
        """
        if frame.resets != self._resets:
            return
        freed = self.delivery.window.on_ack(frame.offset)
        if self.durable is not None:
            self.durable.note(frame.offset)  # the window also takes for acked where a resume began
        if freed:
            self.pump()

    def end(self) -> None:
        """Follow no more."""
        if self._stage is not Stage.ENDED:
            self._stage = Stage.ENDED
            self._turn += 1
            self._line.tails.leave(self.tail, self)

    def pump(self) -> None:
        """Send what there is and may be sent."""
        delivery, tail = self.delivery, self.tail
        while self._stage is Stage.FOLLOWING and not self._reader.congested:
            at = delivery.at
            if at.offset >= tail.head:
                if tail.epoch:
                    delivery.catch_up()
                return
            if not delivery.window.room()[0]:
                return
            chunk = tail.chunk_after(at.offset)
            if chunk is None:
                self._turn += 1
                self._stage = Stage.REPLAYING
                self._reader.spawn(self._replay(self._turn))
            elif chunk.prev == at.offset and chunk.prev_tag != at.tag:
                self._line.tails.changed(tail)
            else:
                self._send(chunk)

    def close_range(self) -> None:
        """Tell a peer that follows some kinds how far the log was scanned for it."""
        if self._stage in (Stage.FOLLOWING, Stage.REPLAYING):
            self.delivery.close_range()

    async def _replay(self, turn: int) -> None:
        """Send from the store until the window is shut or the tail's ring has what comes next."""
        tail, line, delivery = self.tail, self._line, self.delivery
        while self._turn == turn:
            entries, size = delivery.window.room()
            at = delivery.at
            behind = at.offset < tail.head and tail.chunk_after(at.offset) is None
            if not entries or self._reader.congested or not behind:
                self._stage = Stage.FOLLOWING
                self.pump()
                return
            limit = PAGE_ENTRIES_MAX if delivery.filtered else min(entries, PAGE_ENTRIES_MAX)
            head = tail.head
            try:
                async with line.tails.reads:
                    page = await line.store.read(tail.log, at.offset, limit, min(size, PAGE_BYTES_MAX))
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if self._turn != turn:
                return
            if page is None or page.before != delivery.at:
                self.reverify()
                return
            if page.head < head:  # the store has lost what this tail was told of
                line.tails.changed(tail)
                return
            if page.after.offset > tail.head:
                line.tails.take_page(tail, page)
            if page.entries:
                self._send(Chunk(page.before.offset, page.before.tag, page.entries, page.after.tag))

    def _send(self, chunk: Chunk) -> None:
        self.delivery.send(chunk)
        if self.delivery.unclosed:
            self._line.tails.unclosed.add(self)
