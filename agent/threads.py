"""Between threads: an event loop in a thread of its own, and channels that both worlds can wait on.

The link lives in such a thread, so that whatever blocks the program's own loop, heartbeats go out. What
crosses is a call posted to the loop, a `concurrent.futures.Future`, or an item put into a `Channel`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, Generic, TypeVar, TypeVarTuple

__all__ = ["Channel", "LoopThread", "each_in_a_thread", "in_loop", "reject", "resolve"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

STOP_WAIT_S = 5.0


def resolve(future: Future[T], value: T) -> None:
    """Give a future its value, unless it was given up."""
    try:
        future.set_result(value)
    except InvalidStateError:
        return


def reject(future: Future[Any], error: BaseException) -> None:
    """Give a future its error, unless it was given up."""
    try:
        future.set_exception(error)
    except InvalidStateError:
        return


def each_in_a_thread(calls: Sequence[Callable[[], T]], threads_max: int) -> list[Future[T]]:
    """Make calls in daemon threads, at most so many at a time, and wait for all of them. Returns what they came to."""
    waiting = deque((call, Future[T]()) for call in calls)
    futures = [future for _, future in waiting]

    def work() -> None:
        while True:
            try:
                call, future = waiting.popleft()
            except IndexError:
                return
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - the boundary between the thread and who waits
                future.set_exception(error)

    threads = [threading.Thread(target=work, name=f"gather {n}", daemon=True) for n in range(len(calls))][:threads_max]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return futures


class _Posts:
    """Calls that threads have for one event loop. A burst of them costs one wake-up."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False

    def post(self, call: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have `call` run in the loop, after what was posted before.

        Raises:
            RuntimeError: the loop is closed; `run` makes the call all the same.
        """
        self._calls.append((call, args))
        if not self._woken:
            self._woken = True
            self.loop.call_soon_threadsafe(self.run)

    def run(self) -> None:
        """Make the calls."""
        self._woken = False
        while self._calls:
            call, args = self._calls.popleft()
            call(*args)


class _Mine(threading.local):
    """The calls for the loop that runs in this thread."""

    posts: _Posts | None = None


_mine = _Mine()


def in_loop(future: Future[T]) -> asyncio.Future[T]:
    """Return what is done in the running loop when a future of another thread is: to cancel it cancels that one.

    This is `asyncio.wrap_future`, but that a burst of futures wakes the loop once and not once each.
    """
    loop, posts = asyncio.get_running_loop(), _mine.posts
    if posts is None or posts.loop is not loop:
        posts = _mine.posts = _Posts(loop)
    mirror: asyncio.Future[T] = loop.create_future()
    if future.done():
        _copy(future, mirror)
        return mirror
    there = posts.post

    def done(future: Future[T]) -> None:
        with suppress(RuntimeError):  # nobody waits in a loop that is closed
            there(_copy, future, mirror)

    def given_up(mirror: asyncio.Future[T]) -> None:
        if mirror.cancelled():
            future.cancel()

    mirror.add_done_callback(given_up)
    future.add_done_callback(done)
    return mirror


def _copy(future: Future[T], mirror: asyncio.Future[T]) -> None:
    if mirror.done():
        return
    if future.cancelled():
        mirror.cancel()
    elif (error := future.exception()) is not None:
        mirror.set_exception(error)
    else:
        mirror.set_result(future.result())


class LoopThread:
    """An event loop in a daemon thread. Every method may be called from any thread."""

    def __init__(self, name: str) -> None:
        self._late = threading.RLock()
        self._loop = asyncio.new_event_loop()
        self._posts = _Posts(self._loop)
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that runs in the thread."""
        return self._loop

    @property
    def over(self) -> bool:
        """The loop is closed."""
        return self._loop.is_closed()

    def post(self, call: Callable[[*Ts], object], *args: *Ts) -> None:
        """Have `call` run in the thread, after what was posted before. A burst costs one wake-up.

        When the loop is closed, it is run here and now: it is to tell whoever asks that there is nobody any more.
        """
        try:
            self._posts.post(call, *args)
        except RuntimeError:
            self._run_late_calls()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine in the thread.

        Raises:
            RuntimeError: the loop is closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise

    def stop(self) -> None:
        """End the loop and wait for the thread, unless called from it."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(STOP_WAIT_S)

    def _run_late_calls(self) -> None:
        with self._late:
            self._posts.run()

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._finish()

    def _finish(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_WAIT_S))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()
        self._run_late_calls()  # what was posted when the loop ran no more


class Channel(Generic[T]):
    """Items from one thread to another, in order; one reader at a time.

    It has no limit of its own: what is put in is bounded by whoever asked for it (a credit window, slots).
    """

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._lock = threading.Lock()
        self._waiter: Future[None] | None = None
        self._error: BaseException | None = None

    def put(self, item: T) -> None:
        """Add an item."""
        with self._lock:
            self._items.append(item)
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            resolve(waiter, None)

    def close(self, error: BaseException) -> None:
        """Let readers have what is there, and then this error."""
        with self._lock:
            if self._error is None:
                self._error = error
            waiter, self._waiter = self._waiter, None
        if waiter is not None:
            resolve(waiter, None)

    async def get(self) -> T:
        """Wait for the next item, in any event loop.

        Raises:
            BaseException: the error that the channel was closed with.
        """
        while True:
            waiter = self._try()
            if waiter is None:
                return self._items.popleft()
            await in_loop(waiter)

    def __len__(self) -> int:
        return len(self._items)

    def _try(self) -> Future[None] | None:
        """Return None where an item is there, else what to wait for."""
        with self._lock:
            if self._items:
                return None
            if self._error is not None:
                raise self._error
            self._waiter = Future()
            return self._waiter
