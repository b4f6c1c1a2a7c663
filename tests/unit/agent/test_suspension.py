"""When a handler that only waits is put away, and what is said of that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from agent.attempt_state import AttemptState
from agent.context import RunContext
from agent.errors import BadHandler, Cancelled
from agent.executors.inline import run_inline
from agent.executors.thread import run_here
from agent.handlers import Handler
from agent.journal import Journal
from agent.plain_context import PlainRunContext
from agent.suspension import Patience, Wait
from protocol.codec import pack_value
from protocol.control import Kind, read_control
from protocol.conversation import Answered, Asked, Steer, Suspended
from protocol.errors import FleetlineError
from tests.support.journaled import MemoryOutlet, RunLog, assignment
from tests.support.timing import deadline

NOW_S = 1000.0
AFTER_S = 60.0
LONG_S = 3600.0
STOPPED = (asyncio.CancelledError, Cancelled)


def sleeping(left_s: float) -> Wait:
    return Wait(NOW_S, until_s=NOW_S + left_s)


def asking(question: int, since_s: float = NOW_S) -> Wait:
    return Wait(since_s, question=question)


LISTENING = Wait(NOW_S)


def ripe_in_s(*waits: Wait | None, after_s: float | None = AFTER_S) -> float | None:
    """Return when a handler is put away whose strands wait for this; None for one that works."""
    with waiting(Patience(after_s), *waits) as patience:
        return patience.ripe_in_s(NOW_S)


@contextmanager
def waiting(patience: Patience, *waits: Wait | None) -> Iterator[Patience]:
    """Let a strand wait for each of these."""
    with ExitStack() as stack:
        for strand, wait in enumerate(waits):
            patience.begins(strand)
            if wait is not None:
                stack.enter_context(patience.waiting(strand, wait))
        yield patience


@pytest.mark.parametrize(
    ("waits", "in_s"),
    [
        ((), None),
        ((None,), None),
        ((sleeping(LONG_S),), 0),
        ((sleeping(AFTER_S),), None),
        ((asking(1),), AFTER_S),
        ((asking(1, NOW_S - 50),), 10),
        ((asking(1, NOW_S - 500),), 0),
        ((LISTENING,), AFTER_S),
        ((Wait(NOW_S, child=(5, "d")),), AFTER_S),
        ((sleeping(LONG_S), None), None),
        ((sleeping(LONG_S), sleeping(1)), None),
        ((sleeping(LONG_S), asking(1)), AFTER_S),
        ((sleeping(AFTER_S + 30), asking(1)), None),
        ((asking(1, NOW_S - 50), asking(2)), AFTER_S),
    ],
)
def test_a_handler_is_put_away_when_everything_that_it_waits_for_takes_long(
    waits: tuple[Wait | None, ...], in_s: float | None
) -> None:
    assert ripe_in_s(*waits) == in_s
    assert ripe_in_s(*waits, after_s=None) is None


def test_a_handler_that_allows_no_wait_is_put_away_at_once() -> None:
    assert ripe_in_s(asking(1), after_s=0) == 0
    assert ripe_in_s(sleeping(0), after_s=0) is None


def test_the_body_of_an_effect_is_not_left() -> None:
    patience = Patience(AFTER_S)
    patience.begins("main")
    with patience.waiting("main", sleeping(LONG_S)):
        with patience.held():
            assert patience.ripe_in_s(NOW_S) is None
        assert patience.ripe_in_s(NOW_S) == 0


def test_what_a_handler_waits_for_is_said_of_all_its_strands() -> None:
    child = Wait(NOW_S, child=(5, "d"))
    with waiting(Patience(0), sleeping(1.5), asking(7), sleeping(2.0004), asking(3), child) as patience:
        assert patience.suspended(NOW_S, None) == Suspended(sleep_ms=2001, questions=(3, 7), children=("5.d",))


def test_a_handler_to_which_a_message_is_on_its_way_is_not_put_away() -> None:
    patience = Patience(0)
    patience.begins("main")
    with patience.waiting("main", LISTENING):
        assert patience.suspended(NOW_S, None) is None
        assert patience.suspended(NOW_S, 4) == Suspended(messages=4)


# Handlers


class Life:
    """The attempts of one handler, each of which is put away or returns."""

    def __init__(self, after_s: float = 0.01) -> None:
        self.log = RunLog()
        self.after_s = after_s
        self.state: AttemptState | None = None

    def attempt(self, handler: Callable[..., Any], *told: Answered | Steer) -> Any:
        """Run the next attempt, which was told something before. Returns its result, or why it was put away."""
        self.log.attempts += 1
        journal = Journal()
        for entry in self.log.entries:
            journal.record(entry)
        outlet = MemoryOutlet(self.log, None)
        state = self.state = AttemptState(assignment(self.log.attempts), outlet, journal, suspend_after_s=self.after_s)
        for each in told:
            state.inbox.tell(each)
        is_async = asyncio.iscoroutinefunction(handler)
        with suppress(*STOPPED):
            result = self._async(handler, state) if is_async else run_here(handler, False, state, {})
            if state.suspended is None:
                return result
        assert state.suspended is not None
        return state.suspended

    @staticmethod
    def _async(handler: Callable[..., Any], state: AttemptState) -> Any:
        async def main() -> Any:
            async with deadline(20):
                return await run_inline(handler, state, {})

        return asyncio.run(main())

    def answer(self, value: Any) -> Answered:
        """Return the answer to the last question."""
        record = [record for record in self.log.records if record.kind == Kind.ASKED][-1]
        asked = read_control(Asked, record.body)
        return Answered(index=record.index or 0, digest=asked.digest, answer=pack_value(value), by="client:ops")


async def asks(ctx: RunContext) -> Any:
    await ctx.emit("began")
    return await ctx.ask("name")


def asks_plain(ctx: PlainRunContext) -> Any:
    ctx.emit("began")
    return ctx.ask("name")


async def sleeps(ctx: RunContext) -> None:
    await ctx.emit("began")
    await ctx.sleep(LONG_S)


def sleeps_plain(ctx: PlainRunContext) -> None:
    ctx.emit("began")
    ctx.sleep(LONG_S)


async def listens(ctx: RunContext) -> Any:
    async for message in ctx.steering():
        return message.body
    return None


def listens_plain(ctx: PlainRunContext) -> Any:
    for message in ctx.steering():
        return message.body
    return None


@pytest.mark.parametrize("handler", [asks, asks_plain])
def test_a_question_puts_the_handler_away_and_its_answer_is_there_when_it_is_back(handler: Callable[..., Any]) -> None:
    life = Life()
    assert life.attempt(handler) == Suspended(questions=(2,))
    assert life.attempt(handler) == Suspended(questions=(2,)), "a new attempt that nobody answered"
    assert life.attempt(handler, life.answer("ada")) == "ada"
    assert life.log.done == [(1, "began"), (2, Kind.ASKED), (None, Kind.RECEIVED)]


@pytest.mark.parametrize("handler", [sleeps, sleeps_plain])
def test_a_long_sleep_puts_the_handler_away_for_what_is_left_of_it(handler: Callable[..., Any]) -> None:
    life = Life()
    for _ in range(2):
        put_away = life.attempt(handler)
        assert put_away.sleep_ms is not None
        assert (LONG_S - 60) * 1000 < put_away.sleep_ms <= LONG_S * 1000 + 1
    assert [kind for _, kind in life.log.done] == ["began", Kind.MARKER]


@pytest.mark.parametrize("handler", [listens, listens_plain])
def test_a_handler_that_waits_for_messages_is_put_away_and_gets_the_next_one(handler: Callable[..., Any]) -> None:
    life = Life()
    assert life.attempt(handler) == Suspended(messages=0)
    assert life.attempt(handler, Steer(id="m1", body=pack_value("go"))) == "go"


async def gathers(ctx: RunContext) -> Any:
    return await ctx.gather(ctx.ask("name"), ctx.call("fetch", fetch), ctx.sleep(LONG_S))


async def fetch() -> int:
    await asyncio.sleep(0.05)
    return 1


def test_what_is_gathered_is_put_away_when_the_calls_among_it_are_done() -> None:
    life = Life()
    put_away = life.attempt(gathers)
    assert (put_away.questions, put_away.messages) == ((1,), None)
    assert put_away.sleep_ms is not None
    assert (2, Kind.CALL) in life.log.done, "the call was not cut short"


async def gathers_and_goes_on(ctx: RunContext) -> Any:
    first = await ctx.gather(ctx.sleep(0), ctx.call("fetch", fetch))
    return [first, await ctx.ask("name")]


def test_the_handler_itself_waits_again_after_it_gathered() -> None:
    assert Life().attempt(gathers_and_goes_on) == Suspended(questions=(3,))


async def busy_elsewhere(ctx: RunContext) -> str:
    beside = asyncio.create_task(ctx.sleep(LONG_S))
    await asyncio.sleep(0.1)
    beside.cancel()
    return "done"


async def in_an_effect(ctx: RunContext) -> str:
    async with ctx.effect("open"):
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await ctx.ask("name")
    return "done"


def in_an_effect_plain(ctx: PlainRunContext) -> str:
    with ctx.effect("open"):
        ctx.sleep(0.1)
    return "done"


async def takes_its_time(ctx: RunContext) -> list[Any]:
    return [message.body async for message in ctx.steering(timeout=0.1)]


@pytest.mark.parametrize(
    ("handler", "result"),
    [(busy_elsewhere, "done"), (in_an_effect, "done"), (in_an_effect_plain, "done"), (takes_its_time, [])],
)
def test_a_handler_that_does_more_than_wait_stays(handler: Callable[..., Any], result: Any) -> None:
    assert Life(0).attempt(handler) == result


async def clings(ctx: RunContext) -> str:
    try:
        await ctx.ask("name")
    except asyncio.CancelledError:
        with pytest.raises(FleetlineError, match="put away"):
            await ctx.emit("still-here")
        with pytest.raises(FleetlineError, match="put away"):
            await ctx.flush()
    return "a result that nobody is told"


def clings_plain(ctx: PlainRunContext) -> str:
    try:
        ctx.ask("name")
    except Cancelled:
        with pytest.raises(FleetlineError, match="put away"):
            ctx.emit("still-here")
    return "a result that nobody is told"


@pytest.mark.parametrize("handler", [clings, clings_plain])
def test_nothing_that_a_handler_does_after_it_was_put_away_counts(handler: Callable[..., Any]) -> None:
    life = Life()
    assert life.attempt(handler) == Suspended(questions=(1,))
    assert life.log.done == [(1, Kind.ASKED)]


@pytest.mark.parametrize("is_async", [True, False])
def test_a_handler_that_is_cancelled_first_is_not_put_away(is_async: bool) -> None:
    life = Life(0)

    def stop() -> None:
        assert life.state is not None
        life.state.stop("enough")

    async def asks_late(ctx: RunContext) -> Any:
        stop()
        return await ctx.ask("name")

    def asks_late_plain(ctx: PlainRunContext) -> Any:
        try:
            stop()
            ctx.check_cancelled()
        finally:
            ctx.sleep(0.01)

    with pytest.raises(AssertionError):
        life.attempt(asks_late if is_async else asks_late_plain)
    assert life.state is not None
    assert (life.state.suspended, life.state.reason) == (None, "enough")


def test_progress_that_was_not_sent_goes_out_first() -> None:
    async def works(ctx: RunContext) -> None:
        ctx.progress(1, 2, "half")
        await ctx.ask("name")

    life = Life()
    life.attempt(works)
    assert [kind for _, kind in life.log.done] == [Kind.PROGRESS, Kind.ASKED]


async def work(ctx: RunContext) -> None:
    """Do nothing."""


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"suspend_after": 1.0}, 'give it recover="journal"'),
        ({"suspend_after": 1.0, "recover": "checkpoint"}, 'give it recover="journal"'),
        ({"suspend_after": -1.0, "recover": "journal"}, "seconds, from 0"),
        ({"suspend_after": float("inf"), "recover": "journal"}, "seconds, from 0"),
    ],
)
def test_a_handler_that_cannot_be_put_away_is_refused(given: dict[str, Any], why: str) -> None:
    with pytest.raises(BadHandler, match=why):
        Handler.make(work, "work", **given)


def test_waiting_costs_nothing_where_no_handler_is_put_away() -> None:
    began_s = time.monotonic()
    state = AttemptState(assignment(1), MemoryOutlet(RunLog(), None), Journal())
    assert asyncio.run(run_inline(naps, state, {})) is None
    assert time.monotonic() - began_s < LONG_S


async def naps(ctx: RunContext) -> None:
    await ctx.gather(ctx.sleep(0.01), ctx.sleep(0))
