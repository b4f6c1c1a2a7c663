"""docket: tasks, worker and submitter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import uvloop
from docket import Docket, Execution, Worker

from scripts.bench.lib.queues.served import ADDRESS, few_at_a_time, note, submit

__all__: list[str] = []

LOOK_AGAIN = timedelta(seconds=2)


async def noop(number: int) -> int:
    return number


async def work(ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    await asyncio.sleep(seconds)
    note(ledger, "done", number)


class DocketQueue:
    """Submits to docket."""

    def __init__(self, docket: Docket) -> None:
        self._docket = docket

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        sent = await self._docket.add_many(self._docket.call(noop)(number) for number in numbers)
        return await few_at_a_time(map(_result, sent))

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self._docket.add(work)(ledger, seconds, number)


async def _result(execution: Execution) -> int:
    """Wait for a result. The word that it is there may be missed; it is looked for every so often then."""
    while True:
        with suppress(TimeoutError):
            result: int = await execution.get_result(timeout=LOOK_AGAIN)
            return result
        await execution.sync()


async def main() -> None:
    async with Docket(name="bench", url=f"unix://{ADDRESS}") as docket:
        docket.register(noop)
        docket.register(work)
        if "worker" in sys.argv:
            settings: dict[str, timedelta] = {}
            if poll := os.environ.get("BENCH_POLL_S"):
                wait = timedelta(seconds=float(poll))
                settings = {"minimum_check_interval": wait, "scheduling_resolution": wait}
            async with Worker(docket, concurrency=int(os.environ.get("BENCH_SLOTS", "10")), **settings) as worker:
                await worker.run_forever()
        else:
            await submit(DocketQueue(docket))


if __name__ == "__main__":
    uvloop.run(main())
