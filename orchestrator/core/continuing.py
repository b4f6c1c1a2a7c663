"""What to do about a run that ends in another one, with the same handler and terms, and a log of its own.

Both are on one queue, and so in one partition: the end of the one and the submit of the other are one commit.

Specification: docs/protocol.md, section "Continued runs".
"""

from __future__ import annotations

from orchestrator.core import runs
from orchestrator.core.attempts import Ending
from orchestrator.core.run_meta import RunMeta, newborn
from orchestrator.core.runs import Ids
from protocol.control import Cancelled, Kind, Submitted, pack_control
from protocol.family import Continue, Continued
from protocol.ids import LogName
from protocol.run import RunState

__all__ = ["conclude_continue"]


def conclude_continue(
    ids: Ids, meta: RunMeta, submitted: Submitted, wish: Continue, successor: LogName, asker: str
) -> Ending:
    """Decide what follows `$continue`: the run ends in another one, or, where it was told to cancel, for good.

    Args:
        ids: of the hub, with the epoch of the successor's log.
        meta: of the run that ends.
        submitted: what it was submitted with.
        wish: what it says.
        successor: the log of the other one.
        asker: who is said to have submitted that.
    """
    guards = (meta.cancel_unchanged(),)
    if meta.cancelling:
        why = Cancelled(reason="it was to go on as another run")
        return Ending(RunState.CANCELLED, (pack_control(Kind.CANCELLED, ids.src, why),), guards=guards)
    changed = {
        "input": wish.input,
        "key": f"continued/{meta.log.name}",
        "continues": meta.log.name,
        "not_before_ms": None,
        "retry_of": None,
        "by": meta.by or None,
    }
    body = submitted.model_copy(update=changed)
    born = newborn(successor, body, asker, meta.slot)
    beside = runs.place(Ids(ids.commit, asker, ids.epoch), born, body)
    entry = pack_control(Kind.CONTINUED, ids.src, Continued(run=successor.name))
    fields = {"continued_as": successor.name}
    return Ending(RunState.SUCCEEDED, (entry,), fields, guards, beside=beside)
