"""Handlers that have children. Those that run in child processes must be found by import."""

from __future__ import annotations

from typing import Any

from agent import Agent, PlainRunContext, RunContext

__all__ = ["KINDS", "PARTS", "handlers_of", "parents", "workers"]

PARTS = "parts"
"""The queue of the children."""
KINDS = ("inline", "thread", "process", "plain-thread", "plain-process")


async def total(ctx: RunContext, numbers: list[int], handler: str = "square") -> int:
    """Have each number worked on by a child, and add up."""
    children = await ctx.gather(*[ctx.submit(handler, number, queue=PARTS) for number in numbers])
    await ctx.emit("submitted", [child.run_id for child in children])
    return sum(await ctx.gather(*[child.result() for child in children]))


def total_plain(ctx: PlainRunContext, numbers: list[int], handler: str = "square") -> int:
    """Do the same, blocking."""
    children = [ctx.submit(handler, number, queue=PARTS) for number in numbers]
    ctx.emit("submitted", [child.run_id for child in children])
    return sum(child.result() for child in children)


async def countdown(ctx: RunContext, left: int) -> str:
    """Go on as another run until nothing is left."""
    if left:
        ctx.continue_as(left - 1)
    return "done"


def countdown_plain(ctx: PlainRunContext, left: int) -> str:
    """Do the same in a plain function."""
    if left:
        ctx.continue_as(left - 1)
    return "done"


def handlers_of(agent: Agent, name: str, function: Any, plain: Any, recover: str = "restart") -> None:
    """Register a handler of every kind."""
    for kind in KINDS:
        isolation = kind.removeprefix("plain-")
        agent.handler(f"{name}-{kind}", isolation=isolation, recover=recover)(
            plain if kind.startswith("plain") else function
        )


def parents(name: str = "parents") -> Agent:
    """Return an agent whose handlers have children, recovering in every way."""
    agent = Agent(name, slots=8)
    handlers_of(agent, "total", total, total_plain)
    handlers_of(agent, "countdown", countdown, countdown_plain)
    for recover in ("restart", "checkpoint", "journal"):
        agent.handler(f"total-{recover}", recover=recover)(total)
    return agent


def workers() -> Agent:
    """Return an agent that works on the children."""
    agent = Agent("workers", slots=16, queues=[PARTS])

    @agent.handler("square")
    async def square(ctx: RunContext, number: int) -> int:
        return number * number

    @agent.handler("told")
    async def told(ctx: RunContext, number: int) -> Any:
        """Return what one is told."""
        async for message in ctx.steering():
            if message.body == "fail":
                raise ValueError(f"{number} was told to fail")
            return message.body
        return None

    return agent
