"""Children of a handler over a log in memory: asked for once, found again, done again where they failed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from agent.attempt_state import AttemptState, Checkpointed
from agent.children import Wanted
from agent.context import RunContext
from agent.endings import ContinueAs
from agent.errors import NonDeterminism, RunCancelled, RunFailed
from agent.inbox import Inbox, Past, past_of
from agent.journal import Journal
from agent.operations import describe_error, failed_begun, failed_call_index
from agent.plain_context import PlainRunContext
from protocol.codec import pack_record, pack_value, unpack_value
from protocol.control import Errored, Kind, RunError, read_control
from protocol.entry import Entry
from protocol.family import CHILDREN_MAX, CHILDREN_OPEN_MAX, ChildEnded, ChildRun, Spawn
from protocol.frames import Recover
from protocol.talk import Talk, talk_after
from tests.support.journaled import Killed, MemoryOutlet, RunLog, assignment, begin

FAILS = RunError(type="ValueError", message="no")


class Family(RunLog):
    """A run's log, with a hub that submits children and says what they came to.

    Attributes:
        fails: how often children of a handler fail before they succeed with their input.
        state: of the attempt that runs.
    """

    def __init__(self, **fails: int) -> None:
        super().__init__()
        self.fails = fails
        self.state: AttemptState | None = None

    def append(self, kind: str, body: bytes, seq: int, index: int | None, cause: int | None) -> None:
        """Add an entry of the attempt; answer one that asks for a child."""
        super().append(kind, body, seq, index, cause)
        if kind == Kind.SPAWN:
            self.answer(index or 0, read_control(Spawn, body))

    def answer(self, index: int, spawn: Spawn) -> None:
        """Submit a child, and say what it came to."""
        run = f"{spawn.handler}-{len(self.entries)}"
        key: dict[str, Any] = {"index": index, "digest": spawn.digest}
        self.say(Kind.CHILD, ChildRun(run=run, queue=spawn.queue, handler=spawn.handler, **key))
        fails = self.fails.get(spawn.handler, 0) > 0
        self.fails[spawn.handler] = self.fails.get(spawn.handler, 0) - 1
        what: dict[str, Any] = (
            {"state": "failed", "error": FAILS} if fails else {"state": "succeeded", "result": spawn.input}
        )
        self.say(Kind.CHILD_ENDED, ChildEnded(run=run, offset=4, **key, **what))

    def say(self, kind: Kind, body: Any) -> None:
        """Add an entry of the hub, and tell the attempt that runs."""
        packed = pack_record(kind, "hub:h", pack_value(body))
        self.entries.append(Entry(len(self.entries) + 1, 1, packed))
        if self.state is not None:
            self.state.inbox.tell(body)

    def start(self, handler: Callable[..., Any], recover: Recover = Recover.JOURNAL, room: int | None = None) -> Any:
        """Run another attempt, as `agent.attempt` has it begin and end. Returns what it returns."""
        self.attempts += 1
        journal, talk = Journal() if recover is Recover.JOURNAL else None, Talk()
        for entry in self.entries:
            talk = talk_after(talk, entry)
            if journal is not None:
                journal.record(entry)
        past = pickle.loads(pickle.dumps(past_of(talk, recover)))
        outlet = MemoryOutlet(self, room)
        begins = Checkpointed(0, b"\xc0") if recover is Recover.CHECKPOINT else None
        self.state = AttemptState(assignment(self.attempts), outlet, journal, begins, past)
        try:
            return begin(handler, self.state)
        except Exception as error:
            index, begun = (failed_call_index(error), failed_begun(error)) if journal else (None, None)
            errored = Errored(error=describe_error(error), begun=begun)
            self.append(Kind.ERRORED, pack_value(errored), outlet.made + 1, index, None)
            raise
        finally:
            self.state = None

    @property
    def spawns(self) -> list[tuple[Any, str | None]]:
        """Input of each child that was asked for, and the one in whose place it is."""
        asked = [read_control(Spawn, record.body) for record in self.records if record.kind == Kind.SPAWN]
        return [(unpack_value(spawn.input), spawn.again) for spawn in asked]


async def three(ctx: RunContext) -> list[Any]:
    names = ("a", "b", "c")
    children = await ctx.gather(*[ctx.submit(name, name.upper()) for name in names])
    await ctx.emit("submitted", len(children))
    return await ctx.gather(*[child.result() for child in children])


def three_plain(ctx: PlainRunContext) -> list[Any]:
    children = [ctx.submit(name, name.upper()) for name in ("a", "b", "c")]
    ctx.emit("submitted", len(children))
    return [child.result() for child in children]


BOTH = pytest.mark.parametrize("handler", [three, three_plain])


@BOTH
@pytest.mark.parametrize("recover", Recover)
@pytest.mark.parametrize("room", range(4))
def test_a_new_attempt_asks_for_no_child_again(handler: Callable[..., Any], recover: Recover, room: int) -> None:
    log = Family()
    with pytest.raises(Killed):
        log.start(handler, recover, room)
    assert log.start(handler, recover) == ["A", "B", "C"]
    assert log.start(handler, recover) == ["A", "B", "C"]
    assert sorted(log.spawns) == [("A", None), ("B", None), ("C", None)]


@BOTH
@pytest.mark.parametrize("recover", Recover)
def test_a_child_whose_failure_ended_an_attempt_is_done_again_and_the_others_are_not(
    handler: Callable[..., Any], recover: Recover
) -> None:
    log = Family(b=2)
    for _ in range(2):
        with pytest.raises(RunFailed, match="ValueError: no"):
            log.start(handler, recover)
    assert log.start(handler, recover) == ["A", "B", "C"]
    first, second = (each[1] for each in log.spawns[3:])
    assert [each[0] for each in log.spawns] == ["A", "B", "C", "B", "B"]
    assert len({first, second, None}) == 3, "each is in the place of the one before"
    assert log.start(handler, recover) == ["A", "B", "C"]
    assert len(log.spawns) == 5


def test_of_several_children_that_failed_all_are_done_again() -> None:
    log = Family(a=1, c=1)
    with pytest.raises(RunFailed):
        log.start(three)
    assert log.start(three) == ["A", "B", "C"]
    assert [each[0] for each in log.spawns] == ["A", "B", "C", "A", "C"]


def test_what_began_before_a_failure_was_known_is_kept_and_what_came_of_it_is_not() -> None:
    async def handler(ctx: RunContext) -> Any:
        child = await ctx.submit("a", "A")
        await ctx.emit("beside", 1)
        try:
            return await child.result()
        except RunFailed:
            await ctx.emit("cleanup", 1)
            raise

    log = Family(a=1)
    with pytest.raises(RunFailed):
        log.start(handler)
    assert log.start(handler) == "A"
    assert [kind for _, kind in log.done].count("beside") == 1
    (errored,) = [read_control(Errored, record.body) for record in log.records if record.kind == Kind.ERRORED]
    assert errored.begun == 2


def test_a_failure_that_the_handler_took_is_served_from_the_journal_though_it_failed_of_another() -> None:
    wrongs = iter([True, False])

    async def handler(ctx: RunContext) -> str:
        child = await ctx.submit("a", "A")
        said = ""
        try:
            await child.result()
        except RunFailed as failed:
            said = failed.run
        await ctx.emit("took", said)
        if next(wrongs):
            raise ValueError(said)
        return said

    log = Family(a=1)
    with pytest.raises(ValueError, match="a-1"):
        log.start(handler)
    assert log.start(handler) == "a-1"
    assert len(log.spawns) == 1


@pytest.mark.parametrize(
    "other",
    [{"input": "B"}, {"queue": "elsewhere"}, {"retries": 1}, {"abandon": True}, {"where": "gpu=h200"}],
    ids=str,
)
def test_another_child_at_the_same_index_is_told_from_the_recorded_one(other: dict[str, Any]) -> None:
    async def once(ctx: RunContext) -> None:
        await ctx.submit("a", "A")

    async def then(ctx: RunContext) -> None:
        given = {"input": "A", **other}
        await ctx.submit("a", **given)

    log = Family()
    log.start(once)
    with pytest.raises(NonDeterminism, match="submit 'a' with another input or other terms"):
        log.start(then)


def test_an_attempt_that_starts_over_and_wants_another_child_gets_it() -> None:
    def wants(what: str) -> Callable[[PlainRunContext], Any]:
        return lambda ctx: ctx.submit("a", what).result()

    log = Family()
    assert [log.start(wants(what), Recover.RESTART) for what in "ABAB"] == list("ABAB")
    assert log.spawns == [("A", None), ("B", None)]


async def looks(ctx: RunContext) -> ChildEnded:
    return await (await ctx.submit("a")).ended()


def looks_plain(ctx: PlainRunContext) -> ChildEnded:
    return ctx.submit("a").ended()


@pytest.mark.parametrize("handler", [looks, looks_plain])
def test_what_is_known_of_the_end_of_a_child_is_told_and_not_raised(handler: Callable[..., Any]) -> None:
    ended = Family(a=1).start(handler)
    assert (ended.state, ended.error) == ("failed", FAILS)


def test_a_cancel_of_a_child_is_said_once() -> None:
    async def handler(ctx: RunContext) -> None:
        child = await ctx.submit("a", "A")
        await child.cancel("enough")

    log = Family()
    log.start(handler)
    log.start(handler)
    assert [kind for _, kind in log.done].count(Kind.CHILD_CANCEL) == 1


def test_a_child_that_was_cancelled_says_why() -> None:
    class Cancels(Family):
        def answer(self, index: int, spawn: Spawn) -> None:
            key: dict[str, Any] = {"index": index, "digest": spawn.digest, "run": "r"}
            self.say(Kind.CHILD, ChildRun(queue="q", handler="h", **key))
            self.say(Kind.CHILD_ENDED, ChildEnded(state="cancelled", offset=3, reason="not needed", **key))

    with pytest.raises(RunCancelled, match="run r was cancelled: not needed"):
        Cancels().start(lambda ctx: ctx.submit("a").result())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"where": "gpu="}, "selector"),
        ({"queue": "a/b"}, "'a/b' is not a name"),
        ({"priority": 10}, "priority"),
        ({"timeout": -1}, "timeout"),
        ({"delay": 2, "deadline": 1}, "could never start"),
        ({"key": "k"}, "key"),
    ],
    ids=str,
)
def test_what_can_be_no_child_is_refused_where_it_is_asked_for(options: Any, says: str) -> None:
    log = Family()
    with pytest.raises((ValueError, TypeError), match=says):
        log.start(lambda ctx: ctx.submit("a", **options))
    assert log.spawns == []


def test_a_child_is_known_by_what_was_asked_and_not_by_what_is_so_anyway() -> None:
    plain = Wanted("a", 1).digest(None)
    assert Wanted("a", 1, priority=0, where="", retries=None, abandon=False).digest(None) == plain
    others = [Wanted("b", 1), Wanted("a", 2), Wanted("a", 1, retries=0), Wanted("a", 1, abandon=True)]
    assert len({plain, Wanted("a", 1).digest("r"), *(other.digest(None) for other in others)}) == 6


def test_an_option_that_no_child_has_is_refused() -> None:
    with pytest.raises(TypeError, match="there is no option 'keep' here"):
        Wanted("a", 1, keep=60)


def test_as_many_children_as_may_be_are_admitted_and_then_one_for_each_that_ends() -> None:
    inbox = Inbox()
    assert all(inbox.admits((index, "d")) for index in range(CHILDREN_OPEN_MAX))
    assert not inbox.admits((CHILDREN_OPEN_MAX, "d"))
    inbox.tell(ChildEnded(index=7, digest="d", run="r", state="failed", offset=1))
    assert inbox.admits((CHILDREN_OPEN_MAX, "d"))
    assert not inbox.admits((CHILDREN_OPEN_MAX + 1, "d"))
    inbox._spawned |= {(index, "e") for index in range(CHILDREN_MAX)}
    with pytest.raises(ValueError, match="continue as another run"):
        inbox.admits((0, "f"))


def test_what_was_told_before_the_past_was_read_is_told_on_to_a_child_process() -> None:
    inbox = Inbox()
    made = ChildRun(index=1, digest="d", run="r", queue="q", handler="h")
    inbox.tell(made)
    inbox.begin_at(Past())
    assert inbox.past().told == (made,)
    assert inbox.child_run((1, "d")) == "r"


@pytest.mark.parametrize("context", [RunContext, PlainRunContext])
def test_a_handler_that_takes_every_exception_goes_on_as_another_run_all_the_same(context: type[Any]) -> None:
    def handler(ctx: Any) -> None:
        try:
            ctx.continue_as({"left": 1})
        except Exception as error:
            raise AssertionError from error

    with pytest.raises(ContinueAs) as wish:
        handler(context(AttemptState(assignment(1), MemoryOutlet(RunLog(), None))))
    assert unpack_value(wish.value.packed) == {"left": 1}
