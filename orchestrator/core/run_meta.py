"""What the store keeps beside a run's log, so that a decision about it costs one read.

The log is what is true; these fields are written in the same commits as its entries, and the tests fold
logs and compare. A commit that was decided from them is guarded: they must still say the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from orchestrator.core.meta_artifacts import TOTAL, MetaArtifact, parse_artifacts
from orchestrator.core.meta_questions import ASKED_DUE, MetaQuestion, first_due_ms, parse_questions
from orchestrator.core.meta_suspension import SUSPENDED, awaits, encode_suspended, parse_suspended
from orchestrator.core.queues import Queue, queue_of
from orchestrator.store import keys
from orchestrator.store.commits import ABSENT, Guard
from protocol.control import Submitted
from protocol.conversation import Suspended
from protocol.frames import Recover
from protocol.ids import LogName, partition_of
from protocol.run import FINAL, RunState
from protocol.selector import Selector, parse_selector

__all__ = ["Bucket", "RunMeta", "as_read", "bucket_of", "newborn", "parse_bucket"]


class RunMeta(NamedTuple):
    """The meta fields of a run's log, typed.

    Attributes:
        retries: None until somebody has said a number; so are `timeout_ms` and the waits between tries.
        started: offset of the first `$claimed`, None before it.
        claimed_at: offset of the latest `$claimed`, 0 before the first.
        where: selector of the agents that may take it, as canonical text.
        retry_of: the run that this one does again, or "".
        not_before_ms: when a run that waits comes back to its queue; 0 where it is on it, or runs.
        deadline_ms: when the run expires.
        times_out_ms: when the attempt that runs has had its time.
        questions: what it asked, answered or not.
        asked_due_ms: when the first of them runs out of time, as it was read.
        steers: how many messages it was sent.
        artifacts: what it opened of artifacts, whole or not; `artifact_bytes` as it was read.
        talk_from: no `$steer`, `$asked`, `$spawn` or `$cancel` stands before this offset; None where there are none.
        parent: the run that this one is a child of, or "", and
        slot: what it is called among the children of that run.
        children: how many children it has had.
        stirred: the last commit that gave parent or children something to do.
        continues: the run that ended in this one, or "", and
        continued_as: the one that this one ended in.
        keep_ms: for how long it is kept after its end; None for ever.
        suspended: what it waits for, besides `not_before_ms`, where its handler was put away; else None.
        by: the submitter that it counts for among those of its queue.
        concurrency_key: of the runs of its queue that have the same, so many are worked on at once; "" for none.
    """

    log: LogName
    head: int
    state: RunState
    queue: str
    handler: str
    priority: int
    attempt: int
    fence: int
    agent: str
    instance: str
    session: str
    session_fence: int
    recover: str
    retries: int | None
    failures: int
    losses: int
    cancelling: bool
    started: int | None
    claimed_at: int
    where: str
    retry_of: str
    not_before_ms: int
    deadline_ms: int | None
    timeout_ms: int | None
    times_out_ms: int | None
    backoff_ms: int | None
    backoff_max_ms: int | None
    questions: tuple[MetaQuestion, ...] = ()
    asked_due_ms: int | None = None
    steers: int = 0
    talk_from: int | None = None
    parent: str = ""
    slot: str = ""
    children: int = 0
    stirred: str | None = None
    continues: str = ""
    continued_as: str = ""
    keep_ms: int | None = None
    suspended: Suspended | None = None
    artifacts: tuple[MetaArtifact, ...] = ()
    artifact_bytes: int | None = None
    by: str = ""
    concurrency_key: str = ""

    @classmethod
    def parse(cls, log: LogName, fields: Mapping[str, str]) -> RunMeta:
        """Read the fields that `submit` and `claim` wrote."""
        return cls(
            log=log,
            head=int(fields["head"]),
            state=RunState(fields["state"]),
            queue=fields["queue"],
            handler=fields["handler"],
            priority=int(fields["priority"]),
            attempt=int(fields["attempt"]),
            fence=int(fields["fence"]),
            agent=fields.get("agent", ""),
            instance=fields.get("instance", ""),
            session=fields.get("session", ""),
            session_fence=int(fields.get("session_fence", "0")),
            recover=fields.get("recover", "restart"),
            retries=_number(fields, "retries"),
            failures=int(fields["failures"]),
            losses=int(fields["losses"]),
            cancelling="cancel" in fields,
            started=_number(fields, "started"),
            claimed_at=int(fields.get("claimed_at", "0")),
            where=fields.get("where", ""),
            retry_of=fields.get("retry_of", ""),
            not_before_ms=int(fields.get("not_before", "0")),
            deadline_ms=_number(fields, "deadline"),
            timeout_ms=_number(fields, "timeout"),
            times_out_ms=_number(fields, "times_out"),
            backoff_ms=_number(fields, "backoff"),
            backoff_max_ms=_number(fields, "backoff_max"),
            questions=parse_questions(fields) if "talk_from" in fields else (),
            asked_due_ms=_number(fields, ASKED_DUE),
            steers=int(fields.get("steers", "0")),
            talk_from=_number(fields, "talk_from"),
            parent=fields.get("parent", ""),
            slot=fields.get("slot", ""),
            children=int(fields.get("children", "0")),
            stirred=fields.get("stirred"),
            continues=fields.get("continues", ""),
            continued_as=fields.get("continued_as", ""),
            keep_ms=_number(fields, "keep"),
            suspended=parse_suspended(fields),
            artifacts=parse_artifacts(fields) if TOTAL in fields else (),
            artifact_bytes=_number(fields, TOTAL),
            by=fields.get("by", ""),
            concurrency_key=fields.get("concurrency_key", ""),
        )

    def born_fields(self) -> dict[str, str]:
        """Return the fields that a submit writes, as `parse` reads them."""
        fields = {
            "state": self.state.value,
            "queue": self.queue,
            "handler": self.handler,
            "priority": str(self.priority),
            "attempt": str(self.attempt),
            "fence": str(self.fence),
            "failures": str(self.failures),
            "losses": str(self.losses),
            "by": self.by,
        }
        asked = (
            ("retries", self.retries),
            ("where", self.where or None),
            ("retry_of", self.retry_of or None),
            ("not_before", self.not_before_ms or None),
            ("deadline", self.deadline_ms),
            ("timeout", self.timeout_ms),
            ("backoff", self.backoff_ms),
            ("backoff_max", self.backoff_max_ms),
            ("keep", self.keep_ms),
            ("parent", self.parent or None),
            ("slot", self.slot or None),
            ("continues", self.continues or None),
            ("concurrency_key", self.concurrency_key or None),
        )
        for name, value in asked:
            if value is not None:
                fields[name] = str(value)
        return fields

    def attempt_fields(self) -> dict[str, str]:
        """Return the fields that a claim writes, as `parse` reads them."""
        assert self.retries is not None, self
        assert self.started is not None, self
        spans = {"timeout": self.timeout_ms, "times_out": self.times_out_ms}
        return {
            "state": self.state.value,
            "attempt": str(self.attempt),
            "fence": str(self.fence),
            "agent": self.agent,
            "instance": self.instance,
            "session": self.session,
            "session_fence": str(self.session_fence),
            "recover": self.recover,
            "retries": str(self.retries),
            "started": str(self.started),
            "claimed_at": str(self.claimed_at),
            "backoff": str(self.backoff_ms),
            "backoff_max": str(self.backoff_max_ms),
            **{name: str(ms) for name, ms in spans.items() if ms is not None},
        }

    def unchanged(self) -> tuple[Guard, ...]:
        """Return guards that hold while the run is in the state, the attempt and the session that were read."""
        return as_read(self.log, self.fence, self.state, self.session or ABSENT)

    def cancel_unchanged(self) -> Guard:
        """Return a guard that holds until a cancel is asked for, or where it was before this was read."""
        return Guard(keys.meta(self.log), "cancel", "1" if self.cancelling else ABSENT)

    def asked_unchanged(self) -> Guard:
        """Return a guard that holds while no question makes the run due earlier than was read."""
        due_ms = self.asked_due_ms
        return Guard(keys.meta(self.log), ASKED_DUE, ABSENT if due_ms is None else str(due_ms))

    def children_unchanged(self) -> Guard:
        """Return a guard that holds while it has had no more children: whoever ends it knows whether it has any."""
        return Guard(keys.meta(self.log), "children", str(self.children) if self.children else ABSENT)

    def put_off_unchanged(self) -> tuple[Guard, ...]:
        """Return guards that hold while it waits for what was read, where it is put off."""
        key, until, waits = keys.meta(self.log), self.not_before_ms, self.suspended
        return (
            Guard(key, "not_before", str(until) if until else ABSENT),
            Guard(key, SUSPENDED, ABSENT if waits is None else encode_suspended(waits)),
        )

    def come(self) -> RunMeta:
        """Return it as it is when something that it waited for has come: put off no more, where that was all."""
        all_came = not self.not_before_ms and not awaits(self.suspended)
        return self._replace(suspended=None) if all_came else self

    @property
    def put_off(self) -> bool:
        """Whether it waits for a time, or for what its handler was put away for, and is not on its queue."""
        return self.not_before_ms > 0 or self.suspended is not None

    @property
    def place(self) -> Queue:
        """The queue that it is a run of."""
        return queue_of(self.log.namespace, self.queue)

    @property
    def bucket(self) -> str:
        """Where it waits among the runs of its queue."""
        return bucket_of(self.priority, self.by, self.handler, self.where)

    @property
    def due_ms(self) -> int | None:
        """When the timekeeper has something to do about it, whatever else happens."""
        if self.final:
            return None
        waits, runs = self.state is RunState.QUEUED, self.state is RunState.RUNNING
        asked_ms = first_due_ms(self.questions) if self.questions else None
        ends = (self.not_before_ms if waits else 0, self.deadline_ms, self.times_out_ms if runs else None, asked_ms)
        due = [each for each in ends if each]
        return min(due) if due else None

    @property
    def related(self) -> bool:
        """Whether its end is of concern to a parent or to children."""
        return bool(self.parent or self.children)

    @property
    def partition(self) -> int:
        """The partition that holds the run and its queue."""
        return partition_of(self.log)

    @property
    def final(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL


def newborn(log: LogName, body: Submitted, src: str, slot: str = "") -> RunMeta:
    """Return the meta of a run whose log holds nothing but its `$submitted`, which is `body`, written by `src`.

    `slot` is what it is called among the children of its parent.
    """
    return RunMeta(
        log=log,
        head=1,
        state=RunState.QUEUED,
        queue=body.queue,
        handler=body.handler,
        priority=body.priority,
        attempt=0,
        fence=0,
        agent="",
        instance="",
        session="",
        session_fence=0,
        recover=Recover.RESTART.value,
        retries=body.retries,
        failures=0,
        losses=0,
        cancelling=False,
        started=None,
        claimed_at=0,
        where=body.where,
        retry_of=body.retry_of or "",
        not_before_ms=body.not_before_ms or 0,
        deadline_ms=body.deadline_ms,
        timeout_ms=body.timeout_ms,
        times_out_ms=None,
        backoff_ms=body.backoff_ms,
        backoff_max_ms=body.backoff_max_ms,
        parent=body.parent or "",
        slot=slot,
        continues=body.continues or "",
        keep_ms=body.keep_ms,
        by=body.by or src,
        concurrency_key=body.concurrency_key or "",
    )


class Bucket(NamedTuple):
    """What the runs have in common that wait in one place: one agent takes all of them or none, and they take turns."""

    priority: int
    by: str
    handler: str
    where: Selector


def bucket_of(priority: int, by: str, handler: str, where: str) -> str:
    """Return where runs wait that have this priority, submitter and handler, and ask for these labels."""
    return f"{priority}/{by}/{handler}?{where}" if where else f"{priority}/{by}/{handler}"


@lru_cache(maxsize=4096)
def parse_bucket(bucket: str) -> Bucket:
    """Return what the runs have in common that wait there."""
    priority, by, rest = bucket.split("/", 2)
    handler, _, where = rest.partition("?")
    return Bucket(int(priority), by, handler, parse_selector(where))


def _number(fields: Mapping[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def as_read(log: LogName, fence: int, state: RunState, session: str | None) -> tuple[Guard, ...]:
    """Return guards that hold while a run's meta says this of its attempt."""
    key = keys.meta(log)
    return Guard(key, "fence", str(fence)), Guard(key, "state", state.value), Guard(key, "session", session)
