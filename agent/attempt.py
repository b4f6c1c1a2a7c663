"""The life of one attempt: its commands, its journal, its handler, and its last entry.

    assigned -> (journal or checkpoint read) -> handler runs -> last entry acknowledged -> dropped
                      |                            |
                      '--- stopped: by a `$cancel` of the run's log, or because the hub says it is not ours

A cancelled handler that stops ends with `$cancelled`; one that returns a result nevertheless has succeeded:
the first of the two in the log counts. One that is put away ends with `$suspended`, whatever it makes of that. Of an
attempt that is not ours nothing more is said.

Specification: docs/protocol.md, section "Runs".
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from agent.attempt_state import AttemptState, Checkpointed
from agent.binding import pack_result
from agent.drops import now_ms
from agent.endings import ContinueAs
from agent.errors import BadInput, ChildDied, ChildRaised, LinkClosed, NonDeterminism, Reset
from agent.executors import Rooms, execute
from agent.handlers import Isolation
from agent.held import Held
from agent.inbox import past_of
from agent.journal import Journal
from agent.operations import describe_error, failed_begun, failed_call_index, run_error
from agent.reading import PAGE_ENTRIES, pages
from agent.sinks import Batch
from agent.subscriptions import Subscription
from agent.threads import in_loop
from agent.uploads import Uploads
from protocol.codec import pack_value, unpack_record, unpack_value
from protocol.control import COMMANDS, Cancel, Cancelled, Checkpoint, Errored, Kind, RunError, Succeeded, read_control
from protocol.conversation import CANCEL_ID, Answered, Received, Steer
from protocol.errors import FleetlineError
from protocol.family import ChildEnded, ChildRun, Continue
from protocol.frames import Part, Recover, Window
from protocol.talk import Talk, talk_after

if TYPE_CHECKING:
    from agent.handlers import Handler
    from agent.link import Link
    from agent.program import ProgramHandler

__all__ = ["Attempt"]

log = structlog.get_logger("fleetline.agent")

COMMANDS_AFTER_MS = 20
"""How long a handler runs before its run's log is followed for commands: one that has ended by then needs none."""

COMMAND_WINDOW = Window(entries=64, bytes=256 * 1024)


@dataclass(frozen=True, slots=True)
class _Ending:
    """The last entry of an attempt."""

    kind: Kind
    body: Part
    index: int | None = None


