"""Tails that stay for a moment though nobody follows their logs: those of runs that this hub has just submitted.

Whoever submits a run mostly follows it at once, and is then served from what the hub has just written, which costs no
read of the store.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["LINGERING_MAX", "Lingering"]

LINGERING_MAX = 4096

Tail = TypeVar("Tail")


class Lingering(Generic[Tail]):
    """A subscriber that wants nothing but that its tails stay.

    Args:
        leave: called with this and each tail that it lets go.
    """

    def __init__(self, leave: Callable[[Tail, Lingering[Tail]], None]) -> None:
        self._leave = leave
        self._tails: OrderedDict[Tail, bool] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tails)

    def pump(self) -> None:
        """See `orchestrator.tail.Subscriber`."""

    def reverify(self) -> None:
        """See `orchestrator.tail.Subscriber`."""

    def keep(self, tail: Tail) -> None:
        """Let a tail stay until the second `age` from now; of too many, the first is let go."""
        self._tails[tail] = False
        if len(self._tails) > LINGERING_MAX:
            oldest, _ = self._tails.popitem(last=False)
            self._leave(oldest, self)

    def age(self) -> None:
        """Let go of the tails that were here at the last call."""
        old = [tail for tail, seen in self._tails.items() if seen]
        for tail in old:
            del self._tails[tail]
            self._leave(tail, self)
        for tail in self._tails:
            self._tails[tail] = True
