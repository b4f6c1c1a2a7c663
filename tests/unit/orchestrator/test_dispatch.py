"""Claims: what was listed may not be there to be claimed any more."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.claiming import Claiming, Tried
from orchestrator.core import runs
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import bucket_of, newborn
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.newborn import Known
from orchestrator.parking import Parking
from orchestrator.peers import Peers
from orchestrator.store import keys
from orchestrator.store.base import Page
from orchestrator.store.commits import Append, Commit, Outcome
from orchestrator.store.memory import MemoryServer
from protocol.codec import pack_record
from protocol.frames import Assign, Part
from protocol.ids import LogKind, LogName, make_run_id, partition_of, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, meta_of

TURNS = 100
BUCKET = bucket_of(0, "client:c", "h", "")


def run_log(key: str) -> LogName:
    return LogName("default", LogKind.RUN, make_run_id(queue_partition("default", "q"), NOW_MS, key.encode().rjust(8)))


async def submitted(line: Line, store_ms: int, **terms: int | str) -> LogName:
    key = str(terms.get("key", "k"))
    log = run_log(key)
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
    tried = await Claiming(line, Parking(line), 1_000).claim(log, peer, BUCKET, Terms())
    assert tried is (Tried.MISSED if state is RunState.QUEUED else Tried.MOVED)
    meta = await meta_of(line, log)
    assert (meta.state, meta.attempt) == (state, 0)


@pytest.mark.parametrize("fields", [{"state": b"asleep"}, {"attempt": b"one"}, {"queue": None}])
async def test_a_run_that_cannot_be_read_is_passed_over_and_holds_no_slot(fields: dict[str, bytes | None]) -> None:
    server = MemoryServer(lambda: NOW_MS)
    line = await line_to(server)
    log = await submitted(line, NOW_MS)
    for name, value in fields.items():
        server.data.hashes[keys.meta(log)].pop(name)
        if value is not None:
            server.data.hashes[keys.meta(log)][name] = value
    peer = agent_peer(lambda _: None)
    assert await Claiming(line, Parking(line), 1_000).claim(log, peer, BUCKET, Terms()) is Tried.MISSED
    assert not peer.held


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


def known(key: str) -> Known:
    """Return a run as the hub has it that has just submitted it."""
    asked = RunSubmit(queue="q", handler="h", input=b"", key=key)
    return Known(newborn(run_log(key), runs.submitted(asked, NOW_MS), "client:c"), asked.input)


async def claimed_after(line: Line, *, at_hand: bool) -> tuple[Assign, int]:
    """Submit a run and have it claimed. Returns the assignment, and how often the store was read for it."""
    key, sent, reads = "k", list[Part](), 0
    store, meta, read = line.store, line.store.meta, line.store.read

    async def counted_meta(log: LogName) -> dict[str, str] | None:
        nonlocal reads
        reads += 1
        return await meta(log)

    async def counted_read(log: LogName, after: int, limit: int, bytes_max: int = 1 << 20) -> Page | None:
        nonlocal reads
        reads += 1
        return await read(log, after, limit, bytes_max)

    store.meta, store.read = counted_meta, counted_read  # type: ignore[method-assign]
    log = await submitted(line, NOW_MS, key=key)
    claiming = Claiming(line, Parking(line), 1_000)
    if at_hand:
        claiming.newborn.keep(known(key))
    assert await claiming.claim(log, agent_peer(sent.append), BUCKET, Terms()) is Tried.CLAIMED
    [assign] = sent
    assert isinstance(assign, Assign)
    return assign, reads


async def test_a_run_that_was_just_submitted_here_is_claimed_without_asking_the_store_for_it() -> None:
    first, reads = await claimed_after(await line_to(MemoryServer(lambda: NOW_MS)), at_hand=True)
    assert reads == 0
    second, reads = await claimed_after(await line_to(MemoryServer(lambda: NOW_MS)), at_hand=False)
    assert reads == 2
    assert first.position.offset == second.position.offset == 2
    alike = {"run": second.run, "fence": second.fence, "position": second.position}
    assert first.model_copy(update=alike) == second


async def test_a_run_that_changed_elsewhere_since_it_was_submitted_here_is_not_claimed_as_it_was() -> None:
    server = MemoryServer(lambda: NOW_MS)
    line, other = await line_to(server), await line_to(server, "hub-2")
    log = await submitted(line, NOW_MS)
    note = Append(log, (pack_record("$steer", "client:c", b""),), "")
    assert isinstance(await other.commit(Commit("hub-2.1", partition_of(log), appends=(note,))), Outcome)
    claiming, sent = Claiming(line, Parking(line), 1_000), list[Part]()
    claiming.newborn.keep(known("k"))
    assert await claiming.claim(log, agent_peer(sent.append), BUCKET, Terms()) is Tried.CLAIMED
    [assign] = sent
    assert isinstance(assign, Assign)
    assert assign.position.offset == 3
