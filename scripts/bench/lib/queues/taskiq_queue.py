"""taskiq over a Redis stream: tasks and submitter. Its worker is the command that comes with it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import uvloop
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

from scripts.bench.lib.queues.served import ADDRESS, few_at_a_time, note, submit

__all__: list[str] = []

URL = f"unix://{ADDRESS}"
POLL_S = float(os.environ.get("BENCH_POLL_S", "0.2"))

broker = RedisStreamBroker(URL).with_result_backend(RedisAsyncResultBackend(URL))


@broker.task("noop")
async def noop(number: int) -> int:
    return number


@broker.task("work")
async def work(ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    await asyncio.sleep(seconds)
    note(ledger, "done", number)


class Taskiq:
    """Submits to taskiq."""

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        tasks = await asyncio.gather(*map(noop.kiq, numbers))
        results = await few_at_a_time(task.wait_result(check_interval=POLL_S) for task in tasks)
        return [result.return_value for result in results]

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        await asyncio.gather(*(work.kiq(ledger, seconds, number) for number in numbers))


async def main() -> None:
    await broker.startup()
    await submit(Taskiq())


if __name__ == "__main__":
    uvloop.run(main())
