"""Runs that an agent takes as they are submitted."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.core.queues import Queue, set_terms
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.peers import Peers
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.store.memory import Fault, MemoryServer, MemoryStore
from orchestrator.store.memory_data import Data
from orchestrator.submitting import submit
from protocol.frames import Assign, Part
from protocol.ids import LogKind, LogName
from protocol.requests import QueueSet, Rate, RunSubmit
from protocol.run import RunState
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, meta_of

QUEUE = Queue("default", "q")
ASKED = RunSubmit(queue="q", handler="h", input=b"\x01", key="k")


class Fleet:
    """A hub with an agent that has looked at an idle queue, and counts its commits."""

    def __init__(self, server: MemoryServer, line: Line) -> None:
        self.server, self.line, self.sent = server, line, list[Part]()
        self.peer = agent_peer(self.sent.append)
        peers = Peers(1_000)
        peers.add(self.peer)
        self.dispatch = Dispatch(line, peers, 1_000)
        self.commits: list[Commit] = []

    @property
    def store(self) -> MemoryStore:
        assert isinstance(self.line.store, MemoryStore)
        return self.line.store

    async def look(self) -> None:
        self.dispatch._dirty.clear()
        while await self.dispatch._round(QUEUE):
            pass

    async def submit(self, asked: RunSubmit = ASKED) -> tuple[LogName, Outcome | Refused]:
        run, result = await submit(self.line, self.dispatch, "default", "client:c", asked)
        return LogName("default", LogKind.RUN, run), result

    async def state(self, log: LogName) -> tuple[RunState, int]:
        meta = await meta_of(self.line, log)
        return meta.state, meta.attempt

    @property
    def assigned(self) -> list[str]:
        return [frame.run for frame in self.sent if isinstance(frame, Assign)]


async def fleet_of(*, idle: bool = True) -> Fleet:
    server = MemoryServer(lambda: NOW_MS)
    fleet = Fleet(server, await line_to(server))
    await fleet.line.commit(Commit("clock", QUEUE.partition))
    if idle:
        await fleet.look()
    real = fleet.store.commit

    async def counted(commit: Commit) -> Outcome | Refused:
        fleet.commits.append(commit)
        return await real(commit)

    fleet.store.commit = counted  # type: ignore[method-assign]
    return fleet


def without_names(data: Data, log: LogName) -> str:
    """Return everything that a store holds, with what is new each time taken out."""
    [epoch] = {str(fields["epoch"], "ascii") for fields in data.hashes.values() if "epoch" in fields}
    streams = {key: [stored.entry for stored in each] for key, each in data.streams.items()}
    hashes = {
        key: {name: each[name] for name in sorted(each) if name not in NEW_EACH_TIME}
        for key, each in sorted(data.hashes.items())
    }
    everything = repr((streams, hashes, sorted(data.sorted_sets.items()), sorted(data.sets.items())))
    return everything.replace(log.name, "RUN").replace(epoch, "EPOCH")


NEW_EACH_TIME = frozenset({"tag", "commit"})


@pytest.mark.parametrize(
    "asked",
    [
        ASKED,
        ASKED.model_copy(update={"priority": 3, "retries": 2, "concurrency_key": "site", "timeout_ms": 5_000}),
        ASKED.model_copy(update={"deadline_ms": 60_000, "keep_ms": 1_000, "backoff_ms": 7}),
    ],
)
async def test_one_commit_leaves_what_a_submit_and_then_a_claim_leave(
    asked: RunSubmit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.line.monotonic_ms", lambda: NOW_MS)
    at_once, in_two = await fleet_of(), await fleet_of(idle=False)
    log, _ = await at_once.submit(asked)
    other, _ = await in_two.submit(asked)
    await in_two.look()
    assert (len(at_once.commits), len(in_two.commits)) == (1, 2)
    assert without_names(at_once.server.data, log) == without_names(in_two.server.data, other)
    [first], [second] = at_once.sent, in_two.sent
    assert isinstance(first, Assign)
    assert isinstance(second, Assign)
    alike = {"run": second.run, "position": second.position}
    assert first.model_copy(update=alike) == second
    assert (first.run, first.position.offset) == (log.name, 2)
    assert at_once.peer.held[log.name] == in_two.peer.held[other.name]
    page = await at_once.store.read(log, 0, 9)
    assert page is not None
    assert first.position == page.after


async def test_without_a_free_slot_or_with_somebody_waiting_a_run_takes_its_turn() -> None:
    fleet = await fleet_of()
    first, _ = await fleet.submit()
    second, _ = await fleet.submit(ASKED.model_copy(update={"key": "k2"}))
    assert (await fleet.state(first), await fleet.state(second)) == ((RunState.RUNNING, 1), (RunState.QUEUED, 0))
    fleet.peer.held.clear()
    third, _ = await fleet.submit(ASKED.model_copy(update={"key": "k3"}))
    assert await fleet.state(third) == (RunState.QUEUED, 0)
    await fleet.look()
    assert (fleet.assigned[0], len(fleet.assigned)) == (first.name, 2)


@pytest.mark.parametrize(
    "asked", [{"delay_ms": 1_000}, {"where": "gpu = yes"}, {"handler": "other"}, {"input": b"x" * 20_000}]
)
async def test_what_no_agent_takes_at_once_waits(asked: dict[str, object]) -> None:
    fleet = await fleet_of()
    log, _ = await fleet.submit(ASKED.model_copy(update=asked))
    large = "input" in asked
    assert await fleet.state(log) == ((RunState.RUNNING, 1) if large else (RunState.QUEUED, 0))
    assert bool(fleet.peer.held) is large
    at_hand = fleet.dispatch.claiming.newborn.take(log)
    if large or "delay_ms" in asked:
        assert at_hand is None  # it is taken, or its time comes without an entry
    else:
        assert at_hand == (await meta_of(fleet.line, log), ASKED.input)


async def test_a_key_that_is_taken_gives_nobody_anything() -> None:
    fleet = await fleet_of()
    log, _ = await fleet.submit()
    fleet.peer.held.clear()
    again, refused = await fleet.submit()
    assert isinstance(refused, Refused)
    assert (refused.actual or "").startswith(f"{log.name} ")
    assert await fleet.store.meta(again) is None
    assert (fleet.peer.held, fleet.assigned) == ({}, [log.name])


@pytest.mark.parametrize("said", [{"paused": True}, {"limit": 5}, {"rate": Rate(starts=1, per_ms=1_000, burst=1)}])
async def test_terms_that_another_hub_has_set_meanwhile_are_heeded(said: dict[str, object]) -> None:
    fleet = await fleet_of()
    other = await line_to(fleet.server, "hub-2")
    await other.commit(set_terms("hub-2.1", QUEUE, QueueSet.model_validate({"queue": "q", **said})))
    log, result = await fleet.submit()
    assert isinstance(result, Outcome)
    assert await fleet.state(log) == (RunState.QUEUED, 0)
    assert not fleet.peer.held
    await fleet.look()
    assert await fleet.state(log) == ((RunState.QUEUED, 0) if "paused" in said else (RunState.RUNNING, 1))
    if "limit" in said:  # the terms are known now, and hold with the commit as well
        fleet.peer.slots = 9
        await fleet.look()
        for number in range(6):
            await fleet.submit(ASKED.model_copy(update={"key": f"more-{number}"}))
        assert len(await fleet.store.hash_all(QUEUE.active)) == 5


async def test_a_queue_that_is_paused_before_anything_waits_there_keeps_what_comes() -> None:
    fleet = await fleet_of(idle=False)
    await fleet.line.commit(set_terms("hub-1.1", QUEUE, QueueSet(queue="q", paused=True)))
    await fleet.look()
    log, _ = await fleet.submit()
    assert await fleet.state(log) == (RunState.QUEUED, 0)


@pytest.mark.parametrize("fault", [Fault.LOST_AFTER, Fault.LOST_BEFORE])
async def test_a_reply_that_was_lost_costs_neither_the_run_nor_the_attempt(
    fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.settle.WAIT_S", 0)
    fleet = await fleet_of()
    fleet.store.fail_next(fault)
    log, result = await fleet.submit()
    assert isinstance(result, Outcome)
    assert await fleet.state(log) == (RunState.RUNNING, 1)
    assert fleet.assigned == [log.name]


async def test_an_agent_that_is_shut_while_it_is_given_a_run_hands_it_back() -> None:
    fleet = await fleet_of()
    submitting = asyncio.create_task(fleet.submit())
    await asyncio.sleep(0)
    fleet.peer.leaving = True
    log, _ = await submitting
    assert await fleet.state(log) == (RunState.QUEUED, 1)
    assert (fleet.peer.held, fleet.assigned) == ({}, [])


async def test_a_run_that_was_handed_back_is_not_overtaken_by_one_that_is_submitted_later() -> None:
    fleet = await fleet_of()
    other = agent_peer(fleet.sent.append, session="s2")
    other.id = "b"
    fleet.dispatch._peers.add(other)
    submitting = asyncio.create_task(fleet.submit())
    await asyncio.sleep(0)
    [taker] = [peer for peer in (fleet.peer, other) if peer.held]
    taker.leaving = True
    first, _ = await submitting
    later, _ = await fleet.submit(ASKED.model_copy(update={"key": "k2"}))
    assert [(await fleet.state(log))[0] for log in (first, later)] == [RunState.QUEUED] * 2
    assert QUEUE in fleet.dispatch._dirty


async def test_where_the_store_is_away_the_slot_is_free_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.settle.WAIT_S", 0)
    fleet = await fleet_of()
    fleet.server.down = True
    with pytest.raises(StoreUnavailable):
        await fleet.submit()
    assert not fleet.peer.held
