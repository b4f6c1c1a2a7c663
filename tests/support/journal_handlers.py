"""Handlers that use every operation of their context, and wait to be killed between them.

Each attempt but the last stops at a stage, given by its number, and waits there. What is done outside is written
to a ledger: a file with a line for each time.
"""

from __future__ import annotations

import asyncio
import json
import threading
from functools import partial
from pathlib import Path
from typing import Any

from agent import Agent, PlainRunContext, RunContext

__all__ = ["STAGES", "VARIANTS", "make_agent"]

STAGES = 5
"""Stages of `everything` and of `files`."""

VARIANTS = ("inline", "thread", "process", "plain", "plain-process")
"""Where handlers run, and as what."""


def note(ledger: str, run: str, attempt: int, what: str) -> str:
    """Do something outside, once more."""
    line = json.dumps({"run": run, "attempt": attempt, "what": what})
    with Path(ledger).open("a") as file:
        file.write(f"{line}\n")
    return what.upper()


async def everything(ctx: RunContext, ledger: str, stops: list[int]) -> dict[str, Any]:
    """Do some of everything at each stage."""
    do = partial(note, ledger, ctx.run_id, ctx.attempt)
    seen: dict[str, Any] = {"version": await ctx.version("first"), "stages": []}
    for stage in range(1, STAGES + 1):
        moment, number, made = await ctx.now(), await ctx.random(), await ctx.uuid()
        several = await ctx.gather(*[ctx.call("note", do, f"{stage}.{n}") for n in range(3)])
        await ctx.sleep(0.02)
        async with ctx.effect("charge") as key:
            charged = await ctx.call("charge", do, str(key))
        await ctx.checkpoint(stage)
        await ctx.emit("stage", stage)
        seen["stages"].append([moment.isoformat(), number, str(made), several, charged])
        await _stop(ctx, stops, stage)
    return seen


def everything_plain(ctx: PlainRunContext, ledger: str, stops: list[int]) -> dict[str, Any]:
    """Do the same as a plain function."""
    do = partial(note, ledger, ctx.run_id, ctx.attempt)
    seen: dict[str, Any] = {"version": ctx.version("first"), "stages": []}
    for stage in range(1, STAGES + 1):
        moment, number, made = ctx.now(), ctx.random(), ctx.uuid()
        several = ctx.gather(*[("note", do, f"{stage}.{n}") for n in range(3)])
        ctx.sleep(0.02)
        with ctx.effect("charge") as key:
            charged = ctx.call("charge", do, str(key))
        ctx.checkpoint(stage)
        ctx.emit("stage", stage)
        seen["stages"].append([moment.isoformat(), number, str(made), several, charged])
        _stop_plain(ctx, stops, stage)
    return seen


async def files(ctx: RunContext, ledger: str, stops: list[int]) -> list[int]:
    """Go on from the last checkpoint."""
    done = ctx.last_checkpoint or []
    for stage in range(len(done) + 1, STAGES + 1):
        async with ctx.effect("upload") as key:
            note(ledger, ctx.run_id, ctx.attempt, str(key))
        done.append(ctx.attempt)
        await ctx.checkpoint(done)
        await ctx.emit("stage", stage)
        await _stop(ctx, stops, stage)
    return done


def files_plain(ctx: PlainRunContext, ledger: str, stops: list[int]) -> list[int]:
    """Do the same as a plain function."""
    done = ctx.last_checkpoint or []
    for stage in range(len(done) + 1, STAGES + 1):
        with ctx.effect("upload") as key:
            note(ledger, ctx.run_id, ctx.attempt, str(key))
        done.append(ctx.attempt)
        ctx.checkpoint(done)
        ctx.emit("stage", stage)
        _stop_plain(ctx, stops, stage)
    return done


async def _stop(ctx: RunContext, stops: list[int], stage: int) -> None:
    if _is_due(ctx, stops, stage):
        await ctx.flush()
        await asyncio.Event().wait()


def _stop_plain(ctx: PlainRunContext, stops: list[int], stage: int) -> None:
    if _is_due(ctx, stops, stage):
        ctx.flush()
        threading.Event().wait()


def _is_due(ctx: RunContext | PlainRunContext, stops: list[int], stage: int) -> bool:
    return ctx.attempt <= len(stops) and stops[ctx.attempt - 1] == stage


def make_agent(name: str) -> Agent:
    """Return an agent that has them all, in every variant."""
    agent = Agent(name, slots=4 * len(VARIANTS))
    for variant in VARIANTS:
        plain = variant.startswith("plain")
        isolation = "process" if variant.endswith("process") else "thread" if variant == "thread" else "inline"
        agent.handler(f"everything-{variant}", recover="journal", isolation=isolation)(
            everything_plain if plain else everything
        )
        agent.handler(f"files-{variant}", recover="checkpoint", isolation=isolation)(files_plain if plain else files)
        agent.handler(f"anew-{variant}", recover="restart", isolation=isolation)(
            everything_plain if plain else everything
        )
    return agent
