"""Looks at the fleet again and again, for `top`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, NoReturn

from orchestrator.cli.fleet_screen import RUNS_MAX, Look, busiest, draw_look, lines
from orchestrator.cli.screen import shown
from protocol.requests_agents import LIST_MAX

if TYPE_CHECKING:
    from agent.client import Client
    from orchestrator.cli.output import Output

__all__ = ["live", "look", "print_looks"]


async def look(client: Client) -> Look:
    """Ask the hub for all that a look shows."""
    agents, queues, runs = await asyncio.gather(client.agents(), client.queues(LIST_MAX), client.runs(RUNS_MAX))
    there = [agent for agent in busiest(agents) if agent.connected]
    told = await asyncio.gather(*(client.agent(agent.agent) for agent in there))
    held = {agent.agent: agent.runs for agent in told}
    return Look.of(_now_ms(), agents, queues, runs, held)


async def print_looks(out: Output, client: Client, every_s: float | None) -> None:
    """Print a look, and another whenever `every_s` seconds have passed; one only without."""
    _print(out, await look(client))
    while every_s is not None:
        await asyncio.sleep(every_s)
        _print(out, await look(client))


def _now_ms() -> int:
    return int(time.time() * 1000)


def _print(out: Output, look: Look) -> None:
    if out.as_json:
        out.json(look.json())
        return
    for line in lines(look):
        out.line(line)


async def live(client: Client, every_s: float) -> NoReturn:
    """Show the fleet on a terminal until somebody ends it."""
    latest = await look(client)
    async with shown(lambda _width, height: draw_look(latest, _now_ms(), height)) as changed:
        while True:
            await asyncio.sleep(every_s)
            latest = await look(client)
            changed()
