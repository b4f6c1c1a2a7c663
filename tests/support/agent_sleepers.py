"""Handlers that wait for long. Those that run in child processes must be found by import."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from agent import PlainRunContext, RunContext

__all__ = ["ask_and_hang", "ask_in_process", "wait_for_all", "wait_for_all_plain"]

NAP_S = 0.3


async def wait_for_all(ctx: RunContext) -> list[Any]:
    """Sleep, ask, and wait for a message."""
    await ctx.emit("began")
    await ctx.sleep(NAP_S)
    name = await ctx.ask("name")
    async for message in ctx.steering():
        return [name, message.body, ctx.attempt]
    return []


def wait_for_all_plain(ctx: PlainRunContext) -> list[Any]:
    """Do the same, blocking."""
    ctx.emit("began")
    ctx.sleep(NAP_S)
    name = ctx.ask("name")
    for message in ctx.steering():
        return [name, message.body, ctx.attempt]
    return []


async def ask_and_hang(ctx: RunContext) -> Any:
    """Ask, and go on for ever where that is cancelled."""
    await ctx.emit("pid", await ctx.call("pid", os.getpid))
    try:
        return await ctx.ask("name")
    except asyncio.CancelledError:
        while True:
            time.sleep(0.1)


async def ask_in_process(ctx: RunContext) -> Any:
    """Ask."""
    await ctx.emit("pid", await ctx.call("pid", os.getpid))
    return await ctx.ask("name")
