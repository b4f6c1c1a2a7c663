"""What is known of one attempt while its handler runs: shared by the threads that have to do with it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import structlog

from agent.feed import too_large
from agent.inbox import Inbox, Past
from agent.journal import Journal
from agent.queries import Queries
from agent.suspension import PUT_AWAY, Patience, ShutOutlet
from agent.uploads import Uploader
from protocol.codec import pack_value
from protocol.control import Kind, Progress
from protocol.conversation import Suspended
from protocol.errors import FleetlineError
from protocol.frames import Assign
from protocol.output import Piece

__all__ = ["AttemptState", "Checkpointed", "Outlet"]


class Outlet(Protocol):
    """Where an attempt's entries go: `agent.stream.Stream`, or a child process's pipe to it."""

    made: int
    dead: FleetlineError | None

    @property
    def body_bytes_max(self) -> int:
        """The largest body that the hub takes."""

    @property
    def unacknowledged(self) -> int:
        """How many entries are not acknowledged."""

    def offer(self, kind: str, body: bytes, index: int | None = None, cause: int | None = None) -> int:
        """Add an entry. Returns its number, or 0 where there is no room."""

    def write(self, stream: str, piece: Piece, index: int | None = None) -> int:
        """Add a piece of output. Returns the number of its entry, or 0 where there is no room."""

    def close_output(self) -> None:
        """Join nothing more to what was written so far."""

    def acknowledged(self, seq: int) -> Future[None]:
        """Return what is done when entry `seq` is acknowledged."""

    def room(self, body_bytes: int) -> Future[None]:
        """Return what is done when there is room for an entry of that size."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    """A checkpoint of an earlier attempt: its number (see `AttemptState.numbered`), and a packed value."""

    index: int
    value: bytes


class AttemptState:
    """One attempt: its entries' way out, its journal, and whether it is to stop. Safe in any thread.

    Attributes:
        cancelled: the run was cancelled, or the attempt is not ours any more: the handler is to stop.
        reason: why.
        fenced: the hub takes nothing more of this attempt.
        journal: None where the handler starts over on a new attempt, or at a checkpoint.
        checkpoint: where the handler begins, if at a checkpoint.
        numbered: how many effects, checkpoints, questions and children there were, where no journal counts them.
        stopping: set when the handler is to stop.
        inbox: what the run's log tells the handler.
        queries: what the handler is asked while it works.
        patience: how long the handler waits before it is put away, and what for.
        suspended: what it waits for, once it was put away: whatever else it does, the attempt ends with that.
        uploads: where the files go that it attaches.
    """

    def __init__(
        self,
        assign: Assign,
        outlet: Outlet,
        journal: Journal | None = None,
        checkpoint: Checkpointed | None = None,
        past: Past | None = None,
        suspend_after_s: float | None = None,
        uploads: Uploader | None = None,
    ) -> None:
        self.assign = assign
        self.uploads = uploads
        self.outlet = outlet
        self.journal = journal
        self.begin_at(checkpoint)
        self.inbox = Inbox()
        self.queries = Queries(assign.handler)
        if past is not None:
            self.inbox.begin_at(past)
        self.patience = Patience(suspend_after_s)
        self.suspended: Suspended | None = None
        self.stopping = threading.Event()
        self.cancelled = False
        self.fenced = False
        self.reason: str | None = None
        self._until_s = None if assign.time_left_ms is None else time.monotonic() + assign.time_left_ms / 1000
        self._lock = threading.Lock()
        self._on_stop: list[Callable[[], object]] = []
        self._progress: bytes | None = None
        self._notes: deque[tuple[str, bytes]] = deque()
        self._noting = threading.Lock()

    @cached_property
    def logger(self) -> Any:
        """A logger that knows of which attempt it tells; most never need one."""
        assign = self.assign
        return structlog.get_logger("fleetline.run").bind(
            run=assign.run, attempt=assign.attempt, handler=assign.handler
        )

    @property
    def time_left_s(self) -> float | None:
        """How long it may still take; None where nothing says."""
        return None if self._until_s is None else max(0.0, self._until_s - time.monotonic())

    @property
    def fault(self) -> FleetlineError | None:
        """What has ended the attempt under its handler: a journal that it does not repeat, or a log that is closed."""
        broken = None if self.journal is None else self.journal.broken
        return broken or self.outlet.dead

    def begin_at(self, checkpoint: Checkpointed | None) -> None:
        """Have the handler begin at a checkpoint."""
        self.checkpoint = checkpoint
        self.numbered = checkpoint.index if checkpoint is not None else 0

    def on_stop(self, call: Callable[[], object]) -> None:
        """Have `call` called when the handler is to stop, in whatever thread learns of it; at once if it is."""
        with self._lock:
            if not self.cancelled:
                self._on_stop.append(call)
                return
        call()

    def put_away(self) -> None:
        """Stop the handler where it only waits, and has done so for long enough: it is brought back later."""
        suspended = self.patience.suspended(time.monotonic(), self.inbox.given_all())
        if suspended is not None:
            self.send_progress()
            self.stop(PUT_AWAY, suspended=suspended)

    def stop(self, reason: str | None, *, fenced: bool = False, suspended: Suspended | None = None) -> None:
        """The handler is to stop; with `suspended`, nothing that it does after this counts."""
        with self._lock:
            self.fenced = self.fenced or fenced
            if self.cancelled:
                return
            if suspended is not None:
                self.suspended = suspended
                self.outlet = ShutOutlet(self.outlet.made, self.outlet.body_bytes_max)
            self.cancelled = True
            self.reason = reason
            calls, self._on_stop = self._on_stop, []
        self.stopping.set()
        self.inbox.wake()
        for call in calls:
            call()

    def ended(self) -> None:
        """The handler has ended: nobody is to be told to stop any more."""
        self.inbox.unfollow()
        self.queries.close()
        with self._lock:
            self._on_stop.clear()

    def progress(self, current: float, total: float | None, message: str | None) -> None:
        """Say how far the handler is. Never waits: while the window is full, only the latest is kept.

        Nothing is said while it catches up with an earlier attempt, which has said all that.

        Raises:
            PublishRefused: that is larger than the hub takes.
        """
        body = pack_value(
            Progress(current=float(current), total=None if total is None else float(total), message=message)
        )
        if len(body) > self.outlet.body_bytes_max:
            raise too_large(f"run/{self.assign.run}", len(body), self.outlet.body_bytes_max)
        if self.journal is None or not self.journal.catching_up:
            self._progress = body
            self.send_progress()

    def note(self, kind: str, body: bytes) -> None:
        """Put an entry of ours into the log beside what the handler does, from any thread. Never waits.

        While the window is full it is kept, and goes before the handler's next entry.
        """
        self._notes.append((kind, body))
        self._send_notes()

    def _send_notes(self) -> None:
        with self._noting, suppress(FleetlineError):
            while self._notes and self.outlet.offer(*self._notes[0]):
                self._notes.popleft()

    def send_progress(self) -> None:
        """Send what we noted, and the latest progress, as far as that was not sent and there is room."""
        if self._notes:
            self._send_notes()
        body = self._progress
        if body is not None and self.outlet.dead is None and self.outlet.offer(Kind.PROGRESS, body):
            self._progress = None
