"""A store in memory on which hubs that can be killed look after parents and children."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.core import attempts, runs
from orchestrator.core import publish as publishing
from orchestrator.core.queues import Terms
from orchestrator.core.timers import family_of
from orchestrator.families import Families
from orchestrator.line import Line
from orchestrator.peers import Held, Peer
from orchestrator.store import keys
from orchestrator.store.commits import Commit, Outcome, Refused
from orchestrator.store.memory import MemoryServer
from orchestrator.writing import write
from protocol.codec import pack_value, unpack_record
from protocol.control import Cancel, Kind, Succeeded, read_control
from protocol.entry import Record
from protocol.family import Spawn
from protocol.frames import Nack, Part, Publish
from protocol.ids import PARTITIONS, LogKind, LogName, queue_partition
from protocol.run import RunView, fold
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, meta_of, start_run

__all__ = ["FAR", "SUCCESS", "Killed", "World", "cancel", "parent", "spawn", "work_on"]

FAR = "far"
"""A queue in another partition than the parent's."""


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
    """A store, and what hubs do with it."""

    def __init__(self) -> None:
        self.server = MemoryServer(lambda: NOW_MS)
        self.hubs = 0
        self.seqs: dict[str, int] = {}

    async def hub(self, lives: int | None = None, *, after: bool = False) -> Line:
        """Return the line of a new hub, which is killed at some commit."""
        self.hubs += 1
        line = await line_to(self.server, f"hub-{self.hubs}")
        line.__class__ = Mortal
        line.lives, line.after = lives, after  # type: ignore[attr-defined]
        return line

    async def publish(self, line: Line, peer: Peer, log: LogName, *said: tuple[Kind, Part, int | None]) -> Any:
        """Publish entries as the attempt that the peer holds."""
        held = peer.held[log.name]
        producer = f"attempt/{held.attempt}"
        seq = self.seqs.get(log.name + producer, 1)
        entries = tuple((kind, pack_value(body), index, None) for kind, body, index in said)
        frame = Publish(log=log.path, producer=producer, seq=seq, fence=held.fence, entries=entries)
        prepared = publishing.prepare_attempt(frame, peer.principal)
        assert not isinstance(prepared, Nack), prepared
        result = await write(line, peer, log, frame, prepared)
        if isinstance(result, Outcome):
            self.seqs[log.name + producer] = seq + len(said)
        return result

    async def tend(self, line: Line) -> None:
        """Do what is due about families until nothing is, as a timekeeper does."""
        families = Families(line, lambda _: None, lambda work: work.close())
        for _ in range(20):
            _, due = await line.store.due(NOW_MS, 100, tuple(range(PARTITIONS)))
            found = [family_of(member.partition("/")[2]) for _, member in due]
            if not any(found):
                return
            await asyncio.gather(*(families.tend(LogName("default", LogKind.RUN, run)) for run in found if run))
        raise AssertionError("something is due for ever")

    async def records(self, line: Line, log: LogName) -> list[Record]:
        """Return what a run's log says, which folds."""
        page = await line.store.read(log, 0, 1000)
        assert page is not None
        fold(RunView(), page.entries)
        return [unpack_record(entry.packed) for entry in page.entries]

    async def said(self, line: Line, log: LogName, kind: Kind, model: type[Any]) -> list[Any]:
        """Return the bodies of a kind."""
        return [read_control(model, each.body) for each in await self.records(line, log) if each.kind == kind]

    async def runs_of(self, line: Line, queue: str) -> list[LogName]:
        """Return the runs that were ever submitted to a queue, oldest first."""
        mapping = keys.idempotency(queue_partition("default", queue), "default", queue)
        made = [value.decode().partition(" ")[0] for value in (await line.store.hash_all(mapping)).values()]
        return [LogName("default", LogKind.RUN, run) for run in made]

    async def open(self, line: Line, log: LogName) -> dict[str, bytes]:
        """Return the records of children that have not ended."""
        return await line.store.hash_all(keys.children(log))


def spawn(digest: str = "d1", **options: Any) -> Spawn:
    return Spawn(queue=FAR, handler="h", input=pack_value(7), digest=digest, **options)


async def parent(line: Line, number: int = 1) -> tuple[Peer, LogName]:
    """Start a run on queue `q`."""
    peer = agent_peer(lambda _: None, slots=4)
    meta, held = await start_run(line, peer, number)
    peer.held[meta.log.name] = held
    return peer, meta.log


async def work_on(line: Line, peer: Peer, log: LogName) -> None:
    """Claim a run for an agent."""
    meta = await meta_of(line, log)
    ids = runs.Ids(line.new_commit_id(), line.src)
    commit, run = attempts.claim(ids, meta, peer.holder, peer.handlers["h"], Terms(), store_ms=NOW_MS, lease_ms=1_000)
    assert isinstance(await line.commit(commit), Outcome)
    peer.held[log.name] = Held(run.attempt, run.fence, run.queue, run.related)


async def cancel(line: Line, log: LogName) -> None:
    ids = runs.Ids(line.new_commit_id(), "client:c")
    commit = runs.cancel(ids, await meta_of(line, log), line.src, Cancel(reason="enough"), None)
    assert isinstance(await line.commit(commit), Outcome)


SUCCESS = (Kind.SUCCEEDED, Succeeded(result=pack_value("done")), None)
