"""Messages and questions in both contexts, over a log in memory: given, recorded, served again, told apart."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent.attempt_state import AttemptState, Checkpointed
from agent.context import RunContext
from agent.errors import Cancelled, NonDeterminism, Unanswered
from agent.inbox import Inbox, Past, past_of
from agent.journal import Journal
from agent.plain_context import PlainRunContext
from protocol.codec import pack_record, pack_value
from protocol.control import Kind, read_control
from protocol.conversation import Answered, Asked, Steer
from protocol.entry import Entry
from protocol.frames import Recover
from protocol.talk import Talk, talk_after
from tests.support.journaled import Killed, MemoryOutlet, RunLog, assignment, begin
from tests.support.timing import eventually_sync

HUB = "hub:h"
STOPPED = (asyncio.CancelledError, Cancelled)
"""How handlers of either kind are told to stop."""


class TalkLog(RunLog):
    """A run's log that is talked to."""

    def __init__(self) -> None:
        super().__init__()
        self.inbox = Inbox()
        self.state: AttemptState | None = None

    def say(self, *messages: Any) -> None:
        """Add messages, told to the attempt that runs."""
        for message in messages:
            steer = Steer(id=f"m{len(self.entries)}", body=pack_value(message))
            self._put(Kind.STEER, steer)

    def answer(self, value: Any, *, by: str = "client:ops", question: int = -1) -> None:
        """Answer a question, the last without another word."""
        record = [record for record in self.records if record.kind == Kind.ASKED][question]
        asked = read_control(Asked, record.body)
        packed = None if value is None else pack_value(value)
        self._put(Kind.ANSWERED, Answered(index=record.index or 0, digest=asked.digest, answer=packed, by=by))

    def _put(self, kind: Kind, body: Steer | Answered) -> None:
        packed = pack_record(kind, HUB, pack_value(body))
        self.entries.append(Entry(len(self.entries) + 1, 1, packed))
        if self.state is not None:
            self.state.inbox.tell(body)

    def asked(self) -> int:
        """Return how often something was asked."""
        return sum(record.kind == Kind.ASKED for record in self.records)

    def start(self, handler: Callable[..., Any], *, recover: Recover = Recover.JOURNAL, room: int | None = None) -> Any:
        """Run another attempt, as `agent.attempt` has it begin. Returns what it returns."""
        self.attempts += 1
        journal, talk = Journal() if recover is Recover.JOURNAL else None, Talk()
        for entry in self.entries:
            talk = talk_after(talk, entry)
            if journal is not None:
                journal.record(entry)
        past = past_of(talk, recover, journal.served_messages() if journal else frozenset())
        outlet = MemoryOutlet(self, room)
        begins = Checkpointed(0, b"\xc0") if recover is Recover.CHECKPOINT else None
        self.state = AttemptState(assignment(self.attempts), outlet, journal, begins, pickle.loads(pickle.dumps(past)))
        try:
            result = begin(stoppable(handler, self.state), self.state)
            if journal is not None:
                journal.returned()
            return result
        finally:
            self.state = None


def stoppable(handler: Callable[..., Any], state: AttemptState) -> Callable[..., Any]:
    """Have an async handler cancelled when it is to stop, as its executors do."""
    if not inspect.iscoroutinefunction(handler):
        return handler

    async def main(ctx: RunContext) -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        state.on_stop(lambda: loop.call_soon_threadsafe(task.cancel))
        return await handler(ctx)

    return main


async def listen(ctx: RunContext) -> list[Any]:
    heard = []
    async for message in ctx.steering():
        heard.append(message.body)
        if message.body == "no":
            await message.reject("why?")
        else:
            await message.reply(len(heard))
        if message.body == "stop":
            break
    return heard


def listen_plain(ctx: PlainRunContext) -> list[Any]:
    heard = []
    for message in ctx.steering():
        heard.append(message.body)
        if message.body == "no":
            message.reject("why?")
        else:
            message.reply(len(heard))
        if message.body == "stop":
            break
    return heard


async def look(ctx: RunContext) -> list[Any]:
    return [[message.body async for message in ctx.steering(timeout=0)] for _ in range(2)]


def look_plain(ctx: PlainRunContext) -> list[Any]:
    return [[message.body for message in ctx.steering(timeout=0)] for _ in range(2)]


