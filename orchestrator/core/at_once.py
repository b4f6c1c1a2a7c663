"""A run that an agent takes as it is submitted: one commit for what else are two, and nothing in between.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

from orchestrator.core.run_meta import RunMeta
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet

__all__ = ["submit_claimed"]


def submit_claimed(submit: Commit, claim: Commit, meta: RunMeta) -> Commit:
    """Propose a new run together with its first attempt.

    The run never waits on its queue, so no other hub is told of it. Refused by its first guard where the key is
    taken, else by what the queue's terms ask for.

    Args:
        submit: submits the run.
        claim: gives it to an agent, as if it waited.
        meta: the run after `submit`.
    """
    [born], [claimed] = submit.appends, claim.appends
    about = keys.meta(meta.log)
    waits = {meta.place.buckets, meta.place.waiting(meta.bucket)}
    ops = [op for op in (*submit.ops, *claim.ops) if op.key not in waits]
    fields = {
        name: value for op in ops if isinstance(op, HashSet) and op.key == about for name, value in op.fields.items()
    }
    return submit._replace(
        guards=(*submit.guards, *(guard for guard in claim.guards if guard.key != about)),
        appends=(born._replace(entries=born.entries + claimed.entries),),
        ops=(HashSet(about, fields), *(op for op in ops if not (isinstance(op, HashSet) and op.key == about))),
        below=claim.below,
        hints=(),
    )
