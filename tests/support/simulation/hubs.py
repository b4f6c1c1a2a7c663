"""Hubs as machines: the whole of each, but for its listening socket and its files."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from orchestrator.auth.principal import ANY_AGENT, Grant
from orchestrator.auth.tokens import Tokens
from orchestrator.connection import Connection
from orchestrator.core.permissions import Scope
from orchestrator.hub import Hub
from orchestrator.settings import Settings
from orchestrator.store.base import Store
from tests.support.simulation.entropy import EPOCH_MS
from tests.support.simulation.loop import Machine
from tests.support.simulation.net import HubEnd, Network

__all__ = ["TOKENS", "Doorless", "HubMachine", "settings_of", "token_for"]

TOKENS = Tokens(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
"""One key for all simulations: signatures are slow, and nothing here is about them."""

TOKEN_TTL_S = 24 * 3600
_ISSUED: dict[str, str] = {}


def token_for(name: str) -> str:
    """Return a token that permits whatever a test does, to `name`."""
    if name not in _ISSUED:
        grant = Grant(name, "default", frozenset({Scope.OPERATOR, Scope.AGENT}), frozenset({ANY_AGENT}))
        _ISSUED[name] = TOKENS.issue(grant, now_s=EPOCH_MS // 1000 - 5, ttl_s=TOKEN_TTL_S, token_id=f"t-{name}")
    return _ISSUED[name]


def settings_of(lease_ms: int, heartbeat_ms: int) -> Settings:
    """Return the settings of a hub that has no files."""
    return Settings(
        data=Path("nowhere"), lease_ms=lease_ms, heartbeat_ms=heartbeat_ms, recheck_ms=2_000, drain_ms=2_000
    )


class Doorless(Hub):
    """A hub that listens to the simulated network and writes no files."""

    async def _start(self) -> None:
        store = await self._open_store()
        await self._stack.enter_async_context(self._tasks)
        self._build(store, TOKENS)
        await self.services.revocations.load()
        self.url = self.hub_id


class HubMachine:
    """One hub process.

    Attributes:
        hub: set once it has started.
        broken: what ended it, where that was not us.
    """

    def __init__(
        self, machine: Machine, network: Network, settings: Settings, store: Store, on_start: Callable[[str], None]
    ) -> None:
        self.machine = machine
        self.hub: Hub | None = None
        self.broken: BaseException | None = None
        self._network = network
        self._settings = settings
        self._store = store
        self._on_start = on_start
        self._stop = asyncio.Event()
        self.ended = machine.start(self._live(), machine.name)
        self.ended.add_done_callback(self._note)

    async def _live(self) -> None:
        async with Doorless(self._settings, self._store) as hub:
            self.hub = hub
            self._on_start(hub.hub_id)
            self._network.listeners[self.machine.name] = self
            await self._stop.wait()
            self._network.listeners.pop(self.machine.name, None)

    def accept(self, end: HubEnd, token: str | None) -> None:
        """Take a new connection."""
        self.machine.run(self._greet, end, token)  # here it is the peer that runs, with a clock of its own

    def _greet(self, end: HubEnd, token: str | None) -> None:
        assert self.hub is not None
        socket: Any = end
        connection = Connection(self.hub.services, socket, token)
        connection.greet()
        end.accept(connection)

    def stop(self) -> None:
        """Drain, as SIGTERM asks for."""
        self._network.listeners.pop(self.machine.name, None)
        self.machine.run(self._stop.set)

    def _note(self, task: asyncio.Task[None]) -> None:
        if self.machine.alive and not task.cancelled():
            self.broken = task.exception()
            self._network.listeners.pop(self.machine.name, None)
