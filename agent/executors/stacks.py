"""Where a handler is, when it does not stop: its stacks go to the run's log.

    told to stop, or put away -- the grace is over --> stacks, and then, for a child process, SIGKILL
    its time is nearly up     --> stacks, while the log still takes them: the attempt is not ours after it

A handler in a thread cannot be killed; its stack tells where it hangs. An attempt that is not ours any more, or is
put away, says nothing more in the log, so that its stacks go to the agent's own.

Specification: docs/guide.md, section "Child processes".
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from agent.attempt_state import AttemptState
from protocol.codec import pack_value
from protocol.errors import FleetlineError

__all__ = ["STACKS", "STACKS_CHARS_MAX", "STOP_GRACE_S", "Overdue", "cut_stacks", "record"]

STOP_GRACE_S = 10.0
"""How long a handler that is told to stop may take."""

STACKS = "stacks"
"""Kind of the entry with the stacks of a handler that did not stop."""

STACKS_CHARS_MAX = 24_000
"""Characters of stacks in one entry. Of longer ones the middle is left out."""

LEAD_S, LEAD_SHARE = 1.0, 0.25
"""How long before its time is up a handler's stacks are taken: so long, or that share of the time that it has."""

ROOM_WAIT_S = 1.0
"""How long room for an entry is waited for."""

LOGGED_CHARS_MAX = 4_000


def cut_stacks(text: str, chars_max: int = STACKS_CHARS_MAX) -> str:
    """Return the beginning and the end of stacks that are too long."""
    if len(text) <= chars_max:
        return text
    ends = chars_max // 2
    return f"{text[:ends]}\n... {len(text) - 2 * ends} characters ...\n{text[-ends:]}"


def record(state: AttemptState, kind: str, body: dict[str, Any]) -> bool:
    """Put an entry into the run's log beside what the handler does, from any thread. Returns whether it went in."""
    packed, outlet = pack_value(body), state.outlet
    with suppress(FleetlineError, TimeoutError):
        while not state.fenced:
            if outlet.offer(kind, packed):
                return True
            outlet.room(len(packed)).result(ROOM_WAIT_S)
    return False


class Overdue:
    """Watches one handler, from when it begins until `close`. Made and closed on the program's loop.

    Args:
        state: of the attempt.
        stacks: returns where the handler is, from any thread; empty where that cannot be told.
        kill: called when it was told to stop and the grace is over; None where nothing can be done.
        grace_s: how long it may take to stop.
    """

    def __init__(
        self,
        state: AttemptState,
        stacks: Callable[[], str],
        kill: Callable[[], object] | None = None,
        grace_s: float = STOP_GRACE_S,
    ) -> None:
        self._state = state
        self._stacks = stacks
        self._kill = kill
        self._grace_s = grace_s
        self._over = threading.Event()
        self._deciding = threading.Lock()
        self._ends_it = False
        self._late: asyncio.TimerHandle | None = None
        state.on_stop(self._on_stop)
        left_s = state.time_left_s
        if left_s is not None:
            lead_s = min(LEAD_S, left_s * LEAD_SHARE)
            self._late = asyncio.get_running_loop().call_later(left_s - lead_s, self._beside, self._on_late)

    def close(self) -> bool:
        """The handler is over. Returns whether it was so in time: else it is being ended, whatever it did since."""
        if self._late is not None:
            self._late.cancel()
        with self._deciding:
            self._over.set()
            return not self._ends_it

    def _on_stop(self) -> None:
        self._beside(self._when_told)

    def _beside(self, call: Callable[[], object]) -> None:
        if not self._over.is_set():
            threading.Thread(target=call, name=f"overdue {self._state.assign.run}", daemon=True).start()

    def _when_told(self) -> None:
        self._over.wait(self._grace_s)
        with self._deciding:
            if self._over.is_set():
                return
            self._ends_it = True
        self._tell("cancelled", self._stacks())
        if self._kill is not None:
            self._kill()

    def _on_late(self) -> None:
        if not self._state.cancelled:
            self._tell("timeout", self._stacks())

    def _tell(self, why: str, stacks: str) -> None:
        if self._over.is_set():
            return
        text = cut_stacks(stacks, min(STACKS_CHARS_MAX, self._state.outlet.body_bytes_max // 8))
        self._state.logger.warning("handler_overdue", why=why, stacks=cut_stacks(text, LOGGED_CHARS_MAX))
        record(self._state, STACKS, {"why": why, "stacks": text})
