"""Artifacts: how an attempt opens them and writes their chunks.

Specification: docs/protocol.md, section "Artifacts".
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator.core import artifacts, runs
from orchestrator.core import publish as publishing
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Outcome
from orchestrator.store.producer import ProducerRecord
from orchestrator.writing import read_run, refused
from protocol.artifacts import ArtifactOpen, ArtifactOpened, ArtifactPlace
from protocol.codes import ErrorCode
from protocol.errors import InvalidName, RequestError
from protocol.frames import Nack, Part, Puback, Publish
from protocol.ids import LogKind, LogName
from protocol.limits import Limits

__all__ = ["Artifacts"]


class Artifacts:
    """The artifacts that the agents of this hub attach.

    Args:
        line: where commits go.
        limits: what is announced to sessions.
    """

    def __init__(self, line: Line, limits: Limits) -> None:
        self._line = line
        self._limits = limits

    @property
    def methods(self) -> dict[str, Callable[[Peer, str, Any], Awaitable[Part]]]:
        """The methods of `request` that are answered here."""
        return {"artifact.open": self._open}

    async def publish(self, peer: Peer, log: LogName, frame: Publish) -> Puback | Nack:
        """Append chunks to an artifact of an attempt that this session has."""
        try:
            return await self._publish(peer, log, frame)
        except RequestError as fault:
            return publishing.refuse(frame, ErrorCode(fault.code), fault.message)
        except InvalidName as fault:
            return publishing.refuse(frame, ErrorCode.NOT_FOUND, str(fault))
        except StoreUnavailable as fault:
            return publishing.unavailable(frame, fault)

    async def _publish(self, peer: Peer, log: LogName, frame: Publish) -> Puback | Nack:
        place = ArtifactPlace.of(log)
        run = LogName(log.namespace, LogKind.RUN, place.run)
        meta = await read_run(self._line, run)
        artifact = None if meta is None else artifacts.known(meta, place.attempt, place.number)
        if artifact is None:
            return publishing.refuse(frame, ErrorCode.NOT_FOUND, f"there is no artifact {log.name}")
        artifacts.check_chunks(artifact, frame)
        prepared = publishing.prepare_chunks(frame, peer.principal, place.attempt)
        if isinstance(prepared, Nack):
            return prepared
        commit = artifacts.append(self._ids(), run, peer.session, log, prepared.packed, prepared.claim)
        result = await self._line.commit(commit)
        if isinstance(result, Outcome):
            return publishing.puback(frame, result, self._line.level)
        return refused(frame, commit, result)

    async def _open(self, peer: Peer, _op: str, params: ArtifactOpen) -> ArtifactOpened:
        run = LogName.parse(f"run/{params.run}", peer.namespace)
        log = ArtifactPlace(run.name, params.attempt, params.number).log(run.namespace)
        while True:
            meta = await read_run(self._line, run)
            if meta is None:
                raise RequestError(ErrorCode.NOT_FOUND, f"there is no run {run.name}")
            commit = artifacts.open_artifact(self._ids(), meta, peer.session, params, self._limits, self._line.now_ms())
            if commit is None:
                return ArtifactOpened(log=log.path, last=await self._last(log, params.attempt))
            for over in artifacts.abandoned(meta):  # before they are forgotten: else nobody would know of them
                await self._line.store.delete(over.log(run))
            if isinstance(await settle(self._line, commit), Outcome):
                return ArtifactOpened(log=log.path, last=0)

    async def _last(self, log: LogName, attempt: int) -> int:
        record = (await self._line.store.hash_get(keys.producers(log), f"attempt/{attempt}"))[0]
        return ProducerRecord.decode(record).last if record else 0

    def _ids(self) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), self._line.src, self._line.new_epoch())
