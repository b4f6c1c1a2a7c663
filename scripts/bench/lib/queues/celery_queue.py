"""Celery: tasks and submitter. Its worker is the command that comes with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from celery import Celery

from scripts.bench.lib.queues.served import ADDRESS, note, submit

__all__: list[str] = []

URL = f"redis+socket://{ADDRESS}"

app = Celery("scripts.bench.lib.queues.celery_queue", broker=URL, backend=URL)
app.conf.worker_hijack_root_logger = False


@app.task(name="noop")
def noop(number: int) -> int:
    return number


@app.task(name="work")
def work(ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    time.sleep(seconds)
    note(ledger, "done", number)


class CeleryQueue:
    """Submits to Celery. It has no client for event loops, so it blocks this one, where nothing else runs."""

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            sent = [noop.apply_async((number,), producer=producer) for number in numbers]
        return [result.get() for result in sent]

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        for number in numbers:
            work.apply_async((ledger, seconds, number))


async def main() -> None:
    await submit(CeleryQueue())


if __name__ == "__main__":
    asyncio.run(main())
