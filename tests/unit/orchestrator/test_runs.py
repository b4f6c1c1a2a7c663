"""The life of a run as the hub proposes it: every event in every state, folded and compared with the meta."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from orchestrator.core import attempts, runs
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import member
from orchestrator.peers import Peer
from orchestrator.store import keys
from orchestrator.store.commits import Commit, Outcome, ProducerClaim, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codec import pack_record, pack_value, unpack_record
from protocol.control import Cancel, Cancelled, Errored, Kind, RunError, Succeeded
from protocol.frames import HandlerSpec, Recover, Role
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState, RunView, fold

QUEUE = Queue("default", "work")
LEASE_MS = 15_000
TIMEOUT_MS = 60_000
DELAY_MS = 5_000
DEADLINE_MS = 10_000_000
WHERE = "tier in (b, a), gpu=h200"
BUCKET = "review?gpu=h200,tier in (a,b)"


@dataclass
class Bench:
    """One run on a store in memory, and the agent that works on it."""

    now_ms: int = 1_000_000
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.server = MemoryServer(lambda: self.now_ms)
        self.store = MemoryStore(self.server, "hub-1")
        partition = queue_partition("default", "work")
        self.log = LogName("default", LogKind.RUN, make_run_id(partition, self.now_ms, b"12345678"))
        self.peer = self.agent("one", "instance-1", "session-1")
        self.spec = HandlerSpec(name="review", recover=Recover.JOURNAL, timeout_ms=TIMEOUT_MS)
        self.sent = 0

    def agent(self, name: str, instance: str, session: str) -> Peer:
        """Return a session of an agent."""
        return Peer(
            namespace="default",
            principal=f"agent:{name}",
            role=Role.AGENT,
            id=name,
            instance=instance,
            session=session,
            fence=1,
            scopes=frozenset({"agent"}),
            send=lambda _frame: None,
            slots=1,
        )

    def ids(self) -> runs.Ids:
        """Return new ids for a commit."""
        return runs.Ids(f"commit-{next(self.numbers)}", "hub:hub-1", "0123456789abcdef")

    async def meta(self) -> RunMeta:
        """Return the run's meta as it is now."""
        fields = await self.store.meta(self.log)
        assert fields is not None
        return RunMeta.parse(self.log, fields)

    async def do(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, and check that log and meta still say the same."""
        result = await self.store.commit(commit)
        await self.check()
        return result

    async def check(self) -> RunView:
        """Fold the log, and compare with what the meta and the indexes say."""
        page = await self.store.read(self.log, 0, 1000)
        if page is None:
            return RunView()
        view, meta = fold(RunView(), page.entries), await self.meta()
        assert (view.state, view.attempt, view.fence) == (meta.state, meta.attempt, meta.fence)
        assert (view.failures, view.losses, view.cancelling) == (meta.failures, meta.losses, meta.cancelling)
        leased = await self.store.sorted_range(keys.leases(meta.partition), 10)
        assert [name for name, _ in leased] == ([f"default/{self.log.name}"] if view.agent else [])
        held = await self.store.hash_all(keys.held(meta.partition, "default", "one"))
        assert held == ({self.log.name: str(meta.fence).encode()} if view.agent == "one" else {})
        waiting = await self.store.sorted_range(keys.queue(meta.partition, "default", "work", BUCKET), 10)
        assert bool(waiting) == (view.state is RunState.QUEUED and not meta.not_before_ms)
        buckets = await self.store.set_members(keys.buckets(meta.partition, "default", "work"))
        assert buckets == ({BUCKET} if waiting else set())
        active = await self.store.hash_all(keys.active(meta.partition, "default", "work"))
        assert active == ({self.log.name: str(meta.fence).encode()} if view.agent else {})
        later = await self.store.sorted_range(keys.later(meta.partition, "default", "work"), 10)
        assert later == ([(self.log.name, meta.not_before_ms)] if view.state == "queued" and not waiting else [])
        timers = await self.store.sorted_range(keys.timers(meta.partition), 10)
        assert timers == ([(member(self.log), meta.due_ms)] if meta.due_ms else [])
        return view

    # Events

    async def submit(self, retries: int | None = None, delay_ms: int | None = None) -> Outcome | Refused:
        """Submit the run."""
        params = RunSubmit(
            queue="work",
            handler="review",
            input=pack_value({}),
            key="k",
            retries=retries,
            delay_ms=delay_ms,
            deadline_ms=DEADLINE_MS,
            where=WHERE,
        )
        return await self.do(runs.submit(self.ids(), self.log, params, self.now_ms))

    async def claim(self) -> Outcome | Refused:
        """Give the run to the agent."""
        commit, self.held = attempts.claim(
            self.ids(), await self.meta(), self.peer.holder, self.spec, Terms(), store_ms=self.now_ms, lease_ms=LEASE_MS
        )
        self.sent = 0
        return await self.do(commit)

    async def publish(self, kind: str, body: bytes, ending: attempts.Ending | None = None) -> Outcome | Refused:
        """Publish one entry as the attempt that was claimed last."""
        self.sent += 1
        producer = ProducerClaim(f"attempt/{self.held.attempt}", self.held.fence, self.sent, 1, f"digest-{self.sent}")
        packed = pack_record(kind, self.peer.principal, body, attempt=self.held.attempt, seq=self.sent)
        return await self.do(
            attempts.publish(self.ids(), self.log, self.peer.holder, producer, (packed,), ending=ending, queue=QUEUE)
        )

    async def succeed(self) -> Outcome | Refused:
        """Let the attempt return."""
        ending = attempts.conclude(self.log, Kind.SUCCEEDED)
        return await self.publish(Kind.SUCCEEDED, pack_value(Succeeded(result=b"\xc0")), ending)

    async def stop(self) -> Outcome | Refused:
        """Let the attempt stop since it was told to."""
        ending = attempts.conclude(self.log, Kind.CANCELLED)
        return await self.publish(Kind.CANCELLED, pack_value(Cancelled()), ending)

    async def fail(self, *, retryable: bool = True) -> Outcome | Refused:
        """Let the attempt raise."""
        errored = Errored(error=RunError(type="ValueError", message="no"), retryable=retryable)
        ending = attempts.conclude_error(self.ids(), await self.meta(), errored, 0.5, self.now_ms)
        return await self.publish(Kind.ERRORED, pack_value(errored), ending)

    async def lose(self) -> Outcome | Refused:
        """Take the attempt from its agent."""
        return await self.do(attempts.lose(self.ids(), await self.meta(), "its lease ran out"))

    async def release(self) -> Outcome | Refused:
        """Let the agent hand the attempt back."""
        return await self.do(attempts.release(self.ids(), await self.meta(), "drain"))

    async def cancel(self) -> Outcome | Refused:
        """Ask the run to stop."""
        return await self.do(runs.cancel(self.ids(), await self.meta(), "hub:hub-1", Cancel(reason="enough"), None))

    async def requeue(self) -> Outcome | Refused:
        """Let the wait before a retry be over."""
        return await self.do(runs.requeue(self.ids(), await self.meta()))

    async def submit_retried(self) -> Outcome | Refused:
        """Submit the run, with two further tries."""
        return await self.submit(retries=2)

    async def submit_delayed(self) -> Outcome | Refused:
        """Submit the run, to be taken later."""
        return await self.submit(delay_ms=DELAY_MS)

    async def time_out(self) -> Outcome | Refused:
        """Let the attempt take longer than it may."""
        meta = await self.meta()
        assert meta.times_out_ms is not None
        return await self.due(meta.times_out_ms)

    async def expire(self) -> Outcome | Refused:
        """Let the run's deadline pass."""
        meta = await self.meta()
        assert meta.deadline_ms is not None
        return await self.due(meta.deadline_ms)

    async def due(self, store_ms: int) -> Outcome | Refused:
        """Do what is due at a time."""
        return await self.do(attempts.on_due(self.ids(), await self.meta(), 0.5, store_ms))

    async def emit(self) -> Outcome | Refused:
        """Publish something that ends nothing."""
        return await self.publish("finding", b"\x01")


@pytest.fixture
async def bench() -> Bench:
    """Return a run that is not there yet."""
    bench = Bench()
    await bench.store.open()
    return bench


async def reach(bench: Bench, state: str) -> None:
    """Bring a run into a state."""
    steps: dict[str, tuple[str, ...]] = {
        "queued": ("submit",),
        "running": ("submit", "claim"),
        "cancelling": ("submit", "claim", "cancel"),
        "retrying": ("submit_retried", "claim", "fail"),
        "delayed": ("submit_delayed",),
        "expired": ("submit", "claim", "expire"),
        "succeeded": ("submit", "claim", "succeed"),
        "failed": ("submit", "claim", "fail"),
        "cancelled": ("submit", "cancel"),
    }
    for step in steps[state]:
        event: Callable[[], Awaitable[Outcome | Refused]] = getattr(bench, step)
        result = await event()
        assert isinstance(result, Outcome), (step, result)


FINAL_STATES = ("succeeded", "failed", "cancelled", "expired")

EXPECTED: dict[tuple[str, str], str] = {
    ("queued", "claim"): "running",
    ("queued", "cancel"): "cancelled",
    ("queued", "expire"): "expired",
    ("running", "succeed"): "succeeded",
    ("running", "fail"): "failed",
    ("running", "lose"): "queued",
    ("running", "release"): "queued",
    ("running", "cancel"): "running",
    ("running", "emit"): "running",
    ("running", "time_out"): "failed",
    ("running", "expire"): "expired",
    ("cancelling", "succeed"): "succeeded",
    ("cancelling", "stop"): "cancelled",
    ("cancelling", "fail"): "cancelled",
    ("cancelling", "lose"): "cancelled",
    ("cancelling", "release"): "cancelled",
    ("cancelling", "emit"): "running",
    ("cancelling", "time_out"): "cancelled",
    ("cancelling", "expire"): "expired",
    **{(state, "cancel"): "cancelled" for state in ("retrying", "delayed")},
    **{(state, "requeue"): "queued" for state in ("retrying", "delayed")},
    **{(state, "expire"): "expired" for state in ("retrying", "delayed")},
}
"""What each event does in each state; every other pair is refused by the store."""

ATTEMPT_EVENTS = ("succeed", "stop", "fail", "emit")
HUB_EVENTS = ("claim", "lose", "release", "cancel", "requeue", "time_out", "expire")
WAITING = ("retrying", "delayed")
STATES = ("queued", "running", "cancelling", *WAITING, *FINAL_STATES)
NEVER_PROPOSED = {
    *(("queued", event) for event in ("lose", "release", "requeue", "time_out", *ATTEMPT_EVENTS)),
    *((state, event) for state in ("running", "cancelling") for event in ("claim", "requeue")),
    ("cancelling", "cancel"),
    *((state, event) for state in WAITING for event in ("claim", "lose", "release", "time_out")),
    *(("delayed", event) for event in ATTEMPT_EVENTS),
    *((state, event) for state in FINAL_STATES for event in HUB_EVENTS),
    *(("cancelled", event) for event in ATTEMPT_EVENTS),
}
"""Pairs that the hub never proposes: it looks at the state, or at who holds the attempt, before."""


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (state, event)
        for state in STATES
        for event in (*HUB_EVENTS, *ATTEMPT_EVENTS)
        if (state, event) not in NEVER_PROPOSED
    ],
)
async def test_every_event_in_every_state(bench: Bench, state: str, event: str) -> None:
    await reach(bench, state)
    before = await bench.check()
    result = await getattr(bench, event)()
    after = await bench.check()
    wanted = EXPECTED.get((state, event))
    if wanted is None:
        assert isinstance(result, Refused)
        assert after == before
    else:
        assert isinstance(result, Outcome)
        assert after.state == wanted


