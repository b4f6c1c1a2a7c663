"""Runs that a handler hands work to, as both contexts have them: what is begun, and what it came to.

Specification: docs/protocol.md, sections "Parents and children" and "Journals".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from agent.endings import run_ended
from agent.journal import digest_arguments
from agent.operations import Operation, mark_failed
from agent.submission import check_options, submission
from protocol.children import ChildKey
from protocol.codec import pack_value, unpack_value
from protocol.family import ChildCancel, ChildEnded, Spawn, check_spawn
from protocol.run import RunState

__all__ = ["Child", "ChildOptions", "PlainChild", "Spawning", "Wanted", "child_value"]


class ChildOptions(TypedDict, total=False):
    """How a child is to be done: see `agent.submission.SubmitOptions`. Times are in seconds, from its submit.

    Attributes:
        abandon: it goes on when its parent ends, or is cancelled.
    """

    queue: str
    where: Mapping[str, str] | str
    priority: int
    delay: float | None
    deadline: float | None
    timeout: float | None
    retries: int | None
    backoff: float | None
    backoff_max: float | None
    concurrency_key: str | None
    abandon: bool


class Wanted:
    """What a handler wants a child to do.

    Raises:
        ValueError: there can be no such child.
        TypeError: one of these is no option of a child.
    """

    def __init__(self, handler: str, input: Any, abandon: bool = False, **options: Any) -> None:
        check_options(options, ChildOptions)
        asked = submission(handler, pack_value(input), key="-", **options)
        terms = asked.model_dump(exclude={"key"}, exclude_defaults=True)
        self._terms = {**terms, "abandon": True} if abandon else terms
        self.handler = handler
        check_spawn(self.spawn(None))

    def digest(self, again: str | None) -> str:
        """Return what tells it from other children at its index; `again` is the child in the place of which it is."""
        return digest_arguments((again, self._terms), {})

    def spawn(self, again: str | None) -> Spawn:
        """Return the body of the entry that asks for it."""
        return Spawn(digest=self.digest(again), again=again, **self._terms)


@dataclass(frozen=True, slots=True)
class Spawning:
    """A child that has its index. `known`: the log asks for it already."""

    key: ChildKey
    spawn: Spawn
    known: bool

    @property
    def body(self) -> bytes:
        """The body of its entry."""
        return pack_value(self.spawn)


class _Handle:
    """A run that this handler has submitted.

    Attributes:
        run_id: its id.
        handler: what it is a run of.
    """

    def __init__(
        self,
        run: str,
        spawning: Spawning,
        end: Callable[[ChildKey], Any],
        value: Callable[[ChildEnded], Any],
        say: Callable[[bytes], Any],
    ) -> None:
        self.run_id = run
        self.handler = spawning.spawn.handler
        self._key = spawning.key
        self._end = end
        self._value = value
        self._say = say

    def __repr__(self) -> str:
        return f"<child {self.run_id} {self.handler}>"

    def _cancel_body(self, reason: str | None) -> bytes:
        index, digest = self._key
        return pack_value(ChildCancel(index=index, digest=digest, reason=reason))


class Child(_Handle):
    """A run that an async handler has submitted."""

    def result(self) -> Operation[Any]:
        """Wait until it is over, and return what it came to. Await it, or give it to `ctx.gather` with others.

        Raises (when awaited):
            RunFailed, RunCancelled, RunExpired, RunDead: it ended without a result.
        """
        return Operation(f"result of {self!r}", self._awaited, None)

    async def _awaited(self) -> Any:
        return self._value(await self.ended())

    async def ended(self) -> ChildEnded:
        """Wait until it is over, and return what is known of that, whatever it came to."""
        ended: ChildEnded = await self._end(self._key)
        return ended

    async def cancel(self, reason: str | None = None) -> None:
        """Ask it to stop; `result` tells when it has. One that is over is told nothing."""
        await self._say(self._cancel_body(reason))


class PlainChild(_Handle):
    """A run that a plain handler has submitted."""

    def result(self) -> Any:
        """Wait until it is over, and return what it came to. See `Child.result`."""
        return self._value(self.ended())

    def ended(self) -> ChildEnded:
        """Wait until it is over, and return what is known of that. See `Child.ended`."""
        ended: ChildEnded = self._end(self._key)
        return ended

    def cancel(self, reason: str | None = None) -> None:
        """Ask it to stop. See `Child.cancel`."""
        self._say(self._cancel_body(reason))


def child_value(ended: ChildEnded, last: int) -> Any:
    """Return what a child came to; `last` is the last journal index that was given out by now.

    Raises:
        RunEnded: it ended without a result.
    """
    if ended.state == RunState.SUCCEEDED:
        return unpack_value(ended.result or b"")
    error = None if ended.error is None else ended.error.model_dump()
    raise mark_failed(run_ended(ended.run, ended.state, ended.offset, error, ended.reason), ended.index, last)
