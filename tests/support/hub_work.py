"""Runs on queue `q` and agent `a1` that works on them, for tests of the hub over real sockets."""

from __future__ import annotations

from orchestrator.connection import Connection
from protocol.frames import Assign, AttemptClaim, HandlerSpec, HeldAttempt, Identify, Publish, Role
from protocol.ids import LogKind, LogName
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_world import World

__all__ = ["AGENT_LOG", "agent", "connection_of", "held", "state", "submit", "work_of"]

AGENT_LOG = LogName("default", LogKind.AGENT, "a1")


def agent(name: str = "a1", *, slots: int = 1, queue: str = "q", claims: tuple[AttemptClaim, ...] = ()) -> Identify:
    """Return what an agent says first; it is the same process each time."""
    handlers = (HandlerSpec(name="h"),)
    return identify(name, Role.AGENT, "inst", queues=(queue,), slots=slots, handlers=handlers, attempts=claims)


async def submit(client: HubPeer, key: str = "k") -> LogName:
    """Submit a run, and return its log."""
    run = (await client.result("run.submit", queue="q", handler="h", input=b"", key=key))["run"]
    return LogName("default", LogKind.RUN, run)


async def state(client: HubPeer, log: LogName) -> str:
    """Return what the hub says of a run."""
    return str((await client.result("run.get", run=log.name))["state"])


def work_of(given: Assign, seq: int, kind: str = "x", body: bytes = b"", *, index: int | None = None) -> Publish:
    """Return one entry of an attempt."""
    producer, entries = f"attempt/{given.attempt}", ((kind, body, index, None),)
    return Publish(log=f"run/{given.run}", producer=producer, seq=seq, fence=given.fence, entries=entries)


def held(given: Assign, *, numbered: bool = True) -> HeldAttempt:
    """Return an attempt as a heartbeat lists it."""
    return HeldAttempt(run=given.run, fence=given.fence, attempt=given.attempt if numbered else None)


def connection_of(world: World, peer_id: str) -> Connection | None:
    """Return the hub's end of a peer's connection."""
    found = [link for link in world.hub.services.connections if link.peer and link.peer.id == peer_id]
    return found[0] if found else None
