"""The methods `schedule.*`: what people and programs say of schedules, and are told of them.

What makes their runs is `orchestrator.schedules`.

Specification: docs/protocol.md, sections "Requests" and "Schedules".
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from orchestrator.core import runs
from orchestrator.core.cron import Cron, InvalidCron
from orchestrator.core.permissions import Action
from orchestrator.core.publish import check_body
from orchestrator.core.schedules import Place, Schedule, add, remove, set_paused
from orchestrator.kept import KeptAnswers
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.schedules import Schedules
from orchestrator.settle import settle
from orchestrator.store.commits import HashSet, Outcome, Refused
from orchestrator.together import together
from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.frames import Part
from protocol.ids import LogName, check_name
from protocol.schedules import (
    SCHEDULES_MAX,
    UPCOMING_MAX,
    ScheduleAdd,
    ScheduleGet,
    ScheduleInfo,
    ScheduleList,
    ScheduleListed,
    ScheduleRemove,
    ScheduleRemoved,
    ScheduleSet,
)
from protocol.selector import parse_selector

__all__ = ["Scheduling"]

READ_AT_ONCE_MAX = 200

Answer = TypeVar("Answer", bound=Part)


class Scheduling:
    """What this hub answers about schedules.

    Args:
        line: where commits go.
        schedules: reads them.
        kept: answers that are given again.
        body_bytes_max: limit of an input.
    """

    def __init__(self, line: Line, schedules: Schedules, kept: KeptAnswers, body_bytes_max: int) -> None:
        self._line = line
        self._schedules = schedules
        self._kept = kept
        self._body_bytes_max = body_bytes_max
        self.methods: dict[str, Callable[[Peer, str, Any], Awaitable[Part]]] = {
            "schedule.add": self._add,
            "schedule.list": self._list,
            "schedule.get": self._get,
            "schedule.set": self._set,
            "schedule.remove": self._remove,
        }

    async def _add(self, peer: Peer, op: str, params: ScheduleAdd) -> ScheduleInfo:
        asked, cron = self._checked(params)
        place = Place(peer.namespace, asked.schedule)
        while True:
            known = await self._known(peer, place, op, ScheduleInfo)
            if known is not None:
                return known
            there = await self._schedules.read(place)
            if there is not None:
                if there.asked == asked:
                    return await self._told(there)
                message = f"there is a schedule {place.name!r} with other terms; remove it first, or take another name"
                raise RequestError(ErrorCode.NAME_CONFLICT, message)
            now_ms = await self._line.store.now_ms()
            next_ms = cron.after(now_ms)
            if next_ms is None:
                raise RequestError(ErrorCode.INVALID_PARAMS, f"{asked.cron!r} is never due in the next fifty years")
            schedule = Schedule(place, secrets.token_hex(4), now_ms, peer.principal, asked, False, next_ms)
            answer = await self._told(schedule)
            commit = add(self._ids(peer), schedule, self._keep(peer, place, op, answer))
            result = await settle(self._line, commit)
            if isinstance(result, Outcome):
                return answer
            if _is_full(result):
                message = f"there are {SCHEDULES_MAX} schedules in this namespace, which is the most"
                raise RequestError(ErrorCode.LIMIT_REACHED, message)

    def _checked(self, params: ScheduleAdd) -> tuple[ScheduleAdd, Cron]:
        """Return what was asked for with its selector in canonical form, and when it is due.

        Raises:
            RequestError, InvalidName, InvalidSelector: it cannot be done.
        """
        for name in (params.schedule, params.handler, params.queue):
            check_name(name)
        check_body(params.input, self._body_bytes_max)
        return params.model_copy(update={"where": str(parse_selector(params.where))}), _cron(params)

    async def _list(self, peer: Peer, _op: str, params: ScheduleList) -> ScheduleListed:
        names = sorted(await self._line.store.hash_all(Place(peer.namespace, "").index))
        found: list[ScheduleInfo] = []
        for start in range(0, len(names), READ_AT_ONCE_MAX):
            places = [Place(peer.namespace, name) for name in names[start : start + READ_AT_ONCE_MAX]]
            schedules = await together(self._schedules.read_listed(place) for place in places)
            there = (schedule for schedule in schedules if schedule is not None)  # else removed meanwhile
            found += (_info(each) for each in there if peer.permit.on_queue(Action.READ, each.asked.queue))
            if len(found) >= params.limit:
                break
        return ScheduleListed(schedules=tuple(found[: params.limit]))

    async def _get(self, peer: Peer, _op: str, params: ScheduleGet) -> ScheduleInfo:
        schedule = await self._there(Place(peer.namespace, check_name(params.schedule)))
        info = await self._told(schedule)
        return info.model_copy(update={"input": schedule.asked.input})

    async def _set(self, peer: Peer, op: str, params: ScheduleSet) -> ScheduleInfo:
        place = Place(peer.namespace, check_name(params.schedule))
        while True:
            known = await self._known(peer, place, op, ScheduleInfo)
            if known is not None:
                return known
            schedule = await self._there(place)
            if schedule.paused == params.paused:
                return await self._told(schedule)
            next_ms = None if params.paused else _cron(schedule.asked).after(await self._line.store.now_ms())
            after = replace(schedule, paused=params.paused, next_ms=next_ms)
            answer = await self._told(after)
            commit = set_paused(self._ids(peer), schedule, after, self._keep(peer, place, op, answer))
            if isinstance(await settle(self._line, commit), Outcome):
                return answer

    async def _remove(self, peer: Peer, op: str, params: ScheduleRemove) -> ScheduleRemoved:
        place = Place(peer.namespace, check_name(params.schedule))
        while True:
            known = await self._known(peer, place, op, ScheduleRemoved)
            if known is not None:
                return known
            schedule, answer = await self._there(place), ScheduleRemoved(schedule=place.name)
            commit = remove(self._ids(peer), schedule, self._keep(peer, place, op, answer))
            if isinstance(await settle(self._line, commit), Outcome):
                return answer

    async def _there(self, place: Place) -> Schedule:
        """Return a schedule.

        Raises:
            RequestError: `not_found`.
        """
        schedule = await self._schedules.read(place)
        if schedule is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no schedule {place.name!r}")
        return schedule

    async def _told(self, schedule: Schedule) -> ScheduleInfo:
        """Return what is told of one schedule: also its next due times, and the state of its last run."""
        info = _info(schedule)
        if schedule.next_ms is not None:
            more = _cron(schedule.asked).upcoming(schedule.next_ms, UPCOMING_MAX - 1)
            info = info.model_copy(update={"upcoming": (schedule.next_ms, *more)})
        if schedule.last_run is None:
            return info
        meta = await self._line.store.meta(LogName.parse(f"run/{schedule.last_run}", schedule.place.namespace))
        return info.model_copy(update={"last_state": meta["state"]}) if meta else info

    def _keep(self, peer: Peer, place: Place, op: str, answer: Part) -> HashSet:
        return self._kept.keep_at(place.partition, place.namespace, _field(peer, place, op), answer)

    async def _known(self, peer: Peer, place: Place, op: str, model: type[Answer]) -> Answer | None:
        return await self._kept.find_at(place.partition, place.namespace, _field(peer, place, op), model)

    def _ids(self, peer: Peer) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), peer.principal)


def _field(peer: Peer, place: Place, op: str) -> str:
    return f"{peer.principal}/schedule/{place.name}/{op}"


def _cron(asked: ScheduleAdd) -> Cron:
    """Return when a schedule is due.

    Raises:
        RequestError: `invalid_params`, where this hub cannot tell.
    """
    try:
        return Cron.parse(asked.cron, asked.timezone)
    except InvalidCron as fault:
        raise RequestError(ErrorCode.INVALID_PARAMS, str(fault)) from None


def _is_full(result: Refused) -> bool:
    """Whether it was the number of schedules that `add` failed on, and not the name: its one guard comes first."""
    return result.guard == 1


def _info(schedule: Schedule) -> ScheduleInfo:
    """Return what is told of a schedule in a list."""
    return ScheduleInfo(
        **schedule.asked.model_dump(exclude={"input"}),
        paused=schedule.paused,
        next_ms=schedule.next_ms,
        last_due_ms=schedule.last_due_ms,
        last_run=schedule.last_run,
        made_ms=schedule.made_ms,
        made_by=schedule.made_by,
    )
