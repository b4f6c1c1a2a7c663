"""Fleetline: handlers, and submitter. Its worker is the command that comes with it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence

import structlog
import uvloop

from agent import Agent, Client, RunContext
from scripts.bench.lib.queues.served import ADDRESS, note, submit

__all__ = ["agent"]

agent = Agent("bench", slots=int(os.environ.get("BENCH_SLOTS", "1")))


@agent.handler("noop")
async def noop(_context: RunContext, number: int) -> int:
    return number


@agent.handler("work")
async def work(_context: RunContext, ledger: str, seconds: float, number: int) -> None:
    note(ledger, "start", number)
    await asyncio.sleep(seconds)
    note(ledger, "done", number)


class Fleetline:
    """Submits to a hub; `ADDRESS` is its data directory."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def burst(self, numbers: Sequence[int]) -> list[int]:
        return list(await asyncio.gather(*map(self._one, numbers)))

    async def _one(self, number: int) -> int:
        result: int = await self._client.execute("noop", number)
        return result

    async def work(self, ledger: str, seconds: float, numbers: Sequence[int]) -> None:
        asked = ({"ledger": ledger, "seconds": seconds, "number": number} for number in numbers)
        await asyncio.gather(*(self._client.submit("work", each) for each in asked))


async def main() -> None:
    async with Client.connect(directory=ADDRESS) as client:
        await submit(Fleetline(client))


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    uvloop.run(main())
