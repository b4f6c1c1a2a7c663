"""Journals under kills: whatever a handler does and wherever it is cut off, the next attempt goes on from there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.journal import Journal
from agent.plain_context import PlainRunContext
from protocol.codec import unpack_value
from protocol.control import Call, Kind, read_control
from protocol.output import output_of, written_in
from tests.support.journaled import Killed, RunLog

Step = tuple[Any, ...]

NUMBERS = st.integers(0, 3)
PIECES = st.sampled_from(["", "a", "b\n", b"\xff"])
OUTCOMES = st.sampled_from(["well", "well", "badly", "badly at first"])
STEPS = st.one_of(
    st.tuples(st.just("emit"), NUMBERS),
    st.tuples(st.just("write"), PIECES),
    st.tuples(st.just("write"), PIECES),
    st.tuples(st.just("call"), OUTCOMES),
    st.tuples(st.just("gather"), st.lists(OUTCOMES, max_size=4).map(tuple)),
    st.tuples(st.just("effect"), NUMBERS),
    st.tuples(st.just("version"), NUMBERS),
    st.tuples(st.just("checkpoint"), NUMBERS),
    *(st.tuples(st.just(simple)) for simple in ("now", "random", "uuid", "sleep")),
)
PROGRAMS = st.lists(STEPS, max_size=8)


class Refused(Exception):
    """What calls fail with."""


@dataclass
class World:
    """What is outside of the handler: what it called, attempt by attempt, and what it saw."""

    made: list[str] = field(default_factory=list)
    seen: list[Any] = field(default_factory=list)
    ever: Counter[str] = field(default_factory=Counter)

    def do(self, what: str, outcome: str) -> str:
        """Be called."""
        self.made.append(what)
        self.ever[what] += 1
        if outcome == "badly" or (outcome == "badly at first" and self.ever[what] == 1):
            raise Refused(what)
        return f"{what} was done"


async def interpret(ctx: Any, world: World, program: list[Step]) -> list[Any]:
    """Do what a program says. Calls that fail badly are caught; those that fail at first are not."""
    for place, (op, *rest) in enumerate(program):
        try:
            world.seen.append(await step(ctx, world, str(place), op, *rest))
        except Refused:
            await ctx.emit("cleanup", place)
            raise
    return world.seen


async def step(ctx: Any, world: World, place: str, op: str, *rest: Any) -> Any:
    """Do one step, and return what was seen of it."""
    match op:
        case "emit":
            return await ctx.emit("step", rest[0])
        case "call":
            try:
                return await ctx.call(place, world.do, place, rest[0])
            except Refused as refused:
                if rest[0] != "badly":
                    raise
                return str(refused)
        case "gather":
            names = [(f"{place}.{number}", outcome) for number, outcome in enumerate(rest[0])]
            calls = [ctx.call(name, world.do, name, outcome) for name, outcome in names]
            made = await ctx.gather(*calls, return_exceptions="badly" in rest[0])
            for one, outcome in zip(made, rest[0], strict=True):
                if isinstance(one, Exception) and outcome != "badly":
                    raise one
            return [str(one) for one in made]
        case "effect":
            async with ctx.effect(f"effect-{rest[0]}") as key:
                return [str(key), await ctx.call(place, world.do, place, "well")]
        case "version":
            return await ctx.version(f"change-{rest[0]}", rest[0] + 1)
        case "checkpoint":
            return await ctx.checkpoint(rest[0])
        case "sleep":
            return await ctx.sleep(0)
        case _:
            return await getattr(ctx, op)(*rest)


def interpret_plainly(ctx: PlainRunContext, world: World, program: list[Step]) -> list[Any]:
    """Do what a program says, as a plain handler."""
    told = interpret(Awaited(ctx), world, program)
    with pytest.raises(StopIteration) as ended:
        told.send(None)
    result: list[Any] = ended.value.value
    return result


class Awaited:
    """A plain context whose operations are awaited and never wait, so that one interpreter does for both."""

    def __init__(self, ctx: PlainRunContext) -> None:
        self._ctx = ctx

    def __getattr__(self, name: str) -> Any:
        async def operation(*args: Any) -> Any:
            return getattr(self._ctx, name)(*args)

        return operation

    def call(self, *call: Any) -> Any:
        """Return what can be awaited, or gathered."""
        return PlainCall(self._ctx, call)

    async def gather(self, *calls: Any, return_exceptions: bool) -> Any:
        """Gather what `call` returned."""
        return self._ctx.gather(*(one.call for one in calls), return_exceptions=return_exceptions)

    @asynccontextmanager
    async def effect(self, name: str) -> AsyncIterator[Any]:
        """Make an effect."""
        with self._ctx.effect(name) as key:
            yield key


@dataclass
class PlainCall:
    """A call of a plain context that is made when it is awaited."""

    ctx: PlainRunContext
    call: tuple[Any, ...]

    def __await__(self) -> Any:
        return self._make().__await__()

    async def _make(self) -> Any:
        return self.ctx.call(*self.call)


def kept(log: RunLog) -> set[str]:
    """Return the calls whose result is recorded."""
    calls = [read_control(Call, record.body) for record in log.records if record.kind == Kind.CALL]
    return {call.name for call in calls if call.error is None}


def goes_on(log: RunLog, world: World, handler: Any, program: list[Step], room: int | None) -> list[Any] | None:
    """Make an attempt: what is recorded is not done again, and what was seen is seen again. Returns the result."""
    before, done = list(world.seen), kept(log)
    world.seen, world.made = [], []
    result = None
    failed = False
    try:
        result = log.attempt(handler, world, program, room=room)
    except Killed:
        assert room is not None
    except Refused:
        failed = True
    assert not done & set(world.made), "a call whose result was recorded was made again"
    assert len(set(world.made)) == len(world.made)
    whole = min(len(before), len(world.seen))
    assert world.seen[:whole] == before[:whole]
    if result is None and not failed and len(world.seen) < len(before):
        pytest.fail("an attempt that let out more saw less")
    return result


@pytest.mark.parametrize("handler", [interpret, interpret_plainly])
@settings(max_examples=60)
@given(program=PROGRAMS, rooms=st.lists(st.integers(0, 12), max_size=6))
def test_cuts_anywhere_repeat_no_recorded_call_and_change_nothing_that_was_seen(
    handler: Any, program: list[Step], rooms: list[int]
) -> None:
    log, world = RunLog(), World()
    for room in rooms:
        goes_on(log, world, handler, program, room)
    result = None
    for _ in range(2 + sum(str(step).count("at first") for step in program)):
        result = goes_on(log, world, handler, program, None)
        if result is not None:
            break
    assert result is not None, "it does not come to its end"
    recorded = len(log.entries)
    again = goes_on(log, world, handler, program, None)
    assert again == result
    assert len(log.entries) == recorded, "a run that is over does nothing again"
    assert world.made == []
    done = [record for record in log.records if record.kind != Kind.ERRORED]
    joined = sum(written[0] - 1 for record in done if (written := written_in(record.kind, record.body)))
    assert max((record.index or 0 for record in done), default=0) <= len(done) + joined


@pytest.mark.parametrize("handler", [interpret, interpret_plainly])
@settings(max_examples=25)
@given(program=PROGRAMS)
def test_a_cut_at_every_entry_of_a_run_leaves_its_log_as_it_would_have_been(handler: Any, program: list[Step]) -> None:
    whole, world = RunLog(), World()
    while goes_on(whole, world, handler, program, None) is None:
        pass
    told = shape(whole)
    for room in range(len(whole.entries)):
        log, outside = RunLog(), World()
        goes_on(log, outside, handler, program, room)
        while goes_on(log, outside, handler, program, None) is None:
            pass
        assert shape(log) == told
        assert output(log) == output(whole)


def shape(log: RunLog) -> dict[int, str]:
    """Return what the next attempt would find at each index, in words."""
    journal = Journal()
    for entry in log.entries:
        journal.record(entry)
    words: dict[int, str] = {}
    for first, recorded in journal._records.items():
        words |= dict.fromkeys(range(first, max(first, recorded.upto) + 1), str(recorded))
    return words


def output(log: RunLog) -> bytes:
    """Return what the run wrote."""
    bodies = [(record.kind, unpack_value(record.body)) for record in log.records if record.body]
    return b"".join(filter(None, (output_of(kind, body) for kind, body in bodies)))
