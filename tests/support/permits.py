"""What sessions of tests may do, where no test is about that."""

from __future__ import annotations

from orchestrator.core.permissions import Permit
from protocol.frames import Role

__all__ = ["agent_permit", "client_permit"]


def agent_permit(agent: str = "a") -> Permit:
    """Return what an agent may do."""
    return Permit({"agent"}, role=Role.AGENT, agent=agent)


def client_permit(*scopes: str) -> Permit:
    """Return what a client may do, an operator unless it is said."""
    return Permit(frozenset(scopes or ("operator",)))
