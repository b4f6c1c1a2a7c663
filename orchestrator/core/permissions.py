"""What a session may do. The one place that says so; pure.

    scopes    what kind of thing whoever has the token does at all; only those of the session's role count
    patterns  the names that it does it with; a list that is not there limits nobody
    role      an agent writes to the runs that it holds an attempt of and to topics, reads its own log and no other
              agent's, and decides nothing about anybody: what asks is not what answers

`RULES` says of every method what it takes, so that a method that is not in it is permitted to nobody. What patterns say
of a run is decided by its queue, which the store knows: the answer to that is None until somebody has looked.

Specification: docs/protocol.md, section "Permissions".
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

from orchestrator.core.patterns import ANYTHING, Patterns, Thing, matches
from protocol.frames import Role
from protocol.ids import LogKind, LogName, run_of
from protocol.refusals import AUDIT_TOPIC

__all__ = ["DECIDED_MAX", "RULES", "Action", "Of", "Permit", "Rule", "Scope", "may_open"]

DECIDED_MAX = 4_096
"""Logs of one session for which decisions are kept at hand."""


Decision = TypeVar("Decision", bool, bool | None)


class Scope(StrEnum):
    """The words that a token's `scopes` are made of."""

    AGENT = "agent"
    OPERATOR = "operator"
    VIEWER = "viewer"
    ADMIN = "admin"


class Action(StrEnum):
    """What a session does. Those that patterns have a list for are called as it is."""

    READ = "read"
    """Read logs and runs, list what there is."""
    PUBLISH = "publish"
    """Append to topics, and to agents' logs."""
    SUBMIT = "submit"
    """Put a run on a queue."""
    SERVE = "serve"
    """Take runs from a queue."""
    CONTROL = "control"
    """Change a run, a queue or an agent from outside."""
    WORK = "work"
    """Append to the log of a run or of an artifact of it; whose attempt it is, the store says."""
    ADMIN = "admin"
    """Decide about tokens and keys, and read what was refused."""

    __hash__ = str.__hash__  # as it would be, but made in C: every request looks one up


_PERMITTED: dict[str, frozenset[Action]] = {
    Scope.AGENT: frozenset({Action.READ, Action.PUBLISH, Action.SERVE, Action.WORK}),
    Scope.OPERATOR: frozenset({Action.READ, Action.PUBLISH, Action.SUBMIT, Action.CONTROL}),
    Scope.VIEWER: frozenset({Action.READ}),
    Scope.ADMIN: frozenset({Action.READ, Action.PUBLISH, Action.SUBMIT, Action.CONTROL, Action.ADMIN}),
}
_ROLE_SCOPES = {
    Role.AGENT: frozenset({Scope.AGENT}),
    Role.CLIENT: frozenset({Scope.OPERATOR, Scope.VIEWER, Scope.ADMIN}),
}


class Of(StrEnum):
    """What a request names; but for `ALL`, it is also the name of the parameter."""

    ALL = "all"
    """Nothing: it is about the whole namespace. A list leaves out what may not be read."""
    AGENT = "agent"
    QUEUE = "queue"
    RUN = "run"
    LOG = "log"
    SCHEDULE = "schedule"

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True)
class Rule:
    """What a request takes: to do this with that. With `where`, only if that parameter is there."""

    action: Action
    of: Of
    where: str = ""


def _rule(action: Action, of: Of) -> tuple[Rule, ...]:
    return (Rule(action, of),)


