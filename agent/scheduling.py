"""Schedules, as a client makes, shows, pauses and removes them.

Specification: docs/protocol.md, section "Schedules".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from agent.submission import check_options, submission
from protocol.frames import Part
from protocol.schedules import (
    Missed,
    ScheduleAdd,
    ScheduleGet,
    ScheduleInfo,
    ScheduleList,
    ScheduleRemove,
    ScheduleSet,
)

__all__ = ["ScheduleMethods", "ScheduleOptions"]


class ScheduleOptions(TypedDict, total=False):
    """How the runs of a schedule are to be done: as in `SubmitOptions`, those of them that a schedule has."""

    queue: str
    where: Mapping[str, str] | str
    priority: int
    deadline: float | None
    timeout: float | None
    retries: int | None
    backoff: float | None
    backoff_max: float | None


class ScheduleMethods(ABC):
    """What a client can do with schedules."""

    @abstractmethod
    async def ask(self, method: str, params: Part) -> Any:
        """Ask the hub."""

    @abstractmethod
    def _pack(self, value: Any, log: str) -> bytes:
        """Pack a value that the hub will take."""

    async def add_schedule(
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
        """Have a run submitted whenever its time comes, once each time, whatever number of hubs there are.

        A schedule of that name with the same terms is left as it is.

        Args:
            name: of the schedule.
            cron: five fields (minute hour day-of-month month day-of-week), or six with seconds first.
            handler: name of the handler.
            input: what it is applied to: anything msgpack can hold.
            timezone: whose clock the expression is about, such as `Europe/Berlin`.
            missed: what becomes of the times while no hub was there: `skip`, or `once` for all of them.
            options: queue, priority, times and more: see `ScheduleOptions`.

        Raises:
            RequestError: `name_conflict` where the name is taken, `invalid_params` where `cron` is none, for two.
            ValueError: an option has no such value.
            TypeError: a schedule has no such option.
        """
        check_options(options, ScheduleOptions)
        run = submission(handler, self._pack(input, f"schedule {name}"), key="-", **options)
        terms = run.model_dump(exclude={"key", "delay_ms", "keep_ms", "concurrency_key"})
        params = ScheduleAdd(schedule=name, cron=cron, timezone=timezone, missed=Missed(missed), **terms)
        info: ScheduleInfo = await self.ask("schedule.add", params)
        return info

    async def schedules(self, limit: int = 100) -> tuple[ScheduleInfo, ...]:
        """Return schedules, by name."""
        found: tuple[ScheduleInfo, ...] = (await self.ask("schedule.list", ScheduleList(limit=limit))).schedules
        return found

    async def schedule(self, name: str) -> ScheduleInfo:
        """Return a schedule, with its next due times and the state of its last run."""
        info: ScheduleInfo = await self.ask("schedule.get", ScheduleGet(schedule=name))
        return info

    async def pause_schedule(self, name: str) -> ScheduleInfo:
        """Let a schedule make no runs; what comes due meanwhile is not made up for."""
        info: ScheduleInfo = await self.ask("schedule.set", ScheduleSet(schedule=name, paused=True))
        return info

    async def resume_schedule(self, name: str) -> ScheduleInfo:
        """Let a schedule that was paused go on, with the next time to come."""
        info: ScheduleInfo = await self.ask("schedule.set", ScheduleSet(schedule=name, paused=False))
        return info

    async def remove_schedule(self, name: str) -> None:
        """Forget a schedule. The runs that it made stay."""
        await self.ask("schedule.remove", ScheduleRemove(schedule=name))
