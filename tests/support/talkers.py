"""Handlers that write much. Those that run in child processes must be found by import."""

from __future__ import annotations

import time
from pathlib import Path

from agent import Agent, PlainRunContext, RunContext

__all__ = ["LINE_BYTES", "PIPE_BYTES_MAX", "make_talker"]

PIPE_BYTES_MAX = 256 * 1024
"""What stands between a child process and the window: both buffers of its socket pair."""

LINE_BYTES = 1000
FILL = "x" * (LINE_BYTES - 10)


async def dictate(ctx: RunContext, said: list[str]) -> None:
    """Write what it is given, and what it is told."""
    for one in said:
        await ctx.write(one)
    async for message in ctx.steering():
        await ctx.write("heard\n", stream="stderr")
        await ctx.write(str(message.body))
        return


def type_(ctx: PlainRunContext, upto: int) -> None:
    """Write many small pieces."""
    for number in range(upto):
        ctx.write(str(number))
        ctx.write("\n")


def flood_plain(ctx: PlainRunContext, count: str, go: str, lines: int) -> None:
    """Emit and write in turns, a thousand bytes each, and note how far it is; begin when told to."""
    ctx.emit("ready")
    while not Path(go).exists():
        time.sleep(0.01)
    for number in range(lines):
        if number % 2:
            ctx.write(f"{number} {FILL}\n")
        else:
            ctx.emit("n", {"n": number, "fill": FILL})
        Path(count).write_text(str(number))


async def flood(ctx: RunContext, count: str, go: str, lines: int) -> None:
    """Do the same, awaiting."""
    await ctx.emit("ready")
    while not Path(go).exists():
        await ctx.sleep(0.01)
    for number in range(lines):
        if number % 2:
            await ctx.write(f"{number} {FILL}\n")
        else:
            await ctx.emit("n", {"n": number, "fill": FILL})
        Path(count).write_text(str(number))


def make_talker() -> Agent:
    """Return an agent with all of them."""
    agent = Agent("talker", slots=4)
    agent.handler("dictate")(dictate)
    agent.handler("type")(type_)
    agent.handler("flood")(flood)
    agent.handler("flood_plain")(flood_plain)
    agent.handler("flood_thread", isolation="thread")(flood)
    agent.handler("flood_process", isolation="process")(flood_plain)
    return agent