RULES: dict[str, tuple[Rule, ...]] = {
    "run.submit": (Rule(Action.SUBMIT, Of.QUEUE), Rule(Action.READ, Of.QUEUE, "wait_ms")),
    "run.retry": _rule(Action.SUBMIT, Of.RUN),
    "run.get": _rule(Action.READ, Of.RUN),
    "run.wait": _rule(Action.READ, Of.RUN),
    "run.list": _rule(Action.READ, Of.ALL),
    "run.cancel": _rule(Action.CONTROL, Of.RUN),
    "run.steer": _rule(Action.CONTROL, Of.RUN),
    "run.answer": _rule(Action.CONTROL, Of.RUN),
    "run.query": _rule(Action.READ, Of.RUN),
    "queue.list": _rule(Action.READ, Of.ALL),
    "queue.get": _rule(Action.READ, Of.QUEUE),
    "queue.set": _rule(Action.CONTROL, Of.QUEUE),
    "queue.purge": _rule(Action.CONTROL, Of.QUEUE),
    "queue.dead": _rule(Action.READ, Of.QUEUE),
    "queue.retry": _rule(Action.SUBMIT, Of.QUEUE),
    "schedule.add": _rule(Action.SUBMIT, Of.QUEUE),
    "schedule.list": _rule(Action.READ, Of.ALL),
    "schedule.get": _rule(Action.READ, Of.SCHEDULE),
    "schedule.set": _rule(Action.CONTROL, Of.SCHEDULE),
    "schedule.remove": _rule(Action.CONTROL, Of.SCHEDULE),
    "artifact.open": _rule(Action.WORK, Of.RUN),
    "producer.open": _rule(Action.PUBLISH, Of.LOG),
    "log.read": _rule(Action.READ, Of.LOG),
    "log.get": _rule(Action.READ, Of.LOG),
    "log.list": _rule(Action.READ, Of.ALL),
    "agent.list": _rule(Action.READ, Of.ALL),
    "agent.get": _rule(Action.READ, Of.AGENT),
    "agent.send": _rule(Action.PUBLISH, Of.AGENT),
    "agent.cordon": _rule(Action.CONTROL, Of.AGENT),
    "agent.uncordon": _rule(Action.CONTROL, Of.AGENT),
    "agent.drain": _rule(Action.CONTROL, Of.AGENT),
    "token.revoke": _rule(Action.ADMIN, Of.ALL),
    "token.unrevoke": _rule(Action.ADMIN, Of.ALL),
    "token.revoked": _rule(Action.ADMIN, Of.ALL),
    "token.check": _rule(Action.READ, Of.ALL),
    "key.list": _rule(Action.READ, Of.ALL),  # its own; all of them where it may decide about them
    "key.accept": _rule(Action.ADMIN, Of.ALL),
    "key.reject": _rule(Action.ADMIN, Of.ALL),
    "key.revoke": _rule(Action.ADMIN, Of.ALL),
}
"""What each method takes."""


