"""An async handler on the program's own loop."""

from __future__ import annotations

import asyncio

from agent.attempt_state import AttemptState
from agent.context import RunContext
from agent.handlers import Handler

__all__ = ["run_inline"]


async def run_inline(handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
    """Run an async handler as a task of its own; it is cancelled when the attempt is to stop."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(handler.function(RunContext(state), **arguments), name=f"run {state.assign.run}")
    state.on_stop(lambda: loop.call_soon_threadsafe(task.cancel))
    try:
        return await task
    finally:
        if not task.done():
            task.cancel()
