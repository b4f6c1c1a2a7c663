"""What a run's log tells its handler while it works: messages that steer it, and answers to its questions.

The link's thread, or a child's reader, puts in; the handler takes out, in whatever thread it runs. What is kept is
bounded by what the hub takes: `STEERS_MAX` messages of `STEER_BYTES_MAX` and `QUESTIONS_MAX` answers a run.

Specification: docs/protocol.md, section "Conversations".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from agent.threads import resolve
from protocol.conversation import Answered, Steer
from protocol.frames import Recover
from protocol.talk import QuestionState, Talk

__all__ = ["Inbox", "Past", "Told", "past_of"]

Told = Steer | Answered


@dataclass(frozen=True, slots=True)
class Past:
    """What there was before: of earlier attempts, or, for a child process, before it began.

    Attributes:
        told: in the order of the log.
        given: messages that are not to be given again, but where the journal says so.
        asked: index and digest of each question.
    """

    told: tuple[Told, ...] = ()
    given: frozenset[str] = frozenset()
    asked: frozenset[tuple[int, str]] = frozenset()


class Inbox:
    """One attempt's inbox. Safe in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: list[Told] = []
        self._steers: dict[str, Steer] = {}
        self._given: set[str] = set()
        self._waiting: deque[Steer] = deque()
        self._asked: set[tuple[int, str]] = set()
        self._answers: dict[tuple[int, str], Answered] = {}
        self._waiters: list[Future[None]] = []
        self._followers: list[Callable[[Told], object]] = []

    # Putting in

    def begin_at(self, past: Past) -> None:
        """Take what there was before, in front of what was told since."""
        with self._lock:
            live, self._told = self._told, []
            self._steers.clear()
            self._waiting.clear()
            self._given |= past.given
            self._asked |= past.asked
            for told in (*past.told, *live):
                self._add(told)

    def tell(self, told: Told) -> None:
        """Take what the log says now. What was told before changes nothing."""
        with self._lock:
            followers = tuple(self._followers) if self._add(told) else ()
        for follow in followers:
            follow(told)
        self.wake()

    def wake(self) -> None:
        """Have whoever waits look again: something was told, or the handler is to stop."""
        with self._lock:
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            resolve(waiter, None)

    # Handing on, to a child process

    def past(self) -> Past:
        """Return everything as it is now."""
        with self._lock:
            return Past(tuple(self._told), frozenset(self._given), frozenset(self._asked))

    def follow(self, call: Callable[[Told], object], since: Past) -> None:
        """Have `call` called with what was told since, and with what is told from now on, in order."""
        with self._lock:
            for told in self._told[len(since.told) :]:
                call(told)
            self._followers.append(call)

    def unfollow(self) -> None:
        """Tell no follower any more."""
        with self._lock:
            self._followers.clear()

    # Taking out

    def take(self) -> Steer | None:
        """Return the next message, in the order of the log; None where there is none."""
        with self._lock:
            if not self._waiting:
                return None
            steer = self._waiting.popleft()
            self._given.add(steer.id)
            return steer

    def named(self, message: str) -> Steer | None:
        """Return a message that the journal says was given."""
        with self._lock:
            return self._steers.get(message)

    def asks(self, index: int, digest: str) -> bool:
        """Note a question. Returns whether the log has it already."""
        with self._lock:
            known = (index, digest) in self._asked
            self._asked.add((index, digest))
            return known

    @property
    def questions(self) -> int:
        """How many questions there were."""
        return len(self._asked)

    def answer(self, index: int, digest: str) -> Answered | None:
        """Return the answer to a question, once there is one."""
        with self._lock:
            return self._answers.get((index, digest))

    def changed(self) -> Future[None]:
        """Return what is done when there is reason to look again. Ask for it first, then look."""
        future: Future[None] = Future()
        with self._lock:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
            self._waiters.append(future)
        return future

    def _add(self, told: Told) -> bool:
        if isinstance(told, Answered):
            if (told.index, told.digest) in self._answers:
                return False
            self._answers[told.index, told.digest] = told
        else:
            if told.id in self._steers:
                return False
            self._steers[told.id] = told
            if told.id not in self._given:
                self._waiting.append(told)
        self._told.append(told)
        return True


def past_of(talk: Talk, recover: Recover, served: frozenset[str] = frozenset()) -> Past:
    """Return what an attempt begins with.

    Args:
        talk: the conversation up to where the attempt was claimed.
        recover: how the attempt begins. One that starts over is given all messages again; one that begins at a
            checkpoint, those that were given after it, or never.
        served: messages that the journal gives again, for an attempt that recovers by it.
    """
    told: list[Told] = [Steer(id=message.id, body=message.body) for message in talk.messages.values()]
    for question in talk.questions.values():
        if question.state in (QuestionState.ANSWERED, QuestionState.TIMED_OUT):
            answer = Answered(index=question.index, digest=question.digest, answer=question.answer, by=question.by)
            told.append(answer)
    given = served
    if recover is Recover.CHECKPOINT:
        given = frozenset(
            message.id
            for message in talk.messages.values()
            if message.delivered_at is not None and message.delivered_at < talk.checkpoint
        )
    asked = frozenset((question.index, question.digest) for question in talk.questions.values())
    return Past(tuple(told), given, asked)
