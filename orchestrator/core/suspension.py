"""What to do about a run whose handler is put away: pure proposals of commits, as in `orchestrator.core.runs`.

A run that is suspended is queued and put off, as one is that is delayed: it is not on its queue until all that it
waits for has come. Each thing that comes strikes itself from the run's meta in its own commit, and the one that finds
nothing left puts the run on its queue:

    the end of the sleep    `not_before`    `runs.requeue`, by the timekeeper
    an answer               `suspended`     `questions.answer`, `questions.time_out`
    the end of a child      `suspended`     `children.told`
    a message               `suspended`     `questions.steer`

All of them are guarded on both fields as they were read, so that two that come at once do not each leave it to the
other. What came before the suspension was committed is seen when it is decided, and guarded as well.

Specification: docs/protocol.md, section "Suspension"; docs/decisions/0016-suspension.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from orchestrator.core.attempts import Ending, back
from orchestrator.core.meta_suspension import SUSPENDED, awaits, encode_suspended
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.runs import Ids, put_off
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Guard
from protocol.codes import ErrorCode
from protocol.conversation import Suspended
from protocol.errors import RequestError
from protocol.frames import Recover
from protocol.run import RunState

__all__ = ["suspend"]

_NO_CHILDREN: Mapping[str, str] = MappingProxyType({})


def suspend(
    ids: Ids, meta: RunMeta, asked: Suspended, store_ms: int, children: Mapping[str, str] = _NO_CHILDREN
) -> Ending:
    """Decide what follows `$suspended`: the run waits for what has not come yet; where all of it has, on its queue.

    `children` has the records of those of the children named that have not ended, by slot.

    Raises:
        RequestError: `invalid_entry`, a new attempt of its handler would not go on where this one was.
    """
    if meta.recover != Recover.JOURNAL:
        raise RequestError(
            ErrorCode.INVALID_ENTRY, "only an attempt with a journal is suspended: others would begin anew"
        )
    waiting = [each for each in meta.questions if each.open and each.index in asked.questions]
    told = asked.messages is not None and meta.steers > asked.messages
    left = Suspended(
        questions=tuple(each.index for each in waiting),
        children=tuple(sorted(children)),
        messages=None if told else asked.messages,
    )
    key = keys.meta(meta.log)
    guards = (
        meta.cancel_unchanged(),
        meta.asked_unchanged(),
        Guard(key, "steers", str(meta.steers) if meta.steers else ABSENT),
        *(Guard(key, each.field, each.encode()) for each in waiting),
        *(Guard(keys.children(meta.log), slot, record) for slot, record in children.items()),
    )
    if meta.cancelling or not (asked.sleep_ms or awaits(left)):
        return back(ids, meta, {})._replace(guards=guards)
    until_ms = store_ms + asked.sleep_ms if asked.sleep_ms else 0
    after = meta._replace(state=RunState.QUEUED, not_before_ms=until_ms, suspended=left)
    fields = {SUSPENDED: encode_suspended(left)} | ({"not_before": str(until_ms)} if until_ms else {})
    ops = (put_off(meta.log, meta.place, until_ms),)
    return Ending(after.state, fields=fields, guards=guards, ops=ops, due_ms=after.due_ms)
