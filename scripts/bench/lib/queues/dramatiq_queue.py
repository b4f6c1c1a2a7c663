"""dramatiq: actors and submitter. Its worker is the command that comes with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from scripts.bench.lib.queues.served import ADDRESS, note, submit

__all__: list[str] = []

URL = f"unix://{ADDRESS}"
WAIT_MS = 120_000

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop(number: int) -> int:
    return number


@dramatiq.actor
def work(ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    time.sleep(seconds)
    note(ledger, "done", number)


class Dramatiq:
    """Submits to dramatiq. It has no client for event loops, so it blocks this one, where nothing else runs."""

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        group = dramatiq.group([noop.message(number) for number in numbers]).run()
        return list(group.get_results(block=True, timeout=WAIT_MS))

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        for number in numbers:
            work.send(ledger, seconds, number)


async def main() -> None:
    await submit(Dramatiq())


if __name__ == "__main__":
    asyncio.run(main())
