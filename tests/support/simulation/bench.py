"""The pure parts of hub and peer on one real store, step by step: what the state machine of the property tests moves.

A hub here is what it proposes: commits that were made from what it read, and may be done late, twice or never.
Everything else is the product's own: proposals, guards, verdicts, cursors.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from orchestrator.core import attempts, parking, runs, sessions
from orchestrator.core import publish as publishing
from orchestrator.core import resume as resuming
from orchestrator.core.attempts import Ending
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.peers import Held, Peer
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Append, Commit, HashSet, Outcome, Refused
from orchestrator.store.producer import ProducerRecord
from protocol.codec import pack_value
from protocol.control import Cancel, Errored, Kind, RunError, Succeeded
from protocol.entry import Entry, Position, first_tag
from protocol.frames import Entries, HandlerSpec, Publish, Role
from protocol.ids import PARTITIONS, LogKind, LogName, make_run_id, partition_of, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState
from protocol.window import Cursor
from tests.support.checkers import Began, Dump, Given, WasReset
from tests.support.permits import agent_permit

__all__ = ["FEED", "KEYED", "KEY_LIMIT", "QUEUE", "Agent", "Bench", "Follower", "Pending", "Publisher"]

T = TypeVar("T")

FEED = LogName("default", LogKind.TOPIC, "feed")
QUEUE = "work"
KEYED = {"k0": "c", "k1": "c"}
"""Concurrency keys of runs, by the key that they are submitted with."""
KEY_LIMIT = 1
TERMS = Terms(key_limit=KEY_LIMIT, keyed=True)
LEASE_MS = 30_000
SRC = "hub:h"
PAGE = 7
WireEntry = tuple[str, bytes, int | None, int | None]


@dataclass(eq=False)
class Pending:
    """A commit that a hub has proposed, and what is done with the answer."""

    commit: Commit
    answered: Callable[[Outcome | Refused], None]


@dataclass(eq=False)
class Publisher:
    """A producer of the feed, as a peer keeps it: every body it made, and how many are acknowledged."""

    name: str
    fence: int = 0
    bodies: list[bytes] = field(default_factory=list)
    acked: int = 0
    told_lost: bool = False


@dataclass(eq=False)
class Follower:
    """A subscriber of the feed."""

    cursor: Cursor
    story: list[Began | Given | WasReset]


@dataclass(eq=False)
class Agent:
    """An agent: its session, and the entries that it made for each attempt it holds."""

    peer: Peer
    made: dict[str, list[WireEntry]] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)


class Bench:
    """One store with everybody around it.

    Attributes:
        pending: commits that were proposed and are not done.
        told: the run that each key's submitter was told of.
    """

    def __init__(self, store: Store, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self.store = store
        self.pending: list[Pending] = []
        self.told: dict[str, set[str]] = {}
        self._run = run
        self._made = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something with the store."""
        result: T = self._run(work)
        return result

    def unique(self) -> int:
        """Return a number that was not there before."""
        self._made += 1
        return self._made

    def propose(self, commit: Commit, answered: Callable[[Outcome | Refused], None] = lambda _: None) -> None:
        """Put a commit on its way."""
        self.pending.append(Pending(commit, answered))

    def now(self, commit: Commit) -> Outcome | Refused:
        """Do a commit at once."""
        return self.do(self.store.commit(commit))

    def ids(self, epoch: str = "") -> runs.Ids:
        """Return the names for a new commit."""
        return runs.Ids(f"h.{self.unique():x}", SRC, epoch)

    def meta(self, log: LogName) -> RunMeta | None:
        """Return what is kept beside a run's log."""
        fields = self.do(self.store.meta(log))
        return RunMeta.parse(log, fields) if fields else None

    def runs(self) -> list[LogName]:
        """Return the runs that there are."""
        found = self.do(self.store.log_names("default", LogKind.RUN, 1000))
        return [LogName("default", LogKind.RUN, name) for name, _ in sorted(found)]

    def dump(self, log: LogName, before: tuple[Entry, ...] = ()) -> Dump:
        """Return a log, with entries that were trimmed put back."""
        page = self.do(self.store.read(log, 0, 10_000))
        assert page is not None, log
        start = page.before
        if before[: start.offset]:
            start = Position(start.epoch, 0, first_tag(start.epoch))
        return Dump(log.path, start, page.after, before[: page.before.offset] + page.entries)

    # Runs

    def submit(self, key: str, value: int) -> None:
        """Propose a run; the answer is told to whoever submits with this key."""
        made = make_run_id(queue_partition("default", QUEUE), 1_000 + self.unique(), self.unique().to_bytes(8, "big"))
        log = LogName("default", LogKind.RUN, made)
        params = RunSubmit(
            queue=QUEUE,
            handler="work",
            input=pack_value(value),
            key=key,
            retries=value % 3,
            concurrency_key=KEYED.get(key),
        )
        commit = runs.submit(self.ids(f"{self.unique():016x}"), log, params, self.do(self.store.now_ms()))

        def answered(result: Outcome | Refused) -> None:
            run = made if isinstance(result, Outcome) else (result.actual or "").split(" ")[0]
            self.told.setdefault(key, set()).add(run)

        self.propose(commit, answered)

    def claim(self, meta: RunMeta, agent: Agent) -> None:
        """Propose that an agent gets a run."""
        peer = agent.peer
        store_ms = self.do(self.store.now_ms())
        spec = peer.handlers["work"]
        commit, run = attempts.claim(self.ids(), meta, peer.holder, spec, TERMS, store_ms=store_ms, lease_ms=LEASE_MS)

        def answered(result: Outcome | Refused) -> None:
            after = self.meta(meta.log)
            if isinstance(result, Refused) and (after is None or after.session != peer.session):
                return
            if after is not None and after.fence == run.fence and after.state is RunState.RUNNING:
                peer.held[meta.log.name] = Held(
                    run.attempt, run.fence, run.queue, run.related, run.keep_ms, run.concurrency_key
                )
                agent.made[meta.log.name], agent.acked[meta.log.name] = [], 0

        self.propose(commit, answered)

    def park(self, meta: RunMeta) -> None:
        """Propose that a run waits for its concurrency key."""
        self.propose(parking.park(self.ids(), meta, TERMS), lambda _: None)

    def look_at_freed(self) -> None:
        """Propose what is to be done for the concurrency keys that are listed as freed."""
        queue = Queue("default", QUEUE)
        for key, _ in self.do(self.store.sorted_range(queue.freed, 10)):
            parked = self.do(self.store.sorted_range(queue.parked(key), 1))
            meta = self.meta(LogName("default", LogKind.RUN, parked[0][0])) if parked else None
            if self.do(self.store.hash_size(queue.keyed(key))) >= KEY_LIMIT:
                commit = parking.full_again(self.ids(), queue, key, TERMS)
            elif meta is None:
                commit = parking.nobody_left(self.ids(), queue, key)
            else:
                commit = parking.bring_back(self.ids(), meta)
            self.propose(commit, lambda _: None)

    def emit(self, agent: Agent, run: str, ending: Kind | None) -> None:
        """Let an attempt make an entry, and send all that is not acknowledged."""
        made = agent.made[run]
        over = bool(made) and made[-1][0] in (Kind.SUCCEEDED, Kind.ERRORED)
        if not over:
            made.append(_entry(self.unique(), ending))
        self.resend(agent, run)

    def resend(self, agent: Agent, run: str) -> None:
        """Send all entries of an attempt that are not acknowledged, as one frame."""
        peer, held, log = agent.peer, agent.peer.held[run], LogName("default", LogKind.RUN, run)
        first, entries = agent.acked[run], tuple(agent.made[run][agent.acked[run] :])
        if not entries:
            return
        producer = attempts.producer_name(held.attempt)
        frame = Publish(log=log.path, producer=producer, seq=first + 1, fence=held.fence, entries=entries)
        prepared = publishing.prepare_attempt(frame, peer.principal, peer.permit)
        assert isinstance(prepared, publishing.Prepared), prepared
        ending = self._ending(log, entries[-1])
        commit = attempts.publish(
            self.ids(),
            log,
            peer.holder,
            prepared.claim,
            prepared.packed,
            ending=ending,
            queue=Queue(log.namespace, QUEUE),
            key=held.key,
        )

        def answered(result: Outcome | Refused) -> None:
            if peer.held.get(run) != held:
                return
            if isinstance(result, Outcome):
                agent.acked[run] = max(agent.acked[run], first + len(entries))
            if isinstance(result, Refused) or entries[-1][0] in (Kind.SUCCEEDED, Kind.ERRORED):
                self._settle(agent, run, result)

        self.propose(commit, answered)

    def _settle(self, agent: Agent, run: str, result: Outcome | Refused) -> None:
        """An attempt is over, or was refused: the agent drops it unless it is still its own."""
        meta = self.meta(LogName("default", LogKind.RUN, run))
        held = agent.peer.held[run]
        mine = meta is not None and (meta.fence, meta.session) == (held.fence, agent.peer.session)
        if isinstance(result, Outcome) or not mine or meta is None or meta.state is not RunState.RUNNING:
            del agent.peer.held[run]

    def _ending(self, log: LogName, last: WireEntry) -> Ending | None:
        meta = self.meta(log)
        if last[0] == Kind.SUCCEEDED:
            return attempts.conclude(log, Kind.SUCCEEDED)
        if last[0] == Kind.ERRORED and meta is not None:
            error = Errored(error=RunError(type="ValueError", message="as told"))
            return attempts.conclude_error(self.ids(), meta, error, 0.5, self.do(self.store.now_ms()))
        return None

    def cancel(self, meta: RunMeta) -> None:
        """Propose a cancel."""
        self.propose(runs.cancel(self.ids(), meta, SRC, Cancel(), None))

    def due(self) -> None:
        """Let every lease and every wait be over, and propose what follows."""
        now_ms = self.do(self.store.now_ms()) + 1_000 * LEASE_MS
        leases, timers = self.do(self.store.due(now_ms, 100, range(PARTITIONS)))
        for _, _, member in leases:
            meta = self.meta(_run(member))
            if meta is not None and meta.state is RunState.RUNNING:
                self.propose(attempts.lose(self.ids(), meta, "its lease ran out"))
        for _, _, member in timers:
            meta = self.meta(_run(member))
            if meta is not None:
                self.propose(attempts.on_due(self.ids(), meta, 0.5, now_ms))

    # Agents

    def open_agent(self, name: str, instance: str) -> Agent:
        """Open a session; what another process of this agent held is lost."""
        log = sessions.agent_log("default", name)
        session = f"s{self.unique()}"
        newcomer = sessions.Newcomer(session, instance, "h", SRC, f"h.{self.unique():x}", f"{self.unique():016x}", "m")
        opening = sessions.open_session(log, self.do(self.store.meta(log)), newcomer, self.do(self.store.now_ms()))
        assert isinstance(self.now(opening.commit), Outcome)
        handler = HandlerSpec(name="work")
        peer = Peer(
            *("default", f"agent:{name}", Role.AGENT, name, instance, session, opening.fence),
            agent_permit(name),
            lambda _: None,
            handlers={"work": handler},
            queues=(QUEUE,),
            slots=4,
        )
        for meta in filter(None, map(self.meta, self._held_by(name))):
            if meta.state is RunState.RUNNING and meta.agent == name and meta.instance != instance:
                self.propose(attempts.lose(self.ids(), meta, "its agent is a new process"))
        return Agent(peer)

    def _held_by(self, name: str) -> list[LogName]:
        held = self.do(self.store.hash_all(keys.held(queue_partition("default", QUEUE), "default", name)))
        return [LogName("default", LogKind.RUN, run) for run in sorted(held)]

    def reopen_agent(self, agent: Agent) -> Agent:
        """Open another session of the same process, which goes on with what is its own."""
        again = self.open_agent(agent.peer.id, agent.peer.instance)
        for run, held in agent.peer.held.items():
            log = LogName("default", LogKind.RUN, run)
            meta = self.meta(log)
            mine = meta is not None and (meta.fence, meta.instance) == (held.fence, agent.peer.instance)
            if meta is None or not mine or meta.state is not RunState.RUNNING:
                continue
            if isinstance(self.now(attempts.rebind(self.ids(), meta, again.peer.holder, LEASE_MS)), Outcome):
                last = self._last(log, attempts.producer_name(held.attempt))
                if last >= agent.acked[run]:  # else the store lost entries that it had acknowledged
                    again.peer.held[run] = held
                    again.made[run], again.acked[run] = agent.made[run], last
        return again

    def _last(self, log: LogName, producer: str) -> int:
        value = self.do(self.store.hash_get(keys.producers(log), producer))[0]
        return ProducerRecord.decode(value).last if value else 0

    # Publishers of the feed

    def open_publisher(self) -> Publisher:
        """Open a new producer."""
        publisher = Publisher(f"p{self.unique()}", fence=self.unique())
        record = ProducerRecord(publisher.fence, ts_ms=self.do(self.store.now_ms())).encode()
        op = HashSet(keys.producers(FEED), {f"client:c/{publisher.name}": record})
        append = Append(FEED, (), f"{self.unique():016x}")
        commit = Commit(f"h.{self.unique():x}", partition_of(FEED), appends=(append,), ops=(op,))
        assert isinstance(self.now(commit), Outcome)
        return publisher

    def publish(self, publisher: Publisher, fresh: int) -> None:
        """Make so many entries, and send them; with none, send all that is not acknowledged again."""
        first = len(publisher.bodies) if fresh else publisher.acked
        publisher.bodies += [b"%s-%d" % (publisher.name.encode(), self.unique()) for _ in range(fresh)]
        entries = tuple(("item", body, None, None) for body in publisher.bodies[first:])
        if not entries:
            return
        seq, name = first + 1, publisher.name
        frame = Publish(log=FEED.path, producer=name, seq=seq, fence=publisher.fence, entries=entries)
        prepared = publishing.prepare(frame, "client:c")
        assert isinstance(prepared, publishing.Prepared), prepared

        def answered(result: Outcome | Refused) -> None:
            answer = (
                publishing.puback(frame, result, "local")
                if isinstance(result, Outcome)
                else publishing.nack(frame, result, publisher.acked)
            )
            if isinstance(result, Outcome):
                publisher.acked = max(publisher.acked, answer.seq)
            else:
                last = result.last or 0
                publisher.told_lost |= last < publisher.acked
                assert "conflict" not in result.reason, answer

        self.propose(publishing.propose(f"h.{self.unique():x}", FEED, prepared, None), answered)

    # Followers of the feed

    def feed(self, follower: Follower) -> bool:
        """Give a follower what comes next; False where its history is not the log's."""
        at = follower.cursor.position
        assert at is not None
        page = self.do(self.store.read(FEED, at.offset, PAGE))
        if page is None or page.before != at:
            return False
        frame = Entries(
            log=FEED.path,
            prev=at.offset,
            prev_tag=at.tag,
            upto=page.after.offset,
            tag=page.after.tag,
            entries=page.entries,
        )
        entries = follower.cursor.accept(frame)
        tags = follower.cursor.tags_at([entry.offset for entry in entries])
        follower.story += [Given(entry.offset, tag or "") for entry, tag in zip(entries, tags, strict=True)]
        return True

    def resume(self, follower: Follower) -> None:
        """Verify a follower's position, and search for where the histories parted if they did."""
        at = follower.cursor.position
        meta = self.do(self.store.meta(FEED))
        assert at is not None
        assert meta is not None
        state = resuming.LogState.parse(meta)
        decision = resuming.resume(state, at)
        if isinstance(decision, resuming.NeedsTag):
            decision = resuming.resume(state, at, self.do(self.store.tags(FEED, (decision.offset,)))[0] or "none")
        if isinstance(decision, resuming.Probing):
            decision = self._search(resuming.Search(state, at), follower.cursor)
        if isinstance(decision, resuming.ResetTo):
            lost = decision.lost
            story = WasReset(decision.reason, lost.from_, lost.to, lost.exact, decision.at.epoch, decision.at.offset)
            follower.story.append(story)
            follower.cursor.start(decision.at)

    def _search(self, search: resuming.Search, cursor: Cursor) -> resuming.ResetTo:
        while search.result is None:
            ours = self.do(self.store.tags(FEED, search.asked))
            search.answer(cursor.tags_at(search.asked), ours)
        return search.result


def _run(member: str) -> LogName:
    return LogName("default", LogKind.RUN, member.partition("/")[2])


def _entry(number: int, ending: Kind | None) -> WireEntry:
    if ending is Kind.SUCCEEDED:
        return ending.value, pack_value(Succeeded(result=pack_value(number))), None, None
    if ending is Kind.ERRORED:
        return ending.value, pack_value(Errored(error=RunError(type="ValueError", message="as told"))), None, None
    return "step", pack_value(number), None, None
