"""Claims: what was listed may not be there to be claimed any more."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core import runs
from orchestrator.core.queues import Queue, Terms
from orchestrator.dispatch import Dispatch, Tried
from orchestrator.line import Line
from orchestrator.peers import Peers
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, meta_of

TURNS = 100


async def submitted(line: Line, store_ms: int, **terms: int | str) -> LogName:
    key = str(terms.get("key", "k"))
    log = LogName("default", LogKind.RUN, make_run_id(queue_partition("default", "q"), NOW_MS, key.encode().rjust(8)))
    asked = RunSubmit.model_validate({"queue": "q", "handler": "h", "input": b"", "key": key, **terms})
    commit = runs.submit(runs.Ids(line.new_commit_id(), "client:c", "e"), log, asked, store_ms)
    assert isinstance(await line.commit(commit), Outcome)
    return log


@pytest.mark.parametrize(
    ("store_ms", "terms", "state"),
    [(NOW_MS, {"delay_ms": 60_000}, RunState.QUEUED), (1, {"deadline_ms": 1}, RunState.EXPIRED)],
)
async def test_a_run_whose_time_has_not_come_or_has_passed_is_not_claimed(
    store_ms: int, terms: dict[str, int], state: RunState
) -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    log = await submitted(line, store_ms, **terms)
    peer = agent_peer(lambda _: None)
    tried = await Dispatch(line, Peers(1_000), 1_000)._try_claim(log, peer, "h", Terms())
    assert tried is (Tried.MISSED if state is RunState.QUEUED else Tried.MOVED)
    meta = await meta_of(line, log)
    assert (meta.state, meta.attempt) == (state, 0)


@pytest.mark.parametrize("turns", range(4))
async def test_it_stops_when_it_is_told_to_just_as_a_queue_may_have_work(turns: int) -> None:
    dispatch = Dispatch(await line_to(MemoryServer(lambda: NOW_MS)), Peers(1_000), 1_000)
    running = asyncio.create_task(dispatch.run())
    for _ in range(TURNS):
        await asyncio.sleep(0)
    dispatch.hint("queue:default/q")
    for _ in range(turns):
        await asyncio.sleep(0)
    running.cancel()
    for _ in range(TURNS):
        await asyncio.sleep(0)
    stopped = running.done()
    running.cancel()
    assert stopped


@pytest.mark.parametrize(
    ("other", "left"), [(None, False), ({"key": "k2"}, True), ({"key": "k2", "handler": "x"}, True)]
)
async def test_where_nothing_is_left_to_wait_a_slot_that_becomes_free_costs_no_look(
    other: dict[str, str] | None, left: bool
) -> None:
    line, peers, queue = await line_to(MemoryServer(lambda: NOW_MS)), Peers(1_000), Queue("default", "q")
    peer, dispatch = agent_peer(lambda _: None, slots=1 if left else 2), Dispatch(line, peers, 1_000)
    peers.add(peer)
    await submitted(line, NOW_MS)
    if other is not None:
        await submitted(line, NOW_MS, **other)
    assert not await dispatch._round(queue)
    assert len(peer.held) == 1
    peer.held.clear()
    dispatch.offer(peer)
    dispatch.freed(queue)
    assert (queue in dispatch._dirty) is left
    dispatch.look(queue)
    assert queue in dispatch._dirty
