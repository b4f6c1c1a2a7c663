"""The methods of `request`: what a peer may ask, each answered on that request alone.

The table in `protocol.requests` says which there are; here is what each does. One that needs an `op` stores its answer
with what it changed, under the peer's `op`, and gives it again on a retry; `run.retry` makes a key of it instead.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import structlog
from pydantic import ValidationError

from orchestrator.artifacts import Artifacts
from orchestrator.auth.revocation import Revocations
from orchestrator.core import runs
from orchestrator.core.patterns import Thing
from orchestrator.core.permissions import Action
from orchestrator.core.publish import RETRY_MS, check_body, check_kind, unavailable_code
from orchestrator.dispatch import Dispatch
from orchestrator.kept import KeptAnswers
from orchestrator.keyring import Keyring
from orchestrator.line import Line
from orchestrator.making import Making
from orchestrator.peers import Peer
from orchestrator.permitting import Permitting
from orchestrator.querying import Querying
from orchestrator.queueing import Queueing
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.scans import SCANNING, Scans
from orchestrator.schedules import Schedules
from orchestrator.scheduling import Scheduling
from orchestrator.settle import settle
from orchestrator.standings import Standings
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import ABSENT, Append, Commit, Guard, HashSet, Outcome
from orchestrator.store.producer import ProducerRecord
from orchestrator.submitting import submit
from orchestrator.talking import Talking
from orchestrator.waiting import Waiting
from orchestrator.writing import read_last
from protocol.codec import pack_record
from protocol.codes import ErrorCode
from protocol.control import Cancel
from protocol.errors import InvalidName, InvalidSelector, RequestError, misfit
from protocol.frames import Fault, Part, Request, Response
from protocol.ids import LogKind, LogName, check_name, partition_of
from protocol.requests import (
    METHODS,
    AgentChange,
    AgentDrain,
    AgentGet,
    AgentInfo,
    AgentList,
    AgentListed,
    AgentSend,
    AgentStanding,
    LogGet,
    LogInfo,
    LogList,
    LogListed,
    LogRead,
    LogReadPage,
    Place,
    ProducerOpen,
    ProducerOpened,
    RunCancel,
    RunCancelled,
    RunGet,
    RunInfo,
    RunList,
    RunListed,
    RunRetry,
    RunSubmit,
    RunSubmitted,
    never_starts,
)
from protocol.run import RunState

__all__ = ["Methods"]

log_ = structlog.get_logger()


class Methods:
    """What this hub answers.

    Args:
        line: where commits go.
        reading: what is read of runs and logs.
        registry: who is there.
        schedules: what is submitted when its time comes.
        dispatch: told of every run that is put on a queue.
        querying: passes queries on to handlers.
        artifacts: what attempts attach.
        waiting: those who wait for runs to end.
        revocations: what was taken back.
        making: how many runs and logs a principal makes.
        body_bytes_max: limit of what one entry carries.
        keep_ms: how long a run is kept after its end that does not say; None for ever.
        keep_least_ms: how long it is kept at least, whatever it says.
    """

    def __init__(
        self,
        line: Line,
        reading: Reading,
        registry: Registry,
        schedules: Schedules,
        dispatch: Dispatch,
        querying: Querying,
        artifacts: Artifacts,
        waiting: Waiting,
        revocations: Revocations,
        making: Making,
        body_bytes_max: int,
        keep_ms: int | None = None,
        keep_least_ms: int = 0,
    ) -> None:
        self._line = line
        self._keeping = runs.Keeping(keep_ms, keep_least_ms)
        self._reading = reading
        self._permitting = Permitting(reading, schedules)
        self._kept = KeptAnswers(line)
        self._scans = Scans()
        self._waiting = waiting
        self._making = making
        self._talking = Talking(line, reading, self._kept, dispatch.look, body_bytes_max)
        self._registry = registry
        self._standings = Standings(line, dispatch, self._kept)
        self._dispatch = dispatch
        self._body_bytes_max = body_bytes_max
        self._handlers: dict[str, Callable[[Peer, str, Any], Awaitable[Part]]] = {
            "run.submit": self._run_submit,
            "run.retry": self._run_retry,
            "run.get": self._run_get,
            "run.wait": waiting.wait,
            "run.list": self._run_list,
            "run.cancel": self._run_cancel,
            "run.steer": self._talking.steer,
            "run.answer": self._talking.answer,
            "run.query": querying.query,
            "producer.open": self._producer_open,
            "log.read": self._log_read,
            "log.get": self._log_get,
            "log.list": self._log_list,
            "agent.list": self._agent_list,
            "agent.get": self._agent_get,
            "agent.send": self._agent_send,
            "agent.cordon": self._agent_cordon,
            "agent.uncordon": self._agent_uncordon,
            "agent.drain": self._agent_drain,
            **artifacts.methods,
            **revocations.methods,
            **Queueing(line, registry, reading, dispatch).methods,
            **Keyring(line, revocations).methods,
            **Scheduling(line, schedules, self._kept, body_bytes_max).methods,
        }

    async def call(self, peer: Peer, request: Request) -> Response:
        """Answer a request. What is wrong with it is in the answer."""
        try:
            result = await self._call(peer, request)
        except RequestError as fault:
            return _fault(request, fault.code, fault.message, fault.retry_ms, fault.data)
        except (InvalidName, InvalidSelector) as fault:
            return _fault(request, ErrorCode.INVALID_PARAMS, str(fault))
        except StoreUnavailable as fault:
            return _fault(request, unavailable_code(fault), str(fault), RETRY_MS)
        except Exception:
            log_.exception("request_failed", method=request.method, principal=peer.principal)
            return _fault(request, ErrorCode.INTERNAL, f"the hub failed on this {request.method}; its log says why")
        return Response(id=request.id, result=result.model_dump(by_alias=True, exclude_none=True))

    async def _call(self, peer: Peer, request: Request) -> Part:
        method = METHODS.get(request.method)
        if method is None:
            raise RequestError(ErrorCode.UNKNOWN_METHOD, f"there is no method {request.method!r}")
        if method.needs_op and request.op is None:
            raise RequestError(ErrorCode.INVALID_PARAMS, f"{request.method} changes something and needs an op")
        try:
            params = method.params.model_validate(request.params)
        except ValidationError as fault:
            raise RequestError(ErrorCode.INVALID_PARAMS, f"{request.method}: {misfit(fault)}") from None
        await self._permitting.check(peer, request.method, params)
        handler, op = self._handlers[request.method], request.op or ""
        if request.method not in SCANNING:
            return await handler(peer, op, params)
        async with self._scans.turn(peer.account):
            if peer.over:
                raise RequestError(ErrorCode.UNAVAILABLE, "the session ended before it was the request's turn")
            return await handler(peer, op, params)

    # Runs

    async def _run_submit(self, peer: Peer, _op: str, params: RunSubmit) -> RunSubmitted:
        check_body(params.input, self._body_bytes_max)
        check_name(params.queue)
        check_name(params.handler)
        _check_times(params)
        _check_key(params)
        answer = await self._submit(peer, params, keeping=self._keeping)
        if not params.wait_ms:
            return answer
        end = await self._waiting.end(peer, self._run_log(peer, answer.run), params.wait_ms)
        return RunSubmitted(run=answer.run, created=answer.created, end=end)

    async def _run_retry(self, peer: Peer, op: str, params: RunRetry) -> RunSubmitted:
        log = self._run_log(peer, params.run)
        meta = await self._reading.meta(log)
        if not meta.final:
            message = f"run {log.name} is {meta.state.value}; what is done again is a run that is over"
            raise RequestError(ErrorCode.NOT_OVER, message)
        submitted = await self._reading.submitted(log)
        return await self._submit(peer, runs.again(submitted, f"retry/{peer.principal}/{op}"), log.name)

    async def _submit(
        self, peer: Peer, params: RunSubmit, retry_of: str | None = None, keeping: runs.Keeping = runs.AS_ASKED
    ) -> RunSubmitted:
        await self._making.runs(peer)
        run_id, result = await submit(
            self._line, self._dispatch, peer.namespace, peer.principal, params, retry_of, keeping
        )
        if isinstance(result, Outcome):
            return RunSubmitted(run=run_id, created=True)
        known, digest = (result.actual or " ").split(" ")
        if digest != runs.input_digest(params.handler, params.input):
            message = f"the key {params.key!r} names run {known}, which has another handler or input"
            raise RequestError(ErrorCode.KEY_CONFLICT, message, data={"run": known})
        return RunSubmitted(run=known, created=known == run_id)

    async def _run_get(self, peer: Peer, _op: str, params: RunGet) -> RunInfo:
        return await self._reading.run(self._run_log(peer, params.run), whole=True)

    async def _run_list(self, peer: Peer, _op: str, params: RunList) -> RunListed:
        return await self._reading.runs(peer.namespace, params, peer.permit)

    async def _run_cancel(self, peer: Peer, op: str, params: RunCancel) -> RunCancelled:
        first = log = self._run_log(peer, params.run)
        while True:
            known = await self._kept.find(peer, log, op, RunCancelled)
            if known is not None:
                return known
            meta = await read_last(self._line, first) or await self._reading.meta(first)
            if meta.log != log:  # the request may have been answered there
                log = meta.log
                continue
            if meta.final or meta.cancelling:
                return RunCancelled(state=meta.state.value)
            state = RunState.CANCELLED if meta.state is RunState.QUEUED else meta.state
            answer = RunCancelled(state=state.value)
            ids = runs.Ids(self._line.new_commit_id(), peer.principal)
            stored = self._kept.keep(peer, log, op, answer)
            commit = runs.cancel(ids, meta, self._line.src, Cancel(reason=params.reason), stored)
            result = await settle(self._line, commit)
            if isinstance(result, Outcome):
                return answer

    def _run_log(self, peer: Peer, run: str) -> LogName:
        return LogName.parse(f"run/{run}", peer.namespace)

    # Logs

    async def _producer_open(self, peer: Peer, op: str, params: ProducerOpen) -> ProducerOpened:
        log = LogName.parse(params.log, peer.namespace)
        if log.kind in (LogKind.RUN, LogKind.ARTIFACT):
            raise RequestError(ErrorCode.FORBIDDEN, f"{log.path} has attempts as producers; they are not opened")
        key, field = keys.producers(log), f"{peer.principal}/{check_name(params.producer)}"
        while True:
            known = await self._kept.find(peer, log, op, ProducerOpened)
            if known is not None:
                return known
            value = (await self._line.store.hash_get(key, field))[0]
            if value is None and await self._line.store.meta(log) is None:
                await self._making.log(peer)
            record = ProducerRecord.decode(value) if value else ProducerRecord(fence=0)
            now_ms = self._line.now_ms()
            opened = replace(record, fence=max(record.fence + 1, now_ms), ts_ms=now_ms)
            answer = ProducerOpened(fence=opened.fence, last=opened.last)
            commit = Commit(
                id=self._line.new_commit_id(),
                partition=partition_of(log),
                guards=(Guard(key, field, value.decode() if value else ABSENT),),
                appends=(Append(log, (), self._line.new_epoch()),),
                ops=(HashSet(key, {field: opened.encode()}), self._kept.keep(peer, log, op, answer)),
            )
            if isinstance(await settle(self._line, commit), Outcome):
                return answer

    async def _log_read(self, peer: Peer, _op: str, params: LogRead) -> LogReadPage:
        return await self._reading.page(LogName.parse(params.log, peer.namespace), params)

    async def _log_get(self, peer: Peer, _op: str, params: LogGet) -> LogInfo:
        return await self._reading.log(LogName.parse(params.log, peer.namespace))

    async def _log_list(self, peer: Peer, _op: str, params: LogList) -> LogListed:
        return LogListed(logs=await self._reading.logs(peer.namespace, params, peer.permit))

    # Agents

    async def _agent_list(self, peer: Peer, _op: str, params: AgentList) -> AgentListed:
        seen = await self._registry.agents(peer.namespace)
        there = (info for info in seen if info.agent > (params.after or ""))
        agents = [info for info in there if peer.permit.on(Action.READ, Thing.AGENT, info.agent)]
        return AgentListed(agents=await self._reading.standing(peer.namespace, agents[: params.limit]))

    async def _agent_get(self, peer: Peer, _op: str, params: AgentGet) -> AgentInfo:
        info = await self._registry.agent(peer.namespace, check_name(params.agent))
        if info is None:
            raise RequestError(ErrorCode.NOT_FOUND, f"no agent {params.agent!r} was ever seen")
        held = await self._reading.held(peer.namespace, info)
        (info,) = await self._reading.standing(peer.namespace, [info])
        return info.model_copy(update={"runs": held})

    async def _agent_send(self, peer: Peer, op: str, params: AgentSend) -> Place:
        log = LogName(peer.namespace, LogKind.AGENT, check_name(params.agent))
        check_kind(params.kind)
        check_body(params.body, self._body_bytes_max)
        key = keys.meta(log)
        while True:
            known = await self._kept.find(peer, log, op, Place)
            if known is not None:
                return known
            meta = await self._line.store.meta(log)
            if meta is None:
                await self._making.log(peer)
            head = meta["head"] if meta else ABSENT
            answer = Place(log=log.path, offset=int(head or 0) + 1)
            commit = Commit(
                id=self._line.new_commit_id(),
                partition=partition_of(log),
                guards=(Guard(key, "head", head),),
                appends=(
                    Append(log, (pack_record(params.kind, peer.principal, params.body),), self._line.new_epoch()),
                ),
                ops=(self._kept.keep(peer, log, op, answer),),
            )
            if isinstance(await settle(self._line, commit), Outcome):
                return answer

    async def _agent_cordon(self, peer: Peer, op: str, params: AgentChange) -> AgentStanding:
        return await self._standings.cordon(peer, op, params.agent, cordoned=True)

    async def _agent_uncordon(self, peer: Peer, op: str, params: AgentChange) -> AgentStanding:
        return await self._standings.cordon(peer, op, params.agent, cordoned=False)

    async def _agent_drain(self, peer: Peer, op: str, params: AgentDrain) -> AgentStanding:
        return await self._standings.drain(peer, op, params.agent, params.grace_ms)


def _check_key(params: RunSubmit) -> None:
    """Refuse a key of those that hubs make: what it names is theirs to say."""
    if params.key.startswith(runs.OWN_KEYS):
        message = f"a key that begins with {params.key.partition('/')[0]}/ is made by hubs alone"
        raise RequestError(ErrorCode.INVALID_PARAMS, f"run.submit: {message}")


def _check_times(params: RunSubmit) -> None:
    """Refuse a run that could never be taken."""
    never = never_starts(params.delay_ms, params.deadline_ms)
    if never is not None:
        raise RequestError(ErrorCode.INVALID_PARAMS, f"run.submit: {never}")


def _fault(
    request: Request,
    code: str,
    message: str,
    retry_ms: int | None = None,
    data: dict[str, Any] | None = None,
) -> Response:
    return Response(id=request.id, error=Fault(code=code, message=message, retry_ms=retry_ms, data=data or None))
