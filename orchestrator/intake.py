"""What one session publishes and asks, while it is under way.

Many publishes are in flight at once, so that the store commits them together. They are started in the order in
which they came, and the store keeps that order for each log. How many there may be is announced to the peer;
past that, its connection is not read on.

Specification: docs/protocol.md, sections "Publishing" and "Requests".
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, Protocol

from orchestrator.core import publish as publishing
from orchestrator.core.refusals import asked_for
from orchestrator.peers import Peer
from orchestrator.services import Services
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Refused
from protocol.codes import CloseCode, ErrorCode
from protocol.errors import InvalidName, RemoteProtocolError
from protocol.frames import Fault, HeldAttempt, Nack, Part, Puback, Publish, Release, Reply, Request, Response
from protocol.ids import LogKind, LogName
from protocol.refusals import What

__all__ = ["Intake", "Port"]

ACKED_PRODUCERS_MAX = 256
"""Producers of one session whose acknowledged seq is remembered, to tell when the store lost some."""
WAIT = "wait_ms"
"""The parameter of the requests that may wait for a run to end."""


class Port(Protocol):
    """The connection, as its intake sees it."""

    @property
    def congested(self) -> bool:
        """Whether the transport holds as much as it should."""

    def send(self, frame: Part) -> None:
        """Put a frame on its way."""

    def send_puback(self, puback: Puback) -> None:
        """Put a puback on its way."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something for this connection; what goes wrong in it ends the connection."""

    def wake(self) -> None:
        """There is room again."""


