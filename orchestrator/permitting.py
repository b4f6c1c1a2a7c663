"""Asks before each request whether its session may make it, and looks up what the decision needs.

What is decided is in `orchestrator.core.permissions`. Only a token with patterns has anything looked up: the queue of a
run, or that of a schedule.

Specification: docs/protocol.md, section "Permissions".
"""

from __future__ import annotations

from typing import Any

from orchestrator.core.permissions import RULES, Of, Permit, Rule
from orchestrator.core.schedules import Place
from orchestrator.peers import Peer
from orchestrator.reading import Reading
from orchestrator.schedules import Schedules
from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.ids import LogName, check_name

__all__ = ["Permitting", "forbidden"]


class Permitting:
    """Decides on the requests of one hub's sessions.

    Args:
        reading: what is read of runs.
        schedules: reads them.
    """

    def __init__(self, reading: Reading, schedules: Schedules) -> None:
        self._reading = reading
        self._schedules = schedules

    async def check(self, peer: Peer, method: str, params: Any) -> None:
        """Do nothing where a session may make a request.

        Raises:
            RequestError: `forbidden`, or `not_found` where what would decide is not there.
            InvalidName: it names what is no name.
        """
        rules = RULES.get(method, ())
        if not rules:
            raise forbidden(f"nobody may {method}")
        for rule in rules:
            decided = peer.permit.ask(rule, params, peer.namespace)
            if decided is None:
                decided = peer.permit.on_queue(rule.action, await self._queue(peer.namespace, rule, params))
            if not decided:
                raise forbidden(_why(peer.permit, rule, params))

    async def _queue(self, namespace: str, rule: Rule, params: Any) -> str:
        """Return the queue of what a request names."""
        name: str = getattr(params, rule.of.value)
        if rule.of is Of.SCHEDULE:
            schedule = await self._schedules.read_listed(Place(namespace, check_name(name)))
            if schedule is None:
                raise RequestError(ErrorCode.NOT_FOUND, f"there is no schedule {name!r}")
            return schedule.asked.queue
        log = LogName.parse(name if rule.of is Of.LOG else f"run/{name}", namespace)
        return await self._reading.queue_of(log)


def forbidden(message: str) -> RequestError:
    """Return the refusal of what a token does not permit."""
    return RequestError(ErrorCode.FORBIDDEN, message)


def _why(permit: Permit, rule: Rule, params: Any) -> str:
    if not permit.may(rule.action) or rule.of is Of.ALL:
        return f"the token's scopes do not permit this ({rule.action.value})"
    name = getattr(params, rule.of.value)
    what = name if rule.of is Of.LOG else f"{rule.of.value}/{name}"
    return f"the token does not permit to {rule.action.value} {what[:160]}"