class Attempt:
    """One attempt of one run, on this agent.

    Attributes:
        held: as the link holds it.
        over: the handler has ended: its slot is free, though its last entry may not be acknowledged yet.
    """

    def __init__(self, held: Held, handler: Handler | ProgramHandler, link: Link, rooms: Rooms) -> None:
        self.held = held
        self.over = False
        self._uploads = Uploads(link, held)
        self.state = AttemptState(
            held.assign, held.stream, suspend_after_s=handler.suspend_after, uploads=self._uploads
        )
        self._handler = handler
        self._link = link
        self._rooms = rooms
        self._commands = Subscription(
            held.log, held.assign.position, _Commands(self), window=COMMAND_WINDOW, kinds=COMMANDS
        )

    async def run(self) -> None:
        """Live. Returns when the attempt's last entry is acknowledged, or the hub will take no more of it."""
        self._commands.not_before_ms = now_ms() + COMMANDS_AFTER_MS
        self._link.follow(self._commands)
        board, queries = self._link.peer.switchboard, self.state.queries
        board.put(self.held.assign.run, self.held.assign.fence, queries)
        try:
            ending = await self._work()
            if self.state.suspended is not None:
                ending = _Ending(Kind.SUSPENDED, self.state.suspended)
            self.over = True
            self._link.unfollow(self._commands)
            self._uploads.stop()
            if not self.state.fenced:
                await self._say(ending)
        except FleetlineError as refused:  # fenced, or the link has ended: the hub decides about the run
            log.warning(
                "attempt_given_up", run=self.held.assign.run, attempt=self.held.assign.attempt, why=str(refused)
            )
        finally:
            self.over = True
            self._uploads.stop()
            board.remove(self.held.assign.run, queries)
            queries.close()
            self._link.unfollow(self._commands)
            self._link.drop(self.held)

    def stop(self, reason: str) -> None:
        """The hub says that the attempt is not ours: the handler is to stop, and nothing more is said."""
        self.state.stop(reason, fenced=True)

    def handled(self, generation: int, offset: int) -> None:
        """A command was taken."""
        self._link.handled(self._commands, generation, offset)

    async def _work(self) -> _Ending:
        """Run the handler. Returns what its end is to be called."""
        try:
            if self._handler.recover is Recover.JOURNAL:
                self.state.journal = await self._read_journal()
            else:
                if self._handler.recover is Recover.CHECKPOINT:
                    self.state.begin_at(await self._read_checkpoint())
                await self._read_talk()
            arguments = self._handler.bind(unpack_value(self.held.assign.input))
            try:
                result = await execute(self._handler, self.state, arguments, self._rooms)
                ending = _Ending(Kind.SUCCEEDED, Succeeded(result=pack_result(result)))
            except ContinueAs as wish:
                ending = _Ending(Kind.CONTINUE, Continue(input=wish.packed))
            if self.state.journal is not None:
                self._check_journal(self.state.journal)
            return ending
        except asyncio.CancelledError:
            task = asyncio.current_task()
            ours = task is not None and task.cancelling() > 0  # it is not the handler only that is to stop
            if ours or not self.state.cancelled:
                raise
            return _Ending(Kind.CANCELLED, Cancelled(reason=self.state.reason))
        except Exception as error:  # noqa: BLE001 - the boundary between the handler and us
            return self._errored(error)

    async def _read_journal(self) -> Journal:
        """Read what earlier attempts of the run did, and what the run was told and asked."""
        journal, talk, assign = Journal(), Talk(), self.held.assign
        if assign.attempt > 1 or assign.talk_from is not None:
            async for page in pages(self._link, self.held.log, 0, assign.position.offset):
                for entry in page.entries:
                    journal.record(entry)
                    if assign.talk_from is not None:
                        talk = talk_after(talk, entry)
        if assign.talk_from is not None:
            self.state.inbox.begin_at(past_of(talk, Recover.JOURNAL, journal.served_messages()))
        return journal

    async def _read_talk(self) -> None:
        """Read what the run was told and asked before, if anything."""
        talk, assign = Talk(), self.held.assign
        if assign.talk_from is None:
            return
        async for page in pages(self._link, self.held.log, assign.talk_from - 1, assign.position.offset):
            for entry in page.entries:
                talk = talk_after(talk, entry)
        self.state.inbox.begin_at(past_of(talk, self._handler.recover))

    async def _read_checkpoint(self) -> Checkpointed | None:
        """Read the last checkpoint of earlier attempts, page by page from the end of what they wrote."""
        upto = self.held.assign.position.offset if self.held.assign.attempt > 1 else 0
        found: Checkpointed | None = None
        while upto > 0 and found is None:
            after = max(0, upto - PAGE_ENTRIES)
            async for page in pages(self._link, self.held.log, after, upto):
                for entry in page.entries:
                    record = unpack_record(entry.packed)
                    if record.kind == Kind.CHECKPOINT:
                        found = Checkpointed(record.index or 0, read_control(Checkpoint, record.body).value)
            upto = after
        return found

    def _check_journal(self, journal: Journal) -> None:
        """A handler in a child was checked there: this side's copy of its journal has seen nothing."""
        if self._handler.isolation is not Isolation.PROCESS:
            journal.returned()

    def _errored(self, error: Exception) -> _Ending:
        journal = self.state.journal
        if journal is not None and journal.broken is not None:
            error = journal.broken
        said = self._describe(error)
        index, begun = failed_call_index(error), failed_begun(error)
        retryable = not isinstance(error, (BadInput, NonDeterminism))
        if isinstance(error, ChildRaised):
            index, begun, retryable = error.index, error.begun, error.retryable
        self.state.logger.warning("handler_failed", type=said.type, message=said.message, retryable=retryable)
        if journal is None:
            index, begun = None, None
        return _Ending(Kind.ERRORED, Errored(error=said, retryable=retryable, begun=begun), index)

    @staticmethod
    def _describe(error: Exception) -> RunError:
        if isinstance(error, ChildRaised):
            return error.error
        if isinstance(error, (BadInput, NonDeterminism)):
            return run_error(type(error).__name__, str(error))
        if isinstance(error, ChildDied):
            return run_error(type(error).__name__, str(error), error.trace)
        return describe_error(error)

    async def _say(self, ending: _Ending) -> None:
        """Let the last entry out, and wait until the hub has it."""
        stream = self.held.stream
        self.state.send_progress()
        body = self._fitting(ending)
        while not (seq := stream.offer(body[0], body[1], ending.index, last=True)):
            await in_loop(stream.room(len(body[1])))
        await in_loop(stream.acknowledged(seq))

    def _fitting(self, ending: _Ending) -> tuple[str, bytes]:
        """Return kind and body; a result that is larger than the hub takes is an error instead."""
        body = pack_value(ending.body)
        most = self._link.peer.limits.body_bytes_max
        if len(body) <= most:
            return ending.kind.value, body
        continues = ending.kind is Kind.CONTINUE
        what, name = ("input", "InputTooLarge") if continues else ("result", "ResultTooLarge")
        message = f"the {what} takes {len(body)} bytes packed; the hub takes {most}; keep it elsewhere"
        error = run_error(name, message)
        return Kind.ERRORED.value, pack_value(Errored(error=error, retryable=False))


class _Commands:
    """What the run's log tells the attempt. Called in the link's thread."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def on_batch(self, batch: Batch) -> None:
        """Commands, in the order of the log."""
        for entry in batch.entries:
            record = unpack_record(entry.packed)
            match record.kind:
                case Kind.CANCEL:
                    self._attempt.state.note(Kind.RECEIVED, pack_value(Received(id=CANCEL_ID)))
                    self._attempt.state.stop(read_control(Cancel, record.body).reason)
                case Kind.STEER:
                    self._attempt.state.inbox.tell(read_control(Steer, record.body))
                case Kind.ANSWERED:
                    self._attempt.state.inbox.tell(read_control(Answered, record.body))
                case Kind.CHILD:
                    self._attempt.state.inbox.tell(read_control(ChildRun, record.body))
                case Kind.CHILD_ENDED:
                    self._attempt.state.inbox.tell(read_control(ChildEnded, record.body))
                case _:
                    continue
        self._attempt.handled(batch.generation, batch.upto)

    def on_live(self, head: int) -> None:
        """Nothing to do."""

    def on_reset(self, reset: Reset, generation: int) -> None:
        """The run's log lost entries; what is left of them is for the hub to judge."""
        del generation
        log.error("run_log_reset", log=reset.log, reason=reset.reason, first=reset.first, last=reset.last)

    def on_end(self, error: FleetlineError) -> None:
        """The link has ended, which stops the attempt by itself, or the log cannot be followed."""
        if not isinstance(error, LinkClosed):
            log.warning("commands_not_followed", run=self._attempt.held.assign.run, why=str(error))
