"""The agents of the chaos tests."""

from __future__ import annotations

import asyncio
import os
import re
import time
from contextlib import suppress
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import TextIO

from agent import Agent, EffectKey, Entry, PlainRunContext, PublishRefused, RunContext

__all__ = ["HOLDS_THE_LOCK", "chatter", "decider", "listener", "payer", "sleeper", "streamer"]

streamer = Agent("streamer", slots=1)
chatter = Agent("chatter", slots=1)
sleeper = Agent("sleeper", slots=4)
listener = Agent("listener")
payer = Agent("payer", slots=4)
decider = Agent("decider", slots=4)

STUBBORN_LINES = 20
"""How often a handler tries on after it was told to stop."""

HOLDS_THE_LOCK = re.compile(r"(a|aa)+$")
"""On a row of `a` with a `b` at its end it takes time that doubles with every few letters, and lets nobody else in."""


@streamer.handler("stream", recover="journal")
async def stream(ctx: RunContext, lines: int) -> int:
    """Emit numbered lines as fast as they go."""
    for number in range(lines):
        await ctx.emit("line", number)
    return lines


@streamer.handler("paced", recover="journal")
async def paced(ctx: RunContext, lines: int, pause_ms: float) -> int:
    """Emit numbered lines with pauses."""
    for number in range(lines):
        await ctx.emit("line", number)
        await asyncio.sleep(pause_ms / 1000)
    return lines


@chatter.handler("chat", recover="restart")
async def chat(ctx: RunContext, ledger: str, until: str) -> str:
    """Emit lines that only this attempt of this process makes, each written down before, until a file is there.

    When it is told to stop it does not listen at first, and goes on trying.
    """
    with Path(ledger).open("a", buffering=1) as file:
        lines = (f"{os.getpid()} {ctx.attempt} {number}" for number in count(1))
        try:
            while not await asyncio.to_thread(Path(until).exists):
                await say(ctx, file, next(lines))
                await asyncio.sleep(0.005)
        except (asyncio.CancelledError, PublishRefused):
            for line in islice(lines, STUBBORN_LINES):
                with suppress(PublishRefused):
                    await say(ctx, file, line)
            raise
    return "done"


async def say(ctx: RunContext, file: TextIO, line: str) -> None:
    """Write a line down, and emit it."""
    file.write(f"{line}\n")
    await ctx.emit("said", line)


@payer.handler("pay", recover="journal")
async def pay(ctx: RunContext, ledger: str, payments: int) -> list[str]:
    """Make payments, each under a key of its own, and emit what came of each."""
    receipts = []
    for number in range(payments):
        async with ctx.effect("pay") as key:
            receipts.append(await ctx.call("pay", partial(pay_once, ledger, ctx.attempt), key, number))
        await ctx.emit("paid", number)
        await ctx.sleep(0.02)
    return receipts


def pay_once(ledger: str, attempt: int, key: EffectKey, number: int) -> str:
    """Write a payment into a ledger, as somebody who is slow and keeps no account of keys."""
    time.sleep(0.02)
    with Path(ledger).open("a") as file:
        file.write(f"{key} {key.fence} {attempt}\n")
    time.sleep(0.02)
    return f"receipt {number} of {key}"


@sleeper.handler("block")
def block(ctx: PlainRunContext, seconds: float) -> int:
    """Block the thread that handlers of this kind run in."""
    time.sleep(seconds)
    return ctx.attempt


def search_for(seconds: float) -> None:
    """Search with an expression that does not let the interpreter lock go, for about this long in one call."""
    length = 22
    while True:
        began_s = time.monotonic()
        HOLDS_THE_LOCK.match("a" * length + "b")
        took_s = max(time.monotonic() - began_s, 1e-4)
        if took_s >= seconds:
            return
        # each letter makes it 1.6 times as long
        step = 1
        while took_s * 1.618**step < seconds * 1.05 and step < 12:
            step += 1
        length += step


@sleeper.handler("search", isolation="process")
def search(ctx: PlainRunContext, seconds: float) -> int:
    """Hold the interpreter lock of a child process."""
    search_for(seconds)
    return ctx.attempt


@sleeper.handler("search-inline")
def search_inline(ctx: PlainRunContext, seconds: float) -> int:
    """Hold the interpreter lock of the agent itself."""
    search_for(seconds)
    return ctx.attempt


@listener.on_message("note")
def note(message: Entry) -> None:
    """Write a message down."""
    with Path(os.environ["NOTES"]).open("a") as file:
        file.write(f"{message.offset} {message.body}\n")


@decider.handler("release", recover="journal")
async def release(ctx: RunContext, timeout: float, ledger: str, messages: int = 0) -> dict[str, object]:
    """Hear some messages, ask for approval, and write into a ledger outside what was decided."""
    heard: list[object] = []
    while len(heard) < messages:
        async for message in ctx.steering():
            heard.append(message.body)
            await message.reply(len(heard))
            break
    pushed = await ctx.approve("push", {"branch": "main"}, timeout=timeout)
    await ctx.call("write", _write_line, ledger, "pushed" if pushed else "not pushed")
    return {"pushed": pushed, "heard": heard}


def _write_line(ledger: str, line: str) -> None:
    with Path(ledger).open("a") as file:
        file.write(f"{line}\n")
