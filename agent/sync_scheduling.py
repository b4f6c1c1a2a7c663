"""The blocking twin of `agent.scheduling`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, TypeVar, Unpack

from agent.scheduling import ScheduleMethods, ScheduleOptions
from protocol.schedules import Missed, ScheduleInfo

__all__ = ["SyncScheduleMethods"]

T = TypeVar("T")


class SyncScheduleMethods(ABC):
    """What a blocking client can do with schedules."""

    @property
    @abstractmethod
    def _twin(self) -> ScheduleMethods:
        """The client that does the work."""

    @abstractmethod
    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work of the client's, and wait for it."""

    def add_schedule(
        self,
        name: str,
        cron: str,
        handler: str,
        input: Any = None,
        *,
        timezone: str = "UTC",
        missed: Missed | str = Missed.SKIP,
        **options: Unpack[ScheduleOptions],
    ) -> ScheduleInfo:
        """Have a run submitted whenever its time comes. See `Client.add_schedule`."""
        work = self._twin.add_schedule(name, cron, handler, input, timezone=timezone, missed=missed, **options)
        return self._wait(work)

    def schedules(self, limit: int = 100) -> tuple[ScheduleInfo, ...]:
        """Return schedules, by name."""
        return self._wait(self._twin.schedules(limit))

    def schedule(self, name: str) -> ScheduleInfo:
        """Return a schedule, with its next due times and the state of its last run."""
        return self._wait(self._twin.schedule(name))

    def pause_schedule(self, name: str) -> ScheduleInfo:
        """Let a schedule make no runs. See `Client.pause_schedule`."""
        return self._wait(self._twin.pause_schedule(name))

    def resume_schedule(self, name: str) -> ScheduleInfo:
        """Let a schedule that was paused go on. See `Client.resume_schedule`."""
        return self._wait(self._twin.resume_schedule(name))

    def remove_schedule(self, name: str) -> None:
        """Forget a schedule. The runs that it made stay."""
        self._wait(self._twin.remove_schedule(name))
