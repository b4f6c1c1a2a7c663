"""A run that is a program: started in a group of its own, listened to, and brought to its end.

    started -> talks -> result, error or nothing -> has ended -> group gone -> pipes read -> judged
                 '---- cancelled, fenced, refused: the ladder -----'

What it writes goes into the attempt's stream as any handler's entries do, through the same context: while the
window is full its pipes are not read. Standard output and error are read by a task each, so that the order within
each is kept. Nothing is judged before no process of the group is left and everything that they wrote is in.

Specification: docs/guide.md, section "Programs".
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from typing import Any

from agent.attempt_state import AttemptState
from agent.context import RunContext
from agent.errors import ChildRaised, RequestError
from agent.executors.child import MEMORY_EXCEEDED
from agent.executors.exits import ended, signal_name
from agent.executors.guard import Guard, Guarded
from agent.executors.ladder import KILL_WAIT_S, Cause, Ladder, Rung
from agent.executors.memory import in_mib
from agent.executors.pipes import InputPipe, OutputPipe
from agent.executors.program_conversation import Conversation
from agent.executors.program_lines import (
    TEXT_BYTES_MAX,
    Ask,
    Attach,
    CancelChild,
    Continue,
    Event,
    Failure,
    LineReader,
    Mark,
    Progress,
    Refused,
    Reply,
    Result,
    Said,
    Submit,
    Text,
    cancel_line,
    input_line,
    start_line,
)
from agent.program import Program, program_error
from agent.uploads import AttachFailed
from protocol.errors import FleetlineError
from protocol.output import STDERR, STDOUT

__all__ = ["STOPPED", "Programs"]

STOPPED = "stopped"
"""The kind of the entry that says how a program was brought to its end."""

TAIL_CHARS_MAX = 4000
"""Characters of the end of standard error that a failure carries."""

TEXT_FACTOR, TEXT_REST_BYTES = 4, 64
"""What a line of text may grow to in an entry: each byte that is not UTF-8 takes four; and what stands around it."""


class Programs:
    """The programs of one agent: a guard for each command, started when it is first needed."""

    def __init__(self) -> None:
        self._guards: dict[Program, Guard] = {}
        self._lost: list[Guard] = []

    async def run(self, program: Program, state: AttemptState) -> object:
        """Run a program for an attempt, and return its result.

        Raises:
            asyncio.CancelledError: it was told to stop, and has, or was killed.
            ChildRaised: it could not be started, failed, or said what cannot be taken.
            FleetlineError: the log did not take what it said.
        """
        if state.cancelled:
            raise asyncio.CancelledError
        theirs, (stdin, stdout, stderr) = _pipes()
        with contextlib.ExitStack() as closing:
            outputs = OutputPipe(stdout), OutputPipe(stderr)
            for output in outputs:
                closing.callback(output.close)
            with contextlib.ExitStack() as handed_over:
                for descriptor in theirs:
                    handed_over.callback(os.close, descriptor)
                entry = await InputPipe.open(stdin)
                closing.callback(entry.close)
                guarded = await self._guard(program).start(_environment(state), theirs, program.memory_bytes)
            return await _Run(program, state, guarded, entry, outputs).live()

    async def close(self) -> None:
        """End the guards, and what they still guard."""
        guards = (*self._guards.values(), *self._lost)
        self._guards.clear()
        self._lost.clear()
        for guard in guards:
            await guard.close()

    def _guard(self, program: Program) -> Guard:
        guard = self._guards.get(program)
        if guard is not None and guard.lost:
            self._lost.append(guard)
        if guard is None or guard.lost:
            guard = self._guards[program] = Guard(program.command)
        return guard


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the program's ends and ours: standard input, output and error."""
    stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
    return (stdin[0], stdout[1], stderr[1]), (stdin[1], stdout[0], stderr[0])


def _environment(state: AttemptState) -> dict[str, str]:
    assign = state.assign
    return {
        "FLEETLINE_RUN": assign.run,
        "FLEETLINE_ATTEMPT": str(assign.attempt),
        "FLEETLINE_HANDLER": assign.handler,
        "FLEETLINE_QUEUE": assign.queue,
    }


