"""Parents and children on a store, and hubs that look after them and can be killed at any commit."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from orchestrator.core import attempts, runs
from orchestrator.core import publish as publishing
from orchestrator.core.queues import Queue, Terms
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.timers import family_of
from orchestrator.families import Families
from orchestrator.line import Line
from orchestrator.peers import Held, Peer
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.store.memory import MemoryServer, MemoryStore
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from orchestrator.writing import new_run_id, write
from protocol.codec import pack_value, unpack_record
from protocol.control import Cancel, Cancelled, Kind, Succeeded, read_control
from protocol.entry import Record
from protocol.family import ChildEnded, ChildRun, Spawn
from protocol.frames import HandlerSpec, Nack, Part, Publish, Role
from protocol.ids import PARTITIONS, LogKind, LogName, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunView, fold
from tests.support.permits import agent_permit

__all__ = ["FAR", "KILLS", "SUCCESS", "World", "spawn", "walk_cancel", "walk_end", "walk_submit"]

FAR = "far"
"""A queue in another partition than the parent's, which is on `q`."""
SUCCESS = (Kind.SUCCEEDED, Succeeded(result=pack_value("done")), None)
KILLS = tuple((lives, after) for lives in range(6) for after in (False, True))
"""How many commits a hub does before it is killed, and whether that is before or after the next one."""


class Killed(Exception):
    """The hub is gone."""


class Mortal(Line):
    """A line of a hub that is killed before or after a commit.

    Attributes:
        lives: commits that it is to do yet; None for any number.
    """

    lives: int | None = None
    after = False

    async def commit(self, commit: Commit) -> Outcome | Refused:
        """Do a commit, or be killed."""
        if self.lives is None:
            return await super().commit(commit)
        if self.lives == 0 and not self.after:
            raise Killed
        result = await super().commit(commit)
        if self.lives == 0:
            raise Killed
        self.lives -= 1
        return result


class World:
    """A namespace of a store, and what hubs and an agent do in it.

    Args:
        store: which is open; without, one in memory.
        namespace: of all runs.

    Attributes:
        seqs: the next of each run and producer.
    """

    def __init__(self, store: Store | None = None, namespace: str = "default") -> None:
        self.namespace = namespace
        self._given = store
        self._server = MemoryServer(lambda: 1_000_000)
        self._hubs = 0
        self.seqs: dict[str, int] = {}
        handlers, permit = {"h": HandlerSpec(name="h")}, agent_permit()
        self.peer = Peer(
            namespace, "agent:a", Role.AGENT, "a", "i1", "s1", 1, permit, lambda _: None, {}, ("q",), handlers
        )

    async def hub(self, lives: int | None = None, *, after: bool = False) -> Mortal:
        """Return the line of a new hub, which is killed at some commit."""
        self._hubs += 1
        name, store = f"hub-{self._hubs}", self._given
        if store is None:
            store = MemoryStore(self._server, name)
            await store.open()
        line = Mortal(store, Tails(store, lambda work: work.close(), 1), name, "local", Counters())
        line.lives, line.after = lives, after
        return line

    # What an agent does

    async def parent(self, line: Line) -> LogName:
        """Submit a run to queue `q`, and work on it."""
        log = self.log(new_run_id(line, Queue(self.namespace, "q")))
        asked = RunSubmit(queue="q", handler="h", input=b"", key="first")
        ids = runs.Ids(line.new_commit_id(), "client:c", line.new_epoch())
        assert isinstance(await line.commit(runs.submit(ids, log, asked, await line.store.now_ms())), Outcome)
        await self.work_on(line, log)
        return log

    async def work_on(self, line: Line, log: LogName) -> None:
        """Claim a run for the agent."""
        ids, now_ms = runs.Ids(line.new_commit_id(), line.src), await line.store.now_ms()
        meta, spec = await self.meta(line, log), self.peer.handlers["h"]
        commit, run = attempts.claim(ids, meta, self.peer.holder, spec, Terms(), store_ms=now_ms, lease_ms=60_000)
        assert isinstance(await line.commit(commit), Outcome)
        self.peer.held[log.name] = Held(run.attempt, run.fence, run.queue, run.related)

    async def publish(self, line: Line, log: LogName, *said: tuple[Kind, Part, int | None]) -> Any:
        """Publish entries as the attempt that the agent holds."""
        held = self.peer.held[log.name]
        producer = f"attempt/{held.attempt}"
        seq = self.seqs.get(log.name + producer, 1)
        entries = tuple((kind, pack_value(body), index, None) for kind, body, index in said)
        frame = Publish(log=log.path, producer=producer, seq=seq, fence=held.fence, entries=entries)
        prepared = publishing.prepare_attempt(frame, self.peer.principal, self.peer.permit)
        assert not isinstance(prepared, Nack), prepared
        result = await write(line, self.peer, log, frame, prepared)
        if isinstance(result, Outcome):
            self.seqs[log.name + producer] = seq + len(said)
        return result

    # What hubs do

    async def cancel(self, line: Line, log: LogName) -> None:
        """Have a run told to cancel, by a client."""
        ids = runs.Ids(line.new_commit_id(), "client:c")
        commit = runs.cancel(ids, await self.meta(line, log), line.src, Cancel(reason="enough"), None)
        assert isinstance(await line.commit(commit), Outcome)

    async def tend(self, line: Line) -> None:
        """Do what is due about families until nothing is, as a timekeeper does."""
        families = Families(line, lambda _: None)
        for _ in range(20):
            due = await self.due(line)
            if not due:
                return
            await asyncio.gather(*(families.tend(self.log(run)) for run in due))
        raise AssertionError("something is due for ever")

    async def due(self, line: Line) -> list[str]:
        """Return the runs of this namespace whose families are due."""
        _, timers = await line.store.due(await line.store.now_ms(), 1000, tuple(range(PARTITIONS)))
        words = [each.member.partition("/") for each in timers]
        found = [family_of(about) for namespace, _, about in words if namespace == self.namespace]
        return [run for run in found if run is not None]

    async def tend_and_die(self, lives: int | None, after: bool) -> None:
        """Do the same on a hub that is killed at some commit."""
        with contextlib.suppress(Killed):
            await self.tend(await self.hub(lives, after=after))

    # What there is then

    def log(self, run: str) -> LogName:
        """Return the log of a run."""
        return LogName(self.namespace, LogKind.RUN, run)

    async def meta(self, line: Line, log: LogName) -> RunMeta:
        """Return what is kept of a run."""
        fields = await line.store.meta(log)
        assert fields is not None, log
        return RunMeta.parse(log, fields)

    async def records(self, line: Line, log: LogName) -> list[Record]:
        """Return what a run's log says, which folds."""
        page = await line.store.read(log, 0, 1000)
        assert page is not None
        fold(RunView(), page.entries)
        return [unpack_record(entry.packed) for entry in page.entries]

    async def said(self, line: Line, log: LogName, kind: Kind, model: type[Any]) -> list[Any]:
        """Return the bodies of a kind."""
        return [read_control(model, each.body) for each in await self.records(line, log) if each.kind == kind]

    async def reason(self, line: Line, log: LogName) -> str:
        """Return why a run was told to cancel, which it was once."""
        (said,) = await self.said(line, log, Kind.CANCEL, Cancel)
        return str(said.reason)

    async def runs_of(self, line: Line, queue: str) -> list[LogName]:
        """Return the runs that were ever submitted to a queue."""
        mapping = keys.idempotency(queue_partition(self.namespace, queue), self.namespace, queue)
        made = (await line.store.hash_all(mapping)).values()
        return sorted((self.log(value.decode().partition(" ")[0]) for value in made), key=lambda log: log.name)

    async def open(self, line: Line, log: LogName) -> dict[str, bytes]:
        """Return the records of children that have not ended."""
        return await line.store.hash_all(keys.children(log))


