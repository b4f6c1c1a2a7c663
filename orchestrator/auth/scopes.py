"""What the scopes of a token permit. The one place that says so.

    agent      identify as one of the agents that the token names; write to its own runs and to topics;
               read its own agent log, runs and topics
    operator   everything that a client does
    viewer     read, and nothing else

Specification: docs/protocol.md, section "Permissions".
"""

from __future__ import annotations

from collections.abc import Set
from enum import StrEnum

from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.frames import Role
from protocol.ids import LogKind, LogName

__all__ = ["Action", "Scope", "may", "may_follow", "may_open", "require"]


class Scope(StrEnum):
    """The words that a token's `scopes` are made of."""

    AGENT = "agent"
    OPERATOR = "operator"
    VIEWER = "viewer"


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

    @classmethod
    def publish_to(cls, kind: LogKind) -> Action:
        """Return the action of appending to a log of this kind."""
        return cls.PUBLISH_RUN if kind is LogKind.ARTIFACT else cls(f"publish:{kind.value}")


_PERMITTED: dict[str, frozenset[Action]] = {
    Scope.AGENT: frozenset({Action.READ, Action.PUBLISH_RUN, Action.PUBLISH_TOPIC}),
    Scope.OPERATOR: frozenset(set(Action) - {Action.PUBLISH_RUN}),
    Scope.VIEWER: frozenset({Action.READ}),
}
_ROLE_SCOPES = {
    Role.AGENT: frozenset({Scope.AGENT}),
    Role.CLIENT: frozenset({Scope.OPERATOR, Scope.VIEWER}),
}


def may(scopes: Set[str], action: Action) -> bool:
    """Whether these scopes permit this action."""
    return any(action in _PERMITTED[scope] for scope in scopes if scope in _PERMITTED)


def may_open(scopes: Set[str], role: Role) -> bool:
    """Whether these scopes permit a session in this role."""
    return not _ROLE_SCOPES[role].isdisjoint(scopes)


def may_follow(scopes: Set[str], agent_id: str | None, log: LogName) -> bool:
    """Whether a peer may follow a log; an agent without further scopes follows no other agent's log."""
    if not may(scopes, Action.READ):
        return False
    only_agent = not may_open(scopes, Role.CLIENT)
    return log.kind is not LogKind.AGENT or not only_agent or log.name == agent_id


def require(scopes: Set[str], action: Action) -> None:
    """Do nothing where these scopes permit this action.

    Raises:
        RequestError: `forbidden`, where they do not.
    """
    if not may(scopes, action):
        raise RequestError(ErrorCode.FORBIDDEN, f"the token's scopes do not permit this ({action.value})")
