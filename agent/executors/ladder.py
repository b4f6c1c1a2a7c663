"""The ladder: how a program is brought to its end, rung by rung, until no process of its group is left.

Theory of operation
-------------------
Why it is to end says where the ladder begins, and each rung has its grace time:

    cancelled   message       it is told in a message (a plain program is not: its ladder begins with SIGTERM)
    finished    end_of_input  it gave its result or its error: its standard input ends
    left        by_itself     the program itself has ended; what it left in its group may end too
    refused     sigterm       it said what cannot be taken

    message, end_of_input, by_itself  ->  sigterm  ->  sigkill

The first cause counts; another one changes nothing. When the program itself has ended on an upper rung, the
others of its group have the shortest grace until SIGTERM. The rung on which the ladder stands when the group is
gone is the one that worked.

Pure: time is an argument, and what to do is the answer.
"""

from __future__ import annotations

from enum import StrEnum

from agent.program import Graces

__all__ = ["KILL_WAIT_S", "Cause", "Ladder", "Rung"]

KILL_WAIT_S = 5.0
"""How long a group is waited for after SIGKILL. What lasts longer hangs in the kernel."""


class Cause(StrEnum):
    """Why a program is to end."""

    CANCELLED = "cancelled"
    FINISHED = "finished"
    LEFT = "left"
    REFUSED = "refused"


class Rung(StrEnum):
    """What is done to have it end."""

    MESSAGE = "message"
    END_OF_INPUT = "end_of_input"
    BY_ITSELF = "by_itself"
    SIGTERM = "sigterm"
    SIGKILL = "sigkill"


_FIRST = {
    Cause.CANCELLED: Rung.MESSAGE,
    Cause.FINISHED: Rung.END_OF_INPUT,
    Cause.LEFT: Rung.BY_ITSELF,
    Cause.REFUSED: Rung.SIGTERM,
}
_NEXT = {
    Rung.MESSAGE: Rung.SIGTERM,
    Rung.END_OF_INPUT: Rung.SIGTERM,
    Rung.BY_ITSELF: Rung.SIGTERM,
    Rung.SIGTERM: Rung.SIGKILL,
}
_FORCE = frozenset({Rung.SIGTERM, Rung.SIGKILL})


class Ladder:
    """The ladder of one program.

    Attributes:
        cause: why it is to end; None while it is not.
        rung: what was done last; None while nothing was.
        due_s: when `tick` next has something to say; None while nothing is under way.
        over: nothing more can be done.
    """

    def __init__(self, graces: Graces, *, speaks: bool) -> None:
        self.cause: Cause | None = None
        self.rung: Rung | None = None
        self.due_s: float | None = None
        self.over = False
        self._speaks = speaks
        self._left_s = graces.left_s
        self._grace_s = {
            Rung.MESSAGE: graces.message_s,
            Rung.END_OF_INPUT: graces.message_s,
            Rung.BY_ITSELF: graces.left_s,
            Rung.SIGTERM: graces.term_s,
            Rung.SIGKILL: KILL_WAIT_S,
        }

    @property
    def forced(self) -> bool:
        """Whether it was sent a signal."""
        return self.rung in _FORCE

    def begin(self, cause: Cause, now_s: float) -> Rung | None:
        """The program is to end. Returns what to do about it; None where that is under way already."""
        if self.cause is not None:
            return None
        self.cause = cause
        first = _FIRST[cause]
        return self._step(Rung.SIGTERM if first is Rung.MESSAGE and not self._speaks else first, now_s)

    def leader_gone(self, now_s: float) -> Rung | None:
        """The program itself has ended, and others of its group have not. Returns what to do."""
        if self.cause is None:
            return self.begin(Cause.LEFT, now_s)
        if not self.forced and self.due_s is not None:
            self.due_s = min(self.due_s, now_s + self._left_s)
        return None

    def tick(self, now_s: float) -> Rung | None:
        """Return what to do now, if the grace of the rung is over."""
        if self.due_s is None or now_s < self.due_s:
            return None
        assert self.rung is not None
        if self.rung is Rung.SIGKILL:
            self.over, self.due_s = True, None
            return None
        return self._step(_NEXT[self.rung], now_s)

    def _step(self, rung: Rung, now_s: float) -> Rung:
        self.rung = rung
        self.due_s = now_s + self._grace_s[rung]
        return rung