async def decide(ctx: RunContext) -> list[Any]:
    allowed = await ctx.approve("push", {"branch": "main"}, timeout=60)
    return [allowed, await ctx.ask("name")]


def decide_plain(ctx: PlainRunContext) -> list[Any]:
    allowed = ctx.approve("push", {"branch": "main"}, timeout=60)
    return [allowed, ctx.ask("name")]


LISTENING = pytest.mark.parametrize("handler", [listen, listen_plain])
LOOKING = pytest.mark.parametrize("handler", [look, look_plain])
DECIDING = pytest.mark.parametrize("handler", [decide, decide_plain])


def beside(log: TalkLog, handler: Callable[..., Any], act: Callable[[], None], **options: Any) -> Any:
    """Run an attempt in a thread, and do something while it runs."""
    made: list[Any] = []

    def main() -> None:
        try:
            made.append(log.start(handler, **options))
        except BaseException as error:  # noqa: BLE001 - handed over to the test's thread
            made.append(error)

    thread = threading.Thread(target=main)
    thread.start()
    try:
        act()
    finally:
        thread.join(20)
    assert not thread.is_alive()
    if isinstance(made[0], BaseException):
        raise made[0]
    return made[0]


# Messages


@LISTENING
def test_messages_come_in_the_order_of_the_log_and_again_with_a_journal(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    log.say("one", "no", "stop", "later")
    assert log.start(handler) == ["one", "no", "stop"]
    written = log.done[4:]
    kinds = [Kind.RECEIVED, Kind.STEERED] * 3
    assert written == list(enumerate(kinds, 1))
    assert log.start(handler) == ["one", "no", "stop"]
    assert log.done[4:] == written


@LISTENING
@pytest.mark.parametrize("room", range(6))
def test_a_handler_that_is_killed_anywhere_hears_the_same_in_the_same_order(
    handler: Callable[..., Any], room: int
) -> None:
    log = TalkLog()
    log.say("one", "two", "stop")
    with pytest.raises(Killed):
        log.start(handler, room=room)
    log.say("after")
    assert log.start(handler) == ["one", "two", "stop"]
    assert [kind for _, kind in log.done if kind == Kind.RECEIVED] == [Kind.RECEIVED] * 3


@LISTENING
def test_a_message_that_comes_while_the_handler_waits_is_given_at_once(handler: Callable[..., Any]) -> None:
    log = TalkLog()

    def act() -> None:
        eventually_sync(lambda: log.state is not None)
        log.say("one")
        eventually_sync(lambda: log.done[-1][1] == Kind.STEERED)
        log.say("stop")

    assert beside(log, handler, act) == ["one", "stop"]


@LOOKING
def test_that_no_message_was_there_is_recorded_too(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    log.say("early")
    with pytest.raises(Killed):
        log.start(handler, room=2)
    log.say("late")
    assert log.start(handler) == [["early"], ["late"]]
    assert log.start(handler) == [["early"], ["late"]]


@LOOKING
def test_without_a_journal_nothing_is_recorded_of_waiting_in_vain(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    assert log.start(handler, recover=Recover.RESTART) == [[], []]
    assert log.entries == []


@LOOKING
def test_an_attempt_that_starts_over_is_given_everything_again(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    log.say("one")
    assert log.start(handler, recover=Recover.RESTART) == [["one"], []]
    log.say("two")
    assert log.start(handler, recover=Recover.RESTART) == [["one", "two"], []]


@LOOKING
def test_an_attempt_at_a_checkpoint_is_given_what_came_after_it(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    log.say("one")
    log.start(handler, recover=Recover.CHECKPOINT)
    log.append(Kind.CHECKPOINT, pack_value({"value": b"\xc0"}), 9, 1, None)
    log.say("two")
    assert log.start(handler, recover=Recover.CHECKPOINT) == [["two"], []]
    assert log.start(handler, recover=Recover.CHECKPOINT) == [["two"], []]


def test_another_operation_in_the_place_of_a_message_is_told() -> None:
    log = TalkLog()
    log.say("stop")
    log.start(listen)

    async def other(ctx: RunContext) -> None:
        await ctx.emit("x")

    with pytest.raises(NonDeterminism, match="steering"):
        log.start(other)


# Questions


@DECIDING
def test_a_question_is_asked_once_and_its_answer_served(handler: Callable[..., Any]) -> None:
    log = TalkLog()

    def act() -> None:
        eventually_sync(lambda: log.asked() == 1)
        log.answer(True)
        eventually_sync(lambda: log.asked() == 2)
        log.answer("ada")

    assert beside(log, handler, act) == [True, "ada"]
    assert log.start(handler) == [True, "ada"]
    assert log.asked() == 2
    assert log.start(handler, recover=Recover.RESTART) == [True, "ada"], "the same index and digest, without a journal"


@DECIDING
def test_an_answer_that_came_while_nobody_ran_is_found(handler: Callable[..., Any]) -> None:
    log = TalkLog()
    with pytest.raises(STOPPED):
        beside(log, handler, lambda: stop_when_asked(log, 1))
    log.answer(False)
    with pytest.raises(STOPPED):
        beside(log, handler, lambda: stop_when_asked(log, 2))
    log.answer("grace")
    assert log.start(handler) == [False, "grace"]
    assert log.asked() == 2


def stop_when_asked(log: TalkLog, count: int) -> None:
    """Cancel the attempt when it waits for its answer."""
    eventually_sync(lambda: log.asked() == count)
    stop_now(log)


async def ask_all(ctx: RunContext) -> list[Any]:
    return await ctx.gather(ctx.ask("one"), ctx.approve("two"))


def test_questions_wait_at_the_same_time() -> None:
    log = TalkLog()

    def act() -> None:
        eventually_sync(lambda: log.asked() == 2)
        log.answer(True)
        log.answer(1, question=0)

    assert beside(log, ask_all, act) == [1, True]
    assert [index for index, kind in log.done if kind == Kind.ASKED] == [1, 2]


async def hurry(ctx: RunContext) -> Any:
    return await ctx.ask("name", timeout=0.1)


def hurry_plain(ctx: PlainRunContext) -> Any:
    return ctx.ask("name", timeout=0.1)


@pytest.mark.parametrize("handler", [hurry, hurry_plain])
def test_nobody_answered_in_time(handler: Callable[..., Any]) -> None:
    log = TalkLog()

    def act() -> None:
        eventually_sync(lambda: log.asked() == 1)
        log.answer(None, by="timeout")

    with pytest.raises(Unanswered, match="name"):
        beside(log, handler, act)


def test_other_arguments_are_another_question() -> None:
    log = TalkLog()

    async def other(ctx: RunContext) -> None:
        await ctx.approve("push", {"branch": "dev"})

    beside(log, decide, lambda: answer_both(log))
    with pytest.raises(NonDeterminism, match="another payload"):
        log.start(other)


def answer_both(log: TalkLog) -> None:
    for count, value in ((1, True), (2, "x")):
        eventually_sync(lambda count=count: log.asked() == count)  # type: ignore[misc]
        log.answer(value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_question_has_some_time(timeout: float) -> None:
    async def ask(ctx: RunContext) -> None:
        await ctx.ask("name", timeout=timeout)

    with pytest.raises(ValueError, match="timeout"):
        TalkLog().start(ask)


# The inbox


def test_what_is_told_twice_is_told_once() -> None:
    inbox, steer = Inbox(), Steer(id="m", body=b"\xc0")
    seen: list[object] = []
    inbox.tell(steer)
    inbox.follow(seen.append, Past())
    inbox.tell(steer)
    assert (inbox.take(), inbox.take(), seen) == (steer, None, [steer])


def test_what_was_before_comes_before_what_was_told_since() -> None:
    inbox, first, second = Inbox(), Steer(id="a", body=b"\xc0"), Steer(id="b", body=b"\xc0")
    inbox.tell(second)
    inbox.begin_at(Past((first,)))
    assert (inbox.take(), inbox.take()) == (first, second)


def test_a_cancelled_plain_handler_waits_for_nothing() -> None:
    log = TalkLog()
    with pytest.raises(Cancelled):
        beside(log, listen_plain, lambda: stop_now(log))


def stop_now(log: TalkLog) -> None:
    eventually_sync(lambda: log.state is not None)
    assert log.state is not None
    log.state.stop("enough")
