"""Who somebody is, as a token or the record of a key says it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.patterns import ANYTHING, Patterns

__all__ = ["ANY_AGENT", "NEVER_S", "USES_MAX", "Grant", "Join", "Principal"]

ANY_AGENT = "*"
"""Stands for all ids of agents."""

NEVER_S = 2**40
"""When a principal ends that has no end, in seconds since the epoch of Unix."""

USES_MAX = 10_000
"""For how many keys a join token can be good."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token is to permit.

    Attributes:
        name: who it is for.
        namespace: what it is for.
        scopes: see `orchestrator.core.permissions`.
        agents: ids of agents, or `ANY_AGENT` among them.
        uses: of a join token, for how many keys it is good; 0 for any other. What it permits then belongs to those
            who enrol with it, and `agents` may hold patterns: ids that end in `*`.
        may: the names that it is good for.
    """

    name: str
    namespace: str
    scopes: frozenset[str]
    agents: frozenset[str] = frozenset()
    uses: int = 0
    may: Patterns = ANYTHING


@dataclass(frozen=True, slots=True)
class Join:
    """What a join token is for: what whoever enrols with it may do, and for how many keys it is good.

    Attributes:
        scopes: what the holder of the key may do from then on.
        agents: ids of agents, or how they begin and a `*`.
        uses: for how many keys.
        may: the names that the holder of the key does it with.
    """

    scopes: frozenset[str]
    agents: frozenset[str]
    uses: int
    may: Patterns = ANYTHING

    def fits(self, agent_id: str) -> bool:
        """Whether it is for this agent."""
        return any(
            agent_id.startswith(each[:-1]) if each.endswith(ANY_AGENT) else agent_id == each for each in self.agents
        )


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified token says that somebody is.

    Attributes:
        name: `sub`.
        namespace: `ns`.
        scopes: what it permits.
        agents: ids of agents that it may identify as; `ANY_AGENT` stands for all.
        expires_s: when it ends, in seconds since the epoch of Unix.
        id: `jti`, or the fingerprint of the key that it holds.
        issued_s: `iat`.
        join: set where the token is a join token, which permits nothing else.
        signer: the id of the key that signed it; none where it is no token that lets it in.
        may: the names that it is good for.
    """

    name: str
    namespace: str
    scopes: frozenset[str]
    agents: frozenset[str]
    expires_s: int
    id: str
    issued_s: int = 0
    join: Join | None = None
    signer: str = ""
    may: Patterns = ANYTHING

    def may_be(self, agent_id: str) -> bool:
        """Whether it may identify as this agent."""
        return ANY_AGENT in self.agents or agent_id in self.agents
