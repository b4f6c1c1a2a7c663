"""A handler in a thread of its own: a plain function, or an async one with a loop of its own."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future

from agent.attempt_state import AttemptState
from agent.context import RunContext
from agent.errors import Cancelled
from agent.handlers import Handler
from agent.plain_context import PlainRunContext
from agent.threads import reject, resolve

__all__ = ["run_in_thread"]


async def run_in_thread(handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
    """Run a handler in a new daemon thread.

    A thread cannot be stopped from outside: where the handler does not heed its cancellation, this returns
    when the handler does.
    """
    done: Future[object] = Future()
    context = contextvars.copy_context()
    work = _run_loop if handler.is_async else _run_plain

    def main() -> None:
        try:
            resolve(done, context.run(work, handler, state, arguments))
        except (Cancelled, asyncio.CancelledError):
            reject(done, Cancelled())
        except BaseException as error:  # noqa: BLE001 - the boundary between the handler and us
            reject(done, error)

    threading.Thread(target=main, name=f"run {state.assign.run}", daemon=True).start()
    try:
        return await asyncio.shield(asyncio.wrap_future(done))
    except Cancelled:
        raise asyncio.CancelledError from None


def _run_plain(handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
    result: object = handler.function(PlainRunContext(state), **arguments)
    return result


def _run_loop(handler: Handler, state: AttemptState, arguments: dict[str, object]) -> object:
    async def main() -> object:
        loop = asyncio.get_running_loop()
        task = loop.create_task(handler.function(RunContext(state), **arguments))
        state.on_stop(lambda: _cancel(loop, task))
        result: object = await task
        return result

    return asyncio.run(main())


def _cancel(loop: asyncio.AbstractEventLoop, task: asyncio.Task[object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(task.cancel)
