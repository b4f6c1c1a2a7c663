"""When a handler that only waits is put away, so that its slot is free for another run meanwhile.

A handler has strands: the task or the thread that it runs in and, while that waits for a `gather`, the operations of
it instead. It is put away when every strand waits for something that its journal gives again:

    a sleep       at once, where more than `after_s` of it is left
    a question    when it has been waited for `after_s`; so the end of a child
    a message     likewise, where the handler waits for one without a time of its own

Whatever else it waits for, a call say, keeps it where it is; so does the body of an effect, which would be run again.
Tasks and threads that the handler makes by itself are not its strands: what they do, its journal does not know.

Specification: docs/protocol.md, section "Suspension"; docs/decisions/0016-suspension.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any, NoReturn

from protocol.children import ChildKey
from protocol.conversation import Suspended
from protocol.errors import FleetlineError
from protocol.output import Piece

__all__ = ["PUT_AWAY", "Patience", "ShutOutlet", "Wait", "Waiter"]

PUT_AWAY = "put away while it waits"
"""Why a handler is told to stop that will be brought back."""


@dataclass(frozen=True, slots=True)
class Wait:
    """What one strand waits for: the end of a sleep, by a clock that never steps, an answer, a child, or a message."""

    since_s: float
    until_s: float | None = None
    question: int | None = None
    child: ChildKey | None = None

    @property
    def listens(self) -> bool:
        """Whether it is a message that is waited for."""
        return self.until_s is None and self.question is None and self.child is None


class Patience:
    """What the strands of one handler wait for. Used by the thread that the handler runs in.

    Args:
        after_s: how long the handler waits before it is put away; None: it never is.
    """

    def __init__(self, after_s: float | None = None) -> None:
        self.after_s = after_s
        self._strands: set[Hashable] = set()
        self._waits: dict[Hashable, Wait] = {}
        self._held = 0

    def begins(self, strand: Hashable) -> None:
        """Note a strand: another, or one that goes on."""
        self._strands.add(strand)

    def ends(self, strand: Hashable) -> bool:
        """Note that a strand is over, or is replaced by others. Returns whether it was one."""
        known = strand in self._strands
        self._strands.discard(strand)
        return known

    @contextmanager
    def waiting(self, strand: Hashable, wait: Wait) -> Iterator[None]:
        """Note that a strand waits, for as long as this lasts."""
        self._waits[strand] = wait
        try:
            yield
        finally:
            del self._waits[strand]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the handler from being put away, for as long as this lasts."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1

    def ripe_in_s(self, now_s: float) -> float | None:
        """Return how long it is until the handler can be put away, as things are; None where it cannot be."""
        if self.after_s is None or self._held or not self._strands or not self._strands <= self._waits.keys():
            return None
        waits = [self._waits[strand] for strand in self._strands]
        ripe_s = max((wait.since_s + self.after_s for wait in waits if wait.until_s is None), default=now_s)
        ripe_s = max(ripe_s, now_s)
        short = any(wait.until_s is not None and wait.until_s - ripe_s <= self.after_s for wait in waits)
        return None if short else ripe_s - now_s

    def suspended(self, now_s: float, messages: int | None) -> Suspended | None:
        """Return what the handler waits for, where it can be put away now.

        `messages` is how many the run was sent; None where one of them is yet to be given.
        """
        left_s = self.ripe_in_s(now_s)
        if left_s is None or left_s > 0:
            return None
        waits = [self._waits[strand] for strand in self._strands]
        ends = [wait.until_s for wait in waits if wait.until_s is not None]
        listens = any(wait.listens for wait in waits)
        if listens and messages is None:
            return None
        return Suspended(
            sleep_ms=ceil((max(ends) - now_s) * 1000) if ends else None,
            questions=tuple(sorted(wait.question for wait in waits if wait.question is not None)),
            children=tuple(sorted({"{}.{}".format(*wait.child) for wait in waits if wait.child is not None})),
            messages=messages if listens else None,
        )


class Waiter:
    """Puts an async handler away when it is time. Used on the handler's loop."""

    def __init__(self, patience: Patience, put_away: Callable[[], object]) -> None:
        self._patience = patience
        self._put_away = put_away
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def waiting(self, wait: Wait) -> Iterator[None]:
        """Note that the task that runs waits, for as long as this lasts."""
        if self._patience.after_s is None:
            yield
            return
        with self._patience.waiting(asyncio.current_task(), wait):
            self._look()
            try:
                yield
            finally:
                self._forget()

    @contextmanager
    def gathering(self) -> Iterator[Callable[[Iterable[asyncio.Task[Any]]], None]]:
        """Give what is to be told of the tasks that take the place of the one that runs, for as long as this lasts."""
        strand = asyncio.current_task()
        is_strand = self._patience.after_s is not None and self._patience.ends(strand)

        def split(tasks: Iterable[asyncio.Task[Any]]) -> None:
            for task in tasks if is_strand else ():
                self._patience.begins(task)
                task.add_done_callback(self._ended)

        try:
            yield split
        finally:
            if is_strand:
                self._patience.begins(strand)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._patience.ends(task)
        self._look()

    def _look(self) -> None:
        """Put the handler away if it is time, or look again when it will be."""
        self._forget()
        in_s = self._patience.ripe_in_s(time.monotonic())
        if in_s is None:
            return
        if in_s <= 0:
            self._put_away()
        else:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._look)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ShutOutlet:
    """The way out of an attempt whose handler was put away: nothing that it still does counts."""

    def __init__(self, made: int, body_bytes_max: int) -> None:
        self.made = made
        self.body_bytes_max = body_bytes_max
        self.unacknowledged = 0
        self._fault = FleetlineError(f"the handler was {PUT_AWAY}; nothing that it does now counts")
        self.dead: FleetlineError | None = self._fault

    def offer(self, kind: str, body: bytes, index: int | None = None, cause: int | None = None) -> NoReturn:
        """Refuse an entry."""
        del kind, body, index, cause
        raise self._fault

    def write(self, stream: str, piece: Piece, index: int | None = None) -> NoReturn:
        """Refuse output."""
        del stream, piece, index
        raise self._fault

    def close_output(self) -> None:
        """There is none."""

    def acknowledged(self, seq: int) -> Future[None]:
        """Refuse to wait."""
        del seq
        return self._refused()

    def room(self, body_bytes: int) -> Future[None]:
        """Refuse to wait."""
        del body_bytes
        return self._refused()

    def _refused(self) -> Future[None]:
        future: Future[None] = Future()
        future.set_exception(self._fault)
        return future
