"""The life of a run as the hub proposes it, on any store, and the table of every event in every state."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from orchestrator.core import attempts, keeping, runs, suspension
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import member
from orchestrator.peers import Peer
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Commit, Outcome, ProducerClaim, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from protocol.codec import pack_record, pack_value
from protocol.control import Cancel, Cancelled, Errored, Kind, RunError, Succeeded
from protocol.conversation import Suspended
from protocol.frames import HandlerSpec, Recover, Role
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState, RunView, fold
from tests.support.permits import agent_permit

__all__ = [
    "CONCURRENCY_KEY",
    "DELAY_MS",
    "FINAL_STATES",
    "LEASE_MS",
    "NEVER_MS",
    "PAIRS",
    "SLEEP_MS",
    "STATES",
    "WHERE",
    "Bench",
    "reach",
    "walk",
]

LEASE_MS = 15_000
TIMEOUT_MS = 60_000
DELAY_MS = 5_000
SLEEP_MS = 7_000
KEEP_MS = 90_000_000
NEVER_MS = 2**52
"""When a run comes to its queue that waits for somebody."""
DEADLINE_MS = 10_000_000
WHERE = "tier in (b, a), gpu=h200"
BUCKET = "0/hub:hub-1/review?gpu=h200,tier in (a,b)"
CONCURRENCY_KEY = "the same"


@dataclass
class Bench:
    """One run of a namespace, and the agent that works on it.

    Attributes:
        given: the store; where none is given, one in memory whose clock says `now_ms`.
    """

    given: Store | None = None
    namespace: str = "default"
    now_ms: int = 1_000_000
    numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def __post_init__(self) -> None:
        self.store: Store = self.given or MemoryStore(MemoryServer(lambda: self.now_ms), "hub-1")
        partition = queue_partition(self.namespace, "work")
        self.log = LogName(self.namespace, LogKind.RUN, make_run_id(partition, self.now_ms, b"12345678"))
        self.peer = self.agent("one", "instance-1", "session-1")
        self.spec = HandlerSpec(name="review", recover=Recover.JOURNAL, timeout_ms=TIMEOUT_MS)
        self.sent = 0

    def agent(self, name: str, instance: str, session: str) -> Peer:
        """Return a session of an agent."""
        return Peer(
            namespace=self.namespace,
            principal=f"agent:{name}",
            role=Role.AGENT,
            id=name,
            instance=instance,
            session=session,
            fence=1,
            permit=agent_permit(name),
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
        lease_ms = await self.store.sorted_score(keys.leases(meta.partition), member(self.log))
        assert (lease_ms is not None) == bool(view.agent)
        held = await self.store.hash_all(keys.held(meta.partition, self.namespace, "one"))
        assert held == ({self.log.name: str(meta.fence).encode()} if view.agent == "one" else {})
        waiting = await self.store.sorted_range(keys.queue(meta.partition, self.namespace, "work", BUCKET), 10)
        assert bool(waiting) == (view.state is RunState.QUEUED and not meta.put_off)
        buckets = await self.store.sorted_range(keys.buckets(meta.partition, self.namespace, "work"), 10)
        assert [bucket for bucket, _ in buckets] == ([BUCKET] if waiting else [])
        active = await self.store.hash_all(keys.active(meta.partition, self.namespace, "work"))
        assert active == ({self.log.name: str(meta.fence).encode()} if view.agent else {})
        keyed = await self.store.hash_all(keys.keyed(meta.partition, self.namespace, "work", CONCURRENCY_KEY))
        assert keyed == active, "an attempt holds its place among those of its key for as long as it runs"
        dead = await self.store.sorted_range(keys.dead(meta.partition, self.namespace, "work"), 10)
        assert [run for run, _ in dead] == ([self.log.name] if view.state is RunState.DEAD else [])
        later = await self.store.sorted_range(keys.later(meta.partition, self.namespace, "work"), 10)
        later_ms = meta.not_before_ms or NEVER_MS
        assert later == ([(self.log.name, later_ms)] if view.state == "queued" and not waiting else [])
        assert view.suspended is not None or meta.final or meta.suspended is None
        assert await self.store.sorted_score(keys.timers(meta.partition), member(self.log)) == meta.due_ms
        ended_ms = await self.store.sorted_score(keys.ended(meta.partition), member(self.log))
        kept_ms = keeping.kept_ms(meta.state, meta.keep_ms)
        assert ended_ms == (page.entries[-1].ts_ms + kept_ms if meta.final and kept_ms else None)
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
            keep_ms=KEEP_MS,
            concurrency_key=CONCURRENCY_KEY,
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
            attempts.publish(
                self.ids(),
                self.log,
                self.peer.holder,
                producer,
                (packed,),
                ending=ending,
                queue=Queue(self.namespace, "work"),
                key=CONCURRENCY_KEY,
            )
        )

    async def succeed(self) -> Outcome | Refused:
        """Let the attempt return."""
        ending = attempts.conclude(self.log, Kind.SUCCEEDED, KEEP_MS)
        return await self.publish(Kind.SUCCEEDED, pack_value(Succeeded(result=b"\xc0")), ending)

    async def stop(self) -> Outcome | Refused:
        """Let the attempt stop since it was told to."""
        ending = attempts.conclude(self.log, Kind.CANCELLED, KEEP_MS)
        return await self.publish(Kind.CANCELLED, pack_value(Cancelled()), ending)

    async def fail(self, *, retryable: bool = True) -> Outcome | Refused:
        """Let the attempt raise."""
        errored = Errored(error=RunError(type="ValueError", message="no"), retryable=retryable)
        ids, meta = self.ids(), await self.meta()
        ending = attempts.parting(ids, meta, attempts.conclude_error(ids, meta, errored, 0.5, self.now_ms))
        return await self.publish(Kind.ERRORED, pack_value(errored), ending)

    async def suspend(self, asked: Suspended | None = None) -> Outcome | Refused:
        """Let the attempt be put away: it sleeps, where nothing else is said."""
        asked = asked or Suspended(sleep_ms=SLEEP_MS)
        ids, meta = self.ids(), await self.meta()
        ending = attempts.parting(
            ids, meta, suspension.suspend(ids, meta, asked, self.now_ms, await self.open_children(asked))
        )
        return await self.publish(Kind.SUSPENDED, pack_value(asked), ending)

    async def open_children(self, asked: Suspended) -> dict[str, str]:
        """Return the records of those of the children named that have not ended."""
        records = await self.store.hash_all(keys.children(self.log))
        return {slot: records[slot].decode() for slot in asked.children if slot in records}

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


async def reach(bench: Bench, state: str) -> None:
    """Bring a run into a state."""
    steps: dict[str, tuple[str, ...]] = {
        "queued": ("submit",),
        "running": ("submit", "claim"),
        "cancelling": ("submit", "claim", "cancel"),
        "retrying": ("submit_retried", "claim", "fail"),
        "delayed": ("submit_delayed",),
        "suspended": ("submit", "claim", "suspend"),
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
    ("running", "suspend"): "queued",
    ("running", "cancel"): "running",
    ("running", "emit"): "running",
    ("running", "time_out"): "failed",
    ("running", "expire"): "expired",
    ("cancelling", "succeed"): "succeeded",
    ("cancelling", "stop"): "cancelled",
    ("cancelling", "fail"): "cancelled",
    ("cancelling", "lose"): "cancelled",
    ("cancelling", "release"): "cancelled",
    ("cancelling", "suspend"): "cancelled",
    ("cancelling", "emit"): "running",
    ("cancelling", "time_out"): "cancelled",
    ("cancelling", "expire"): "expired",
    **{(state, "cancel"): "cancelled" for state in ("retrying", "delayed", "suspended")},
    **{(state, "requeue"): "queued" for state in ("retrying", "delayed", "suspended")},
    **{(state, "expire"): "expired" for state in ("retrying", "delayed", "suspended")},
}
"""What each event does in each state; every other pair is refused by the store."""

ATTEMPT_EVENTS = ("succeed", "stop", "fail", "suspend", "emit")
HUB_EVENTS = ("claim", "lose", "release", "cancel", "requeue", "time_out", "expire")
WAITING = ("retrying", "delayed", "suspended")
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

PAIRS = tuple(
    (state, event)
    for state in STATES
    for event in (*HUB_EVENTS, *ATTEMPT_EVENTS)
    if (state, event) not in NEVER_PROPOSED
)
"""What is walked: every state with every event that may come to it."""


async def walk(bench: Bench, state: str, event: str) -> None:
    """Let an event come to a run in a state, and compare what follows with the table."""
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
