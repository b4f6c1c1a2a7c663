"""An async handler as a task of the loop that this runs on: the program's own, or one of its thread's or process's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agent.attempt_state import AttemptState
from agent.context import RunContext

__all__ = ["run_inline"]


async def run_inline(function: Callable[..., Any], state: AttemptState, arguments: dict[str, object]) -> object:
    """Run an async handler as a task of its own; it is cancelled when the attempt is to stop."""
    loop = asyncio.get_running_loop()
    state.queries.answer_on(loop)
    task: asyncio.Task[object] = loop.create_task(
        function(RunContext(state), **arguments), name=f"run {state.assign.run}"
    )

    state.patience.begins(task)

    def stop() -> None:
        with suppress(RuntimeError):  # its loop is closed: it has ended just now
            loop.call_soon_threadsafe(task.cancel)

    state.on_stop(stop)
    return await task
