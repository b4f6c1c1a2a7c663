"""What crosses from thread to loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from agent.threads import in_loop, reject, resolve
from tests.support.timing import deadline


def elsewhere(call: Callable[[], object]) -> None:
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()


async def test_futures_of_another_thread_are_given_to_the_loop_with_one_wake_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, woken = asyncio.get_running_loop(), 0
    wake = loop.call_soon_threadsafe

    def counted(*args: Any, **kwargs: Any) -> asyncio.Handle:
        nonlocal woken
        woken += 1
        return wake(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    futures: list[Future[int]] = [Future() for _ in range(50)]
    waits = [in_loop(future) for future in futures]

    def end_all() -> None:
        for number, future in enumerate(futures):
            resolve(future, number)

    elsewhere(end_all)
    async with deadline(10):
        assert await asyncio.gather(*waits) == list(range(50))
    assert woken == 1


async def test_an_error_of_another_thread_is_raised_in_the_loop() -> None:
    future: Future[int] = Future()
    wait = in_loop(future)
    elsewhere(lambda: reject(future, ValueError("x")))
    with pytest.raises(ValueError, match="x"):
        async with deadline(10):
            await wait
    with pytest.raises(ValueError, match="x"):  # done before it is asked for
        await in_loop(future)


async def test_to_cancel_a_wait_gives_up_what_was_waited_for_and_the_other_way_round() -> None:
    mine: Future[int] = Future()
    wait = in_loop(mine)
    wait.cancel()
    with pytest.raises(asyncio.CancelledError):
        await wait
    await asyncio.sleep(0)  # it is told in the turn after
    assert mine.cancelled()
    theirs: Future[int] = Future()
    wait = in_loop(theirs)
    elsewhere(theirs.cancel)
    with pytest.raises(asyncio.CancelledError):
        async with deadline(10):
            await wait


def test_what_is_done_after_the_loop_has_gone_is_for_nobody() -> None:
    future: Future[int] = Future()

    async def begin() -> None:
        _ = in_loop(future)

    asyncio.run(begin())
    elsewhere(lambda: resolve(future, 1))
    assert future.result() == 1
