"""Runs that are put on their queues, each once for its key.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from orchestrator.core import runs
from orchestrator.core.queues import queue_of
from orchestrator.core.run_meta import newborn
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.newborn import Known
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome, Refused
from orchestrator.writing import new_run_id
from protocol.ids import LogKind, LogName
from protocol.requests import RunSubmit

__all__ = ["submit"]

LINGERING_BYTES_MAX = 16 * 1024
"""Of an input that is kept at hand for whoever follows the run next."""


async def submit(
    line: Line,
    dispatch: Dispatch,
    namespace: str,
    principal: str,
    params: RunSubmit,
    retry_of: str | None = None,
    keeping: runs.Keeping = runs.AS_ASKED,
) -> tuple[str, Outcome | Refused]:
    """Submit a run, and see that it is claimed. Returns its id, if it is the first of its key, and what came.

    Where its queue is idle, an agent here takes it with the same commit.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    queue = queue_of(namespace, params.queue)
    run = new_run_id(line, queue)
    ids = runs.Ids(line.new_commit_id(), principal, line.new_epoch())
    log = LogName(namespace, LogKind.RUN, run)
    body = runs.submitted(params, line.now_ms(), retry_of, keeping=keeping)
    known = Known(newborn(log, body, principal), params.input)
    commit = runs.place(ids, known.meta, body)
    if len(params.input) <= LINGERING_BYTES_MAX:
        line.tails.linger(log)
    taker = dispatch.taker(known.meta)
    result = await dispatch.claiming.submit(commit, known, *taker) if taker else None
    if result is None:
        taker, result = None, await settle(line, commit)
        if isinstance(result, Outcome) and not known.meta.put_off:  # that its time has come leaves no entry
            dispatch.claiming.newborn.keep(known)
    if isinstance(result, Outcome) and (taker is None or run not in taker[0].held):  # it waits, or was handed back
        dispatch.look(queue)
    return run, result