async def test_a_second_submit_with_the_same_key_changes_nothing_and_names_the_run(bench: Bench) -> None:
    await bench.submit()
    again = await bench.submit()
    assert isinstance(again, Refused)
    assert again.actual == f"{bench.log.name} {runs.input_digest('review', pack_value({}))}"


async def test_of_two_claims_only_one_happens(bench: Bench) -> None:
    await bench.submit()
    meta = await bench.meta()
    rival = bench.agent("two", "instance-2", "session-2")
    first, _ = attempts.claim(bench.ids(), meta, bench.peer.holder, bench.spec, Terms(), store_ms=1, lease_ms=LEASE_MS)
    second, _ = attempts.claim(bench.ids(), meta, rival.holder, bench.spec, Terms(), store_ms=1, lease_ms=LEASE_MS)
    assert isinstance(await bench.do(first), Outcome)
    assert isinstance(await bench.do(second), Refused)
    assert (await bench.meta()).agent == "one"


async def test_a_fenced_attempt_cannot_write_though_its_agent_holds_the_next_one(bench: Bench) -> None:
    await reach(bench, "running")
    old = bench.held
    await bench.lose()
    await bench.claim()
    assert bench.held.fence > old.fence
    bench.held = old
    assert isinstance(await bench.emit(), Refused)


