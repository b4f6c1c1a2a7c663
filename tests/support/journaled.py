"""One attempt after the other of a handler, without a hub: a run's log in memory, and a kill at any entry of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from inspect import iscoroutinefunction
from typing import Any

from agent.attempt_state import AttemptState, Checkpointed
from agent.context import RunContext
from agent.feed import too_large
from agent.journal import Journal
from agent.operations import describe_error, failed_call_index
from agent.plain_context import PlainRunContext
from protocol.codec import pack_record, pack_value, unpack_record
from protocol.control import Errored, Kind
from protocol.entry import Entry, Position, Record
from protocol.errors import FleetlineError
from protocol.frames import Assign, Recover
from protocol.output import Piece, Written

__all__ = ["RUN", "Killed", "RunLog", "begin"]

RUN = "07-0190f3a2b1c-00112233aabbccdd"


class Killed(BaseException):
    """The process that ran the handler is gone."""


class RunLog:
    """A run's log, and the attempts that write it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.attempts = 0

    @property
    def records(self) -> list[Record]:
        """What the entries say."""
        return [unpack_record(entry.packed) for entry in self.entries]

    @property
    def done(self) -> list[tuple[int | None, str]]:
        """Index and kind of every entry."""
        return [(record.index, record.kind) for record in self.records]

    def append(self, kind: str, body: bytes, seq: int, index: int | None, cause: int | None) -> None:
        """Add an entry of the attempt that runs."""
        packed = pack_record(kind, "agent:a", body, attempt=self.attempts, seq=seq, index=index, cause=cause)
        self.entries.append(Entry(len(self.entries) + 1, 1, packed))

    def attempt(self, handler: Callable[..., Any], *args: Any, room: int | None = None) -> Any:
        """Run a journaled handler, killed when it has let out `room` entries. Returns what it returns.

        Raises:
            Killed: it was.
            Exception: what the handler raised; its `$errored` entry is in the log.
        """
        self.attempts += 1
        journal = Journal()
        for entry in self.entries:
            journal.record(entry)
        outlet = MemoryOutlet(self, room)
        try:
            result = begin(handler, AttemptState(assignment(self.attempts), outlet, journal), *args)
            outlet.close_output()
            journal.returned()
        except Exception as raised:  # noqa: BLE001 - the boundary of the handler
            error = journal.broken or raised
            outlet.close_output()
            self.append(
                Kind.ERRORED, pack_value(Errored(error=describe_error(error))), outlet.made + 1,
                failed_call_index(error), None,
            )  # fmt: skip
            raise error from None
        return result

    def unrecorded(self, handler: Callable[..., Any], *args: Any, checkpoint: Checkpointed | None = None) -> Any:
        """Run a handler without a journal, from a checkpoint perhaps. Returns what it returns."""
        self.attempts += 1
        outlet = MemoryOutlet(self, None)
        result = begin(handler, AttemptState(assignment(self.attempts), outlet, None, checkpoint), *args)
        outlet.close_output()
        return result


class MemoryOutlet:
    """The way into a `RunLog`, see `agent.attempt_state.Outlet`: who would let out one entry too many is killed.

    Output is joined until something else follows, or as many pieces as `joins` are, which is another number for every
    attempt. What is not closed when the process is killed is gone with it.

    Attributes:
        made: entries that it took.
    """

    body_bytes_max = 1_000_000
    unacknowledged = 1

    def __init__(self, log: RunLog, room: int | None) -> None:
        self.made = 0
        self.dead: FleetlineError | None = None
        self._log = log
        self._room = room
        self._open: Written | None = None
        self._pieces = 0
        self._joins = 1 + log.attempts % 3

    def offer(self, kind: str, body: bytes, index: int | None = None, cause: int | None = None) -> int:
        """Take an entry, or none from now on."""
        if self.dead is not None:
            raise self.dead
        if len(body) > self.body_bytes_max:
            raise too_large("run/r", len(body), self.body_bytes_max)
        if self.made == self._room:
            return 0
        self.close_output()
        self.made += 1
        self._log.append(kind, body, self.made, index, cause)
        return self.made

    def write(self, stream: str, piece: Piece, index: int | None = None) -> int:
        """Take a piece of output, or none from now on."""
        if self.dead is not None:
            raise self.dead
        last = self._open
        if last is not None and self._pieces < self._joins and last.takes(stream, piece, index, 1000):
            last.add(piece, index)
            self._pieces += 1
            return self.made
        if self.made == self._room:
            return 0
        self.close_output()
        self._open, self._pieces = Written(stream, piece, index), 1
        self.made += 1
        return self.made

    def close_output(self) -> None:
        """Have what was written in the log."""
        if self._open is not None:
            self._log.append(self._open.stream, self._open.body(), self.made, self._open.index, None)
            self._open = None

    def acknowledged(self, seq: int) -> Future[None]:
        """Everything is, at once, unless the outlet is dead."""
        assert seq <= self.made
        self.close_output()
        future: Future[None] = Future()
        if self.dead is None:
            future.set_result(None)
        else:
            future.set_exception(self.dead)
        return future

    def room(self, body_bytes: int) -> Future[None]:
        """There will be none."""
        future: Future[None] = Future()
        future.set_exception(Killed())
        return future


def begin(handler: Callable[..., Any], state: AttemptState, *args: Any) -> Any:
    """Run a handler of either kind, and return what it returns."""
    try:
        if iscoroutinefunction(handler):
            return asyncio.run(handler(RunContext(state), *args))
        return handler(PlainRunContext(state), *args)
    except BaseExceptionGroup as group:
        if group.subgroup(Killed) is None:
            raise
        raise Killed from None


def assignment(attempt: int) -> Assign:
    """Return what the hub says of an attempt."""
    return Assign(
        run=RUN,
        queue="default",
        handler="h",
        attempt=attempt,
        fence=100 + attempt,
        input=b"",
        lease_ms=1000,
        position=Position("e", 1, "0" * 16),
        recover=Recover.JOURNAL,
    )
