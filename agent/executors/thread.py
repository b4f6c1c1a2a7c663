"""A handler in a thread of its own: a plain function, or an async one with a loop of its own."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from agent.attempt_state import AttemptState
from agent.errors import Cancelled
from agent.executors.inline import run_inline
from agent.executors.stacks import STOP_GRACE_S, Overdue
from agent.handlers import Handler
from agent.plain_context import PlainRunContext
from agent.threads import in_loop, reject, resolve

__all__ = ["run_here", "run_in_thread"]


async def run_in_thread(
    handler: Handler, state: AttemptState, arguments: dict[str, object], stop_grace_s: float = STOP_GRACE_S
) -> object:
    """Run a handler in a new daemon thread.

    A thread cannot be stopped from outside: where the handler does not heed its cancellation, this returns
    when the handler does. Its stack is in the log once the grace time is over.
    """
    done: Future[object] = Future()
    context = contextvars.copy_context()

    def main() -> None:
        try:
            resolve(done, context.run(run_here, handler.function, handler.is_async, state, arguments))
        except (Cancelled, asyncio.CancelledError):
            reject(done, Cancelled())
        except BaseException as error:  # noqa: BLE001 - the boundary between the handler and us
            reject(done, error)

    thread = threading.Thread(target=main, name=f"run {state.assign.run}", daemon=True)
    thread.start()
    overdue = Overdue(state, partial(_stack_of, thread), grace_s=stop_grace_s)
    try:
        return await asyncio.shield(in_loop(done))
    except Cancelled:
        raise asyncio.CancelledError from None
    finally:
        overdue.close()


def _stack_of(thread: threading.Thread) -> str:
    """Return where a thread is, the innermost call last."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - it is documented, for this
    return "" if frame is None else "".join(traceback.format_stack(frame))


def run_here(function: Callable[..., Any], is_async: bool, state: AttemptState, arguments: dict[str, object]) -> object:
    """Run a handler in this thread until it returns, an async one on a loop of its own."""
    if is_async:
        return asyncio.run(run_inline(function, state, arguments))
    result: object = function(PlainRunContext(state), **arguments)
    return result
