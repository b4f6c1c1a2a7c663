"""What the scopes of a token permit. The one place that says so.

    agent      identify as one of the agents that the token names; write to its own runs and to topics;
               read its own agent log, runs and topics
    operator   everything that a client does
    viewer     read, and nothing else
    admin      what an operator does, and what is for those alone who answer for the deployment: the audit

Specification: docs/protocol.md, section "Permissions".
"""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum

from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.frames import Role
from protocol.ids import LogKind, LogName
from protocol.refusals import AUDIT_TOPIC

__all__ = ["Action", "Scope", "may", "may_make", "may_open", "may_publish", "may_read", "require", "require_read"]


class Scope(StrEnum):
    """The words that a token's `scopes` are made of."""

    AGENT = "agent"
    OPERATOR = "operator"
    VIEWER = "viewer"
    ADMIN = "admin"


class Action(StrEnum):
    """What a peer wants to do."""

    READ = "read"
    """Read logs and runs, list what there is."""
    SUBMIT = "submit"
    """Put a run on a queue."""
    CONTROL = "control"
    """Change a run or an agent from outside."""
    REVOKE = "revoke"
    """Take tokens, agents and keys back."""
    PUBLISH_AGENT = "publish:agent"
    """Append to an agent's log."""
    PUBLISH_RUN = "publish:run"
    """Append to the log of a run or of an artifact of it; whose attempt it is, the store says."""
    PUBLISH_TOPIC = "publish:topic"
    """Append to a topic."""
    AUDIT = "audit"
    """Read what was refused."""

    @classmethod
    def publish_to(cls, kind: LogKind) -> Action:
        """Return the action of appending to a log of this kind."""
        return cls.PUBLISH_RUN if kind is LogKind.ARTIFACT else cls(f"publish:{kind.value}")


_PERMITTED: dict[str, frozenset[Action]] = {
    Scope.AGENT: frozenset({Action.READ, Action.PUBLISH_RUN, Action.PUBLISH_TOPIC}),
    Scope.OPERATOR: frozenset(set(Action) - {Action.PUBLISH_RUN, Action.AUDIT}),
    Scope.ADMIN: frozenset(set(Action) - {Action.PUBLISH_RUN}),
    Scope.VIEWER: frozenset({Action.READ}),
}
_ROLE_SCOPES = {
    Role.AGENT: frozenset({Scope.AGENT}),
    Role.CLIENT: frozenset({Scope.OPERATOR, Scope.VIEWER, Scope.ADMIN}),
}


def may(scopes: Set[str], action: Action) -> bool:
    """Whether these scopes permit this action."""
    return any(action in _PERMITTED[scope] for scope in scopes if scope in _PERMITTED)


def may_open(scopes: Set[str], role: Role) -> bool:
    """Whether these scopes permit a session in this role."""
    return not _ROLE_SCOPES[role].isdisjoint(scopes)


def may_read(scopes: Set[str], agent_id: str | None, log: LogName) -> bool:
    """Whether a peer may read a log; an agent without further scopes reads no other agent's log."""
    if not may(scopes, Action.AUDIT if _is_audit(log) else Action.READ):
        return False
    only_agent = not may_open(scopes, Role.CLIENT)
    return log.kind is not LogKind.AGENT or not only_agent or log.name == agent_id


def may_publish(scopes: Set[str], log: LogName) -> bool:
    """Whether a peer may append to a log; what hubs write for the audit, nobody else does."""
    return may(scopes, Action.publish_to(log.kind)) and not _is_audit(log)


def may_make(scopes: Set[str], log: LogName) -> bool:
    """Whether a log which a peer may follow is made where it is not there yet, so that it can wait for what comes."""
    return may_publish(scopes, log) or _is_audit(log)


def require_read(scopes: Set[str], agent_id: str | None, log: LogName) -> None:
    """Do nothing where a peer may read a log.

    Raises:
        RequestError: `forbidden`, where it may not.
    """
    if not may_read(scopes, agent_id, log):
        raise RequestError(ErrorCode.FORBIDDEN, f"the token does not permit to read {log.path}")


def _is_audit(log: LogName) -> bool:
    return log.kind is LogKind.TOPIC and log.name == AUDIT_TOPIC


def require(scopes: Set[str], action: Action) -> None:
    """Do nothing where these scopes permit this action.

    Raises:
        RequestError: `forbidden`, where they do not.
    """
    if not may(scopes, action):
        raise RequestError(ErrorCode.FORBIDDEN, f"the token's scopes do not permit this ({action.value})")
