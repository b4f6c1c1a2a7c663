"""Anything in any order: a state machine over what a hub decides and what a store holds.

The same machine runs against the twin in memory and against a real server: what it finds in one and not in the
other is a lie of the twin's. A step may be late, lost, repeated or overtaken; hubs and agents crash; the feed is
trimmed; and once, the store goes back to an older state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from redis import Redis

from orchestrator.core.queues import Queue
from orchestrator.store import keys
from orchestrator.store.base import Durability, Store
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.store.redis import RedisStore
from protocol.control import Kind
from protocol.entry import Entry
from protocol.ids import LogName, queue_partition
from protocol.run import FINAL, RunState
from protocol.window import Cursor
from tests.support.checkers import (
    Acknowledged,
    Began,
    Violation,
    assert_kept,
    check_acknowledged,
    check_delivered,
    check_log,
)
from tests.support.run_checkers import check_fences, check_fold, check_terminal
from tests.support.simulation.bench import FEED, KEY_LIMIT, KEYED, QUEUE, Bench, Follower, Publisher
from tests.support.simulation.plants import planted
from tests.support.stores import valkey

Run = Callable[[Coroutine[Any, Any, Any]], Any]

WHICH = st.integers(0, 1_000)
PENDING_MAX = 12
SUBMITTED_MAX = 6


class Place:
    """Where a machine lives: a store, empty at first, that can go back to an older state."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def fresh(self) -> Store:
        """Return an open store that holds nothing."""
        raise AssertionError

    def snapshot(self) -> Any:
        """Return all that is stored."""
        raise AssertionError

    def restore(self, snapshot: Any) -> None:
        """Go back."""
        raise AssertionError


class InMemory(Place):
    def fresh(self) -> Store:
        self._now_ms = 1_000_000
        self._server = MemoryServer(self._clock)
        store = MemoryStore(self._server, "h")
        self.run(store.open())
        return store

    def _clock(self) -> int:
        self._now_ms += 3
        return self._now_ms

    def snapshot(self) -> Any:
        return self._server.snapshot()

    def restore(self, snapshot: Any) -> None:
        self._server.restore(snapshot)


class OnServer(Place):
    def __init__(self, run: Run, store: RedisStore, client: Redis) -> None:
        super().__init__(run)
        self._store = store
        self._client = client

    def fresh(self) -> Store:
        for key in self._client.keys("fl:*{*"):
            self._client.delete(key)
        return self._store

    def snapshot(self) -> Any:
        return {key: self._client.dump(key) for key in self._client.keys("fl:*{*")}

    def restore(self, snapshot: Any) -> None:
        self.fresh()
        for key, value in snapshot.items():
            self._client.restore(key, 0, value)