def spawn(digest: str = "d1", queue: str = FAR, **options: Any) -> Spawn:
    """Return what asks for a child."""
    return Spawn(queue=queue, handler="h", input=pack_value(7), digest=digest, **options)


async def walk_submit(world: World, lives: int, after: bool) -> None:
    """A child is submitted once, whenever the hub is killed."""
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend_and_die(lives, after)
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    (said,) = await world.said(line, log, Kind.CHILD, ChildRun)
    assert (said.index, said.digest, said.run) == (1, "d1", child.name)
    meta = await world.meta(line, child)
    assert (meta.parent, meta.slot) == (log.name, "1.d1")
    assert (await world.records(line, child))[0].src == "agent:a"


async def walk_end(world: World, lives: int, after: bool) -> None:
    """The end of a child is told once, whenever the hub is killed."""
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    await world.work_on(line, child)
    await world.publish(line, child, SUCCESS)
    await world.tend_and_die(lives, after)
    await world.tend(line)
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert (ended.run, ended.state, ended.result, ended.offset) == (child.name, "succeeded", pack_value("done"), 3)
    assert await world.open(line, log) == {}


async def walk_cancel(world: World, lives: int | None, after: bool) -> None:
    """A cancel goes down to children and their children, whenever the hub is killed, and their ends come up."""
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    await world.work_on(line, child)
    await world.publish(line, child, (Kind.SPAWN, spawn("d2", "low"), 1))
    await world.tend(line)
    (grandchild,) = await world.runs_of(line, "low")
    await world.cancel(line, log)
    await world.tend_and_die(lives, after)
    await world.tend(line)
    assert await world.reason(line, child) == f"its parent {log.name} was told to cancel"
    assert await world.reason(line, grandchild) == f"its parent {child.name} was told to cancel"
    assert (await world.meta(line, grandchild)).state == "cancelled"
    assert (await world.meta(line, child)).cancelling
    for run in (child, log):
        await world.publish(line, run, (Kind.CANCELLED, Cancelled(), None))
        await world.tend(line)
        assert await world.open(line, run) == {}
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert ended.state == "cancelled"
