"""Agents and clients: the far side of the wire.

    from agent import Agent, RunContext          write a worker
    from agent import Client, SyncClient         submit runs, watch them, read and write logs

What is named here is loaded when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.children import Child, PlainChild
    from agent.client import Client
    from agent.context import RunContext
    from agent.entry import Entry
    from agent.errors import (
        Cancelled,
        ExpectFailed,
        FleetlineError,
        HistoryReset,
        HubNotFound,
        HubUnreachable,
        LinkClosed,
        LinkEnded,
        NonDeterminism,
        NotAuthenticated,
        NotPermitted,
        OutboxBusy,
        OutboxFailed,
        ProducerFenced,
        PublisherLost,
        PublishRefused,
        RequestError,
        Reset,
        RunCancelled,
        RunDead,
        RunEnded,
        RunExpired,
        RunFailed,
        SessionSuperseded,
        SubscriptionRefused,
        Unanswered,
    )
    from agent.operations import EffectKey
    from agent.plain_context import PlainRunContext
    from agent.runs import Run
    from agent.steering import PlainSteerMessage, SteerMessage
    from agent.sync_client import SyncClient
    from agent.willing import Offer
    from agent.worker import Agent

__all__ = [
    "Agent",
    "Cancelled",
    "Child",
    "Client",
    "EffectKey",
    "Entry",
    "ExpectFailed",
    "FleetlineError",
    "HistoryReset",
    "HubNotFound",
    "HubUnreachable",
    "LinkClosed",
    "LinkEnded",
    "NonDeterminism",
    "NotAuthenticated",
    "NotPermitted",
    "Offer",
    "OutboxBusy",
    "OutboxFailed",
    "PlainChild",
    "PlainRunContext",
    "PlainSteerMessage",
    "ProducerFenced",
    "PublishRefused",
    "PublisherLost",
    "RequestError",
    "Reset",
    "Run",
    "RunCancelled",
    "RunContext",
    "RunDead",
    "RunEnded",
    "RunExpired",
    "RunFailed",
    "SessionSuperseded",
    "SteerMessage",
    "SubscriptionRefused",
    "SyncClient",
    "Unanswered",
]

_MODULES = {
    "Agent": "agent.worker",
    "Child": "agent.children",
    "Client": "agent.client",
    "EffectKey": "agent.operations",
    "Entry": "agent.entry",
    "Offer": "agent.willing",
    "PlainChild": "agent.children",
    "PlainRunContext": "agent.plain_context",
    "PlainSteerMessage": "agent.steering",
    "Run": "agent.runs",
    "RunContext": "agent.context",
    "SteerMessage": "agent.steering",
    "SyncClient": "agent.sync_client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'agent' has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "agent.errors")), name)


def __dir__() -> list[str]:
    return __all__
