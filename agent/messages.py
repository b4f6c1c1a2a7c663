"""Messages to this agent: entries of its own log, each handled once its function has returned.

The subscription is durable: what came while the agent was away is given to it when it is back, and a message
that was being handled when its process was killed is given again.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from agent.entry import Entry
from agent.errors import LinkClosed, LinkEnded, Reset
from agent.links import Links
from agent.reading import Reader
from protocol.errors import FleetlineError
from protocol.frames import Start, Window

__all__ = ["TRIES_MAX", "Messages"]

log = structlog.get_logger("fleetline.agent")

TRIES_MAX = 3
"""How often a message is handed to a function that raises, before it is passed over."""

RETRY_S = 0.5
WINDOW = Window(entries=256, bytes=1024 * 1024)


class Messages:
    """Follows the agent's own log, and hands each message to its function, one at a time."""

    def __init__(self, links: Links, agent_id: str, functions: Mapping[str, Callable[..., Any]]) -> None:
        self._functions = functions
        self._reader = Reader(
            links,
            f"agent/{agent_id}",
            Start.ACKED,
            kinds=sorted(functions),
            durable="messages",
            auto_ack=False,
            on_reset=_report,
            window=WINDOW,
        )

    async def run(self) -> None:
        """Hand out messages until the link has ended."""
        try:
            async for entry in self._reader:
                await self._hand_out(entry)
                entry.ack()
        except (LinkEnded, LinkClosed):
            return  # the agent ends with it, and says why
        except FleetlineError as error:
            log.warning("messages_ended", why=str(error))

    async def _hand_out(self, entry: Entry) -> None:
        for tries in range(1, TRIES_MAX + 1):
            try:
                await self._call(self._functions[entry.kind], entry)
                return
            except Exception as error:
                known = {"kind": entry.kind, "offset": entry.offset, "tries": tries}
                log.warning("message_failed", **known, error=repr(error), exc_info=tries == 1)
                await asyncio.sleep(RETRY_S * tries)
        log.error("message_passed_over", kind=entry.kind, offset=entry.offset, log=entry.log)

    @staticmethod
    async def _call(function: Callable[..., Any], entry: Entry) -> None:
        if inspect.iscoroutinefunction(function):
            await function(entry)
        else:
            await asyncio.to_thread(function, entry)


def _report(reset: Reset) -> None:
    log.error("messages_reset", reason=reset.reason, first=reset.first, last=reset.last, exact=reset.exact)