class Machine(RuleBasedStateMachine):
    """Steps of everybody, in any order. `place` is set by the test."""

    place: Place

    @initialize()
    def begin(self) -> None:
        self.bench = Bench(self.place.fresh(), self.place.run)
        self.publishers: list[Publisher] = [self.bench.open_publisher()]
        self.followers = [self._follower() for _ in range(2)]
        self.agents = {name: self.bench.open_agent(name, f"{name}-0") for name in ("a", "b")}
        self.trimmed: tuple[Entry, ...] = ()
        self.lost: set[tuple[str, bytes]] = set()
        self.lost_runs: set[str] = set()
        self._snapshot: Any = None
        self._rolled_back = False

    def _follower(self) -> Follower:
        page = self.bench.do(self.bench.store.read(FEED, 0, 1))
        assert page is not None
        return Follower(Cursor(page.before), [Began(page.before.offset)])

    # Proposals

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(key=st.sampled_from(["k0", "k1", "k2"]))
    def submit(self, key: str) -> None:
        if len(self.bench.runs()) < SUBMITTED_MAX:
            self.bench.submit(key, int(key[1:]))

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(which=WHICH, agent=st.sampled_from(["a", "b"]))
    def claim(self, which: int, agent: str) -> None:
        metas = [meta for meta in map(self.bench.meta, self.bench.runs()) if meta and meta.state is RunState.QUEUED]
        if metas:
            self.bench.claim(metas[which % len(metas)], self.agents[agent])

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(which=WHICH)
    def park(self, which: int) -> None:
        metas = [meta for meta in map(self.bench.meta, self.bench.runs()) if meta and meta.state is RunState.QUEUED]
        metas = [meta for meta in metas if meta.concurrency_key and not meta.not_before_ms]
        if metas:
            self.bench.park(metas[which % len(metas)])

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule()
    def look_at_freed(self) -> None:
        self.bench.look_at_freed()

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(
        which=WHICH,
        agent=st.sampled_from(["a", "b"]),
        ending=st.sampled_from([None, None, Kind.SUCCEEDED, Kind.ERRORED]),
    )
    def emit(self, which: int, agent: str, ending: Kind | None) -> None:
        held = sorted(self.agents[agent].peer.held)
        if held:
            self.bench.emit(self.agents[agent], held[which % len(held)], ending)

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(which=WHICH)
    def cancel(self, which: int) -> None:
        metas = [meta for meta in map(self.bench.meta, self.bench.runs()) if meta and not meta.final]
        metas = [meta for meta in metas if not meta.cancelling]
        if metas:
            self.bench.cancel(metas[which % len(metas)])

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule(fresh=st.integers(0, 4))
    def publish(self, fresh: int) -> None:
        """Publish new entries; none of them stands for a reconnect: all that is open is sent again."""
        if self.publishers[-1].told_lost:
            self.publishers.append(self.bench.open_publisher())
        self.bench.publish(self.publishers[-1], fresh)

    @precondition(lambda self: len(self.bench.pending) < PENDING_MAX)
    @rule()
    def tick(self) -> None:
        self.bench.due()

    # What becomes of them

    @precondition(lambda self: self.bench.pending)
    @rule(which=WHICH)
    def deliver(self, which: int) -> None:
        """Do a commit: the oldest or, as if it came from another hub, any."""
        pending = self.bench.pending.pop(which % len(self.bench.pending))
        pending.answered(self.bench.now(pending.commit))

    @precondition(lambda self: self.bench.pending)
    @rule()
    def deliver_the_oldest(self) -> None:
        self.deliver(0)

    @rule()
    def deliver_all(self) -> None:
        while self.bench.pending:
            self.deliver_the_oldest()

    @precondition(lambda self: self.bench.pending)
    @rule(which=WHICH)
    def duplicate(self, which: int) -> None:
        """Do a commit whose reply is lost: it will be done again."""
        self.bench.now(self.bench.pending[which % len(self.bench.pending)].commit)

    @precondition(lambda self: self.bench.pending)
    @rule(which=WHICH)
    def drop(self, which: int) -> None:
        self.bench.pending.pop(which % len(self.bench.pending))

    @rule()
    def crash_hub(self) -> None:
        self.bench.pending.clear()

    @rule(agent=st.sampled_from(["a", "b"]))
    def crash_agent(self, agent: str) -> None:
        """Another process takes the agent's id; the old one does not know, and what it sent may still arrive."""
        self.agents[agent] = self.bench.open_agent(agent, f"{agent}-{self.bench.unique()}")

    @rule(agent=st.sampled_from(["a", "b"]))
    def reconnect(self, agent: str) -> None:
        """A new session of the same process."""
        self.agents[agent] = again = self.bench.reopen_agent(self.agents[agent])
        for run in sorted(again.peer.held):
            self.bench.resend(again, run)

    # The feed

    @rule(which=st.integers(0, 1))
    def read_on(self, which: int) -> None:
        follower = self.followers[which]
        if not self.bench.feed(follower):
            self.bench.resume(follower)

    @rule(which=st.integers(0, 1))
    def resume(self, which: int) -> None:
        self.bench.resume(self.followers[which])

    @rule(share=st.integers(0, 100))
    def trim(self, share: int) -> None:
        dump = self.bench.dump(FEED, self.trimmed)
        keep_from = 1 + dump.after.offset * share // 100
        at = self.bench.do(self.bench.store.trim(FEED, keep_from))
        assert at is not None
        assert at.offset <= dump.after.offset
        self.trimmed = dump.entries[: at.offset]

    # The store goes back

    @precondition(lambda self: self._snapshot is None)
    @rule()
    def fall_behind(self) -> None:
        self._snapshot = self.place.snapshot(), self.trimmed

    @precondition(lambda self: self._snapshot is not None and not self._rolled_back)
    @rule()
    def roll_back(self) -> None:
        before = self.bench.dump(FEED, self.trimmed)
        there = set(self.bench.runs())
        snapshot, self.trimmed = self._snapshot
        self.place.restore(snapshot)
        self._rolled_back = True
        kept = set(self.bench.dump(FEED, self.trimmed).entries)
        self.lost = {(record.kind, record.body) for entry, record in before.records() if entry not in kept}
        self.lost_runs = {log.name for log in there - set(self.bench.runs())}

    # The promise

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        while self.bench.pending:
            self.deliver_the_oldest()
        for publisher in self.publishers:
            self.bench.publish(publisher, 0)
            self.bench.publish(publisher, 1)
        while self.bench.pending:
            self.deliver_the_oldest()
        found: list[Violation] = []
        for follower in self.followers:
            self._read_to_the_end(follower)
        dump = self.bench.dump(FEED, self.trimmed)
        found += check_log(dump)
        for follower in self.followers:
            found += check_delivered(dump, follower.story)
        for publisher in self.publishers:
            found += self._check_publisher(publisher)
        for log in self.bench.runs():
            found += self._check_run(log)
        assert_kept(found)
        self._check_keys()
        self._check_parked()

    def _read_to_the_end(self, follower: Follower) -> None:
        for _ in range(1_000):
            self.bench.resume(follower)
            at = follower.cursor.position
            meta = self.bench.do(self.bench.store.meta(FEED))
            assert at is not None
            assert meta is not None
            if at.offset == int(meta["head"]):
                return
            assert self.bench.feed(follower)
        raise AssertionError("a follower never comes to the end")

    def _check_publisher(self, publisher: Publisher) -> Iterator[Violation]:
        dump = self.bench.dump(FEED, self.trimmed)
        acked = [Acknowledged("item", body) for body in publisher.bodies[: publisher.acked]]
        lost = [said for said in acked if (said.kind, said.body) in self.lost]
        yield from check_acknowledged(dump, [said for said in acked if said not in lost])
        there = [body for body in dump.bodies("item") if body in publisher.bodies]
        numbers = [publisher.bodies.index(body) for body in there]
        assert numbers == sorted(set(numbers)), f"{publisher.name} stands as {numbers}"
        assert not numbers or numbers == list(range(numbers[-1] + 1)), f"{publisher.name} stands as {numbers}"
        still = dump.bodies("item")
        assert publisher.told_lost or all(said.body in still for said in lost), f"{publisher.name} was never told"

    def _check_run(self, log: LogName) -> list[Violation]:
        dump, fields = self.bench.dump(log), self.bench.do(self.bench.store.meta(log))
        assert fields is not None
        over = RunState(fields["state"]) in FINAL
        return [
            *check_log(dump),
            *check_terminal(dump, finished=over),
            *check_fences(dump),
            *check_fold(dump, None, fields),
            *self._check_indices(log, RunState(fields["state"])),
        ]

    def _check_indices(self, log: LogName, state: RunState) -> Iterator[Violation]:
        """A run that waits is queued or timed, one that runs is leased and held, and one that is over is neither."""
        store, partition = self.bench.store, queue_partition("default", QUEUE)
        place = Queue("default", QUEUE)
        names = [run for bucket, _ in self._sorted(place.buckets) for run, _ in self._sorted(place.waiting(bucket))]
        names += [run for key in set(KEYED.values()) for run, _ in self._sorted(place.parked(key))]
        timed = [member for member, _ in self._sorted(keys.timers(partition))]
        leased = [member for member, _ in self._sorted(keys.leases(partition))]
        held = [self.bench.do(store.hash_all(keys.held(partition, "default", agent))) for agent in ("a", "b")]
        waits = names.count(log.name) + (f"default/{log.name}" in timed)
        runs = (f"default/{log.name}" in leased, sum(log.name in each for each in held))
        assert waits == (state is RunState.QUEUED), f"{log.name} is {state} and stands in {waits} lines"
        assert runs == ((True, 1) if state is RunState.RUNNING else (False, 0)), f"{log.name} is {state}: {runs}"
        yield from ()

    def _sorted(self, key: str) -> list[tuple[str, int]]:
        return self.bench.do(self.bench.store.sorted_range(key, 1_000))

    def _check_parked(self) -> None:
        """As many runs of a concurrency key run as may; what waits for it does so while they do, or is listed."""
        store, place = self.bench.store, Queue("default", QUEUE)
        running = [meta for meta in map(self.bench.meta, self.bench.runs()) if meta and meta.state is RunState.RUNNING]
        freed = [key for key, _ in self._sorted(place.freed)]
        for key in set(KEYED.values()):
            held = self.bench.do(store.hash_all(place.keyed(key)))
            assert set(held) == {meta.log.name for meta in running if meta.concurrency_key == key}
            assert len(held) <= KEY_LIMIT
            parked = self._sorted(place.parked(key))
            assert not parked or len(held) == KEY_LIMIT or key in freed, f"{parked} is forgotten"
            assert (key in self.bench.do(store.set_members(place.parked_keys))) == bool(parked)

    def _check_keys(self) -> None:
        """One key has one run, and whoever submits with it is told of that one."""
        for key, told in self.bench.told.items():
            assert len(told - self.lost_runs) <= 1 + self._rolled_back, f"{key} gave {told}"


