"""The operations of both contexts, over a log in memory: recorded, served, told apart; done without a journal."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.attempt_state import AttemptState, Checkpointed
from agent.context import RunContext
from agent.errors import Cancelled, NonDeterminism, ProducerFenced, PublishRefused, RequestError
from agent.journal import Journal
from agent.operations import SLEEP_S_MAX, EffectKey
from agent.plain_context import GATHER_THREADS_MAX, PlainRunContext
from protocol.codec import pack_value, unpack_value
from protocol.codes import ErrorCode
from protocol.control import Call, Checkpoint, Kind, Marker, MarkerOp, Progress, read_control
from tests.support.journaled import RUN, Killed, MemoryOutlet, RunLog, assignment, begin
from tests.support.timing import eventually_sync, scaled

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def do(what: str) -> str:
    CALLS.append(what)
    return what.upper()


async def luck(ctx: RunContext) -> list[Any]:
    return [await ctx.now(), await ctx.random(), await ctx.uuid()]


def luck_plain(ctx: PlainRunContext) -> list[Any]:
    return [ctx.now(), ctx.random(), ctx.uuid()]


LUCKY = pytest.mark.parametrize("handler", [luck, luck_plain])


# Time and chance


@LUCKY
def test_time_and_chance_are_recorded_and_served(handler: Callable[..., Any]) -> None:
    log = RunLog()
    first = log.attempt(handler)
    moment, number, made = first
    assert abs((datetime.now(UTC) - moment).total_seconds()) < scaled(60)
    assert moment.microsecond % 1000 == 0
    assert 0 <= number < 1
    assert made.version == 4
    assert [(record.index, record.kind) for record in log.records] == [(n, Kind.MARKER) for n in (1, 2, 3)]
    assert [read_control(Marker, record.body).op for record in log.records] == ["now", "random", "uuid"]
    assert log.attempt(handler) == first
    assert len(log.entries) == 3


@LUCKY
def test_without_a_journal_they_are_new_each_time_and_leave_nothing(handler: Callable[..., Any]) -> None:
    log = RunLog()
    assert log.unrecorded(handler)[1:] != log.unrecorded(handler)[1:]
    assert log.entries == []


# Sleeps


async def nap(ctx: RunContext, seconds: float) -> None:
    await ctx.sleep(seconds)


def nap_plain(ctx: PlainRunContext, seconds: float) -> None:
    ctx.sleep(seconds)


NAPPING = pytest.mark.parametrize("handler", [nap, nap_plain])


def begun_s_ago(seconds: float, ago_s: float) -> RunLog:
    """Return a run whose first attempt began a sleep so long ago."""
    log = RunLog()
    log.attempts = 1
    due_ms = time.time_ns() // 1_000_000 + round((seconds - ago_s) * 1000)
    body = Marker(op=MarkerOp.SLEEP, name=repr(seconds), value=pack_value(due_ms))
    log.append(Kind.MARKER, pack_value(body), 1, 1, None)
    return log


@NAPPING
def test_a_new_attempt_sleeps_only_what_is_left(handler: Callable[..., Any]) -> None:
    began_s = time.monotonic()
    begun_s_ago(3600.0, 3599.8).attempt(handler, 3600)
    begun_s_ago(3600.0, 9999.0).attempt(handler, 3600)
    assert 0.1 < time.monotonic() - began_s < scaled(20)


@NAPPING
def test_a_clock_that_is_behind_makes_no_sleep_longer_than_was_asked_for(handler: Callable[..., Any]) -> None:
    began_s = time.monotonic()
    begun_s_ago(0.1, -9999.0).attempt(handler, 0.1)
    assert time.monotonic() - began_s < scaled(20)


@NAPPING
def test_a_sleep_records_when_it_is_over_before_it_begins(handler: Callable[..., Any]) -> None:
    log = RunLog()
    before_ms = time.time_ns() // 1_000_000
    log.attempt(handler, 0.05)
    marker = read_control(Marker, log.records[0].body)
    assert (marker.op, marker.name) == ("sleep", "0.05")
    assert unpack_value(marker.value or b"") >= before_ms + 50
    again = RunLog()
    with pytest.raises(Killed):
        again.attempt(handler, 3600, room=0)
    assert again.unrecorded(handler, 0.01) is None


@NAPPING
@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), SLEEP_S_MAX * 2])
def test_what_is_no_time_to_sleep_for_is_refused(handler: Callable[..., Any], seconds: float) -> None:
    with pytest.raises(ValueError, match="a sleep of"):
        RunLog().attempt(handler, seconds)


def test_a_cancellation_ends_the_sleep_of_a_plain_handler_once() -> None:
    told: list[str] = []

    def handler(ctx: PlainRunContext) -> None:
        try:
            ctx.sleep(3600)
        except Cancelled as cancelled:
            told.append(str(cancelled))
        ctx.sleep(0.01)
        told.append("cleaned up")

    state = AttemptState(assignment(1), MemoryOutlet(RunLog(), None))
    thread = threading.Thread(target=handler, args=(PlainRunContext(state),))
    thread.start()
    state.stop("enough")
    thread.join(scaled(20))
    assert told == ["enough", "cleaned up"]


# Several at a time


async def both(ctx: RunContext, delays: list[float]) -> list[str]:
    async def late(number: int) -> str:
        await asyncio.sleep(delays[number])
        return do(f"c{number}")

    return await ctx.gather(*[ctx.call("late", late, number) for number in range(len(delays))])


def both_plain(ctx: PlainRunContext, delays: list[float]) -> list[str]:
    def late(number: int) -> str:
        time.sleep(delays[number])
        return do(f"c{number}")

    return ctx.gather(*[("late", late, number) for number in range(len(delays))])


GATHERING = pytest.mark.parametrize("handler", [both, both_plain])


@GATHERING
def test_concurrent_calls_have_their_indices_in_order_whatever_order_they_complete_in(
    handler: Callable[..., Any],
) -> None:
    log = RunLog()
    assert log.attempt(handler, [0.3, 0.0]) == ["C0", "C1"]
    assert CALLS == ["c1", "c0"]
    assert log.done == [(2, Kind.CALL), (1, Kind.CALL)]
    assert log.attempt(handler, [0.0, 0.3]) == ["C0", "C1"]
    assert CALLS == ["c1", "c0"]
    assert log.unrecorded(handler, [0.0, 0.0]) == ["C0", "C1"]


@GATHERING
def test_of_concurrent_calls_only_those_are_made_again_that_were_not_recorded(handler: Callable[..., Any]) -> None:
    log = RunLog()
    with pytest.raises(Killed):
        log.attempt(handler, [0.3, 0.0, 0.3], room=1)
    assert log.done == [(2, Kind.CALL)]
    CALLS.clear()
    assert log.attempt(handler, [0.0, 0.0, 0.2]) == ["C0", "C1", "C2"]
    assert CALLS == ["c0", "c2"]


def refuse(what: str) -> str:
    do(what)
    raise LookupError(what)


async def mixed(ctx: RunContext, first: Callable[[str], str], third: Callable[[str], str]) -> list[Any]:
    calls = [ctx.call("a", first, "a"), ctx.call("b", do, "b"), ctx.call("c", third, "c")]
    try:
        return await ctx.gather(*calls)
    except LookupError:
        await ctx.emit("cleanup")
        raise


def mixed_plain(ctx: PlainRunContext, first: Callable[[str], str], third: Callable[[str], str]) -> list[Any]:
    try:
        return ctx.gather(("a", first, "a"), ("b", do, "b"), ("c", third, "c"))
    except LookupError:
        ctx.emit("cleanup")
        raise


@pytest.mark.parametrize("handler", [mixed, mixed_plain])
def test_after_a_failure_among_concurrent_calls_only_those_that_failed_are_made_again(
    handler: Callable[..., Any],
) -> None:
    log = RunLog()
    with pytest.raises(LookupError, match="a"):
        log.attempt(handler, refuse, refuse)
    assert sorted(CALLS) == ["a", "b", "c"]
    failed = next(record for record in log.records if record.index == 1)
    assert read_control(Call, failed.body).begun == 3
    CALLS.clear()
    assert log.attempt(handler, do, do) == ["A", "B", "C"]
    assert sorted(CALLS) == ["a", "c"]
    assert log.attempt(handler, refuse, refuse) == ["A", "B", "C"]


@pytest.mark.parametrize("journaled", [True, False])
def test_failures_come_back_in_their_places_where_asked_for(journaled: bool) -> None:
    async def handler(ctx: RunContext) -> list[Any]:
        return await ctx.gather(ctx.call("a", refuse, "a"), ctx.sleep(0), return_exceptions=True)

    def plain(ctx: PlainRunContext) -> list[Any]:
        return ctx.gather(("a", refuse, "a"), ("b", do, "b"), return_exceptions=True)

    log, other = RunLog(), RunLog()
    failed, slept = log.attempt(handler) if journaled else log.unrecorded(handler)
    assert (type(failed), slept) == (LookupError, None)
    failed, done = other.attempt(plain) if journaled else other.unrecorded(plain)
    assert (type(failed), done) == (LookupError, "B")


def taken(what: str) -> str:
    CALLS.append(what)
    raise RequestError(ErrorCode.KEY_CONFLICT, f"{what} is another run's")


async def submits(ctx: RunContext, together: bool) -> Any:
    try:
        if together:
            return await ctx.gather(ctx.call("submit", taken, "a"), return_exceptions=True)
        await ctx.call("submit", taken, "a")
    except RequestError as error:
        await ctx.emit("another-way")
        return [error]


def submits_plain(ctx: PlainRunContext, together: bool) -> Any:
    try:
        if together:
            return ctx.gather(("submit", taken, "a"), return_exceptions=True)
        ctx.call("submit", taken, "a")
    except RequestError as error:
        ctx.emit("another-way")
        return [error]


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("handler", [submits, submits_plain])
def test_a_call_that_failed_with_an_error_of_ours_is_recorded_as_any_other(
    handler: Callable[..., Any], together: bool
) -> None:
    log = RunLog()
    for _ in range(2):
        (error,) = log.attempt(handler, together)
        assert (type(error), str(error)) == (RequestError, "a is another run's")
    assert CALLS == ["a"]
    assert [record.kind for record in log.records] == [Kind.CALL] if together else [Kind.CALL, "another-way"]


@pytest.mark.parametrize("handler", [submits, submits_plain])
def test_a_fence_among_concurrent_calls_is_not_taken_for_what_one_came_to(handler: Callable[..., Any]) -> None:
    outlet = MemoryOutlet(RunLog(), None)
    outlet.dead = ProducerFenced("run/r", "fenced", "it goes on elsewhere")
    with pytest.raises(ProducerFenced):
        begin(handler, AttemptState(assignment(1), outlet, Journal()), True)


def test_a_coroutine_of_the_handler_s_own_has_no_place_in_the_journal_and_is_refused() -> None:
    async def branch(ctx: RunContext) -> None:
        await ctx.emit("a")

    async def handler(ctx: RunContext) -> Any:
        return await ctx.gather(ctx.call("a", do, "a"), branch(ctx))  # type: ignore[arg-type]

    with pytest.raises(TypeError, match=r"give it operations of the context, as in ctx\.gather\(ctx\.call"):
        RunLog().attempt(handler)
    assert CALLS == []


def test_operations_can_be_tasks_and_have_time_limits() -> None:
    async def handler(ctx: RunContext) -> str:
        task = asyncio.create_task(ctx.call("a", do, "a"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ctx.sleep(3600), 0.01)
        return await task

    assert RunLog().attempt(handler) == "A"


def test_an_operation_that_nobody_awaits_is_warned_of() -> None:
    async def handler(ctx: RunContext) -> None:
        operation = ctx.call("a", do, "a")
        with pytest.warns(RuntimeWarning, match="<operation call 'a'> was never awaited"):
            del operation

    RunLog().attempt(handler)


def test_a_cancelled_plain_handler_makes_no_more_of_its_concurrent_calls() -> None:
    state = AttemptState(assignment(1), MemoryOutlet(RunLog(), None))
    gate = threading.Event()

    def wait(number: int) -> None:
        do(str(number))
        gate.wait(scaled(20))

    raised: list[BaseException] = []

    def handler() -> None:
        try:
            PlainRunContext(state).gather(*[("wait", wait, n) for n in range(GATHER_THREADS_MAX + 5)])
        except Cancelled as cancelled:
            raised.append(cancelled)

    thread = threading.Thread(target=handler)
    thread.start()
    eventually_sync(lambda: len(CALLS) == GATHER_THREADS_MAX)
    state.stop("enough")
    gate.set()
    thread.join(scaled(20))
    assert len(CALLS) == GATHER_THREADS_MAX
    assert [str(error) for error in raised] == ["enough"]


# Checkpoints


async def from_checkpoint(ctx: RunContext, upto: int) -> Any:
    begun = ctx.last_checkpoint
    keys = []
    for number in range((begun or {"n": 0})["n"], upto):
        async with ctx.effect("push") as key:
            keys.append(str(key))
        await ctx.checkpoint({"n": number + 1})
    return begun, keys


def from_checkpoint_plain(ctx: PlainRunContext, upto: int) -> Any:
    begun = ctx.last_checkpoint
    keys = []
    for number in range((begun or {"n": 0})["n"], upto):
        with ctx.effect("push") as key:
            keys.append(str(key))
        ctx.checkpoint({"n": number + 1})
    return begun, keys


@pytest.mark.parametrize("handler", [from_checkpoint, from_checkpoint_plain])
def test_an_attempt_that_begins_at_a_checkpoint_goes_on_with_its_keys(handler: Callable[..., Any]) -> None:
    log, whole = RunLog(), RunLog()
    begun, first = log.unrecorded(handler, 2)
    assert begun is None
    last = log.records[-1]
    value = read_control(Checkpoint, last.body).value
    begun, rest = log.unrecorded(handler, 4, checkpoint=Checkpointed(last.index or 0, value))
    assert begun == {"n": 2}
    assert first + rest == whole.unrecorded(handler, 4)[1]
    assert len(set(first + rest)) == 4
    assert {kind for _, kind in log.done} == {Kind.CHECKPOINT}


@pytest.mark.parametrize("handler", [from_checkpoint, from_checkpoint_plain])
def test_with_a_journal_a_checkpoint_is_an_entry_like_others(handler: Callable[..., Any]) -> None:
    log = RunLog()
    result = log.attempt(handler, 2)
    assert log.attempt(handler, 2) == result
    assert log.done == [(1, Kind.MARKER), (2, Kind.CHECKPOINT), (3, Kind.MARKER), (4, Kind.CHECKPOINT)]


# Effects


async def push(ctx: RunContext) -> tuple[EffectKey, str]:
    await ctx.emit("before")
    async with ctx.effect("open_pr") as key:
        return key, await ctx.call("open", do, key)


def push_plain(ctx: PlainRunContext) -> tuple[EffectKey, str]:
    ctx.emit("before")
    with ctx.effect("open_pr") as key:
        return key, ctx.call("open", do, key)


PUSHING = pytest.mark.parametrize("handler", [push, push_plain])


@PUSHING
def test_an_effect_has_the_same_key_and_a_higher_fence_on_every_attempt(handler: Callable[..., Any]) -> None:
    log = RunLog()
    with pytest.raises(Killed):
        log.attempt(handler, room=2)
    assert [f"{RUN}/2/open_pr"] == CALLS
    key, said = log.attempt(handler)
    assert (key, key.fence, said) == (f"{RUN}/2/open_pr", 102, f"{RUN}/2/open_pr".upper())
    key, said = log.attempt(handler)
    assert (key, key.fence) == (f"{RUN}/2/open_pr", 103)
    assert [key, key] == CALLS
    assert log.done == [(1, "before"), (2, Kind.MARKER), (3, Kind.CALL)]


@PUSHING
def test_without_a_journal_an_effect_has_its_key_too(handler: Callable[..., Any]) -> None:
    log = RunLog()
    key, _ = log.unrecorded(handler)
    assert (key, key.fence) == (f"{RUN}/1/open_pr", 101)
    assert log.unrecorded(handler)[0] == key
    assert {kind for _, kind in log.done} == {"before"}


def test_a_key_survives_the_way_to_another_process() -> None:
    key = pickle.loads(pickle.dumps(EffectKey("run/1/x", 7)))
    assert (type(key), key, key.fence) == (EffectKey, "run/1/x", 7)
    assert unpack_value(pack_value(key)) == "run/1/x"


@PUSHING
def test_before_an_effect_goes_out_its_marker_and_all_before_it_are_acknowledged(handler: Callable[..., Any]) -> None:
    class Slow(MemoryOutlet):
        def acknowledged(self, seq: int) -> Any:
            waited.append(seq)
            return super().acknowledged(seq)

    waited: list[int] = []
    log = RunLog()
    state = AttemptState(assignment(1), Slow(log, None), None)
    if handler is push:
        asyncio.run(handler(RunContext(state)))
    else:
        handler(PlainRunContext(state))
    assert waited == [1]


def test_an_effect_s_name_is_a_name() -> None:
    async def handler(ctx: RunContext) -> None:
        async with ctx.effect("a/b"):
            raise AssertionError

    with pytest.raises(ValueError, match="a/b"):
        RunLog().attempt(handler)


# Versions


async def old(ctx: RunContext) -> list[Any]:
    return [await ctx.call("a", do, "a"), await ctx.call("b", do, "b")]


async def new(ctx: RunContext) -> list[Any]:
    first = await ctx.call("a", do, "a")
    if await ctx.version("merged") == 0:
        return [first, await ctx.call("b", do, "b")]
    return [first, await ctx.version("merged"), await ctx.call("b2", do, "b2")]


async def newest(ctx: RunContext) -> list[Any]:
    first = await ctx.call("a", do, "a")
    match await ctx.version("merged", 2):
        case 0:
            return [first, await ctx.call("b", do, "b")]
        case 1:
            return [first, 1, await ctx.call("b2", do, "b2")]
        case latest:
            return [first, latest]


def test_a_run_that_went_past_with_old_code_keeps_to_it() -> None:
    log = RunLog()
    assert log.attempt(old) == ["A", "B"]
    entries = len(log.entries)
    assert log.attempt(new) == log.attempt(newest) == ["A", "B"]
    assert (CALLS, len(log.entries)) == (["a", "b"], entries)


def test_a_run_that_was_cut_off_before_goes_on_with_new_code_and_stays_with_it() -> None:
    log = RunLog()
    with pytest.raises(Killed):
        log.attempt(old, room=1)
    CALLS.clear()
    assert log.attempt(new) == ["A", 1, "B2"]
    assert log.done == [(1, Kind.CALL), (2, Kind.MARKER), (3, Kind.CALL)]
    assert log.attempt(newest) == log.attempt(new) == ["A", 1, "B2"]
    assert CALLS == ["b2"]
    with pytest.raises(NonDeterminism, match="operation 2 was version 'merged' and is now call 'b'"):
        log.attempt(old)


def test_code_that_does_not_know_a_run_s_version_says_so() -> None:
    log = RunLog()
    assert log.attempt(newest) == ["A", 2]
    with pytest.raises(NonDeterminism, match="was version 'merged' at 2 and is now version 'merged' at 1 at most"):
        log.attempt(new)


def test_the_first_answer_holds_for_all_of_a_run() -> None:
    async def old_loop(ctx: RunContext) -> None:
        for number in range(2):
            await ctx.emit("step", number)

    async def new_loop(ctx: RunContext) -> list[int]:
        versions = []
        for number in range(4):
            versions.append(await ctx.version("louder"))
            await ctx.emit("step", number)
        return versions

    log = RunLog()
    log.attempt(old_loop)
    assert log.attempt(new_loop) == log.attempt(new_loop) == [0, 0, 0, 0]
    assert RunLog().attempt(new_loop) == [1, 1, 1, 1]


def test_a_version_asked_for_where_a_concurrent_call_is_missing_is_that_of_old_code() -> None:
    async def before(ctx: RunContext) -> list[str]:
        return await both(ctx, [0.3, 0.0])

    async def after(ctx: RunContext) -> tuple[int, list[str]]:
        return await ctx.version("counted"), await both(ctx, [0.0, 0.0])

    log = RunLog()
    with pytest.raises(Killed):
        log.attempt(before, room=1)
    assert log.attempt(after) == (0, ["C0", "C1"])


def test_without_a_journal_a_version_is_the_latest() -> None:
    async def handler(ctx: RunContext) -> int:
        return await ctx.version("a", 3)

    def plain(ctx: PlainRunContext) -> int:
        return ctx.version("a", 3)

    assert RunLog().unrecorded(handler) == RunLog().unrecorded(plain) == 3
    log = RunLog()
    assert log.attempt(handler) == log.attempt(plain) == 3
    assert log.done == [(1, Kind.MARKER)]


def test_versions_count_from_one() -> None:
    async def handler(ctx: RunContext) -> int:
        return await ctx.version("a", 0)

    with pytest.raises(ValueError, match="versions count from 1"):
        RunLog().attempt(handler)


# Handlers that do not repeat themselves


OPERATIONS: dict[str, tuple[Callable[[RunContext], Any], Callable[[PlainRunContext], Any]]] = {
    "emit 'step'": (lambda ctx: ctx.emit("step"), lambda ctx: ctx.emit("step")),
    "call 'a'": (lambda ctx: ctx.call("a", do, "a"), lambda ctx: ctx.call("a", do, "a")),
    "now": (lambda ctx: ctx.now(), lambda ctx: ctx.now()),
    "random": (lambda ctx: ctx.random(), lambda ctx: ctx.random()),
    "uuid": (lambda ctx: ctx.uuid(), lambda ctx: ctx.uuid()),
    "sleep of 0.0 s": (lambda ctx: ctx.sleep(0), lambda ctx: ctx.sleep(0)),
    "sleep of 0.01 s": (lambda ctx: ctx.sleep(0.01), lambda ctx: ctx.sleep(0.01)),
    "checkpoint": (lambda ctx: ctx.checkpoint(1), lambda ctx: ctx.checkpoint(1)),
    "effect 'push'": (lambda ctx: _enter(ctx, "push"), lambda ctx: ctx.effect("push").__enter__()),
    "effect 'pull'": (lambda ctx: _enter(ctx, "pull"), lambda ctx: ctx.effect("pull").__enter__()),
}


async def _enter(ctx: RunContext, name: str) -> None:
    async with ctx.effect(name):
        return


@pytest.mark.parametrize("was", OPERATIONS)
@pytest.mark.parametrize("now", OPERATIONS)
@pytest.mark.parametrize("plain", [False, True])
def test_another_operation_than_before_names_index_both_and_the_line(was: str, now: str, plain: bool) -> None:
    async def handler(ctx: RunContext, words: str) -> None:
        await ctx.emit("first")
        await OPERATIONS[words][0](ctx)

    def plainly(ctx: PlainRunContext, words: str) -> None:
        ctx.emit("first")
        OPERATIONS[words][1](ctx)

    log = RunLog()
    log.attempt(plainly if plain else handler, was)
    if was == now:
        log.attempt(plainly if plain else handler, now)
        assert len(log.entries) == 2
        return
    with pytest.raises(NonDeterminism) as diverged:
        log.attempt(plainly if plain else handler, now)
    error = diverged.value
    assert (error.index, error.expected, error.actual) == (2, was, now)
    assert error.source.startswith(f"{__file__}:")


def test_the_line_is_that_of_the_concurrent_call_that_differs() -> None:
    async def handler(ctx: RunContext, name: str) -> Any:
        first = ctx.call("a", do, "a")
        second = ctx.call(name, do, "b")  # the line
        return await ctx.gather(first, second)

    log = RunLog()
    log.attempt(handler, "b")
    with pytest.raises(NonDeterminism) as diverged:
        log.attempt(handler, "c")
    line = handler.__code__.co_firstlineno + 2
    assert diverged.value.source == f"{__file__}:{line}"
    assert (diverged.value.expected, diverged.value.actual) == ("call 'b'", "call 'c'")


# Progress


def test_progress_that_is_too_large_is_refused_and_holds_nothing_else_up() -> None:
    log = RunLog()

    async def handler(ctx: RunContext) -> None:
        with pytest.raises(PublishRefused, match="the hub takes 1000000"):
            ctx.progress(1, 2, "x" * 1_000_000)
        await ctx.emit("said", 1)

    log.unrecorded(handler)
    assert [record.kind for record in log.records] == ["said"]


async def tells(ctx: RunContext, upto: int) -> None:
    for number in range(1, upto + 1):
        await ctx.emit("said", number)
        ctx.progress(number, 4)


def tells_plain(ctx: PlainRunContext, upto: int) -> None:
    for number in range(1, upto + 1):
        ctx.emit("said", number)
        ctx.progress(number, 4)


@pytest.mark.parametrize("handler", [tells, tells_plain])
def test_progress_is_not_said_again_while_an_attempt_catches_up(handler: Callable[..., Any]) -> None:
    log = RunLog()
    log.attempt(handler, 3)
    log.attempt(handler, 4)
    told = [read_control(Progress, record.body).current for record in log.records if record.kind == Kind.PROGRESS]
    assert told == [1, 2, 3, 3, 4], "where it is, as soon as it has caught up, and from then on"
    assert [record.kind for record in log.records if record.kind == "said"] == ["said"] * 4


# Causes


def test_a_cause_is_an_offset() -> None:
    async def handler(ctx: RunContext) -> None:
        await ctx.emit("answer", 1, cause=-1)

    def plain(ctx: PlainRunContext) -> None:
        ctx.emit("answer", 1, cause=2**63)

    for refused in (handler, plain):
        with pytest.raises(ValueError, match="which is no offset of an entry"):
            RunLog().unrecorded(refused)
