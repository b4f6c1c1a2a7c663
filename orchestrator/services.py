"""What the connections of one hub share."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.acks import Acks
from orchestrator.artifacts import Artifacts
from orchestrator.audit import Audit
from orchestrator.auth.binding import Binding
from orchestrator.auth.enrolment import Enrolment
from orchestrator.auth.revocation import Revocations
from orchestrator.auth.tokens import Tokens
from orchestrator.core.crowd import Tally
from orchestrator.core.rates import Meters
from orchestrator.greeting import Greeting
from orchestrator.line import Line
from orchestrator.making import Making
from orchestrator.methods import Methods
from orchestrator.peers import Peers
from orchestrator.querying import Querying
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.settings import Settings
from orchestrator.telemetry import Counters
from orchestrator.waiting import Waiting
from orchestrator.work import Work

if TYPE_CHECKING:
    from orchestrator.connection import Connection

__all__ = ["Services"]


@dataclass(slots=True)
class Services:
    """The parts of a hub, as its connections use them.

    Attributes:
        spawn: runs a coroutine beside everything else; the hub owns the task.
        connections: all that are open; `agents` those of agents, by session.
        sessions: how many there are with tokens of each name; `meters` how much those have sent.
        unidentified: how many of them have no session yet.
        draining: the hub is stopping.
    """

    settings: Settings
    line: Line
    greeting: Greeting
    tokens: Tokens
    enrolment: Enrolment
    binding: Binding
    peers: Peers
    registry: Registry
    work: Work
    artifacts: Artifacts
    reading: Reading
    methods: Methods
    querying: Querying
    waiting: Waiting
    acks: Acks
    revocations: Revocations
    making: Making
    audit: Audit
    counters: Counters
    spawn: Callable[[Coroutine[Any, Any, None]], object]
    sessions: Tally = field(init=False)
    meters: Meters = field(init=False)
    connections: set[Connection] = field(default_factory=set)
    agents: dict[str, Connection] = field(default_factory=dict)
    unidentified: int = 0
    draining: bool = False

    def __post_init__(self) -> None:
        self.sessions = Tally(self.settings.limits.sessions_per_principal_max)
        self.meters = Meters(self.settings.limits)