class Intake:
    """The publishes and requests of one session that are under way."""

    __slots__ = ("_acked", "_asked", "_bytes", "_entries", "_hub", "_peer", "_port", "_renewing")

    def __init__(self, hub: Services, port: Port, peer: Peer) -> None:
        self._hub = hub
        self._port = port
        self._peer = peer
        self._entries = self._bytes = 0
        self._asked = [0, 0]  # requests, and those that wait for runs
        self._renewing = False
        self._acked: dict[tuple[str, str], int] = {}

    @property
    def full(self) -> bool:
        """Whether as much is under way as the peer was told that may be."""
        limits = self._hub.settings.limits
        return self._entries >= limits.publish_entries_max or self._bytes >= limits.publish_bytes_max

    @property
    def busy(self) -> bool:
        """Whether anything is under way that is to be done before the hub stops: waiting goes on elsewhere."""
        return self._entries > 0 or self._asked[0] > 0

    def publish(self, frame: Publish) -> None:
        """Take on a publish; its answer follows."""
        log = self._judge(frame)
        if isinstance(log, Nack):
            self._nack(log)
            return
        size = sum([len(body) for _, body, _, _ in frame.entries])
        self._entries += len(frame.entries)
        self._bytes += size
        self._port.spawn(self._publish(log, frame, size))

    def request(self, frame: Request) -> None:
        """Take on a request; its answer follows."""
        limits, waits = self._hub.settings.limits, WAIT in frame.params
        asked, limit = self._asked[waits], limits.waits_max if waits else limits.requests_max
        if asked >= limit:
            message = f"{asked} requests {'wait for runs' if waits else 'are not answered yet'}; the limit is {limit}"
            fault = Fault(code=ErrorCode.TOO_MANY.value, message=message, retry_ms=publishing.RETRY_MS)
            self._port.send(Response(id=frame.id, error=fault))
            return
        self._asked[waits] += 1
        self._port.spawn(self._answer(frame, waits))

    def renew(self, attempts: tuple[HeldAttempt, ...]) -> None:
        """Renew leases, as a heartbeat asks; one that comes while the last is under way adds nothing.

        While the peer does not read, it is not told of attempts that it does not hold.

        Raises:
            RemoteProtocolError: it lists more attempts than may be.
        """
        limit = self._hub.settings.limits.attempts_max
        if len(attempts) > limit:
            raise RemoteProtocolError(CloseCode.LIMIT_EXCEEDED, f"{len(attempts)} attempts; the limit is {limit}")
        if not self._renewing:
            self._renewing = True
            if self._port.congested:
                attempts = tuple(attempt for attempt in attempts if attempt.run in self._peer.held)
            self._port.spawn(self._renew(attempts))

    async def release(self, frame: Release) -> None:
        """Take back an attempt."""
        await self._hub.work.release(self._peer, frame)

    def reply(self, frame: Reply) -> None:
        """Take the reply to a query."""
        self._hub.querying.on_reply(self._peer, frame)

    def _judge(self, frame: Publish) -> LogName | Nack:
        """Decide whether a publish may go to the store, and to which log."""
        try:
            log = _parse(frame.log, self._peer.namespace)
        except InvalidName as fault:
            return publishing.refuse(frame, ErrorCode.NOT_FOUND, str(fault))
        if not self._peer.permit.publish(log):
            return publishing.refuse(frame, ErrorCode.FORBIDDEN, f"the token does not permit to publish to {frame.log}")
        return publishing.check_size(frame, self._hub.settings.limits) or log

    async def _publish(self, log: LogName, frame: Publish, size: int) -> None:
        try:
            if log.kind is LogKind.RUN:
                answer = await self._hub.work.publish(self._peer, log, frame)
            elif log.kind is LogKind.ARTIFACT:
                answer = await self._hub.artifacts.publish(self._peer, log, frame)
            else:
                answer = await self._append(log, frame)
        finally:
            self._entries -= len(frame.entries)
            self._bytes -= size
            self._port.wake()
        if isinstance(answer, Nack):
            self._nack(self._fenced(log, answer))
            return
        self._hub.counters.entries_in += len(frame.entries)
        self._remember(answer)
        self._port.send_puback(answer)

    async def _append(self, log: LogName, frame: Publish) -> Puback | Nack:
        prepared = publishing.prepare(frame, self._peer.principal)
        if isinstance(prepared, Nack):
            return prepared
        line = self._hub.line
        commit = publishing.propose(line.new_commit_id(), log, prepared, frame.expect)
        try:
            result = await line.commit(commit)
        except StoreUnavailable as fault:
            return publishing.unavailable(frame, fault)
        if isinstance(result, Refused):
            return publishing.nack(frame, result, self._acked.get((frame.log, frame.producer), 0))
        return publishing.puback(frame, result, line.level)

    def _remember(self, puback: Puback) -> None:
        producer = puback.log, puback.producer
        self._acked[producer] = max(puback.seq, self._acked.pop(producer, 0))
        if len(self._acked) > ACKED_PRODUCERS_MAX:
            del self._acked[next(iter(self._acked))]

    def _fenced(self, log: LogName, nack: Nack) -> Nack:
        """Fence an attempt where the store lost entries of it that were acknowledged."""
        acked, last = self._acked.get((nack.log, nack.producer), 0), nack.last or 0
        if log.kind is LogKind.RUN and nack.code == ErrorCode.OUT_OF_ORDER and last < acked:
            message = f"entries {last + 1} to {acked} were acknowledged, and the store has lost them"
            return nack.model_copy(update={"code": ErrorCode.FENCED.value, "message": message})
        return nack

    def _nack(self, nack: Nack) -> None:
        self._hub.counters.nacks += 1
        if nack.code == ErrorCode.FORBIDDEN:
            self._hub.audit.forbidden(self._peer, What.PUBLISH, nack.log)
        self._port.send(nack)

    async def _renew(self, attempts: tuple[HeldAttempt, ...]) -> None:
        try:
            await self._hub.work.renew(self._peer, attempts)
        finally:
            self._renewing = False

    async def _answer(self, frame: Request, waits: bool) -> None:
        try:
            response = await self._hub.methods.call(self._peer, frame)
        finally:
            self._asked[waits] -= 1
        self._hub.counters.requests += 1
        if response.error is not None and response.error.code == ErrorCode.FORBIDDEN:
            self._hub.audit.forbidden(self._peer, What.REQUEST, asked_for(frame.method, frame.params))
        self._port.send(response)


@lru_cache(maxsize=4096)
def _parse(path: str, namespace: str) -> LogName:
    return LogName.parse(path, namespace)
