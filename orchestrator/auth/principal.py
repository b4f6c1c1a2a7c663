"""Who somebody is, as a token says it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ANY_AGENT", "Grant", "Principal"]

ANY_AGENT = "*"
"""Stands for all ids of agents."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is to permit.

    Attributes:
        name: who it is for.
        namespace: what it is for.
        scopes: see `orchestrator.auth.scopes`.
        agents: ids of agents, or `ANY_AGENT` among them.
    """

    name: str
    namespace: str
    scopes: frozenset[str]
    agents: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token says that somebody is.

    Attributes:
        name: `sub`.
        namespace: `ns`.
        scopes: what it permits.
        agents: ids of agents that it may identify as; `ANY_AGENT` stands for all.
        expires_s: when it ends, in seconds since the epoch of Unix.
        id: `jti`.
        issued_s: `iat`.
    """

    name: str
    namespace: str
    scopes: frozenset[str]
    agents: frozenset[str]
    expires_s: int
    id: str
    issued_s: int = 0

    def may_be(self, agent_id: str) -> bool:
        """Whether it may identify as this agent."""
        return ANY_AGENT in self.agents or agent_id in self.agents
