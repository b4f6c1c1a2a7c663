"""Handlers that attach files. Those that run in child processes must be found by import."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from agent import Agent, PlainRunContext, RunContext

__all__ = ["make_attacher"]


async def attach(ctx: RunContext, path: str, name: str | None = None) -> list[object]:
    """Attach a file, twice where that is asked for. Returns what is known of it."""
    attached = await ctx.attach(path, name)
    return [attached.name, attached.size, attached.sha256]


def attach_plainly(ctx: PlainRunContext, path: str, name: str | None = None) -> list[object]:
    """Do the same, blocking."""
    attached = ctx.attach(path, name)
    return [attached.name, attached.size, attached.sha256]


async def attach_many(ctx: RunContext, paths: list[str]) -> list[str]:
    """Attach files at the same time, then say so, and wait to be told to return."""
    attached = await ctx.gather(*(ctx.attach(path) for path in paths))
    await ctx.emit("attached", len(attached))
    async for _ in ctx.steering():
        break
    return [one.log for one in attached]


async def attach_each(ctx: RunContext, paths: list[str]) -> list[str]:
    """Attach files one after the other."""
    return [(await ctx.attach(path)).log for path in paths]


async def fails(ctx: RunContext, path: str) -> str:
    """Attach what cannot be. Returns why."""
    try:
        await ctx.attach(path)
    except Exception as fault:  # noqa: BLE001 - it is what is asked for
        return f"{type(fault).__name__}: {fault}"
    return "attached"


async def forget(ctx: RunContext, path: str) -> None:
    """Begin to attach a file, and return without waiting for it."""
    task = asyncio.ensure_future(ctx.attach(path))
    await asyncio.sleep(0)
    task.cancel()


def make_attacher(name: str = "attacher") -> Agent:
    """Return an agent with all of them."""
    agent = Agent(name, slots=4)
    agent.handler("attach")(attach)
    agent.handler("attach_plainly")(attach_plainly)
    agent.handler("attach_apart", isolation="process")(attach_plainly)
    agent.handler("attach_many", recover="journal")(attach_many)
    agent.handler("attach_each", recover="journal")(attach_each)
    agent.handler("fails")(fails)
    agent.handler("forget")(forget)
    return agent


if __name__ == "__main__":
    make_attacher("first").run(directory=Path(sys.argv[1]))
