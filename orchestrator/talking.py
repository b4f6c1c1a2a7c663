"""The methods by which people and programs talk to runs: messages that steer them, answers to what they ask.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from orchestrator.core import questions, runs
from orchestrator.core.meta_questions import MetaQuestion
from orchestrator.core.publish import check_body
from orchestrator.core.queues import Queue
from orchestrator.core.run_meta import RunMeta
from orchestrator.kept import KeptAnswers
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.reading import Reading
from orchestrator.settle import settle
from orchestrator.store.commits import Outcome
from protocol.codec import unpack_value
from protocol.codes import ErrorCode
from protocol.conversation import (
    STEER_BYTES_MAX,
    STEERS_MAX,
    QuestionKind,
    RunAnswer,
    RunAnswered,
    RunSteer,
    RunSteering,
    Steer,
)
from protocol.errors import RequestError
from protocol.ids import LogName

__all__ = ["Talking"]

AROUND_ANSWER_BYTES = 1024
"""What the entry of an answer may have beside it: whose it is, and to what."""


class Talking:
    """What this hub lets peers say to runs.

    Args:
        line: where commits go.
        reading: what is read of runs.
        kept: the answers of requests.
        look: told of every queue that a run may have come back to (`Dispatch.look`).
        body_bytes_max: limit of what one entry carries.
    """

    def __init__(
        self,
        line: Line,
        reading: Reading,
        kept: KeptAnswers,
        look: Callable[[Queue], None],
        body_bytes_max: int,
    ) -> None:
        self._line = line
        self._reading = reading
        self._kept = kept
        self._look = look
        self._body_bytes_max = body_bytes_max

    async def steer(self, peer: Peer, op: str, params: RunSteer) -> RunSteering:
        """Answer `run.steer`."""
        check_body(params.body, min(STEER_BYTES_MAX, self._body_bytes_max))
        log = LogName.parse(f"run/{params.run}", peer.namespace)
        message = Steer(id=secrets.token_hex(8), body=params.body)
        while True:
            known = await self._kept.find(peer, log, op, RunSteering)
            if known is not None:
                return known
            meta = await self._reading.meta(log)
            _check_not_over(meta, "there is nobody to steer")
            if meta.steers >= STEERS_MAX:
                raise RequestError(
                    ErrorCode.TOO_MANY, f"run {log.name} was sent {STEERS_MAX} messages, and takes no more"
                )
            given = RunSteering(id=message.id, state=meta.state.value)
            stored = self._kept.keep(peer, log, op, given)
            if isinstance(await settle(self._line, questions.steer(self._ids(peer), meta, message, stored)), Outcome):
                self._came(meta)
                return given

    async def answer(self, peer: Peer, op: str, params: RunAnswer) -> RunAnswered:
        """Answer `run.answer`. No agent answers: what asks is not what decides."""
        check_body(params.answer, self._body_bytes_max - AROUND_ANSWER_BYTES)
        log = LogName.parse(f"run/{params.run}", peer.namespace)
        while True:
            known = await self._kept.find(peer, log, op, RunAnswered)
            if known is not None:
                return known
            meta = await self._reading.meta(log)
            question = _question(meta, params.question)
            _check_digest(question, params.digest)
            _check_answer(question, params.answer)
            given = RunAnswered(question=question.index)
            stored = self._kept.keep(peer, log, op, given)
            commit = questions.answer(self._ids(peer), meta, question, params.answer, peer.principal, stored)
            if isinstance(await settle(self._line, commit), Outcome):
                self._came(meta)
                return given

    def _came(self, meta: RunMeta) -> None:
        """Have a run looked at that may have waited for this with its handler put away."""
        if meta.put_off:
            self._look(meta.place)

    def _ids(self, peer: Peer) -> runs.Ids:
        return runs.Ids(self._line.new_commit_id(), peer.principal)


def _check_not_over(meta: RunMeta, so: str) -> None:
    if meta.final:
        raise RequestError(ErrorCode.RUN_FINISHED, f"run {meta.log.name} is {meta.state.value}; {so}")


def _question(meta: RunMeta, index: int | None) -> MetaQuestion:
    """Return the question that is to be answered."""
    run, waiting = meta.log.name, [question for question in meta.questions if question.open]
    if index is not None:
        found = [question for question in meta.questions if question.index == index]
    else:
        found = waiting or list(meta.questions[-1:])
    if not found:
        _check_not_over(meta, "it asks nothing")
        what = "no question waits for an answer" if index is None else f"there is no question {index}"
        raise RequestError(ErrorCode.NOT_FOUND, f"run {run}: {what}")
    if len(found) > 1:
        names = ", ".join(f"{question.index} ({question.name})" for question in found)
        raise RequestError(ErrorCode.INVALID_PARAMS, f"run {run} asks several questions; name one of {names}")
    if not found[0].open:
        message = f"question {found[0].index} ({found[0].name}) of run {run} has its answer"
        raise RequestError(ErrorCode.ALREADY_ANSWERED, message, data={"question": found[0].index})
    _check_not_over(meta, "its question has expired")
    return found[0]


def _check_digest(question: MetaQuestion, begins: str | None) -> None:
    if begins is not None and not question.digest.startswith(begins):
        raise RequestError(
            ErrorCode.NOT_FOUND,
            f"question {question.index} ({question.name}) is not the one with the digest {begins}: "
            "the run asks something else there now; look at it, and answer that",
        )


def _check_answer(question: MetaQuestion, answer: bytes) -> None:
    try:
        value = unpack_value(answer)
    except ValueError as fault:
        raise RequestError(ErrorCode.INVALID_PARAMS, f"run.answer: the answer is no packed value: {fault}") from None
    if question.kind is QuestionKind.APPROVE and not isinstance(value, bool):
        message = (
            f"question {question.index} ({question.name}) asks for approval; answer true or false (--approve or --deny)"
        )
        raise RequestError(ErrorCode.INVALID_PARAMS, message)
