"""The methods of `request` that are about agents: what each takes and answers. The table is in `protocol.requests`.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from protocol.frames import HandlerSpec, Name, Part, Span, UInt

__all__ = [
    "LIST_MAX",
    "AgentChange",
    "AgentDrain",
    "AgentGet",
    "AgentInfo",
    "AgentList",
    "AgentListed",
    "AgentSend",
    "AgentStanding",
]

LIST_MAX = 1000
"""What one answer lists, at most."""


class AgentList(Part):
    """`agent.list`: the agents that were ever seen, by name: the first ones after the name `after`, up to `limit`."""

    limit: Annotated[int, Field(ge=1, le=LIST_MAX)] = LIST_MAX
    after: Name | None = None


class AgentGet(Part):
    """`agent.get`: one agent. Errors: `not_found`."""

    agent: Name


class AgentInfo(Part):
    """An agent as it last announced itself; `connected` says whether a session is open."""

    agent: Name
    connected: bool
    hub: str
    instance: str
    session: str
    since_ms: UInt
    labels: dict[str, str] = {}
    queues: tuple[str, ...] = ()
    handlers: tuple[HandlerSpec, ...] = ()
    slots: UInt = 0
    runs: tuple[str, ...] = ()
    cordoned: bool = False
    draining: bool = False
    load: Annotated[float, Field(ge=0, le=1)] | None = None


class AgentListed(Part):
    """Agents by name."""

    agents: tuple[AgentInfo, ...]


class AgentSend(Part):
    """`agent.send`: put a message into an agent's log; it is given it when it is connected."""

    agent: Name
    kind: Name
    body: bytes = b""


class AgentChange(Part):
    """`agent.cordon`, `agent.uncordon`: whether an agent is given work. Errors: `not_found`."""

    agent: Name


class AgentDrain(Part):
    """`agent.drain`: let the agent's process finish what it works on, within `grace_ms` if given, and end.

    Errors: `not_found`.
    """

    agent: Name
    grace_ms: Span | None = None


class AgentStanding(Part):
    """What is said of an agent now: given no work (`cordoned`), or its process told to finish (`draining`)."""

    cordoned: bool
    draining: bool
