"""Who is there: agents as they last announced themselves, and the hubs that are live.

Presence is a hint for people and for sharing out work; nothing is decided by it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Set

import structlog

from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store import keys
from orchestrator.store.base import StoreError
from protocol.requests import AgentInfo

__all__ = ["Registry"]

HUB_TTL_MS = 10_000
PERIOD_S = 3.0
HUBS_MAX = 1_000

log_ = structlog.get_logger()


class Registry:
    """What one hub writes to, and reads from, the registry.

    Args:
        line: for the store, its clock and this hub's id.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._pending: dict[str, str] = {}
        self._loads: dict[str, Peer] = {}
        self._writing = asyncio.Lock()
        self._woken = asyncio.Event()
        self._hubs = frozenset({line.hub_id})

    def connected(self, peer: Peer) -> None:
        """Note that a session of an agent opened on this hub."""
        peer.since_ms = self._line.now_ms()
        self._note(peer, connected=True)

    def disconnected(self, peer: Peer) -> None:
        """Note that an agent's session ended."""
        self._note(peer, connected=False)

    def loaded(self, peer: Peer) -> None:
        """Note that an agent's load has changed; it is shown with the next period."""
        self._loads[_field(peer)] = peer

    def live_hubs(self) -> frozenset[str]:
        """Return the ids of the hubs that are live, this one among them."""
        return self._hubs

    async def agents(self, namespace: str) -> list[AgentInfo]:
        """Return every agent of a namespace that was ever seen, by name."""
        await self._flush()
        known, live = await asyncio.gather(self._line.store.hash_all(keys.AGENTS), self._live())
        mine = sorted(field for field in known if field.startswith(f"{namespace}/"))
        return [_read(known[field], live) for field in mine]

    async def agent(self, namespace: str, agent_id: str) -> AgentInfo | None:
        """Return what is known of one agent."""
        await self._flush()
        (value,), live = await asyncio.gather(
            self._line.store.hash_get(keys.AGENTS, f"{namespace}/{agent_id}"), self._live()
        )
        return _read(value, live) if value else None

    async def run(self) -> None:
        """Keep the registry up to date until cancelled: what was noted at once, this hub's own life every period.

        Where the store does not answer, what was noted waits for the next period. `leave` takes the hub out.
        """
        while True:
            try:
                await self._beat()
                await self._note_loads()
                await self._flush()
            except StoreError as fault:
                log_.warning("registry_behind", reason=str(fault))
                self._woken.clear()  # what waits goes with the next beat: to try at once would go on for ever
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):  # before Python 3.12, `wait_for` can lose a cancellation
                    await self._woken.wait()

    async def leave(self) -> None:
        """Say that this hub is gone."""
        await self._flush()
        await self._line.store.sorted_put(keys.HUBS, self._line.hub_id, None)

    def _note(self, peer: Peer, *, connected: bool) -> None:
        since_ms = peer.since_ms if connected else self._line.now_ms()
        self._pending[_field(peer)] = self._info(peer, connected, since_ms).model_dump_json()
        self._woken.set()

    def _info(self, peer: Peer, connected: bool, since_ms: int) -> AgentInfo:
        return AgentInfo(
            agent=peer.id,
            connected=connected,
            hub=self._line.hub_id,
            instance=peer.instance,
            session=peer.session,
            since_ms=since_ms,
            labels=dict(peer.labels),
            queues=peer.queues,
            handlers=tuple(peer.handlers.values()),
            slots=peer.slots,
            load=peer.load if connected else None,
        )

    async def _note_loads(self) -> None:
        """Show the loads that changed, of the sessions that are still what is shown of their agents."""
        changed = dict(self._loads)
        if not changed:
            return
        async with self._writing:  # what is being written is not yet what is read
            known = await self._line.store.hash_get(keys.AGENTS, *changed)
            for (field, peer), value in zip(changed.items(), known, strict=True):
                if self._loads.get(field) is peer:
                    del self._loads[field]
                shown = AgentInfo.model_validate_json(value, strict=False) if value else None
                if shown and shown.connected and shown.session == peer.session and field not in self._pending:
                    self._pending[field] = self._info(peer, True, peer.since_ms).model_dump_json()

    async def _flush(self) -> None:
        """Write what was noted; where that fails, or is given up, it waits behind what was noted since."""
        self._woken.clear()
        async with self._writing:
            pending, self._pending = self._pending, {}
            if not pending:
                return
            try:
                await self._line.store.hash_put(keys.AGENTS, pending)
            except BaseException:
                self._pending = {**pending, **self._pending}
                raise

    async def _live(self) -> Set[str]:
        """Return the hubs that are live by what the store says now."""
        store = self._line.store
        now_ms, hubs = await asyncio.gather(store.now_ms(), store.sorted_range(keys.HUBS, HUBS_MAX))
        return {self._line.hub_id, *(hub for hub, until_ms in hubs if until_ms >= now_ms)}

    async def _beat(self) -> None:
        """Say that this hub is live, and see who else is."""
        store, now_ms = self._line.store, await self._line.store.now_ms()
        await store.sorted_put(keys.HUBS, self._line.hub_id, now_ms + HUB_TTL_MS)
        live: set[str] = {self._line.hub_id}
        for hub, until_ms in await store.sorted_range(keys.HUBS, HUBS_MAX):
            if until_ms >= now_ms:
                live.add(hub)
            else:
                await store.sorted_put(keys.HUBS, hub, None)
        self._hubs = frozenset(live)


def _field(peer: Peer) -> str:
    return f"{peer.namespace}/{peer.id}"


def _read(value: bytes, live: Set[str]) -> AgentInfo:
    """Read what is known of an agent. A hub that was killed could not write down that its agents went with it."""
    info = AgentInfo.model_validate_json(value, strict=False)
    return info if info.hub in live or not info.connected else info.model_copy(update={"connected": False})
