"""Handlers that are talked to. Those that run in child processes must be found by import."""

from __future__ import annotations

from typing import Any

from agent import PlainRunContext, RunContext

__all__ = ["asked", "asked_plain", "decide", "decide_plain", "listen", "listen_plain"]


async def listen(ctx: RunContext) -> list[Any]:
    """Take messages up to "stop"; "no" is rejected."""
    heard = []
    async for message in ctx.steering():
        heard.append(message.body)
        await (message.reject() if message.body == "no" else message.reply(len(heard)))
        if message.body == "stop":
            break
    return heard


def listen_plain(ctx: PlainRunContext) -> list[Any]:
    """Do the same, blocking."""
    heard = []
    for message in ctx.steering():
        heard.append(message.body)
        if message.body == "no":
            message.reject()
        else:
            message.reply(len(heard))
        if message.body == "stop":
            break
    return heard


async def decide(ctx: RunContext) -> list[Any]:
    """Ask twice."""
    return [await ctx.approve("push", {"branch": "main"}), await ctx.ask("name")]


def decide_plain(ctx: PlainRunContext) -> list[Any]:
    """Do the same, blocking."""
    return [ctx.approve("push", {"branch": "main"}), ctx.ask("name")]


def _status(args: Any) -> Any:
    if args == "fail":
        raise ValueError("as it was told")
    return "x" * 300_000 if args == "large" else {"args": args}


async def asked(ctx: RunContext) -> str:
    """Answer queries until a message comes."""
    ctx.on_query("status", _status)

    @ctx.on_query("now")
    async def now() -> str:
        return "working"

    async for _ in ctx.steering():
        break
    return "done"


def asked_plain(ctx: PlainRunContext) -> str:
    """Do the same, blocking."""
    ctx.on_query("status", _status)
    ctx.on_query("now", lambda: "working")
    for _ in ctx.steering():
        break
    return "done"
