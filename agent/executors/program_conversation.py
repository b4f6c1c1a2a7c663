"""What a program is told while it works, what it asks and submits: lines in, lines out, over the usual context.

Messages are told as they come, each as a line on the program's standard input. A question or a child of the program
has its number when its line was read; what comes of it are lines as well, and so are queries, which the program
replies to as to messages. All of it ends when the program is to end.

Specification: docs/guide.md, section "Programs".
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from agent.attempt_state import AttemptState
from agent.children import Child
from agent.context import RunContext
from agent.errors import Unanswered
from agent.executors.pipes import InputPipe
from agent.executors.program_lines import (
    Ask,
    CancelChild,
    Reply,
    Submit,
    answer_line,
    child_ended_line,
    child_line,
    query_line,
    steer_line,
)
from agent.operations import Operation
from agent.queries import refusal
from agent.steering import SteerMessage
from protocol.codec import pack_value
from protocol.codes import ErrorCode
from protocol.frames import Query
from protocol.readable import json_line

__all__ = ["Conversation"]

QUERY = "query-"
"""What the ids of queries begin with, a number behind it; those of messages have no hyphen."""


class Conversation:
    """The conversation of one run that is a program. Everything happens on one event loop.

    Args:
        context: of the attempt.
        state: of the attempt.
        entry: the program's standard input.
    """

    def __init__(self, context: RunContext, state: AttemptState, entry: InputPipe) -> None:
        self._context = context
        self._state = state
        self._input = entry
        self._operations: list[Operation[Any]] = []
        self._told: dict[str, SteerMessage] = {}
        self._children: dict[int, Child] = {}
        self._begun: asyncio.Queue[Coroutine[Any, Any, None] | None] = asyncio.Queue()
        self._queried = 0
        loop = asyncio.get_running_loop()
        state.queries.forward(lambda number, query: loop.call_soon_threadsafe(self._query, number, query))

    async def run(self) -> None:
        """Talk until `end`.

        Raises:
            FleetlineError: the log did not take what is said.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                talking = [tasks.create_task(self._tell())]
                while (begun := await self._begun.get()) is not None:
                    talking.append(tasks.create_task(begun))
                for task in talking:
                    task.cancel()
        except BaseExceptionGroup as faults:
            raise faults.exceptions[0] from None
        finally:
            while not self._begun.empty():
                begun = self._begun.get_nowait()
                if begun is not None:
                    begun.close()
            for operation in self._operations:
                operation.close()

    def end(self) -> None:
        """Nothing more is told, and nothing is waited for."""
        self._begun.put_nowait(None)

    def ask(self, said: Ask) -> None:
        """Take a question of the program.

        Raises:
            ValueError: it cannot be asked.
        """
        ask = self._context.approve if said.approve else self._context.ask
        operation = ask(said.name, said.payload, timeout=said.timeout)
        self._operations.append(operation)
        self._begun.put_nowait(self._answer(said, self._state.numbered, operation))

    def submit(self, said: Submit) -> None:
        """Take a run that the program submits.

        Raises:
            ValueError: it cannot be submitted.
        """
        options = said.model_dump(exclude={"type", "handler", "input"})
        operation = self._context.submit(said.handler, said.input, **options)
        self._operations.append(operation)
        self._begun.put_nowait(self._follow(said.handler, self._state.numbered, operation))

    async def cancel_child(self, said: CancelChild) -> None:
        """Take what the program says of a child.

        Raises:
            ValueError: it was told of no such child.
        """
        child = self._children.get(said.child)
        if child is None:
            raise ValueError(f"no child {said.child} was told")
        await child.cancel(said.reason)

    async def reply(self, said: Reply) -> None:
        """Take what the program says of a message.

        Raises:
            ValueError: it was told no such message.
        """
        if said.id.startswith(QUERY) and said.id.removeprefix(QUERY).isdecimal():
            self._replied(int(said.id.removeprefix(QUERY)), said)
            return
        message = self._told.get(said.id)
        if message is None:
            raise ValueError(f"no message {said.id[:160]!r} was told")
        await (message.reject(said.value) if said.rejected else message.reply(said.value))

    def _query(self, number: int, query: Query) -> None:
        self._queried = number
        self._input.say(query_line(f"{QUERY}{number}", query.name, query.args))

    def _replied(self, number: int, said: Reply) -> None:
        """Take a reply to a query; one that nobody waits for any more has no effect."""
        if not 0 < number <= self._queried:
            raise ValueError(f"no query {said.id[:160]!r} was told")
        if said.rejected:
            why = f"the program rejected it: {json_line(said.value)}"
            self._state.queries.answered(number, refusal(ErrorCode.QUERY_FAILED, why))
        else:
            self._state.queries.answered(number, pack_value(said.value))

    async def _tell(self) -> None:
        async for message in self._context.steering():
            self._told[message.id] = message
            self._input.say(steer_line(message.id, message.body))

    async def _follow(self, handler: str, number: int, operation: Operation[Child]) -> None:
        child = self._children[number] = await operation
        self._input.say(child_line(number, handler, child.run_id))
        self._input.say(child_ended_line(number, handler, await child.ended()))

    async def _answer(self, said: Ask, number: int, operation: Operation[Any]) -> None:
        answer, timed_out = None, False
        try:
            answer = await operation
        except Unanswered:
            timed_out = True
        self._input.say(answer_line(number, said.name, answer, timed_out=timed_out))
