"""Where handlers run: on the program's loop, in a thread, in a child process."""

from __future__ import annotations

from agent.attempt_state import AttemptState
from agent.executors.inline import run_inline
from agent.executors.process import Children
from agent.executors.thread import run_in_thread
from agent.handlers import Handler, Isolation

__all__ = ["Children", "execute"]


async def execute(handler: Handler, state: AttemptState, arguments: dict[str, object], children: Children) -> object:
    """Run a handler where it is to run, and return what it returns.

    Raises:
        asyncio.CancelledError: it was told to stop, and did.
        Exception: whatever it raises.
    """
    if handler.isolation is Isolation.PROCESS:
        return await children.run(handler, state, arguments)
    if handler.isolation is Isolation.THREAD or not handler.is_async:
        return await run_in_thread(handler, state, arguments)
    return await run_inline(handler, state, arguments)
