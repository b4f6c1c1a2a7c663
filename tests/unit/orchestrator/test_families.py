"""Parents and children on a store in memory: hubs killed between any two commits, and two at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core import attempts, children, keeping, runs
from orchestrator.core.children import Asked, CancelPhase, MetaChild
from orchestrator.core.run_meta import RunMeta
from orchestrator.dispatch import Dispatch
from orchestrator.families import Families
from orchestrator.line import Line
from orchestrator.peers import Peers
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from orchestrator.work import Work
from protocol.codec import pack_value
from protocol.control import Cancel, Kind, RunError
from protocol.conversation import Suspended
from protocol.errors import RequestError
from protocol.family import CHILDREN_MAX, CHILDREN_OPEN_MAX, ChildCancel, ChildEnded, ChildRun, Continue
from protocol.frames import AttemptClaim, HandlerSpec, Part, Recover
from protocol.ids import LogName, queue_partition
from tests.support.relatives import FAR, KILLS, SUCCESS, World, spawn, walk_cancel, walk_end, walk_submit
from tests.unit.orchestrator.parts import making_for


@pytest.fixture
def world() -> World:
    return World()


def test_the_queues_lie_apart() -> None:
    assert len({queue_partition("default", queue) for queue in ("q", FAR, "low")}) == 3


@pytest.mark.parametrize(("lives", "after"), KILLS)
async def test_a_child_is_submitted_once_whenever_the_hub_is_killed(world: World, lives: int, after: bool) -> None:
    await walk_submit(world, lives, after)


@pytest.mark.parametrize(("lives", "after"), KILLS)
async def test_the_end_of_a_child_is_told_once_whenever_the_hub_is_killed(
    world: World, lives: int, after: bool
) -> None:
    await walk_end(world, lives, after)


@pytest.mark.parametrize(("lives", "after"), [(None, False), *KILLS])
async def test_a_cancel_goes_down_to_children_and_their_children(world: World, lives: int | None, after: bool) -> None:
    await walk_cancel(world, lives, after)


async def test_two_hubs_at_once_submit_and_tell_once(world: World) -> None:
    one, two = await world.hub(), await world.hub()
    log = await world.parent(one)
    await world.publish(one, log, *((Kind.SPAWN, spawn(f"d{n}"), n) for n in range(1, 9)))
    await asyncio.gather(world.tend(one), world.tend(two))
    made = await world.runs_of(one, FAR)
    assert len(made) == 8
    for child in made:
        await world.work_on(one, child)
        await world.publish(one, child, SUCCESS)
    await asyncio.gather(world.tend(one), world.tend(two))
    assert sorted(each.index for each in await world.said(one, log, Kind.CHILD, ChildRun)) == list(range(1, 9))
    ended = await world.said(one, log, Kind.CHILD_ENDED, ChildEnded)
    assert sorted(each.index for each in ended) == list(range(1, 9))


async def test_a_child_that_ends_before_its_parent_was_told_of_it_is_told_of_in_order(world: World) -> None:
    calm = await world.hub()
    log = await world.parent(calm)
    await world.publish(calm, log, (Kind.SPAWN, spawn(), 1))
    await world.tend_and_die(1, after=False)  # submits the child, and does not get to say so
    (child,) = await world.runs_of(calm, FAR)
    await world.work_on(calm, child)
    await world.publish(calm, child, SUCCESS)
    await Families(calm, lambda _: None).tend(child)
    await world.tend(calm)
    kinds = [record.kind for record in await world.records(calm, log)]
    assert kinds == ["$submitted", "$claimed", "$spawn", "$child", "$child_ended"]


async def test_what_was_asked_for_stays_as_it_is_when_it_is_asked_for_again(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    assert len(await world.said(line, log, Kind.CHILD, ChildRun)) == 1
    (child,) = await world.runs_of(line, FAR)
    await world.cancel(line, child)
    await world.tend(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    assert [each.state for each in await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)] == ["cancelled"] * 2
    assert len(await world.runs_of(line, FAR)) == 1
    assert await world.open(line, log) == {}


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_parent_that_is_put_away_in_the_frame_of_its_children_waits_for_them(
    world: World, cancelled: bool
) -> None:
    world.peer.handlers = {"h": HandlerSpec(name="h", recover=Recover.JOURNAL)}
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn("d1"), 1))
    wish = (Kind.CHILD_CANCEL, ChildCancel(index=2, digest="d2"), None)
    away = (Kind.SUSPENDED, Suspended(children=("1.d1", "2.d2")), None)
    asked = ((Kind.SPAWN, spawn("d1"), 1), (Kind.SPAWN, spawn("d2"), 2), *((wish,) if cancelled else ()), away)
    assert isinstance(await world.publish(line, log, *asked), Outcome)
    await world.tend(line)
    waits = (await world.meta(line, log)).suspended
    assert waits is not None
    assert waits.children == (("1.d1",) if cancelled else ("1.d1", "2.d2"))
    for child in await world.runs_of(line, FAR):
        if not (await world.meta(line, child)).final:
            assert (await world.meta(line, log)).put_off
            await world.work_on(line, child)
            await world.publish(line, child, SUCCESS)
            await world.tend(line)
    meta = await world.meta(line, log)
    assert (meta.state, meta.put_off) == ("queued", False)
    assert [record.kind for record in await world.records(line, log)].count("$suspended") == 1


async def ends(world: World, line: Line, log: LogName, how: str) -> None:
    """End a run that is worked on."""
    meta, ids = await world.meta(line, log), runs.Ids(line.new_commit_id(), line.src)
    match how:
        case "succeeded":
            await world.publish(line, log, SUCCESS)
        case "expired":
            await settle(line, attempts.expire(ids, meta))
        case "failed":
            await settle(line, attempts.fail(ids, meta, RunError(type="e", message="m")))
        case "continued":
            await world.publish(line, log, (Kind.CONTINUE, Continue(input=b""), None))


@pytest.mark.parametrize("how", ["succeeded", "expired", "failed", "continued"])
async def test_however_a_parent_ends_children_that_it_did_not_abandon_are_cancelled(world: World, how: str) -> None:
    line = await world.hub()
    log = await world.parent(line)
    kept, lost = spawn("d1", abandon=True), spawn("d2")
    await world.publish(line, log, (Kind.SPAWN, kept, 1), (Kind.SPAWN, lost, 2))
    await world.tend(line)
    await ends(world, line, log, how)
    await world.tend(line)
    metas = [await world.meta(line, child) for child in await world.runs_of(line, FAR)]
    states = {meta.slot: meta for meta in metas}
    assert {slot: meta.state.value for slot, meta in states.items()} == {"1.d1": "queued", "2.d2": "cancelled"}
    assert (await world.reason(line, states["2.d2"].log)).startswith(f"its parent {log.name} ")
    assert await world.open(line, log) == {}
    child = states["1.d1"].log
    await world.work_on(line, child)
    await world.publish(line, child, SUCCESS)
    await world.tend(line)
    assert await world.said(line, log, Kind.CHILD_ENDED, ChildEnded) == []


@pytest.mark.parametrize("abandon", [True, False])
async def test_a_parent_that_ends_before_its_child_was_submitted(world: World, abandon: bool) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(abandon=abandon), 1))
    await ends(world, line, log, "succeeded")
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    assert (await world.meta(line, child)).state == ("queued" if abandon else "cancelled")
    assert (await world.records(line, log))[-1].kind == Kind.SUCCEEDED
    assert await world.open(line, log) == {}


async def test_a_handler_cancels_a_child_even_before_it_was_submitted(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    wish = ChildCancel(index=1, digest="d1", reason="not\nneeded")
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1), (Kind.CHILD_CANCEL, wish, None))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    assert await world.reason(line, child) == f"its parent {log.name} cancelled it: not needed"
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert ended.state == "cancelled"
    await world.publish(line, log, (Kind.CHILD_CANCEL, wish, None))  # it is over: nothing comes of it
    assert await world.open(line, log) == {}


async def test_a_child_that_goes_on_as_another_run_is_told_of_when_that_ends_and_cancelled_in_its_place(
    world: World,
) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(deadline_ms=60_000), 1))
    await world.tend(line)
    (first,) = await world.runs_of(line, FAR)
    await world.work_on(line, first)
    await world.publish(line, first, (Kind.CONTINUE, Continue(input=pack_value(8)), None))
    await world.tend(line)
    assert await world.said(line, log, Kind.CHILD_ENDED, ChildEnded) == []
    one = await world.meta(line, first)
    assert (one.state, bool(one.continued_as)) == ("succeeded", True)
    second = world.log(one.continued_as)
    two = await world.meta(line, second)
    assert (two.continues, two.parent, two.slot, two.deadline_ms) == (first.name, log.name, "1.d1", one.deadline_ms)
    await world.cancel(line, log)
    await world.tend(line)
    assert await world.reason(line, second) == f"its parent {log.name} was told to cancel"
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert (ended.run, ended.state) == (second.name, "cancelled")


async def test_a_cancel_finds_the_run_that_goes_on_though_one_before_it_is_deleted_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    row = await world.runs_of(line, FAR)
    for _ in range(2):
        await world.work_on(line, row[-1])
        await world.publish(line, row[-1], (Kind.CONTINUE, Continue(input=b""), None))
        row.append(world.log((await world.meta(line, row[-1])).continued_as))
    await world.tend(line)
    real = line.store.meta

    async def meta(asked: LogName) -> dict[str, str] | None:
        fields = await real(asked)
        if asked == row[0] and fields is not None and fields["continued_as"] == row[1].name:
            middle = RunMeta.parse(row[1], await real(row[1]) or {})
            assert isinstance(await line.commit(keeping.unlinked("unlinked", middle)), Outcome)
            assert await line.store.delete(row[1])
        return fields

    await world.cancel(line, log)
    monkeypatch.setattr(line.store, "meta", meta)
    await world.tend(line)
    assert (await world.meta(line, row[2])).state == "cancelled"


async def test_a_run_that_was_told_to_cancel_does_not_go_on_as_another(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.cancel(line, log)
    await world.publish(line, log, (Kind.CONTINUE, Continue(input=b""), None))
    assert (await world.meta(line, log)).state == "cancelled"
    assert await world.runs_of(line, "q") == [log]


async def test_of_a_cancel_and_an_end_in_another_run_the_first_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await world.hub()
    log = await world.parent(line)
    crossed: list[bool] = []
    real = line.store.read

    async def read(*args: Any) -> Any:
        if not crossed:
            crossed.append(True)
            await world.cancel(line, log)
        return await real(*args)

    monkeypatch.setattr(line.store, "read", read)
    await world.publish(line, log, (Kind.CONTINUE, Continue(input=b""), None))
    assert (await world.meta(line, log)).state == "cancelled"
    assert await world.runs_of(line, "q") == [log]


async def test_a_run_has_so_many_children_at_a_time_and_no_more(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    many: Sequence[tuple[Kind, Part, int | None]] = [
        (Kind.SPAWN, spawn(f"d{n}"), n) for n in range(1, CHILDREN_OPEN_MAX + 1)
    ]
    for start in range(0, len(many), 200):
        assert isinstance(await world.publish(line, log, *many[start : start + 200]), Outcome)
    refused = await world.publish(line, log, (Kind.SPAWN, spawn("more"), 9999))
    assert (refused.code, refused.retry_ms is not None) == ("too_many", True)
    assert (await world.meta(line, log)).children == CHILDREN_OPEN_MAX


async def test_a_run_has_so_many_children_in_all_and_no_more(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    ops = (HashSet(keys.meta(log), {"children": str(CHILDREN_MAX)}),)
    await line.commit(Commit(line.new_commit_id(), int(log.name[:2]), ops=ops))
    with pytest.raises(RequestError, match="continue as another run"):
        await world.publish(line, log, (Kind.SPAWN, spawn("more"), 9999))


def test_a_record_reads_as_it_was_written() -> None:
    for run, abandon, wish in (("", False, ""), ("r-1", True, "no longer needed")):
        child = MetaChild(7, "d.1", Asked(3, 1, 9), "q", "h", abandon, run, CancelPhase.WANTED, wish)
        assert MetaChild.parse(child.slot, child.encode()) == child


async def test_runs_without_relatives_cost_nothing_more(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, SUCCESS)
    meta = await world.meta(line, log)
    assert (meta.stirred, meta.related) == (None, False)
    assert await world.due(line) == []


async def test_a_timer_that_was_set_again_since_is_not_taken_away(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn("d1"), 1))
    resting = children.rest(runs.Ids("rests", line.src), await world.meta(line, log))
    await world.publish(line, log, (Kind.SPAWN, spawn("d2"), 2))
    assert isinstance(await line.commit(resting), Refused)
    assert await world.due(line) == [log.name]


@pytest.mark.parametrize("what", ["noted", "told"])
async def test_nothing_is_said_of_a_child_after_the_end_of_its_parent(world: World, what: str) -> None:
    line = await world.hub()
    log = await world.parent(line)
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    meta, ids = await world.meta(line, log), runs.Ids("late", line.src)
    ((slot, text),) = (await world.open(line, log)).items()
    child = MetaChild.parse(slot, text.decode())
    ended = ChildEnded(index=1, digest="d1", run="r", state="failed", offset=4)
    late = children.noted(ids, meta, child, "r") if what == "noted" else children.told(ids, meta, child, ended)
    await world.publish(line, log, SUCCESS)
    assert isinstance(await line.commit(late), Refused)


@pytest.mark.parametrize("what", ["expire", "fail", "lose", "cancel"])
async def test_whoever_ends_or_cancels_a_run_knows_its_children(world: World, what: str) -> None:
    line = await world.hub()
    log = await world.parent(line)
    meta, ids = await world.meta(line, log), runs.Ids("late", line.src)
    proposals = {
        "expire": attempts.expire(ids, meta),
        "fail": attempts.fail(ids, meta, RunError(type="e", message="m")),
        "lose": attempts.lose(ids, meta, "gone"),
        "cancel": runs.cancel(ids, meta, line.src, Cancel(), None),
    }
    await world.publish(line, log, (Kind.SPAWN, spawn(), 1))
    assert isinstance(await line.commit(proposals[what]), Refused)


async def test_a_session_that_takes_an_attempt_up_knows_of_children_that_come_meanwhile(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line, other = await world.hub(), await world.hub()
    log = await world.parent(line)
    after = replace(world.peer, session="s2", fence=2, held={})
    work = Work(other, Peers(1_000), Dispatch(other, Peers(1_000), 1_000), making_for(other), 60_000)
    real, spawned = other.store.meta, list[Any]()

    async def meta(asked: LogName) -> dict[str, str] | None:
        fields = await real(asked)
        if not spawned:  # what the older session had under way is committed now
            spawned.append(await world.publish(line, log, (Kind.SPAWN, spawn(), 1)))
        return fields

    monkeypatch.setattr(other.store, "meta", meta)
    await work.reopen(after, (AttemptClaim(run=log.name, fence=world.peer.held[log.name].fence, seq=0),))
    await world.tend(line)
    world.peer = after
    await world.publish(other, log, SUCCESS)
    await world.tend(other)
    (child,) = await world.runs_of(other, FAR)
    assert (await world.meta(other, child)).state == "cancelled"
    assert await world.open(other, log) == {}


async def test_an_end_that_is_close_behind_a_child_leaves_nothing_behind(world: World) -> None:
    line = await world.hub()
    log = await world.parent(line)
    asked = asyncio.create_task(world.publish(line, log, (Kind.SPAWN, spawn(), 1)))
    await asyncio.sleep(0)
    world.seqs[log.name + "attempt/1"] = 2
    await asyncio.gather(asked, world.publish(line, log, SUCCESS))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    assert (await world.meta(line, child)).state == "cancelled"
