"""Requests that were asked and not answered yet.

A request that was not answered when the connection broke is sent again on the next one, with the same `op`
or key: the hub gives the first answer again. What the hub cannot do now and says when to try again is tried
again then.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from agent.threads import reject, resolve
from protocol.codes import ErrorCode
from protocol.errors import FleetlineError, RequestError
from protocol.frames import Fault, Part, Request, Response
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import METHODS

__all__ = ["Asked", "Requests"]


@dataclass(slots=True, eq=False)
class Asked:
    """One question, until it is answered; `waits` where the answer may wait for a run to end."""

    method: str
    params: Part
    op: str | None
    answer: Future[Any]
    waits: bool = False
    not_before_ms: int = 0


class _Room:
    """Requests that are for one limit of the hub's: those that wait to be sent, and how many are open."""

    __slots__ = ("open", "open_max", "waiting")

    def __init__(self, open_max: int) -> None:
        self.waiting: deque[Asked] = deque()
        self.open = 0
        self.open_max = open_max


class Requests:
    """What one link asks, within the hub's limits of open requests. Used by the link's thread only."""

    def __init__(self) -> None:
        self._short = _Room(DEFAULT_LIMITS.requests_max)
        self._long = _Room(DEFAULT_LIMITS.waits_max)
        self._open: dict[int, Asked] = {}
        self._later: list[Asked] = []
        self._last_id = 0

    def announce(self, limits: Limits) -> None:
        """Take over what the hub says that may be open."""
        self._short.open_max = limits.requests_max
        self._long.open_max = limits.waits_max

    def ask(self, asked: Asked) -> None:
        """Add a question."""
        self._room_of(asked).waiting.append(asked)

    def disconnected(self) -> None:
        """Begin a new connection: what is not answered is asked again, in the order it was asked first."""
        for _, asked in sorted(self._open.items(), reverse=True):
            self._room_of(asked).waiting.appendleft(asked)
        self._open.clear()
        self._short.open = self._long.open = 0

    def take(self, now_ms: int) -> list[Request]:
        """Return the requests to send now."""
        if self._later:
            for asked in [asked for asked in self._later if asked.not_before_ms <= now_ms]:
                self._room_of(asked).waiting.append(asked)
            self._later = [asked for asked in self._later if asked.not_before_ms > now_ms]
        frames: list[Request] = []
        for room in (self._short, self._long):
            while room.waiting and room.open < room.open_max:
                asked = room.waiting.popleft()
                if asked.answer.cancelled():
                    continue
                room.open += 1
                self._last_id += 1
                self._open[self._last_id] = asked
                params = asked.params.model_dump(by_alias=True, exclude_none=True)
                frames.append(Request(id=self._last_id, method=asked.method, params=params, op=asked.op))
        return frames

    def due_ms(self) -> int | None:
        """Return when `take` next has something that it held back."""
        return min((asked.not_before_ms for asked in self._later), default=None)

    def on_response(self, frame: Response, now_ms: int) -> None:
        """Take an answer. One to a question that nobody remembers is of no use and no harm."""
        asked = self._open.pop(frame.id, None)
        if asked is None:
            return
        self._room_of(asked).open -= 1
        if frame.error is None:
            _answer(asked, frame.result)
        elif frame.error.retry_ms is not None and frame.error.code in (ErrorCode.UNAVAILABLE, ErrorCode.TOO_MANY):
            asked.not_before_ms = now_ms + frame.error.retry_ms
            self._later.append(asked)
        else:
            reject(asked.answer, _error(frame.error))

    def close(self, error: FleetlineError) -> None:
        """Answer everything with this error: the link has ended."""
        for asked in (*self._open.values(), *self._short.waiting, *self._long.waiting, *self._later):
            reject(asked.answer, error)
        self._open.clear()
        self._short.waiting.clear()
        self._long.waiting.clear()
        self._later.clear()

    def _room_of(self, asked: Asked) -> _Room:
        return self._long if asked.waits else self._short


def _error(fault: Fault) -> RequestError:
    return RequestError(fault.code, fault.message, retry_ms=fault.retry_ms, data=fault.data)


def _answer(asked: Asked, result: object) -> None:
    try:
        resolve(asked.answer, METHODS[asked.method].result.model_validate(result))
    except ValidationError as fault:
        reject(
            asked.answer,
            RequestError(
                ErrorCode.INTERNAL,
                f"the hub's answer to {asked.method} is not of the form that the protocol gives it ({fault}); "
                "run the same version of hub and client",
            ),
        )