@pytest.fixture
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:
        yield runner.run


def play(place: Place, examples: int, *, only_find: bool = False) -> None:
    """Run the machine in a place.

    Args:
        place: where.
        examples: how often.
        only_find: do the same every time, and do not look for the shortest way to what was found.
    """
    machine = type("Machine", (Machine,), {"place": place})
    checks = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
    bounds = settings(
        phases=(Phase.generate,) if only_find else tuple(Phase),
        derandomize=only_find or settings().derandomize,
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(machine, settings=bounds)


def test_the_promise_holds_for_the_twin_in_memory(run: Run) -> None:
    play(InMemory(run), 300)


def test_the_promise_holds_for_a_real_server(run: Run, tmp_path: Path) -> None:
    serving = valkey(tmp_path, appendfsync="no")
    server = run(serving.__aenter__())
    store = RedisStore(server.url, Durability.MEMORY, "h")
    client = Redis(unix_socket_path=str(server.socket))
    try:
        run(store.open())
        play(OnServer(run, store, client), 100)
        run(store.close())
    finally:
        client.close()
        run(serving.__aexit__(None, None, None))


@pytest.mark.parametrize("plant", ["a retry is appended again", "two hubs claim one run"])
def test_a_planted_bug_is_found(run: Run, plant: str) -> None:
    with planted(plant), pytest.raises((AssertionError, ExceptionGroup)):
        play(InMemory(run), 600, only_find=True)
