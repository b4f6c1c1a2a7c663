"""Queries: what somebody asks the live handler of a run. Nothing of it is stored.

    client -> hub A: run.query -> [hub B ->] agent: query -> agent: reply -> [hub B ->] hub A -> client

Hub A finds in the store who holds the attempt. Where that agent's session is another hub's, the query goes there as
a letter over the store's publish/subscribe, and so does the reply. A letter may be lost: whoever asks waits no longer
than they said, and is told `no_reply`. Whatever a query waits for, it waits beside everything else: no connection is
held up by one, and how many there may be is bounded for those who ask and for those who answer.

Specification: docs/protocol.md, section "Queries".
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Annotated, Any, Literal

import structlog
from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.peers import Peer, Peers
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.store.base import StoreUnavailable
from protocol.codec import pack_value, unpack_value
from protocol.codes import ErrorCode
from protocol.conversation import QUERY_ARGS_BYTES_MAX, QUERY_VALUE_BYTES_MAX, RunQueried, RunQuery
from protocol.errors import RequestError
from protocol.frames import Fault, Part, Query, Reply
from protocol.ids import LogName
from protocol.run import RunState

__all__ = ["ASKED_MAX", "PASSED_ON_MAX", "RETRY_MS", "Querying"]

ASKED_MAX = 32
"""Queries that one session has asked and that are not answered."""
PASSED_ON_MAX = 64
"""Queries that one agent was sent and has not replied to."""
RETRY_MS = 1000
"""When a query that nobody replied to may be asked again."""

log_ = structlog.get_logger()


class _Asking(Part):
    """One hub to another: have an agent of yours answer this, and tell me (`hub`, `id`)."""

    t: Literal["asking"] = "asking"
    hub: str
    namespace: str
    agent: str
    session: str
    query: Query


class _Answering(Part):
    """The answer to it."""

    t: Literal["answering"] = "answering"
    reply: Reply


_LETTERS: TypeAdapter[_Asking | _Answering] = TypeAdapter(Annotated[_Asking | _Answering, Field(discriminator="t")])


@dataclass(slots=True, eq=False)
class _PassedOn:
    """A query that an agent of this hub was sent; `id` is what whoever asked calls it."""

    peer: Peer
    id: int
    tell: Callable[[Reply], None]
    late: asyncio.TimerHandle


class Querying:
    """The queries that this hub's peers ask, and those that its agents answer.

    Args:
        line: for the store and this hub's id.
        reading: what is read of runs.
        registry: which hub an agent is connected to.
        peers: the agents of this hub.
        spawn: runs a coroutine beside everything else; the hub owns the task.
    """

    def __init__(
        self,
        line: Line,
        reading: Reading,
        registry: Registry,
        peers: Peers,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._line = line
        self._reading = reading
        self._registry = registry
        self._peers = peers
        self._spawn = spawn
        self._ids = count(1)
        self._asked_by: Counter[str] = Counter()
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._passed_on: dict[int, _PassedOn] = {}
        self._sent_to: Counter[str] = Counter()

    # Asking

    async def query(self, peer: Peer, _op: str, params: RunQuery) -> RunQueried:
        """Answer `run.query`."""
        if len(params.args or b"") > QUERY_ARGS_BYTES_MAX:
            message = f"run.query: args take {len(params.args or b'')} bytes; the limit is {QUERY_ARGS_BYTES_MAX}"
            raise RequestError(ErrorCode.INVALID_PARAMS, message)
        if self._asked_by[peer.session] >= ASKED_MAX:
            message = f"{ASKED_MAX} queries of this session are not answered yet"
            raise RequestError(ErrorCode.TOO_MANY, message, retry_ms=RETRY_MS)
        self._asked_by[peer.session] += 1
        try:
            return _value(await self._query(LogName.parse(f"run/{params.run}", peer.namespace), params))
        finally:
            self._asked_by[peer.session] -= 1
            self._asked_by += Counter()  # those that are 0 leave

    async def _query(self, log: LogName, params: RunQuery) -> Reply:
        meta = await self._running(log)
        number, reply = next(self._ids), asyncio.get_running_loop().create_future()
        self._waiting[number] = reply
        try:
            async with asyncio.timeout(params.timeout_ms / 1000):
                query = Query(
                    id=number,
                    run=log.name,
                    fence=meta.fence,
                    name=params.name,
                    args=params.args,
                    timeout_ms=params.timeout_ms,
                )
                await self._send(meta, query)
                answer: Reply = await reply
            if answer.error is not None and answer.error.code == ErrorCode.NOT_RUNNING:
                # The agent may not have had its `assign` when the query came, or not have told us of its end.
                await self._running(log)
                raise _no_reply(f"on agent {meta.agent} the handler has not begun yet, or is just over")
            return answer
        except TimeoutError:
            raise _no_reply(f"nobody replied within {params.timeout_ms} ms") from None
        finally:
            del self._waiting[number]

    async def _running(self, log: LogName) -> RunMeta:
        meta = await self._reading.meta(log)
        if meta.state is not RunState.RUNNING:
            message = f"run {log.name} is {meta.state.value}: no handler works on it"
            raise RequestError(ErrorCode.NOT_RUNNING, message, data={"state": meta.state.value})
        return meta

    async def _send(self, meta: RunMeta, query: Query) -> None:
        """Put a query on its way to the session that holds the attempt."""
        namespace, agent = meta.log.namespace, meta.agent
        if self._session(namespace, agent, meta.session) is not None:
            self._pass_on(namespace, agent, meta.session, query, self._take)
            return
        info = await self._registry.agent(namespace, agent)
        if info is None or not info.connected or info.hub in (None, self._line.hub_id):
            raise _no_reply(f"agent {agent}, which works on it, is away")
        letter = _Asking(hub=self._line.hub_id, namespace=namespace, agent=agent, session=meta.session, query=query)
        if not await self._line.store.post(info.hub or "", pack_value(letter)):
            raise _no_reply(f"the hub that agent {agent} is connected to does not listen now")

    def _take(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    # Answering

    def _session(self, namespace: str, agent: str, session: str) -> Peer | None:
        peer = self._peers.agent(namespace, agent)
        return peer if peer is not None and peer.session == session else None

    def _pass_on(self, namespace: str, agent: str, session: str, query: Query, tell: Callable[[Reply], None]) -> None:
        """Send a query to an agent of this hub."""
        peer = self._session(namespace, agent, session)
        if peer is None:
            tell(_fault(query.id, ErrorCode.NO_REPLY, f"agent {agent} is connected elsewhere by now"))
            return
        if self._sent_to[session] >= PASSED_ON_MAX:
            tell(_fault(query.id, ErrorCode.TOO_MANY, f"agent {agent} has {PASSED_ON_MAX} queries to reply to"))
            return
        number = next(self._ids)
        late = asyncio.get_running_loop().call_later(query.timeout_ms / 1000, self._give_up, number)
        self._passed_on[number] = _PassedOn(peer, query.id, tell, late)
        self._sent_to[session] += 1
        peer.send(query.model_copy(update={"id": number}))

    def on_reply(self, peer: Peer, frame: Reply) -> None:
        """Take an agent's reply. One that nobody waits for, or of another session, is of no use and no harm."""
        passed_on = self._passed_on.get(frame.id)
        if passed_on is None or passed_on.peer is not peer:
            return
        reply = frame.model_copy(update={"id": passed_on.id})
        if len(frame.value or b"") > QUERY_VALUE_BYTES_MAX:
            message = f"the reply takes {len(frame.value or b'')} bytes; the limit is {QUERY_VALUE_BYTES_MAX}"
            reply = _fault(passed_on.id, ErrorCode.QUERY_FAILED, message)
        self._finish(frame.id, reply)

    def gone(self, peer: Peer) -> None:
        """An agent's session is over: what it was asked has no reply."""
        for number, passed_on in tuple(self._passed_on.items()):
            if passed_on.peer is peer:
                self._finish(number, _fault(passed_on.id, ErrorCode.NO_REPLY, "the agent's session ended meanwhile"))

    def close(self) -> None:
        """The hub stops: nobody waits for a reply any more."""
        for number, passed_on in tuple(self._passed_on.items()):
            self._finish(number, _fault(passed_on.id, ErrorCode.NO_REPLY, "the agent's hub is stopping"))
        for number in tuple(self._waiting):
            self._take(_fault(number, ErrorCode.NO_REPLY, "the hub is stopping"))

    def _give_up(self, number: int) -> None:
        self._finish(
            number, _fault(self._passed_on[number].id, ErrorCode.NO_REPLY, "the handler did not reply in time")
        )

    def _finish(self, number: int, reply: Reply) -> None:
        passed_on = self._passed_on.pop(number)
        passed_on.late.cancel()
        self._sent_to[passed_on.peer.session] -= 1
        self._sent_to += Counter()
        passed_on.tell(reply)

    # Letters

    def hear(self, letter: bytes) -> None:
        """Take a letter of another hub."""
        try:
            said = _LETTERS.validate_python(unpack_value(letter))
        except (ValueError, ValidationError) as fault:
            log_.warning("letter_not_read", reason=str(fault)[:200])
            return
        if isinstance(said, _Answering):
            self._take(said.reply)
        else:
            self._pass_on(said.namespace, said.agent, said.session, said.query, partial(self._answer, said.hub))

    def _answer(self, hub: str, reply: Reply) -> None:
        self._spawn(self._post(hub, _Answering(reply=reply)))

    async def _post(self, hub: str, letter: _Answering) -> None:
        try:
            await self._line.store.post(hub, pack_value(letter))
        except StoreUnavailable as fault:
            log_.debug("letter_not_sent", reason=str(fault))  # whoever asked is told so when the time is over


def _value(reply: Reply) -> RunQueried:
    if reply.error is None:
        return RunQueried(value=b"\xc0" if reply.value is None else reply.value)
    fault = reply.error
    raise RequestError(fault.code, fault.message, retry_ms=fault.retry_ms, data=fault.data)


def _no_reply(message: str) -> RequestError:
    return RequestError(ErrorCode.NO_REPLY, message, retry_ms=RETRY_MS)


def _fault(number: int, code: ErrorCode, message: str) -> Reply:
    return Reply(id=number, error=Fault(code=code.value, message=message, retry_ms=RETRY_MS))
