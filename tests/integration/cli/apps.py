"""An agent for the tests of the command line."""

from __future__ import annotations

import asyncio

from agent import Agent, RunContext

agent = Agent("worker", queues=("coding",), slots=2)


@agent.handler("review", retries=1, recover="journal")
async def review(ctx: RunContext, repo: str, fail: bool = False) -> dict[str, int]:
    """Emit two findings, and fail where that is asked for."""
    for line in (1, 2):
        await ctx.emit("finding", {"file": f"{repo}/a.py", "line": line})
    if fail:
        raise ValueError("no such branch")
    return {"findings": 2}


@agent.handler("forever", recover="journal")
async def forever(ctx: RunContext) -> None:
    """Say that it began, and wait."""
    ctx.on_query("status", lambda of=None: {"began": True, "of": of})
    await ctx.emit("began", None)
    await asyncio.Event().wait()


@agent.handler("release", recover="journal")
async def release(ctx: RunContext) -> list[object]:
    """Hear messages up to "done", then ask twice."""
    heard: list[object] = []
    async for message in ctx.steering():
        if message.body == "done":
            await message.reply(len(heard))
            break
        heard.append(message.body)
    return [heard, await ctx.approve("push", {"branch": "main"}, timeout=600), await ctx.ask("version")]


@agent.handler("paint", recover="journal")
async def paint(ctx: RunContext, lines: int = 3) -> str:
    """Write what would take a terminal over, say how far it is, and ask."""
    for line in range(lines):
        await ctx.emit("stdout", {"text": f"line {line} \x1b[2J\x1b]0;owned\x07\x9b31m\u202e\n"})
        ctx.progress(line + 1, lines, "painting \x1b[1;1H")
    return str(await ctx.ask("colour", {"of": "\x1b[31mroof"}))


@agent.handler("reviews", recover="journal")
async def reviews(ctx: RunContext, repos: list[str]) -> int:
    """Have each reviewed by a child; what is left is for another run."""
    child = await ctx.submit("review", {"repo": repos[0]}, queue="coding")
    await child.result()
    if repos[1:]:
        ctx.continue_as({"repos": repos[1:]})
    return len(repos)


@agent.handler("stumbles", recover="journal", retries=0)
async def stumbles(ctx: RunContext, more: int = 1) -> None:
    """Go on as another run, which fails."""
    await ctx.write(f"{more} more\n")
    if more:
        ctx.continue_as({"more": more - 1})
    raise ValueError("it stumbled")


@agent.handler("polls", recover="journal")
async def polls(ctx: RunContext) -> list[object]:
    """Ask two things of one name at once, and a third."""
    return list(await ctx.gather(ctx.ask("vote", 1), ctx.ask("vote", 2), ctx.ask("reason")))
