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
        """Store an answer, in the same commit as what it is about."""
        key = keys.ops(partition_of(log), log.namespace, self._line.now_ms() // DAY_MS)
        return HashSet(key, {_op_field(peer, log, op): pack_value(answer.model_dump())}, ttl_ms=OPS_TTL_MS)

    async def find(self, peer: Peer, log: LogName, op: str, model: type[Answer]) -> Answer | None:
        """Return the answer that this op got before, today or yesterday.

        Raises:
            RequestError: `invalid_params`, the op was used for another request.
        """
        today, partition = self._line.now_ms() // DAY_MS, partition_of(log)
        for day in (today, today - 1, today + 1):  # another hub's clock may be past midnight
            key = keys.ops(partition, log.namespace, day)
            value = (await self._line.store.hash_get(key, _op_field(peer, log, op)))[0]
            if value:
                return _given(model, op, value)
        return None


def _given(model: type[Answer], op: str, value: bytes) -> Answer:
    try:
        return model.model_validate(unpack_value(value))
    except ValidationError:
        message = f"the op {op!r} was used for another request; each has its own"
        raise RequestError(ErrorCode.INVALID_PARAMS, message) from None


def _op_field(peer: Peer, log: LogName, op: str) -> str:
    return f"{peer.principal}/{log.path}/{op}"
