"""One subscription of one session: what was sent, what may be sent, and where the next comes from.

A subscription is verified (is its position in the log's history?), perhaps searched (where did the histories
part?), and then sends: from the tail's ring where the next entry is in it, else page by page from the store.
It sends as far as the peer's window is open and the connection takes it; the rest stays in the log. So a
slow peer costs lag, not memory.

With `kinds` the entries of other kinds are passed over: the range is scanned, and closed with the next entry
that is sent, or with an empty frame: once a heartbeat, or when much was scanned.

Specification: docs/protocol.md, section "Following a log".
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import Any, Protocol

import structlog

from orchestrator.acks import DURABLES_MAX, DurableAck
from orchestrator.chunks import Chunk, Part, fitting, matching, prefixes
from orchestrator.core.resume import ResetTo, Resumed, Search, start_at
from orchestrator.line import Line
from orchestrator.store.base import StoreUnavailable
from orchestrator.tail import Tail
from orchestrator.verdicts import Decision, Known, answer, decide, log_state, refused
from protocol.codec import encode
from protocol.codes import CloseCode, ErrorCode
from protocol.entry import Entry, Position
from protocol.errors import RemoteProtocolError
from protocol.frames import (
    Ack,
    Entries,
    Frame,
    Probe,
    Reset,
    Start,
    Subscribe,
    Subscribed,
    SubscriptionVerdict,
    Tags,
    Window,
)
from protocol.ids import LogName
from protocol.limits import Limits
from protocol.window import SendWindow

__all__ = ["Reader", "Subscription"]

PAGE_ENTRIES_MAX = 512
PAGE_BYTES_MAX = 512 * 1024
SCANNED_MAX = 4096
"""Entries passed over before the peer is told, so that a line that is cut all the time still gets ahead."""
STORE_RETRY_S = 0.2

log_ = structlog.get_logger()


class Reader(Protocol):
    """The connection, as its subscriptions see it."""

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should; `pump` is called when that is over."""

    def send(self, frame: Frame) -> None:
        """Put a frame on its way."""

    def send_entries(self, frame: bytes, entries: int) -> None:
        """Put an encoded `entries` frame on its way."""

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
        durable: where acks are stored, for a durable subscription.
        window: what was sent and acknowledged.
    """

    __slots__ = (
        "_begun",
        "_caught_up",
        "_closed_tag",
        "_epoch",
        "_line",
        "_offset",
        "_prefixes",
        "_reader",
        "_resets",
        "_search",
        "_stage",
        "_tag",
        "_turn",
        "_unanswered",
        "durable",
        "tail",
        "window",
    )

    def __init__(self, line: Line, reader: Reader, log: LogName, frame: Subscribe, limits: Limits) -> None:
        self._line = line
        self._reader = reader
        self._stage = Stage.VERIFYING
        self._turn = 0
        self._resets = self._unanswered = 0
        self._epoch = self._tag = self._closed_tag = ""
        self._offset = 0
        self._prefixes = prefixes(frame.kinds) if frame.kinds else None
        self._search: Search | None = None
        self._begun = self._caught_up = False
        self.durable: DurableAck | None = None
        window = frame.window
        if window.entries > limits.window_entries_max or window.bytes > limits.window_bytes_max:
            entries = min(window.entries, limits.window_entries_max)
            window = Window(entries=entries, bytes=min(window.bytes, limits.window_bytes_max))
        self.window = SendWindow(window, 0)
        self.tail: Tail = line.tails.join(log, self)

    # ── verifying ────────────────────────────────────────────────────────────

    async def verify(self, frame: Subscribe, principal: str, known: Known | None, *, make: bool) -> SubscriptionVerdict:
        """Decide where delivery begins, asking the store where the log is not known. Nothing is sent before `begin`.

        With `make` a topic that is not there is made.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        line, log = self._line, self.tail.log
        state = known.state if known else await log_state(line, self.tail, make=make)
        if state is None:
            self.end()
            return refused(frame.log, ErrorCode.NOT_FOUND, f"there is no log {frame.log}")
        if frame.durable is not None:
            self.durable = await DurableAck.load(line.store, log, principal, frame.durable)
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
            self._place(decision.position)
            return
        self._place(decision.at)
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
                state = await log_state(self._line, self.tail, make=False)
                closed = Position(self._epoch, self.window.sent, self._closed_tag)
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
                    Subscribed(subscription=refused(self.tail.path, ErrorCode.NOT_FOUND, "the log is gone"))
                )
                self.end()
            case Resumed(at):
                self._offset, self._tag = at.offset, at.tag
                self._stage = Stage.FOLLOWING
                self.pump()
            case ResetTo():
                self._reset(decision)
            case Search():
                self._search = decision
                self._stage = Stage.PROBING
                self._probe()

    def _place(self, at: Position) -> None:
        self._epoch, self._offset, self._tag = at
        self._closed_tag = at.tag
        self.window.restart(at.offset)

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
        self._caught_up = False
        self._resets += 1
        self._place(to.at)
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
        freed = self.window.on_ack(frame.offset)
        if self.durable is not None:
            self.durable.note(self.window.acked)
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
        while self._stage is Stage.FOLLOWING and not self._reader.congested:
            if self._offset >= self.tail.head:
                if not self._caught_up and self.tail.epoch:
                    self._caught_up = True
                    self._send((), self._offset, self._tag, 0, caught_up=True)
                return
            if not self.window.room()[0]:
                return
            chunk = self.tail.chunk_after(self._offset)
            if chunk is None:
                self._turn += 1
                self._stage = Stage.REPLAYING
                self._reader.spawn(self._replay(self._turn))
            elif chunk.prev == self._offset and chunk.prev_tag != self._tag:
                self._line.tails.changed(self.tail)
            else:
                self._send_chunk(chunk)

    def close_range(self) -> None:
        """Tell a peer that follows some kinds how far the log was scanned for it."""
        if self._stage in (Stage.FOLLOWING, Stage.REPLAYING) and self._offset > self.window.sent:
            self._send((), self._offset, self._tag, 0)

    async def _replay(self, turn: int) -> None:
        """Send from the store until the window is shut or the tail's ring has what comes next."""
        tail, line = self.tail, self._line
        while self._turn == turn:
            entries, size = self.window.room()
            behind = self._offset < tail.head and tail.chunk_after(self._offset) is None
            if not entries or self._reader.congested or not behind:
                self._stage = Stage.FOLLOWING
                self.pump()
                return
            limit = PAGE_ENTRIES_MAX if self._prefixes else min(entries, PAGE_ENTRIES_MAX)
            head = tail.head
            try:
                async with line.tails.reads:
                    page = await line.store.read(tail.log, self._offset, limit, min(size, PAGE_BYTES_MAX))
            except StoreUnavailable:
                await asyncio.sleep(STORE_RETRY_S)
                continue
            if self._turn != turn:
                return
            if page is None or page.before != Position(self._epoch, self._offset, self._tag):
                self.reverify()
                return
            if page.head < head:  # the store has lost what this tail was told of
                line.tails.changed(tail)
                return
            if page.after.offset > tail.head:
                line.tails.take_page(tail, page)
            if page.entries:
                self._send_chunk(Chunk(page.before.offset, page.before.tag, page.entries, page.after.tag))

    def _send_chunk(self, chunk: Chunk) -> None:
        """Send what fits of a chunk, from where this subscription is."""
        self._note_positions(chunk)
        entries, size = self.window.room()
        if self._prefixes is not None:
            self._send_part(matching(chunk, self._offset, self._tag, entries, size, self._prefixes))
        elif chunk.prev == self._offset and len(chunk.entries) <= entries and chunk.size <= size:
            self._reader.send_entries(chunk.frame(self.tail.path), len(chunk.entries))
            self.window.on_sent(chunk.upto, len(chunk.entries), chunk.size)
            self._offset = chunk.upto
            self._tag = self._closed_tag = chunk.tag
        else:
            self._send_part(fitting(chunk, self._offset, self._tag, entries, size))

    def _send_part(self, part: Part) -> None:
        """Send a part of a chunk; where nothing in it was asked for, only note how far it was scanned."""
        if part.entries:
            self._send(part.entries, part.upto, part.tag, part.size)
            return
        self._offset, self._tag = part.upto, part.tag
        if self._offset - self.window.sent >= SCANNED_MAX:
            self.close_range()
        else:
            self._line.tails.unclosed.add(self)

    def _send(self, entries: tuple[Entry, ...], upto: int, tag: str, size: int, *, caught_up: bool = False) -> None:
        frame = Entries.model_construct(
            log=self.tail.path,
            prev=self.window.sent,
            prev_tag=self._closed_tag,
            upto=upto,
            tag=tag,
            entries=entries,
            caught_up=caught_up,
        )
        self._reader.send_entries(encode(frame), len(entries))
        self.window.on_sent(upto, len(entries), size)
        self._offset = upto
        self._tag = self._closed_tag = tag

    def _note_positions(self, chunk: Chunk) -> None:
        """Keep, for a durable subscription, the positions that the peer may acknowledge of a chunk."""
        if self.durable is not None:
            self.durable.sending(chunk.prev, chunk.entries, Position(self._epoch, self._offset, self._tag))
