"""What to do about what is said to a run and what it asks: pure proposals of commits, as in `orchestrator.core.runs`.

A run's meta has a field for each of its questions, so that the first answer, or the end of its time, is the only one:
the commit is guarded on the field as it was read. `asked_due` is when the first of those that wait runs out of time;
whoever sets the run's timer is guarded on it. Questions outlive attempts.

A run whose handler was put away comes back with what it waits for: `orchestrator.core.suspension`.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.core.meta_questions import ASKED_DUE, FIELD, MetaQuestion, first_due_ms
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.runs import Ids, back_hints, coming, struck
from orchestrator.core.timers import run_timer
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Append, Commit, Guard, HashDelete, HashSet, Op
from protocol.codec import pack_value
from protocol.codes import ErrorCode
from protocol.control import Kind, pack_control, read_control
from protocol.conversation import QUESTIONS_MAX, TIMEOUT, Answered, Asked, QuestionKind, Steer
from protocol.errors import RequestError

__all__ = ["Asking", "answer", "asked_in", "opened", "steer", "time_out"]


@dataclass(frozen=True, slots=True)
class Asking:
    """What comes with a frame that asks: the run's meta after it, what must be so, and what changes."""

    after: RunMeta
    guards: tuple[Guard, ...]
    ops: tuple[Op, ...]


def asked_in(entries: Sequence[tuple[str, bytes, int | None, int | None]]) -> tuple[tuple[int, Asked], ...]:
    """Return the questions in the entries of a publish, which were checked."""
    return tuple((index or 0, read_control(Asked, body)) for kind, body, index, _ in entries if kind == Kind.ASKED)


def opened(meta: RunMeta, asked: Sequence[tuple[int, Asked]], store_ms: int) -> Asking:
    """Decide what comes with entries that ask. What was asked before, by an earlier attempt say, stays as it is.

    Raises:
        RequestError: the run has asked as much as it may.
    """
    known = {question.index: question for question in meta.questions}
    new = {}
    for index, body in asked:
        before = known.get(index)
        if before is None or before.digest != body.digest:
            deadline_ms = None if body.timeout_ms is None else store_ms + body.timeout_ms
            new[index] = MetaQuestion(index, True, body.kind, deadline_ms, body.digest, body.name)
    questions = tuple((known | new)[index] for index in sorted(known | new))
    if len(questions) > QUESTIONS_MAX:
        raise RequestError(ErrorCode.INVALID_ENTRY, f"the run has asked {QUESTIONS_MAX} questions, and may no more")
    after = meta._replace(questions=questions, talk_from=meta.talk_from or meta.head + 1)
    key = keys.meta(meta.log)
    fields = {question.field: question.encode() for question in new.values()} | {"talk_from": str(after.talk_from)}
    unchanged = tuple(
        Guard(key, f"{FIELD}{index}", known[index].encode() if index in known else ABSENT) for index in new
    )
    return Asking(after, (meta.asked_unchanged(), *unchanged), (HashSet(key, fields), *_due_ops(after)))


def answer(
    ids: Ids, meta: RunMeta, question: MetaQuestion, packed: bytes | None, by: str, stored: HashSet | None
) -> Commit:
    """Propose the answer to a question that waits. `ids.src` is whoever gives it; `stored` keeps the result."""
    return _answers(ids, meta, [(question, packed)], by, (stored,) if stored else ())


def time_out(ids: Ids, meta: RunMeta, store_ms: int) -> Commit | None:
    """Propose that the questions whose time is over have had it: approvals are denied. None where there is none."""
    timed = [(each, each.deadline_ms) for each in meta.questions if each.open and each.deadline_ms is not None]
    over = [question for question, deadline_ms in timed if deadline_ms <= store_ms]
    if not over:
        return None
    denied = pack_value(False)
    answers = [(each, denied if each.kind is QuestionKind.APPROVE else None) for each in over]
    return _answers(ids, meta, answers, TIMEOUT, ())


def steer(ids: Ids, meta: RunMeta, message: Steer, stored: HashSet) -> Commit:
    """Propose a message to a run. `ids.src` is whoever says it; `stored` keeps the request's result."""
    assert not meta.final, meta
    key = keys.meta(meta.log)
    fields = {"steers": str(meta.steers + 1), "talk_from": str(meta.talk_from or meta.head + 1)}
    after = struck(meta, messages=None)
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(
            Guard(key, "state", meta.state.value),
            Guard(key, "steers", str(meta.steers) if meta.steers else ABSENT),
            *meta.put_off_unchanged(),
        ),
        appends=(Append(meta.log, (pack_control(Kind.STEER, ids.src, message),), ""),),
        ops=(HashSet(key, fields), stored, *coming(meta, after)),
        hints=back_hints(meta, after),
    )


def _answers(
    ids: Ids,
    meta: RunMeta,
    answers: Sequence[tuple[MetaQuestion, bytes | None]],
    by: str,
    stored: tuple[HashSet, ...],
) -> Commit:
    assert not meta.final, meta
    key = keys.meta(meta.log)
    closed = {question.index: replace(question, open=False) for question, _ in answers}
    waiting = () if meta.suspended is None else meta.suspended.questions
    left = struck(meta, questions=tuple(index for index in waiting if index not in closed))
    after = left._replace(questions=tuple(closed.get(each.index, each) for each in meta.questions))
    entries = tuple(
        pack_control(
            Kind.ANSWERED,
            ids.src,
            Answered(index=question.index, digest=question.digest, answer=packed, by=by),
        )
        for question, packed in answers
    )
    return Commit(
        id=ids.commit,
        partition=meta.partition,
        guards=(
            Guard(key, "state", meta.state.value),
            Guard(key, "fence", str(meta.fence)),
            *(Guard(key, question.field, question.encode()) for question, _ in answers),
            meta.asked_unchanged(),
            *meta.put_off_unchanged(),
        ),
        appends=(Append(meta.log, entries, ""),),
        ops=(
            HashSet(key, {each.field: each.encode() for each in closed.values()}),
            *_due_ops(after),
            *coming(meta, after),
            *stored,
        ),
        hints=back_hints(meta, after),
    )


def _due_ops(after: RunMeta) -> tuple[Op, ...]:
    """Note when the first question runs out of time, and have the timekeeper look at the run when something is due."""
    key, first_ms = keys.meta(after.log), first_due_ms(after.questions)
    return (
        HashDelete(key, (ASKED_DUE,)) if first_ms is None else HashSet(key, {ASKED_DUE: str(first_ms)}),
        run_timer(after.log, after.due_ms),
    )