async def test_an_older_session_of_the_same_process_cannot_write(bench: Bench) -> None:
    await reach(bench, "running")
    newer = bench.agent("one", "instance-1", "session-2")
    await bench.do(attempts.rebind(bench.ids(), await bench.meta(), newer.holder, LEASE_MS))
    assert isinstance(await bench.emit(), Refused)
    bench.sent -= 1
    bench.peer.session = "session-2"
    assert isinstance(await bench.emit(), Outcome)


async def test_of_two_sessions_that_take_an_attempt_up_only_the_first_does(bench: Bench) -> None:
    await reach(bench, "running")
    seen = await bench.meta()
    newer, older = bench.agent("one", "instance-1", "session-3"), bench.agent("one", "instance-1", "session-2")
    assert isinstance(await bench.do(attempts.rebind(bench.ids(), seen, newer.holder, LEASE_MS)), Outcome)
    assert isinstance(await bench.do(attempts.rebind(bench.ids(), seen, older.holder, LEASE_MS)), Refused)
    assert isinstance(await bench.do(attempts.lose(bench.ids(), seen, "its lease ran out")), Refused)
    assert (await bench.meta()).session == "session-3"


async def test_a_retry_of_the_last_entries_is_accepted_after_the_end(bench: Bench) -> None:
    await reach(bench, "succeeded")
    bench.sent -= 1
    again = await bench.succeed()
    assert isinstance(again, Outcome)
    assert again.repeated
    page = await bench.store.read(bench.log, 0, 100)
    assert page is not None
    kinds = [unpack_record(entry.packed).kind for entry in page.entries]
    assert kinds == [Kind.SUBMITTED, Kind.CLAIMED, Kind.SUCCEEDED]


