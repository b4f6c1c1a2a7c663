"""What a submitter does for a benchmark, whatever queue it submits to.

Everything in this folder but `fleetline.py` runs in the environment of the queue that it is named for, and may import
nothing but that and the standard library.

The benchmark tells the submitter what to do in lines of JSON:

- `burst`: submit so many runs that do nothing, all at once, and see the result of each; answers the seconds.
- `once`: the same one at a time; answers the milliseconds of each.
- `work`: submit runs that take a while and note in a file that they were done; answers once all are submitted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from scripts.bench.lib.child import serve

__all__ = ["ADDRESS", "Submitter", "few_at_a_time", "note", "submit"]

ADDRESS = os.environ.get("BENCH_STORE", "")
"""The path of the store's socket."""


AT_A_TIME = 32
"""Results that a submitter waits for at a time: where each is polled for, more would keep the store from its work."""

T = TypeVar("T")


class Submitter(Protocol):
    """A program that submits runs."""

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        """Submit a run for each number, and return what each returned: the number."""

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        """Submit a run for each number, that takes so long and then notes the number."""


def note(ledger: str, what: str, number: int) -> None:
    """Note something in the file, whole or not at all."""
    with Path(ledger).open("a") as lines:
        lines.write(f"{what} {number}\n")


async def few_at_a_time(waits: Iterable[Awaitable[T]]) -> list[T]:
    """Wait for all, but for a few at a time."""
    free = asyncio.Semaphore(AT_A_TIME)

    async def one(wait: Awaitable[T]) -> T:
        async with free:
            return await wait

    return list(await asyncio.gather(*map(one, waits)))


async def submit(submitter: Submitter) -> None:
    """Do what the benchmark asks."""

    async def do(command: dict[str, Any]) -> dict[str, Any]:
        numbers = range(command["count"])
        if command["do"] == "burst":
            began = time.perf_counter()
            await _seen(submitter, numbers)
            return {"seconds": time.perf_counter() - began}
        if command["do"] == "once":
            return {"ms": [await _timed(submitter, number) for number in numbers]}
        await submitter.work(command["ledger"], command["seconds"], numbers)
        return {}

    await serve(do)


async def _seen(submitter: Submitter, numbers: Sequence[int]) -> None:
    found = await submitter.burst(numbers)
    if found != list(numbers):
        raise SystemExit(f"results are missing or wrong: {found[:10]} for {list(numbers)[:10]}")


async def _timed(submitter: Submitter, number: int) -> float:
    began = time.perf_counter()
    await _seen(submitter, (number,))
    return (time.perf_counter() - began) * 1e3
