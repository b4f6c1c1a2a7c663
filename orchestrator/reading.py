"""What people and programs read of runs and logs, outside subscriptions.

A run is shown from its meta and at most three entries: the one that submitted it, the one that first
claimed it, the one that ended it. So showing a run costs the same however long its log is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from orchestrator.core import keeping
from orchestrator.core.meta_artifacts import attached_artifacts
from orchestrator.core.outcome import outcome_of
from orchestrator.core.permissions import Action, Permit
from orchestrator.core.queues import Terms, who_takes, why_held
from orchestrator.core.resume import LogState
from orchestrator.core.run_meta import RunMeta
from orchestrator.core.sessions import agent_log
from orchestrator.core.standing import Standing
from orchestrator.line import Line
from orchestrator.registry import Registry
from orchestrator.store import keys
from orchestrator.store.base import Page
from protocol.codec import unpack_record
from protocol.codes import ErrorCode
from protocol.control import Submitted, read_control
from protocol.entry import Entry
from protocol.errors import RequestError
from protocol.frames import Part
from protocol.ids import LogKind, LogName, check_name, partition_of, queue_partition, run_made_ms, run_of
from protocol.requests import AgentInfo, LogInfo, LogList, LogRead, LogReadPage, RunInfo, RunList, RunListed
from protocol.run import RunState

__all__ = ["Reading", "reads_run", "there"]

Info = TypeVar("Info", bound=Part)

PAGE_BYTES_MAX = 2 * 1024 * 1024
SCAN_MAX = 10_000
"""Runs looked at for one filtered list."""
CHUNK = 200


class Reading:
    """What this hub tells of runs and logs.

    Args:
        line: for the store.
        registry: knows which agents could take a run that waits.
    """

    def __init__(self, line: Line, registry: Registry) -> None:
        self._line = line
        self._store = line.store
        self._registry = registry

    async def meta(self, log: LogName) -> RunMeta:
        """Return a run's meta.

        Raises:
            RequestError: `not_found`.
        """
        fields = await self._store.meta(log)
        if fields is None:
            raise _no_run(log)
        return RunMeta.parse(log, fields)

    async def run(self, log: LogName, *, whole: bool = False) -> RunInfo:
        """Return a run; `whole`, also its result, and why it is not taken where it waits.

        Raises:
            RequestError: `not_found`.
        """
        meta = await self.meta(log)
        offsets = (1, meta.started or 0, meta.head if meta.final else 0)
        first, started, last = await asyncio.gather(*(self.entry(log, offset) for offset in offsets))
        if first is None:
            raise _no_run(log)  # it was deleted since
        result, error, reason = outcome_of(last) if last else (None, None, None)
        kept_ms = keeping.kept_ms(meta.state, meta.keep_ms)
        if whole and meta.state is RunState.QUEUED:
            reason = await self._why_waiting(meta)
        return RunInfo(
            run=log.name,
            state=meta.state.value,
            handler=meta.handler,
            queue=meta.queue,
            attempt=meta.attempt,
            agent=meta.agent or None,
            submitted_ms=first.ts_ms,
            started_ms=started.ts_ms if started else None,
            finished_ms=last.ts_ms if last else None,
            result=result if whole else None,
            error=error.model_dump(exclude_none=True, exclude=None if whole else {"trace"}) if error else None,
            cancelling=meta.cancelling and not meta.final,
            head=meta.head,
            where=meta.where,
            not_before_ms=meta.not_before_ms or None,
            deadline_ms=meta.deadline_ms,
            timeout_ms=meta.timeout_ms,
            concurrency_key=meta.concurrency_key or None,
            retry_of=meta.retry_of or None,
            reason=reason,
            asking=0 if meta.final else sum(question.open for question in meta.questions),
            suspended=meta.state is RunState.QUEUED and meta.suspended is not None,
            kept_until_ms=None if last is None or kept_ms is None else last.ts_ms + kept_ms,
            talk_from=meta.talk_from,
            parent=meta.parent or None,
            continues=meta.continues or None,
            continued_as=meta.continued_as or None,
            artifacts=attached_artifacts(log, meta.artifacts) if whole else (),
        )

    async def submitted(self, log: LogName) -> Submitted:
        """Return what a run was submitted with.

        Raises:
            RequestError: `not_found`.
        """
        first = await self.entry(log, 1)
        if first is None:
            raise _no_log(log)
        return read_control(Submitted, unpack_record(first.packed).body)

    async def runs(self, namespace: str, asked: RunList, permit: Permit) -> RunListed:
        """Return the runs that a session may read, newest first, and where to go on for more.

        Raises:
            InvalidName: `after` is no run's id.
        """
        filtered = asked.state or asked.queue or asked.parent or not permit.unbound(Action.READ)
        most = SCAN_MAX if filtered else asked.limit
        before = None if asked.after is None else await self._made(LogName.parse(f"run/{asked.after}", namespace))
        names = await self._store.log_names(namespace, LogKind.RUN, most, before)
        found: list[RunInfo] = []
        for start in range(0, len(names), CHUNK):
            logs = [LogName(namespace, LogKind.RUN, name) for name, _ in names[start : start + CHUNK]]
            metas = await asyncio.gather(*(self._store.meta(log) for log in logs))
            fit = [
                log
                for log, meta in zip(logs, metas, strict=True)
                if meta
                and asked.state in (None, meta["state"])
                and asked.queue in (None, meta["queue"])
                and asked.parent in (None, meta.get("parent"))
                and reads_run(permit, log, meta["queue"])
            ]
            while fit and len(found) < asked.limit:
                room = asked.limit - len(found)
                taken, fit = fit[:room], fit[room:]
                found += await there(self.run(log) for log in taken)
                if len(found) == asked.limit:
                    return RunListed(runs=tuple(found), next=taken[-1].name)
        more = len(names) == most and permit.unbound(Action.READ)  # who may not read it is not told its id
        return RunListed(runs=tuple(found), next=names[-1][0] if more else None)

    async def _made(self, log: LogName) -> tuple[int, str]:
        """Return where a run stands in the list of all; of one that is gone, its id says when it was made."""
        listed = keys.log_index(partition_of(log), log.namespace, LogKind.RUN)
        made_ms = await self._store.sorted_score(listed, log.name)
        return run_made_ms(log.name) if made_ms is None else made_ms, log.name

    async def page(self, log: LogName, asked: LogRead) -> LogReadPage:
        """Return a page of a log.

        Raises:
            RequestError: `not_found`.
        """
        page = await self._store.read(log, asked.after, asked.limit, PAGE_BYTES_MAX)
        if page is None:
            raise _no_log(log)
        return LogReadPage(before=page.before, after=page.after, head=page.head, entries=page.entries)

    async def log(self, log: LogName) -> LogInfo:
        """Return what is known of a log.

        Raises:
            RequestError: `not_found`.
        """
        meta = await self._store.meta(log)
        if meta is None:
            raise _no_log(log)
        state = LogState.parse(meta)
        return LogInfo(log=log.path, head=state.end, first=state.first, ts_ms=state.ts_ms)

    async def logs(self, namespace: str, asked: LogList, permit: Permit) -> tuple[LogInfo, ...]:
        """Return the logs that a session may read, newest first."""
        if asked.kind is not None and asked.kind not in tuple(LogKind):
            raise RequestError(ErrorCode.INVALID_PARAMS, f"log.list: {asked.kind!r} is no kind of log")
        kinds = [LogKind(asked.kind)] if asked.kind else list(LogKind)
        scanned = SCAN_MAX if permit.picks_logs else asked.limit + 1  # of those one, the audit, may be left out
        made = [
            (made_ms, LogName(namespace, kind, name))
            for kind in kinds
            for name, made_ms in await self._store.log_names(namespace, kind, scanned)
        ]
        names = [log for _, log in sorted(made, reverse=True)]
        found: list[LogName] = []
        for start in range(0, len(names), CHUNK):
            some = names[start : start + CHUNK]
            fit = await asyncio.gather(*(self.may_read(permit, log) for log in some))
            found += [log for log, permitted in zip(some, fit, strict=True) if permitted]
            if len(found) >= asked.limit:
                break
        return tuple(await there(self.log(log) for log in found[: asked.limit]))

    async def may_read(self, permit: Permit, log: LogName) -> bool:
        """Whether a session may read a log, by the queue of its run where that decides. One that is gone: no."""
        decided = permit.read(log)
        if decided is not None:
            return decided
        meta = await self._store.meta(run_of(log))
        return meta is not None and permit.on_queue(Action.READ, meta["queue"])

    async def queue_of(self, log: LogName) -> str:
        """Return the queue of a run, or of the run that an artifact is of.

        Raises:
            RequestError: `not_found`.
        """
        meta = await self._store.meta(run_of(log))
        if meta is None:
            raise _no_run(log)
        return meta["queue"]

    async def held(self, namespace: str, agent: AgentInfo) -> tuple[str, ...]:
        """Return the runs that an agent holds, on the queues that it announced."""
        partitions = {queue_partition(namespace, check_name(queue)) for queue in agent.queues}
        found = await asyncio.gather(
            *(self._store.hash_all(keys.held(partition, namespace, agent.agent)) for partition in partitions)
        )
        return tuple(sorted(run for held in found for run in held))

    async def standing(self, namespace: str, agents: Sequence[AgentInfo]) -> tuple[AgentInfo, ...]:
        """Return agents with what is said of them, as their own logs have it."""
        metas = await asyncio.gather(*(self._store.meta(agent_log(namespace, agent.agent)) for agent in agents))
        return tuple(_standing(agent, Standing.parse(meta)) for agent, meta in zip(agents, metas, strict=True))

    async def entry(self, log: LogName, offset: int) -> Entry | None:
        """Return one entry of a log; None where there is none at that offset (any more)."""
        if offset < 1:
            return None
        page: Page | None = await self._store.read(log, offset - 1, 1)
        return page.entries[0] if page and page.entries else None

    async def _why_waiting(self, meta: RunMeta) -> str | None:
        """Say why a run waits, where its time has not come or no connected agent would ever take it."""
        if meta.suspended is not None:
            waits = meta.suspended.model_copy(update={"sleep_ms": meta.not_before_ms or None})
            return f"its handler was put away until there is {waits.words}"
        if meta.not_before_ms:
            return "it was tried and failed, and is tried again later" if meta.failures else "it was delayed"
        agents = await self._registry.agents(meta.log.namespace)
        takers = who_takes(agents, meta.queue, meta.handler, meta.where)
        if isinstance(takers, str):
            return takers
        looked_at = await self.standing(meta.log.namespace, takers[:CHUNK])
        if len(looked_at) == len(takers) and all(agent.cordoned or agent.draining for agent in looked_at):
            return "every connected agent that could take it is cordoned or draining"
        return await self._why_held(meta)

    async def _why_held(self, meta: RunMeta) -> str | None:
        """Say which of the terms of its queue holds a run back that an agent would take."""
        queue, key, store = meta.place, meta.concurrency_key, self._store
        fields, active, keyed, tokens, parked = await asyncio.gather(
            store.hash_all(queue.terms),
            store.hash_size(queue.active),
            store.hash_size(queue.keyed(key)),
            store.hash_get(queue.tokens, "next_us"),
            store.sorted_score(queue.parked(key), meta.log.name),
        )
        terms = Terms.parse(fields)
        held = why_held(terms, active, int(tokens[0]) if tokens[0] else None, self._line.now_ms())
        full = terms.key_limit is not None and keyed >= terms.key_limit
        if held is None and key and (full or parked is not None):
            return f"as many runs with its concurrency key are worked on as may be at once: {terms.key_limit}"
        return held


def reads_run(permit: Permit, log: LogName, queue: str) -> bool:
    """Whether a session may read a run, which is on this queue."""
    decided = permit.read(log)
    return permit.on_queue(Action.READ, queue) if decided is None else decided


async def there(reads: Iterable[Coroutine[Any, Any, Info]]) -> list[Info]:
    """Return what is read of several, but for those that were deleted since they were listed."""
    found = await asyncio.gather(*reads, return_exceptions=True)
    for each in found:
        if isinstance(each, BaseException) and not (
            isinstance(each, RequestError) and each.code == ErrorCode.NOT_FOUND
        ):
            raise each
    return [each for each in found if not isinstance(each, BaseException)]


def _standing(agent: AgentInfo, standing: Standing) -> AgentInfo:
    draining = agent.connected and standing.drains(agent.instance)
    return agent.model_copy(update={"cordoned": standing.cordoned, "draining": draining})


def _no_run(log: LogName) -> RequestError:
    message = f"there is no run {log.name}; of one that ended as long ago as runs are kept nothing is left"
    return RequestError(ErrorCode.NOT_FOUND, message)


def _no_log(log: LogName) -> RequestError:
    return RequestError(ErrorCode.NOT_FOUND, f"there is no log {log.path}")
