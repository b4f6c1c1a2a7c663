"""Where handlers run: on the program's loop, in a thread, in a child process; or as a program of their own."""

from __future__ import annotations

from collections.abc import Iterable

from agent.attempt_state import AttemptState
from agent.executors.inline import run_inline
from agent.executors.pool import Pool
from agent.executors.process import Children
from agent.executors.program import Programs
from agent.executors.thread import run_in_thread
from agent.handlers import Handler, Isolation
from agent.program import ProgramHandler

__all__ = ["Rooms", "execute"]


class Rooms:
    """What the handlers of one agent share: its child processes and its programs.

    Args:
        handlers: all that the agent has.
        processes: how many children are started ahead, where a handler wants one.
    """

    def __init__(self, handlers: Iterable[Handler | ProgramHandler] = (), processes: int = 0) -> None:
        apart = [one.function for one in handlers if isinstance(one, Handler) and one.isolation is Isolation.PROCESS]
        self.children = Children(Pool(processes, apart))
        self.programs = Programs()

    def prepare(self) -> None:
        """Start what is to be there before it is asked for."""
        self.children.pool.fill()

    async def close(self) -> None:
        """End all of it."""
        await self.programs.close()
        await self.children.close()


async def execute(
    handler: Handler | ProgramHandler, state: AttemptState, arguments: dict[str, object], rooms: Rooms
) -> object:
    """Run a handler where it is to run, and return what it returns.

    Raises:
        asyncio.CancelledError: it was told to stop, and did.
        Exception: whatever it raises.
    """
    if isinstance(handler, ProgramHandler):
        return await rooms.programs.run(handler.program, state)
    if handler.isolation is Isolation.PROCESS:
        return await rooms.children.run(handler, state, arguments)
    if handler.isolation is Isolation.THREAD or not handler.is_async:
        return await run_in_thread(handler, state, arguments)
    return await run_inline(handler.function, state, arguments)
