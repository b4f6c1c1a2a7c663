"""What a run's log tells its handler while it works: messages that steer it, answers, and news of its children.

The link's thread, or a child's reader, puts in; the handler takes out, in whatever thread it runs. What is kept is
bounded by what the hub takes: `STEERS_MAX` messages of `STEER_BYTES_MAX`, `QUESTIONS_MAX` answers and `CHILDREN_MAX`
results a run.

Specification: docs/protocol.md, sections "Conversations" and "Parents and children".
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from agent.threads import resolve
from protocol.children import Child, ChildKey
from protocol.conversation import Answered, Steer, answer_id
from protocol.family import CHILDREN_MAX, CHILDREN_OPEN_MAX, ChildEnded, ChildRun
from protocol.frames import Recover
from protocol.talk import QuestionState, Talk

__all__ = ["Inbox", "Past", "Told", "past_of"]

K = TypeVar("K")
V = TypeVar("V")

Told = Steer | Answered | ChildRun | ChildEnded


@dataclass(frozen=True, slots=True)
class Past:
    """What there was before: of earlier attempts, or, for a child process, before it began.

    Attributes:
        told: in the order of the log.
        given: messages that are not to be given again, but where the journal says so.
        asked: index and digest of each question.
        children: that were asked for, in the order of the log.
    """

    told: tuple[Told, ...] = ()
    given: frozenset[str] = frozenset()
    asked: frozenset[tuple[int, str]] = frozenset()
    children: tuple[Child, ...] = ()


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
        self._children: tuple[Child, ...] = ()
        self._spawned: set[ChildKey] = set()
        self._runs: dict[ChildKey, str] = {}
        self._ended: dict[ChildKey, ChildEnded] = {}
        self._waiters: list[Future[None]] = []
        self._followers: list[Callable[[Told], object]] = []

    # Putting in

    def begin_at(self, past: Past) -> None:
        """Take what there was before, in front of what was told since."""
        with self._lock:
            live, self._told = self._told, []
            self._steers.clear()
            self._answers.clear()
            self._runs.clear()
            self._ended.clear()
            self._waiting.clear()
            self._given |= past.given
            self._asked |= past.asked
            self._children = past.children
            self._spawned |= {(child.index, child.digest) for child in past.children}
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
            return Past(tuple(self._told), frozenset(self._given), frozenset(self._asked), self._children)

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

    def gives(self, command: str) -> bool:
        """Note that the handler was given something. Returns whether that is new to the log."""
        with self._lock:
            new = command not in self._given
            self._given.add(command)
            return new

    def given_all(self) -> int | None:
        """Return how many messages there were; None where one of them is yet to be given."""
        with self._lock:
            return None if self._waiting else len(self._steers)

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

    def again(self, index: int, digest: Callable[[str | None], str]) -> str | None:
        """Return the child in the place of which one is that an attempt asks for anew; None where it is the first.

        A child of earlier attempts that did not succeed is submitted again; any other is found again.

        Args:
            index: of the child.
            digest: returns what tells it from others, given the child in the place of which it is.
        """
        for child in reversed(self._children):
            if child.index == index and child.digest == digest(child.again):
                return child.run if child.failed else child.again
        return None

    def knows(self, child: ChildKey) -> bool:
        """Return whether the log asks for a child already."""
        return child in self._spawned

    def admits(self, child: ChildKey) -> bool:
        """Note that a child is asked for now. Returns False where it cannot be yet: too many have not ended.

        Raises:
            ValueError: the run has had as many as it may.
        """
        with self._lock:
            if len(self._spawned) >= CHILDREN_MAX:
                raise ValueError(f"a run has {CHILDREN_MAX} children at most; continue as another run")
            if len(self._spawned) - len(self._ended) >= CHILDREN_OPEN_MAX:
                return False
            self._spawned.add(child)
            return True

    def child_run(self, child: ChildKey) -> str | None:
        """Return the run that a child is, once it is submitted."""
        return self._runs.get(child)

    def child_end(self, child: ChildKey) -> ChildEnded | None:
        """Return what a child came to, once it has ended."""
        return self._ended.get(child)

    def changed(self) -> Future[None]:
        """Return what is done when there is reason to look again. Ask for it first, then look."""
        future: Future[None] = Future()
        with self._lock:
            self._waiters = [waiter for waiter in self._waiters if not waiter.done()]
            self._waiters.append(future)
        return future

    def _add(self, told: Told) -> bool:
        match told:
            case Answered():
                new = _keep(self._answers, (told.index, told.digest), told)
            case ChildRun():
                new = _keep(self._runs, (told.index, told.digest), told.run)
            case ChildEnded():
                new = _keep(self._ended, (told.index, told.digest), told)
            case _:
                new = _keep(self._steers, told.id, told)
                if new and told.id not in self._given:
                    self._waiting.append(told)
        if new:
            self._told.append(told)
        return new


def _keep(kept: dict[K, V], key: K, value: V) -> bool:
    """Keep the first of what has this key. Returns whether this is it."""
    if key in kept:
        return False
    kept[key] = value
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
    for child in talk.children.values():
        if child.run is not None:
            made = ChildRun(
                index=child.index, digest=child.digest, run=child.run, queue=child.queue, handler=child.handler
            )
            told.append(made)
        if child.ended is not None:
            told.append(child.ended)
    given = served
    if recover is Recover.CHECKPOINT:
        given = frozenset(
            message.id
            for message in talk.messages.values()
            if message.delivered_at is not None and message.delivered_at < talk.checkpoint
        )
    given |= frozenset(answer_id(one.index) for one in talk.questions.values() if one.delivered_at is not None)
    asked = frozenset((question.index, question.digest) for question in talk.questions.values())
    return Past(tuple(told), given, asked, tuple(talk.children.values()))
