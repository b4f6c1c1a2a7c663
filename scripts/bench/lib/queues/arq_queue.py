"""arq: tasks, worker and submitter."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import ArqRedis, RedisSettings
from arq.worker import run_worker

from scripts.bench.lib.queues.served import ADDRESS, few_at_a_time, note, submit

__all__: list[str] = []

POLL_S = float(os.environ.get("BENCH_POLL_S", "0.5"))
SETTINGS = RedisSettings(unix_socket_path=ADDRESS)


async def noop(_context: dict[str, Any], number: int) -> int:
    return number


async def work(_context: dict[str, Any], ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    await asyncio.sleep(seconds)
    note(ledger, "done", number)


class Worker:
    """What arq reads its worker's settings from."""

    functions = (noop, work)
    redis_settings = SETTINGS
    max_jobs = int(os.environ.get("BENCH_SLOTS", "10"))
    poll_delay = POLL_S


class Arq:
    """Submits to arq."""

    def __init__(self, pool: ArqRedis) -> None:
        self._pool = pool

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        jobs = await asyncio.gather(*(self._pool.enqueue_job("noop", number) for number in numbers))
        return await few_at_a_time(job.result(poll_delay=POLL_S) for job in jobs if job is not None)

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        await asyncio.gather(*(self._pool.enqueue_job("work", ledger, seconds, number) for number in numbers))


async def main() -> None:
    await submit(Arq(await create_pool(SETTINGS)))


if __name__ == "__main__":
    if "worker" in sys.argv:
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
        asyncio.set_event_loop(uvloop.new_event_loop())
        run_worker(Worker)
    else:
        uvloop.run(main())
