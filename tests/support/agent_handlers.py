"""Handlers for tests of the agent. Those that run in child processes must be found by import."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable
from typing import Any

from agent import Agent, PlainRunContext, RunContext

__all__ = ["make_agent"]

CALLS: list[str] = []
"""What the journalled handlers really called, in this process."""


async def add(ctx: RunContext, a: int, b: int = 1) -> int:
    """Add two numbers."""
    ctx.progress(1, 2, "adding")
    await ctx.emit("sum", [a, b])
    return a + b


def count(ctx: PlainRunContext, upto: int) -> int:
    """Emit numbers, from a thread."""
    for number in range(upto):
        ctx.emit("n", number)
    return upto


async def wait(ctx: RunContext) -> None:
    """Emit one entry, then wait to be cancelled."""
    await ctx.emit("waiting")
    await asyncio.Event().wait()


def wait_plain(ctx: PlainRunContext) -> None:
    """Emit until it is cancelled."""
    while True:
        ctx.emit("waiting")
        time.sleep(0.02)


async def nap(ctx: RunContext) -> None:
    """Emit one entry, then sleep until it is cancelled."""
    await ctx.emit("waiting")
    await ctx.sleep(3600)


def nap_plain(ctx: PlainRunContext) -> None:
    """Do the same, in a thread."""
    ctx.emit("waiting")
    ctx.sleep(3600)


async def wait_stubbornly(ctx: RunContext) -> str:
    """Return a result although it was cancelled."""
    await ctx.emit("waiting")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return f"finished anyway: {ctx.cancel_reason}"
    return "not reached"


async def block(ctx: RunContext, seconds: float) -> str:
    """Block the loop that it runs on."""
    await ctx.emit("blocking")
    time.sleep(seconds)
    return "blocked"


async def fail(ctx: RunContext) -> None:
    """Raise."""
    await ctx.emit("failing")
    raise ValueError("as told")


async def steps(ctx: RunContext, upto: int, stop_at: int = 0) -> list[int]:
    """Call and emit by turns; wait at one of the steps for as long as its file is missing."""
    results = []
    for number in range(1, upto + 1):
        results.append(await ctx.call("double", _double, number))
        await ctx.emit("step", number)
        if number == stop_at and ctx.attempt == 1:
            await ctx.flush()
            await asyncio.Event().wait()
    return results


async def wander(ctx: RunContext) -> int:
    """Do something else on every attempt."""
    await ctx.emit("attempt", ctx.attempt)
    if ctx.attempt == 1:
        await ctx.flush()
        await asyncio.Event().wait()
    return ctx.attempt


async def where(ctx: RunContext) -> int:
    """Say which process this is."""
    await ctx.emit("here", os.getpid())
    return os.getpid()


async def backtrack(ctx: RunContext) -> str:
    """Hold the interpreter lock for two seconds, but for the shortest of moments."""
    await ctx.emit("matching")
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        re.match(r"(a+)+$", "a" * 25 + "b")
    return "no match"


async def die(ctx: RunContext) -> None:
    """End the process."""
    await ctx.emit("dying")
    await ctx.flush()
    os._exit(9)


def _double(number: int) -> int:
    CALLS.append(f"double {number}")
    return 2 * number


def make_agent(name: str = "worker", slots: int = 8) -> Agent:
    """Return an agent that serves all of these."""
    agent = Agent(name, slots=slots)
    inline: tuple[Callable[..., Any], ...] = (add, count, wait, wait_plain, wait_stubbornly, block, fail, backtrack)
    for function in inline:
        agent.handler(function.__name__)(function)
    journaled: tuple[Callable[..., Any], ...] = (steps, wander, nap, nap_plain)
    for function in journaled:
        agent.handler(function.__name__, recover="journal")(function)
        agent.handler(f"{function.__name__}_apart", recover="journal", isolation="process")(function)
    apart: tuple[Callable[..., Any], ...] = (where, backtrack, die, wait)
    for function in apart:
        agent.handler(f"{function.__name__}_apart", isolation="process")(function)
    agent.handler("retried", retries=1)(fail)
    return agent
