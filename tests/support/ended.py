"""A run that is over and was kept for long enough, with everything that can be stored of one, on any store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from orchestrator.core import runs
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.runs import Ids
from orchestrator.forgetting import Forgetting
from orchestrator.line import Line
from orchestrator.registry import Registry
from orchestrator.store import keys
from orchestrator.store.base import Store
from orchestrator.store.commits import Commit, HashSet, Outcome
from orchestrator.tail import Tails
from orchestrator.telemetry import Counters
from protocol.control import Cancel
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit

__all__ = ["PARTITION", "forgetting", "line_to", "over", "submitted"]

PARTITION = queue_partition("default", "q")


def line_to(store: Store, hub_id: str = "hub-a") -> Line:
    """Return a line to a store; what its tails would run beside everything else is not run."""
    return Line(store, Tails(store, lambda work: work.close(), 1), hub_id, "local", Counters())


def forgetting(line: Line) -> Forgetting:
    """Return what deletes runs, for the only hub that is live."""
    return Forgetting(line, cast(Registry, SimpleNamespace(live_hubs=lambda: frozenset({line.hub_id}))))


async def submitted(line: Line, number: int, *, keep_ms: int | None = 1, key: str | None = None) -> LogName | None:
    """Submit a run. Returns None where its key names another."""
    log = LogName("default", LogKind.RUN, make_run_id(PARTITION, 1_764_000_000_000, number.to_bytes(8, "big")))
    asked = RunSubmit(queue="q", handler="h", input=b"", key=key or f"k{number}", keep_ms=keep_ms)
    ids = Ids(line.new_commit_id(), "client:c", "0123456789abcdef")
    result = await line.commit(runs.submit(ids, log, asked, await line.store.now_ms()))
    return log if isinstance(result, Outcome) else None


async def over(line: Line, number: int, *, keep_ms: int | None = 1) -> LogName:
    """Submit a run and cancel it; it has a producer's record and an ack of a durable subscription."""
    log = await submitted(line, number, keep_ms=keep_ms)
    assert log is not None
    more = (HashSet(keys.producers(log), {"attempt/1": "r"}), HashSet(keys.acks(log), {"client:c/n": "1 e t"}))
    assert isinstance(await line.commit(Commit(line.new_commit_id(), PARTITION, ops=more)), Outcome)
    fields = await line.store.meta(log)
    assert fields is not None
    cancel = runs.cancel(Ids(line.new_commit_id(), "client:c"), RunMeta.parse(log, fields), line.src, Cancel(), None)
    assert isinstance(await line.commit(cancel), Outcome)
    return log
