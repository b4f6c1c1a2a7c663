"""Bugs that are planted on purpose, to show that the simulation finds them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from agent.subscriptions import Subscription as FollowedLog
from orchestrator.core import attempts
from orchestrator.core import resume as resuming
from orchestrator.core.run_meta import RunMeta
from orchestrator.following import Subscription
from orchestrator.line import Line
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Append, Appended, Commit, Outcome, ProducerClaim, Refusal, Refused
from orchestrator.store.producer import ProducerRecord, check_claim
from orchestrator.tail import Tail
from protocol.entry import Entry, Position, chain
from protocol.frames import Ack, Puback, Publish, SubscriptionVerdict
from tests.support.simulation.entropy import patched
from tests.support.simulation.faults import Theme

__all__ = ["PLANTS", "Plant", "planted"]


@dataclass(frozen=True, slots=True)
class Plant:
    """A bug that is planted.

    Attributes:
        changes: what is put in place of what.
        shows: is in the words of a violation that it causes.
        theme: what brings it out that would else take many seeds.
    """

    changes: tuple[tuple[str, Any], ...]
    shows: str
    theme: Theme | None = None

    def shown(self, violations: Sequence[str]) -> bool:
        """Whether it is among what was found; another violation may have another cause."""
        return any(self.shows in violation for violation in violations)


def planted(name: str | None) -> AbstractContextManager[None]:
    """Plant a bug; without a name, none."""
    return nullcontext() if name is None else patched(*PLANTS[name].changes)


def _publish_unguarded(*args: Any, **options: Any) -> Commit:
    return _PUBLISH(*args, **options)._replace(guards=())


def _claim_unguarded(*args: Any, **options: Any) -> tuple[Commit, RunMeta]:
    commit, after = _CLAIM(*args, **options)
    appends = tuple(append._replace(expect=None) for append in commit.appends)
    return commit._replace(guards=(), appends=appends), after


def _check_without_dedupe(
    record: ProducerRecord | None, claim: ProducerClaim, entries: int, now_ms: int
) -> int | Refusal:
    answer = check_claim(record, claim, entries, now_ms)
    return 0 if answer == entries and claim.count else answer


def _resume_by_offset(log: resuming.LogState, position: Position, tag: str | None = None) -> resuming.Decision:
    answer = _RESUME(log, position, tag)
    if isinstance(answer, resuming.Probing | resuming.NeedsTag) and position.offset <= log.head:
        known = {log.head: log.tag}.get(position.offset, tag)
        if known is None:
            return resuming.NeedsTag(position.offset)
        return resuming.Resumed(Position(log.epoch, position.offset, known))
    return answer


def _open_wherever(self: FollowedLog, verdict: SubscriptionVerdict, now_ms: int) -> None:
    if verdict.at is not None:
        self._cursor.start(verdict.at)
    _OPEN(self, verdict, now_ms)


def _acknowledge_unanswered(frame: Publish, fault: StoreUnavailable) -> Any:
    seq = frame.seq + len(frame.entries) - 1
    return Puback(log=frame.log, producer=frame.producer, seq=seq, offset=1, level="local")


def _on_ack_of_all_that_was_sent(self: Subscription, frame: Ack) -> None:
    _ON_ACK(self, frame.model_copy(update={"offset": self.delivery.window.sent}))


async def _feed_and_commit(self: Line, commit: Commit) -> Outcome | Refused:
    for append in commit.appends:
        tail = self.tails._tails.get(append.log)
        if tail is not None and tail.epoch and append.entries:
            guess = commit._replace(appends=(append,))
            self.tails.take(guess, Outcome((_guessed(tail, append, self.now_ms()),), self.now_ms()))
    return await _COMMIT(self, commit)


def _guessed(tail: Tail, append: Append, now_ms: int) -> Appended:
    offset = tail.head
    entries = [Entry(offset + place, now_ms, packed) for place, packed in enumerate(append.entries, 1)]
    after = Position(tail.epoch, offset + len(entries), chain(tail.tag, entries))
    return Appended(tail.position, after, now_ms, 0, after.offset)


_PUBLISH = attempts.publish
_CLAIM = attempts.claim
_RESUME = resuming.resume
_OPEN = FollowedLog._open
_ON_ACK = Subscription.on_ack
_COMMIT = Line.commit

PLANTS = {
    "a fenced attempt writes on": Plant(
        (("orchestrator.core.attempts.publish", _publish_unguarded),),
        "while nobody holds it",
        Theme.TAKE_OVERS,
    ),
    "a retry is appended again": Plant(
        (("orchestrator.store.memory_data.check_claim", _check_without_dedupe),), "is there 2 times", Theme.LOSSES
    ),
    "tails are fed before the commit": Plant(
        (("orchestrator.line:Line.commit", _feed_and_commit),), "(diverged) for nothing"
    ),
    "what was sent counts as acknowledged": Plant(
        (("orchestrator.following:Subscription.on_ack", _on_ack_of_all_that_was_sent),),
        "stored as acknowledged, and has not handled",
    ),
    "leases are judged at once": Plant(
        (
            ("orchestrator.timekeeper:Timekeeper._hold", lambda self, why, **facts: None),
            ("orchestrator.timekeeper:Timekeeper._judge_from_ms", property(lambda self: 0, lambda self, value: None)),
        ),
        "could know of it",
    ),
    "a resume trusts the offset": Plant(
        (
            ("orchestrator.verdicts.resume", _resume_by_offset),
            ("agent.subscriptions:Subscription._open", _open_wherever),
        ),
        "another entry than the log has there, and never told",
        Theme.FAILOVER,
    ),
    "an unanswered commit is acknowledged": Plant(
        (("orchestrator.core.publish.unavailable", _acknowledge_unanswered),), "is not there", Theme.LOSSES
    ),
    "two hubs claim one run": Plant((("orchestrator.core.attempts.claim", _claim_unguarded),), "was claimed while"),
    "a subscriber that left is still told": Plant(
        (("orchestrator.tail:Tails.leave", lambda self, tail, subscriber: None),), "left over"
    ),
}
"""Bugs by name."""
