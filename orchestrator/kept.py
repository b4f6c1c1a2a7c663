"""Answers that are kept: what a request changed is answered again, and not done again, when the same `op` comes.

Specification: docs/protocol.md, section "Requests".
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.store import keys
from orchestrator.store.commits import HashSet
from protocol.codec import pack_value, unpack_value
from protocol.codes import ErrorCode
from protocol.errors import RequestError
from protocol.frames import Part
from protocol.ids import LogName, partition_of

__all__ = ["KeptAnswers"]

DAY_MS = 24 * 3600 * 1000
OPS_TTL_MS = 2 * DAY_MS

Answer = TypeVar("Answer", bound=Part)


class KeptAnswers:
    """The answers to requests that changed something, for two days.

    Args:
        line: for the store and its clock.
    """

    def __init__(self, line: Line) -> None:
        self._line = line

    def keep(self, peer: Peer, log: LogName, op: str, answer: Part) -> HashSet:
        """Store an answer about a log, in the same commit as what it is about."""
        return self.keep_at(partition_of(log), log.namespace, _field(peer, log, op), answer)

    async def find(self, peer: Peer, log: LogName, op: str, model: type[Answer]) -> Answer | None:
        """Return the answer about a log that this op got before, today or yesterday.

        Raises:
            RequestError: `invalid_params`, the op was used for another request.
        """
        return await self.find_at(partition_of(log), log.namespace, _field(peer, log, op), model)

    def keep_at(self, partition: int, namespace: str, field: str, answer: Part) -> HashSet:
        """Store an answer about something of a partition; `field` says whose it is and which."""
        key = keys.ops(partition, namespace, self._line.now_ms() // DAY_MS)
        return HashSet(key, {field: pack_value(answer.model_dump())}, ttl_ms=OPS_TTL_MS)

    async def find_at(self, partition: int, namespace: str, field: str, model: type[Answer]) -> Answer | None:
        """Return what `keep_at` stored, today or yesterday.

        Raises:
            RequestError: `invalid_params`, the op was used for another request.
        """
        today = self._line.now_ms() // DAY_MS
        for day in (today, today - 1, today + 1):  # another hub's clock may be past midnight
            value = (await self._line.store.hash_get(keys.ops(partition, namespace, day), field))[0]
            if value:
                return _given(model, field, value)
        return None


def _given(model: type[Answer], field: str, value: bytes) -> Answer:
    stored = unpack_value(value)  # whose arrays are lists, where models have tuples
    try:
        return model.model_validate({name: tuple(x) if isinstance(x, list) else x for name, x in stored.items()})
    except ValidationError:
        message = f"the op {field.rpartition('/')[2]!r} was used for another request; each has its own"
        raise RequestError(ErrorCode.INVALID_PARAMS, message) from None


def _field(peer: Peer, log: LogName, op: str) -> str:
    return f"{peer.principal}/{log.path}/{op}"
