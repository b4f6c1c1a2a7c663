"""Parts of a hub on a store in memory, for tests that need a few of them and no socket."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from orchestrator.audit import Audit
from orchestrator.core import attempts, runs
from orchestrator.core.queues import Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.making import Making
from orchestrator.peers import Held, Peer
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from protocol.frames import HandlerSpec, Role
from protocol.frames import Part as FramePart
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import RunSubmit
from tests.support.permits import agent_permit

__all__ = ["NOW_MS", "agent_peer", "line_to", "making_for", "meta_of", "settled", "start_run"]

NOW_MS = 1_000_000
TURNS_MAX = 200
"""Turns of the event loop after which what has not happened does not happen."""


async def line_to(server: MemoryServer, hub_id: str = "hub-1") -> Line:
    """Return a line to a store in memory; what its tails would run beside everything else is not run."""
    store = MemoryStore(server, hub_id)
    await store.open()
    return Line(store, Tails(store, lambda work: work.close(), 1), hub_id, "local", Counters())


def making_for(line: Line, limits: Limits = DEFAULT_LIMITS) -> Making:
    """Return what sees to it that principals make no more than these limits say."""
    return Making(line, limits, Audit(line, Counters()))


def agent_peer(
    send: Callable[[FramePart], None], *, session: str = "s1", instance: str = "i1", fence: int = 1, slots: int = 1
) -> Peer:
    """Return an open session of agent `a`, which serves queue `q` with handler `h`."""
    handlers = {"h": HandlerSpec(name="h")}
    permit = agent_permit()
    peer = Peer("default", "agent:a", Role.AGENT, "a", instance, session, fence, permit, send, {}, ("q",), handlers)
    peer.slots = slots
    return peer


async def start_run(line: Line, peer: Peer, number: int = 1) -> tuple[RunMeta, Held]:
    """Submit a run and claim it for an agent; the agent is not told."""
    run_id = make_run_id(queue_partition("default", "q"), NOW_MS, number.to_bytes(8, "big"))
    log = LogName("default", LogKind.RUN, run_id)
    asked = RunSubmit(queue="q", handler="h", input=b"", key=f"k{number}")
    assert isinstance(
        await line.commit(runs.submit(runs.Ids(line.new_commit_id(), "client:c", "e"), log, asked, NOW_MS)), Outcome
    )
    ids = runs.Ids(line.new_commit_id(), line.src)
    meta, spec = await meta_of(line, log), peer.handlers["h"]
    commit, run = attempts.claim(ids, meta, peer.holder, spec, Terms(), store_ms=NOW_MS, lease_ms=1_000)
    assert isinstance(await line.commit(commit), Outcome)
    return run, Held(run.attempt, run.fence, run.queue)


async def meta_of(line: Line, log: LogName) -> RunMeta:
    """Return what the store says of a run."""
    fields = await line.store.meta(log)
    assert fields is not None
    return RunMeta.parse(log, fields)


async def settled(done: Callable[[], bool]) -> None:
    """Let the event loop turn until something is so."""
    for _ in range(TURNS_MAX):
        if done():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to be so")