async def test_a_run_that_fails_more_often_than_it_may_is_dead(bench: Bench) -> None:
    await bench.submit(2)
    for state in (RunState.QUEUED, RunState.QUEUED, RunState.DEAD):
        if (await bench.meta()).failures:
            await bench.requeue()
        await bench.claim()
        await bench.fail()
        assert (await bench.meta()).state is state


async def test_an_error_that_another_try_cannot_mend_fails_the_run_at_once(bench: Bench) -> None:
    await bench.submit(5)
    await bench.claim()
    await bench.fail(retryable=False)
    assert (await bench.meta()).state is RunState.FAILED


async def test_a_run_whose_agents_keep_getting_lost_is_dead(bench: Bench) -> None:
    await bench.submit()
    for _ in range(attempts.LOSSES_MAX):
        assert (await bench.meta()).state is RunState.QUEUED
        await bench.claim()
        await bench.lose()
    assert (await bench.meta()).state is RunState.DEAD


async def test_releases_are_not_counted(bench: Bench) -> None:
    await bench.submit()
    for _ in range(attempts.LOSSES_MAX + 1):
        await bench.claim()
        await bench.release()
    meta = await bench.meta()
    assert (meta.state, meta.losses, meta.failures) == (RunState.QUEUED, 0, 0)