class _Run:
    """One run of a program, until nothing of it is left."""

    def __init__(
        self,
        program: Program,
        state: AttemptState,
        guarded: Guarded,
        entry: InputPipe,
        outputs: tuple[OutputPipe, OutputPipe],
    ) -> None:
        self._program = program
        self._state = state
        self._context = RunContext(state)
        self._guarded = guarded
        self._input = entry
        self._outputs = outputs
        self._loop = asyncio.get_running_loop()
        self._ladder = Ladder(program.graces, speaks=not program.plain)
        self._wake = self._loop.create_future()
        self._outcome: Result | Continue | Failure | None = None
        self._fault: FleetlineError | None = None
        self._tail = ""
        self._conversation = Conversation(self._context, state, entry)

    async def live(self) -> object:
        """Listen until it is over. Raises as `Programs.run` says."""
        self._greet()
        if self._state.uploads is not None:
            self._state.on_stop(self._state.uploads.stop)
        self._state.on_stop(lambda: self._loop.call_soon_threadsafe(self._begin, Cause.CANCELLED))
        try:
            async with asyncio.TaskGroup() as tasks:
                for pipe, kind in zip(self._outputs, (STDOUT, STDERR), strict=True):
                    tasks.create_task(self._listen(pipe, kind), name=f"{kind} of {self._state.assign.run}")
                if not self._program.plain:
                    tasks.create_task(self._converse(), name=f"conversation of {self._state.assign.run}")
                await self._until_gone()
                self._conversation.end()
                for pipe in self._outputs:
                    pipe.finish()
        finally:
            self._state.ended()
            if not self._guarded.gone.done():
                self._guarded.signal(signal.SIGKILL)
                await asyncio.wait((self._guarded.gone,), timeout=KILL_WAIT_S)
        await self._tell_how_it_stopped()
        return self._judge()

    def _greet(self) -> None:
        if self._program.plain:
            self._input.say(input_line(self._state.assign))
            self._input.end()
        else:
            last = self._state.checkpoint
            self._input.say(start_line(self._state.assign, None if last is None else last.value))

    # Talking

    async def _converse(self) -> None:
        try:
            await self._conversation.run()
        except FleetlineError as fault:
            self._fault = self._fault or fault
            self._begin(Cause.REFUSED)

    # Listening

    async def _listen(self, pipe: OutputPipe, kind: str) -> None:
        """Take what comes out of one pipe, up to its end or the first thing that cannot be taken."""
        fitting = max(TEXT_FACTOR, (self._state.outlet.body_bytes_max - TEXT_REST_BYTES) // TEXT_FACTOR)
        messages = kind == STDOUT and not self._program.plain
        reader = LineReader(messages=messages, text_bytes_max=min(TEXT_BYTES_MAX, fitting))
        try:
            while data := await pipe.read():
                for said in reader.feed(data):
                    await self._take(said, kind)
            for said in reader.finish():
                await self._take(said, kind)
        except FleetlineError as fault:
            self._fault = self._fault or fault
            self._begin(Cause.REFUSED)

    async def _take(self, said: Said, kind: str) -> None:
        if isinstance(said, Text):
            if kind == STDERR:
                self._tail = f"{self._tail}{said.text}{'' if said.more else os.linesep}"[-TAIL_CHARS_MAX:]
            await self._context.emit(kind, said.body)
            return
        if self._outcome is not None and not isinstance(said, Refused):
            raise _bad_line(f"a message of type {said.type!r} came after its {self._outcome.type}, which is the last")
        match said:
            case Event() | Mark() | Progress() | Attach() | Ask() | Reply() | Submit() | CancelChild():
                await self._emit(said)
            case Refused():
                raise _bad_line(said.why)
            case _:
                self._outcome = said
                self._begin(Cause.FINISHED)

    async def _emit(self, said: Event | Mark | Progress | Attach | Ask | Reply | Submit | CancelChild) -> None:
        try:
            match said:
                case Event():
                    await self._context.emit(said.kind, said.body, cause=said.cause)
                case Mark():
                    await self._context.checkpoint(said.value)
                case Progress():
                    self._context.progress(said.current, said.total, said.message)
                case Attach():
                    await self._attach(said)
                case Ask():
                    self._conversation.ask(said)
                case Reply():
                    await self._conversation.reply(said)
                case Submit():
                    self._conversation.submit(said)
                case CancelChild():
                    await self._conversation.cancel_child(said)
        except (TypeError, ValueError, OverflowError) as fault:
            raise _bad_line(f"a message of type {said.type!r} cannot be an entry: {fault}") from None

    async def _attach(self, said: Attach) -> None:
        """Attach a file, while the program is not listened to. One that is to stop is not waited for."""
        try:
            await self._context.attach(said.path, said.name)
        except (AttachFailed, RequestError) as fault:
            if not self._state.cancelled:
                raise program_error("AttachFailed", str(fault), retryable=isinstance(fault, AttachFailed)) from None

    # Ending

    def _begin(self, cause: Cause) -> None:
        """It is to end, for this cause."""
        self._conversation.end()
        self._do(self._ladder.begin(cause, self._loop.time()))
        if not self._wake.done():
            self._wake.set_result(None)

    async def _until_gone(self) -> None:
        """Climb the ladder where that is called for, until no process of the group is left, or nothing helps."""
        ladder, guarded = self._ladder, self._guarded
        alone = False
        while not guarded.gone.done() and not ladder.over:
            now_s = self._loop.time()
            if guarded.exited.done() and not alone:
                alone = True
                self._do(ladder.leader_gone(now_s))
            self._do(ladder.tick(now_s))
            ends: set[asyncio.Future[Any]] = {self._wake, guarded.gone} | (set() if alone else {guarded.exited})
            timeout_s = None if ladder.due_s is None else max(0.0, ladder.due_s - now_s)
            await asyncio.wait(ends, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if self._wake.done():
                self._wake = self._loop.create_future()
        if ladder.over:
            self._state.logger.error("program_not_ended", pid=guarded.pid, after_s=KILL_WAIT_S)

    def _do(self, rung: Rung | None) -> None:
        match rung:
            case Rung.MESSAGE:
                self._input.say(cancel_line(self._state.reason))
            case Rung.END_OF_INPUT:
                self._input.end()
            case Rung.SIGTERM:
                self._guarded.signal(signal.SIGTERM)
            case Rung.SIGKILL:
                self._guarded.signal(signal.SIGKILL)
            case _:
                return

    async def _tell_how_it_stopped(self) -> None:
        """Put the rung that worked into the log, where one was needed."""
        ladder = self._ladder
        if self._guarded.over_bytes is not None and not self._state.fenced:
            await self._context.emit(STOPPED, {"why": "memory", "rung": Rung.SIGKILL.value, **self._exit()})
            return
        if ladder.cause is None or ladder.rung is None or self._state.fenced:
            return
        if ladder.forced or ladder.rung is Rung.MESSAGE:
            how = {"why": ladder.cause.value, "rung": ladder.rung.value, **self._exit()}
            await self._context.emit(STOPPED, how)

    # Judging

    def _judge(self) -> object:
        """Return the run's result. Raises as `Programs.run` says."""
        outcome, code = self._outcome, self._code()
        if self._state.fenced:
            raise asyncio.CancelledError
        if self._fault is not None:
            raise self._fault
        if self._guarded.over_bytes is not None:
            raise self._held_too_much(self._guarded.over_bytes)
        if isinstance(outcome, Result | Continue) and (code == 0 or self._ladder.forced):
            return outcome.result if isinstance(outcome, Result) else self._context.continue_as(outcome.input)
        if self._state.cancelled:
            raise asyncio.CancelledError
        if isinstance(outcome, Failure):
            raise program_error(outcome.name, outcome.message, outcome.trace, retryable=outcome.retryable)
        if self._program.plain and code == 0:
            return None
        raise self._ended_badly(code)

    def _ended_badly(self, code: int | None) -> ChildRaised:
        name = self._program.name
        if self._outcome is not None:
            what = f"{name} gave a result and then {ended(code)}; a result counts with exit code 0"
        elif self._program.plain:
            what = f"{name} {ended(code)}"
        else:
            what = f"{name} {ended(code)} without a result; its last line is to be a message of type 'result'"
        tail = self._tail.rstrip()
        if tail:
            what = f"{what}; standard error ends with: {tail.splitlines()[-1]}"
        return program_error("ProgramFailed", what, tail or None)

    def _held_too_much(self, held: int) -> ChildRaised:
        most = in_mib(self._program.memory_bytes or 0)
        what = f"{self._program.name} and what it started held {in_mib(held)} of memory"
        return program_error(MEMORY_EXCEEDED, f"{what}; their limit is {most}, and all of it was killed")

    def _code(self) -> int | None:
        exited = self._guarded.exited
        return exited.result() if exited.done() else None

    def _exit(self) -> dict[str, int | str]:
        """Return how the program itself ended, as an entry has it."""
        code = self._code()
        if code is None:
            return {}
        return {"exit": code} if code >= 0 else {"signal": signal_name(-code)}


def _bad_line(why: str) -> ChildRaised:
    return program_error(
        "BadLine",
        f"{why}; nothing more of the program was taken; correct the program, or start the agent with --plain if it "
        "speaks no JSON lines",
        retryable=False,
    )