class Permit:
    """What one session may do.

    Args:
        scopes: of its token.
        patterns: likewise.
        role: of the session.
        agent: the agent's id, where it is one's.

    Attributes:
        scopes: as they were given; those of the other role count for nothing here.
    """

    __slots__ = ("_actions", "_agent", "_lists", "_patterns", "_publish", "_read", "_role", "_unbound", "scopes")

    def __init__(
        self, scopes: Set[str], patterns: Patterns = ANYTHING, role: Role = Role.CLIENT, agent: str = ""
    ) -> None:
        self.scopes = frozenset(scopes)
        self._patterns = patterns
        self._role = role
        self._agent = agent
        permitted = (_PERMITTED[scope] for scope in _ROLE_SCOPES[role] & self.scopes)
        self._actions: frozenset[Action] = frozenset().union(*permitted)
        self._lists: dict[Action, tuple[str, ...] | None] = {
            action: getattr(patterns, action.value, None) for action in self._actions
        }
        self._unbound = frozenset(action for action, held in self._lists.items() if held is None)
        self._publish: dict[LogName, bool] = {}
        self._read: dict[LogName, bool | None] = {}

    def may(self, action: Action) -> bool:
        """Whether it does such a thing at all."""
        return action in self._actions

    def unbound(self, action: Action) -> bool:
        """Whether it does this with whatever there is, save for what its role says."""
        return action in self._unbound

    @property
    def picks_logs(self) -> bool:
        """Whether there are logs that it may not read, but for the audit."""
        return self._role is Role.AGENT or not self.unbound(Action.READ)

    def covers(self, other: Permit) -> bool:
        """Whether it permits all that another does, as far as that is plain to see."""
        return self._actions >= other._actions and self._patterns.covers(other._patterns)

    # ── logs ─────────────────────────────────────────────────────────────────

    def publish(self, log: LogName) -> bool:
        """Whether it may append to a log; of a run, the store says whose attempt it is."""
        known = self._publish.get(log)
        return self._keep(self._publish, log, self._publishes(log)) if known is None else known

    def read(self, log: LogName) -> bool | None:
        """Whether it may read a log; None where that is for the run's queue to say."""
        known = self._read.get(log)
        return self._keep(self._read, log, self._reads(log)) if known is None else known

    def make(self, log: LogName) -> bool:
        """Whether a log that it may follow is made where it is not there yet, so that it can wait for what comes."""
        return self.publish(log) or _is_audit(log)

    @staticmethod
    def _keep(decided: dict[LogName, Decision], log: LogName, decision: Decision) -> Decision:
        if len(decided) >= DECIDED_MAX:
            decided.clear()
        decided[log] = decision
        return decision

    def _publishes(self, log: LogName) -> bool:
        if log.kind in _OF_RUNS:
            return self.may(Action.WORK)
        return not _is_audit(log) and bool(self.on(Action.PUBLISH, Thing(log.kind.value), log.name))

    def _reads(self, log: LogName) -> bool | None:
        if log.kind in _OF_RUNS:
            return self.on(Action.READ, Thing.RUN, run_of(log).name)
        if self._role is Role.AGENT and log.kind is LogKind.AGENT:
            return self.may(Action.READ) and log.name == self._agent
        if _is_audit(log):
            return self.may(Action.ADMIN)
        return self.on(Action.READ, Thing(log.kind.value), log.name)

    # ── things ───────────────────────────────────────────────────────────────

    def on(self, action: Action, thing: Thing, name: str) -> bool | None:
        """Whether it may do something with a thing; None where that is for the run's queue to say, see `on_queue`."""
        if not self.may(action):
            return False
        if self._role is Role.AGENT and action is Action.PUBLISH and thing is Thing.AGENT:
            return False  # agents have nothing to say to agents; they are spoken to by clients
        patterns = self._lists[action]
        if patterns is None or _fits(patterns, thing, name):
            return True
        if thing is Thing.RUN:
            by_queue = any(pattern.startswith(_QUEUES) for pattern in patterns)
            return None if by_queue or self._is_worked_on(action) else False
        return thing is Thing.QUEUE and self._is_worked_on(action) and self.on(Action.SERVE, thing, name) is True

    def on_queue(self, action: Action, queue: str) -> bool:
        """Whether it may do something with a queue, and with the runs on it."""
        return self.on(action, Thing.QUEUE, queue) is True

    def _is_worked_on(self, action: Action) -> bool:
        """Whether this is what an agent does with each run that it may take anyway."""
        return action is Action.READ and self._role is Role.AGENT

    def child_on(self, queue: str) -> bool:
        """Whether a run that it works on may have a child there."""
        patterns = self._patterns.submit
        return patterns is None or _fits(patterns, Thing.QUEUE, queue)

    # ── requests ─────────────────────────────────────────────────────────────

    def ask(self, rule: Rule, params: Any, namespace: str) -> bool | None:
        """Decide on one rule of a request; None where that is for the queue of the run or the schedule to say.

        Args:
            rule: of `RULES`.
            params: what was asked for, as the method's model.
            namespace: of the session.

        Raises:
            InvalidName: it names a log that is none.
        """
        action, of = rule.action, rule.of
        if action not in self._actions:
            return False
        if of is Of.ALL or (rule.where and not getattr(params, rule.where)):
            return True
        if of is Of.LOG:
            log = LogName.parse(params.log, namespace)
            return self.publish(log) if action is Action.PUBLISH else self.read(log)
        if action in self._unbound and action is not Action.PUBLISH:
            return True
        return None if of is Of.SCHEDULE else self.on(action, _THINGS[of], getattr(params, of))


def may_open(scopes: Set[str], role: Role) -> bool:
    """Whether these scopes permit a session in this role."""
    return not _ROLE_SCOPES[role].isdisjoint(scopes)


_THINGS = {Of.AGENT: Thing.AGENT, Of.QUEUE: Thing.QUEUE, Of.RUN: Thing.RUN}
_OF_RUNS = frozenset({LogKind.RUN, LogKind.ARTIFACT})
_QUEUES = (f"{Thing.QUEUE.value}/", "*")


def _fits(patterns: tuple[str, ...], thing: Thing, name: str) -> bool:
    text = f"{thing.value}/{name}"
    return any(matches(pattern, text) for pattern in patterns)


def _is_audit(log: LogName) -> bool:
    return log.kind is LogKind.TOPIC and log.name == AUDIT_TOPIC
