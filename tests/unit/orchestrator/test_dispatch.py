"""Claims: what was listed may not be there to be claimed any more."""

from __future__ import annotations

import pytest

from orchestrator.core import runs
from orchestrator.core.queues import Terms
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.peers import Peers
from orchestrator.store.commits import Outcome
from orchestrator.store.memory import MemoryServer
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import RunSubmit
from protocol.run import RunState
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, meta_of


async def submitted(line: Line, store_ms: int, **terms: int) -> LogName:
    log = LogName("default", LogKind.RUN, make_run_id(queue_partition("default", "q"), NOW_MS, b"12345678"))
    asked = RunSubmit.model_validate({"queue": "q", "handler": "h", "input": b"", "key": "k", **terms})
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
    assert not await Dispatch(line, Peers(1_000), 1_000)._try_claim(log, peer, "h", Terms())
    meta = await meta_of(line, log)
    assert (meta.state, meta.attempt) == (state, 0)