async def test_a_renewed_lease_ends_later_and_only_its_session_renews_it(bench: Bench) -> None:
    await reach(bench, "running")
    bench.now_ms += 1_000
    mine = attempts.renew(bench.ids(), bench.log, bench.held.fence, "session-1", LEASE_MS)
    assert isinstance(await bench.do(mine), Outcome)
    leased = await bench.store.sorted_range(keys.leases(int(bench.log.name[:2])), 1)
    assert leased[0][1] == bench.now_ms + LEASE_MS
    theirs = attempts.renew(bench.ids(), bench.log, bench.held.fence, "session-0", LEASE_MS)
    assert isinstance(await bench.do(theirs), Refused)


async def test_higher_priorities_come_first_then_older_runs() -> None:
    partition = queue_partition("default", "work")
    scores = []
    for made_ms, priority in ((1_000, 0), (2_000, 0), (3_000, 9)):
        log = LogName("default", LogKind.RUN, make_run_id(partition, made_ms, b"12345678"))
        params = RunSubmit(queue="work", handler="review", input=b"", key="k", priority=priority)
        commit = runs.submit(runs.Ids("c", "client:me", "0123456789abcdef"), log, params, 0)
        scores += [op.score for op in commit.ops if hasattr(op, "score")]
    assert sorted(scores) == [scores[2], scores[0], scores[1]]


async def test_a_run_that_was_delayed_or_failed_is_taken_when_its_wait_is_over_and_not_before(bench: Bench) -> None:
    await bench.submit(retries=1, delay_ms=DELAY_MS)
    due_ms = bench.now_ms + DELAY_MS
    assert isinstance(await bench.due(due_ms - 1), Outcome)
    assert (await bench.meta()).not_before_ms == due_ms
    await bench.due(due_ms)
    assert (await bench.meta()).not_before_ms == 0
    await bench.claim()
    await bench.fail()
    meta = await bench.meta()
    assert bench.now_ms <= meta.not_before_ms <= bench.now_ms + 1_000
    await bench.due(meta.not_before_ms)
    assert (await bench.meta()).not_before_ms == 0


async def test_an_attempt_that_takes_too_long_counts_as_a_failure_and_is_tried_again(bench: Bench) -> None:
    await bench.submit(retries=1)
    await bench.claim()
    await bench.time_out()
    view, meta = await bench.check(), await bench.meta()
    assert (view.state, view.failures, view.error and view.error.type) == (RunState.QUEUED, 1, "TimeoutError")
    await bench.due(meta.not_before_ms)
    await bench.claim()
    await bench.time_out()
    assert (await bench.check()).state is RunState.DEAD


async def test_what_the_run_says_of_times_goes_before_what_the_handler_says(bench: Bench) -> None:
    params = RunSubmit(
        queue="work", handler="review", input=b"", key="k", where=WHERE, timeout_ms=7, backoff_ms=1, backoff_max_ms=1
    )
    await bench.do(runs.submit(bench.ids(), bench.log, params, bench.now_ms))
    commit, run = attempts.claim(
        bench.ids(),
        await bench.meta(),
        bench.peer.holder,
        bench.spec,
        Terms(),
        store_ms=bench.now_ms,
        lease_ms=LEASE_MS,
    )
    assert (run.times_out_ms, run.backoff_ms, run.backoff_max_ms) == (bench.now_ms + 7, 1, 1)
    await bench.store.commit(commit)
    assert await bench.meta() == run


@pytest.mark.parametrize("end", ["cancel", "expire"])
async def test_a_run_that_came_to_its_queue_since_it_was_read_leaves_it_when_it_ends(bench: Bench, end: str) -> None:
    await bench.submit(delay_ms=DELAY_MS)
    seen = await bench.meta()
    await bench.due(seen.not_before_ms)
    proposed = (
        runs.cancel(bench.ids(), seen, "hub:hub-1", Cancel(), None)
        if end == "cancel"
        else attempts.on_due(bench.ids(), seen, 0.5, seen.deadline_ms or 0)
    )
    assert isinstance(await bench.do(proposed), Outcome)
    assert (await bench.check()).state in (RunState.CANCELLED, RunState.EXPIRED)
