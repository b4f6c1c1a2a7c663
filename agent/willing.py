"""What an agent says of work before it begins: whether it takes a run that it is offered, and how busy it is.

Both are functions of the program. A plain one runs in a thread, an async one on the agent's loop; neither holds up the
heartbeats, which say what was said last.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from protocol.codec import unpack_value
from protocol.frames import Assign

__all__ = ["ACCEPT_S", "LOAD_EVERY_S", "LOAD_S", "LoadMeter", "Offer", "accepts"]

log = structlog.get_logger("fleetline.agent")

ACCEPT_S = 30.0
"""How long an agent may think about a run; then it has refused it."""
LOAD_EVERY_S = 1.0
LOAD_S = 10.0
"""How long the load may take to be found out; then the last one stands."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A run that this agent may take or refuse.

    Attributes:
        run: its id.
        handler: which of the agent's handlers it is for.
        queue: where it comes from.
        attempt: which attempt this would be, from 1; those that were refused are counted.
        input: what the handler would be given, as it was submitted.
        time_left: how many seconds the attempt would have, or None.
    """

    run: str
    handler: str
    queue: str
    attempt: int
    input: Any
    time_left: float | None

    @classmethod
    def of(cls, assign: Assign) -> Offer:
        """Return what the hub has assigned as the program is asked about it."""
        left_ms = assign.time_left_ms
        return cls(
            run=assign.run,
            handler=assign.handler,
            queue=assign.queue,
            attempt=assign.attempt,
            input=unpack_value(assign.input),
            time_left=None if left_ms is None else left_ms / 1000,
        )


async def accepts(function: Callable[[Offer], Any], assign: Assign) -> bool:
    """Ask whether the agent takes a run. One about which the function raises, or does not decide, is refused."""
    try:
        async with asyncio.timeout(ACCEPT_S):
            return bool(await _call(function, Offer.of(assign)))
    except Exception as error:
        log.warning("accept_failed", run=assign.run, handler=assign.handler, error=repr(error), exc_info=True)
        return False


class LoadMeter:
    """Asks how busy the agent is, every so often.

    Args:
        function: returns it, from 0 to 1; what is beyond counts as the nearer end.
        tell: is given it, each time.
    """

    def __init__(self, function: Callable[[], Any], tell: Callable[[float], None]) -> None:
        self._function = function
        self._tell = tell
        self._failed = False

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            await asyncio.sleep(LOAD_EVERY_S)
            await self.measure()

    async def measure(self) -> None:
        """Ask once. Where the function raises, or gives no number, the last load stands."""
        try:
            async with asyncio.timeout(LOAD_S):
                load = float(await _call(self._function))
            if math.isnan(load):
                raise ValueError("the load is not a number")
        except Exception as error:
            if not self._failed:
                log.warning("load_failed", error=repr(error), exc_info=True)
            self._failed = True
            return
        self._failed = False
        self._tell(min(1.0, max(0.0, load)))


async def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    if inspect.iscoroutinefunction(function):
        return await function(*arguments)
    return await asyncio.to_thread(function, *arguments)
