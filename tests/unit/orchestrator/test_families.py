"""Parents and children on a store in memory: hubs killed between any two commits, and two at the same time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator.core import attempts, runs
from orchestrator.core.children import Asked, CancelPhase, MetaChild
from orchestrator.core.run_meta import RunMeta
from orchestrator.families import Families
from orchestrator.line import Line
from orchestrator.peers import Peer
from orchestrator.settle import settle
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome
from protocol.codec import pack_value
from protocol.control import Cancel, Cancelled, Kind, RunError
from protocol.errors import RequestError
from protocol.family import CHILDREN_MAX, CHILDREN_OPEN_MAX, ChildCancel, ChildEnded, ChildRun, Continue, Spawn
from protocol.frames import Part
from protocol.ids import PARTITIONS, LogKind, LogName, queue_partition
from tests.unit.orchestrator.parts import NOW_MS, meta_of
from tests.unit.orchestrator.relatives import FAR, SUCCESS, Killed, World, cancel, parent, spawn, work_on

KILLS = [(lives, after) for lives in range(6) for after in (False, True)]


@pytest.fixture
def world() -> World:
    return World()


def test_the_queues_lie_apart() -> None:
    assert queue_partition("default", FAR) != queue_partition("default", "q")


@pytest.mark.parametrize(("lives", "after"), KILLS)
async def test_a_child_is_submitted_once_whenever_the_hub_is_killed(world: World, lives: int, after: bool) -> None:
    calm = await world.hub()
    peer, log = await parent(calm)
    await world.publish(calm, peer, log, (Kind.SPAWN, spawn(), 1))
    doomed = await world.hub(lives, after=after)
    with contextlib.suppress(Killed):
        await world.tend(doomed)
    await world.tend(calm)
    (child,) = await world.runs_of(calm, FAR)
    (said,) = await world.said(calm, log, Kind.CHILD, ChildRun)
    assert (said.index, said.digest, said.run) == (1, "d1", child.name)
    meta = await meta_of(calm, child)
    assert (meta.parent, meta.slot) == (log.name, "1.d1")
    assert (await world.records(calm, child))[0].src == "agent:a"


@pytest.mark.parametrize(("lives", "after"), KILLS)
async def test_the_end_of_a_child_is_told_once_whenever_the_hub_is_killed(
    world: World, lives: int, after: bool
) -> None:
    calm = await world.hub()
    peer, log = await parent(calm)
    await world.publish(calm, peer, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(calm)
    (child,) = await world.runs_of(calm, FAR)
    await work_on(calm, peer, child)
    await world.publish(calm, peer, child, SUCCESS)
    doomed = await world.hub(lives, after=after)
    with contextlib.suppress(Killed):
        await world.tend(doomed)
    await world.tend(calm)
    (ended,) = await world.said(calm, log, Kind.CHILD_ENDED, ChildEnded)
    assert (ended.run, ended.state, ended.result, ended.offset) == (child.name, "succeeded", pack_value("done"), 3)
    assert await world.open(calm, log) == {}


async def test_two_hubs_at_once_submit_and_tell_once(world: World) -> None:
    one, two = await world.hub(), await world.hub()
    peer, log = await parent(one)
    await world.publish(one, peer, log, *((Kind.SPAWN, spawn(f"d{n}"), n) for n in range(1, 9)))
    await asyncio.gather(world.tend(one), world.tend(two))
    made = await world.runs_of(one, FAR)
    assert len(made) == 8
    for child in made:
        await work_on(one, peer, child)
        await world.publish(one, peer, child, SUCCESS)
    await asyncio.gather(world.tend(one), world.tend(two))
    assert sorted(each.index for each in await world.said(one, log, Kind.CHILD, ChildRun)) == list(range(1, 9))
    ended = await world.said(one, log, Kind.CHILD_ENDED, ChildEnded)
    assert sorted(each.index for each in ended) == list(range(1, 9))


async def test_a_child_that_ends_before_its_parent_was_told_of_it_is_told_of_in_order(world: World) -> None:
    calm = await world.hub()
    peer, log = await parent(calm)
    await world.publish(calm, peer, log, (Kind.SPAWN, spawn(), 1))
    doomed = await world.hub(1)  # submits the child, and does not get to say so
    with pytest.raises(Killed):
        await world.tend(doomed)
    (child,) = await world.runs_of(calm, FAR)
    await work_on(calm, peer, child)
    await world.publish(calm, peer, child, SUCCESS)
    await Families(calm, lambda _: None, lambda work: work.close()).tend(child)
    await world.tend(calm)
    kinds = [record.kind for record in await world.records(calm, log)]
    assert kinds == ["$submitted", "$claimed", "$spawn", "$child", "$child_ended"]


async def test_what_was_asked_for_stays_as_it_is_when_it_is_asked_for_again(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    assert len(await world.said(line, log, Kind.CHILD, ChildRun)) == 1
    (child,) = await world.runs_of(line, FAR)
    await cancel(line, child)
    await world.tend(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    assert [each.state for each in await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)] == ["cancelled"] * 2
    assert len(await world.runs_of(line, FAR)) == 1
    assert await world.open(line, log) == {}


async def family(world: World, line: Line) -> tuple[Peer, LogName, LogName, LogName]:
    """Return a parent, a child that runs, and a child of that which waits."""
    peer, log = await parent(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(), 1))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    await work_on(line, peer, child)
    lowest = Spawn(queue="q", handler="h", input=b"", digest="d2")
    await world.publish(line, peer, child, (Kind.SPAWN, lowest, 1))
    await world.tend(line)
    grandchild = (await world.runs_of(line, "q"))[1]
    return peer, log, child, grandchild


async def reason(world: World, line: Line, log: LogName) -> str:
    (said,) = await world.said(line, log, Kind.CANCEL, Cancel)
    return str(said.reason)


@pytest.mark.parametrize(("lives", "after"), [(None, False), *KILLS])
async def test_a_cancel_goes_down_to_children_and_their_children(world: World, lives: int | None, after: bool) -> None:
    line = await world.hub()
    peer, log, child, grandchild = await family(world, line)
    await cancel(line, log)
    with contextlib.suppress(Killed):
        await world.tend(await world.hub(lives, after=after))
    await world.tend(line)
    assert await reason(world, line, child) == f"its parent {log.name} was told to cancel"
    assert await reason(world, line, grandchild) == f"its parent {child.name} was told to cancel"
    assert (await meta_of(line, grandchild)).state == "cancelled"
    assert (await meta_of(line, child)).cancelling
    await world.publish(line, peer, child, (Kind.CANCELLED, Cancelled(), None))
    await world.tend(line)
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert ended.state == "cancelled"
    await world.publish(line, peer, log, (Kind.CANCELLED, Cancelled(), None))
    await world.tend(line)
    assert (await world.open(line, log), await world.open(line, child)) == ({}, {})


async def ends(world: World, line: Line, peer: Peer, log: LogName, how: str) -> None:
    """End a run that is worked on."""
    meta, ids = await meta_of(line, log), runs.Ids(line.new_commit_id(), line.src)
    match how:
        case "succeeded":
            await world.publish(line, peer, log, SUCCESS)
        case "expired":
            await settle(line, attempts.expire(ids, meta))
        case "failed":
            await settle(line, attempts.fail(ids, meta, RunError(type="e", message="m")))
        case "continued":
            await world.publish(line, peer, log, (Kind.CONTINUE, Continue(input=b""), None))


@pytest.mark.parametrize("how", ["succeeded", "expired", "failed", "continued"])
async def test_however_a_parent_ends_children_that_it_did_not_abandon_are_cancelled(world: World, how: str) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    kept, lost = spawn("d1", abandon=True), spawn("d2")
    await world.publish(line, peer, log, (Kind.SPAWN, kept, 1), (Kind.SPAWN, lost, 2))
    await world.tend(line)
    await ends(world, line, peer, log, how)
    await world.tend(line)
    states = {
        (await meta_of(line, child)).slot: (await meta_of(line, child)) for child in await world.runs_of(line, FAR)
    }
    assert {slot: meta.state.value for slot, meta in states.items()} == {"1.d1": "queued", "2.d2": "cancelled"}
    assert (await reason(world, line, states["2.d2"].log)).startswith(f"its parent {log.name} ")
    assert await world.open(line, log) == {}
    child = states["1.d1"].log
    await work_on(line, peer, child)
    await world.publish(line, peer, child, SUCCESS)
    await world.tend(line)
    assert await world.said(line, log, Kind.CHILD_ENDED, ChildEnded) == []


@pytest.mark.parametrize("abandon", [True, False])
async def test_a_parent_that_ends_before_its_child_was_submitted(world: World, abandon: bool) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(abandon=abandon), 1))
    await ends(world, line, peer, log, "succeeded")
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    assert (await meta_of(line, child)).state == ("queued" if abandon else "cancelled")
    assert (await world.records(line, log))[-1].kind == Kind.SUCCEEDED
    assert await world.open(line, log) == {}


async def test_a_handler_cancels_a_child_even_before_it_was_submitted(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    wish = ChildCancel(index=1, digest="d1", reason="not\nneeded")
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(), 1), (Kind.CHILD_CANCEL, wish, None))
    await world.tend(line)
    (child,) = await world.runs_of(line, FAR)
    assert await reason(world, line, child) == f"its parent {log.name} cancelled it: not needed"
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert ended.state == "cancelled"
    await world.publish(line, peer, log, (Kind.CHILD_CANCEL, wish, None))  # it is over: nothing comes of it
    assert await world.open(line, log) == {}


async def test_a_child_that_goes_on_as_another_run_is_told_of_when_that_ends_and_cancelled_in_its_place(
    world: World,
) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    await world.publish(line, peer, log, (Kind.SPAWN, spawn(deadline_ms=60_000), 1))
    await world.tend(line)
    (first,) = await world.runs_of(line, FAR)
    await work_on(line, peer, first)
    await world.publish(line, peer, first, (Kind.CONTINUE, Continue(input=pack_value(8)), None))
    await world.tend(line)
    assert await world.said(line, log, Kind.CHILD_ENDED, ChildEnded) == []
    one = await meta_of(line, first)
    assert (one.state, bool(one.continued_as)) == ("succeeded", True)
    second = LogName("default", LogKind.RUN, one.continued_as)
    two = await meta_of(line, second)
    assert (two.continues, two.parent, two.slot, two.deadline_ms) == (first.name, log.name, "1.d1", one.deadline_ms)
    await cancel(line, log)
    await world.tend(line)
    assert await reason(world, line, second) == f"its parent {log.name} was told to cancel"
    (ended,) = await world.said(line, log, Kind.CHILD_ENDED, ChildEnded)
    assert (ended.run, ended.state) == (second.name, "cancelled")


async def test_a_run_that_was_told_to_cancel_does_not_go_on_as_another(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    await cancel(line, log)
    await world.publish(line, peer, log, (Kind.CONTINUE, Continue(input=b""), None))
    assert (await meta_of(line, log)).state == "cancelled"
    assert await world.runs_of(line, "q") == [log]


async def test_of_a_cancel_and_an_end_in_another_run_the_first_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    crossed: list[bool] = []
    real = line.store.read

    async def read(*args: Any) -> Any:
        if not crossed:
            crossed.append(True)
            await cancel(line, log)
        return await real(*args)

    monkeypatch.setattr(line.store, "read", read)
    await world.publish(line, peer, log, (Kind.CONTINUE, Continue(input=b""), None))
    assert (await meta_of(line, log)).state == "cancelled"
    assert await world.runs_of(line, "q") == [log]


async def test_a_run_has_so_many_children_at_a_time_and_no_more(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    many: Sequence[tuple[Kind, Part, int | None]] = [
        (Kind.SPAWN, spawn(f"d{n}"), n) for n in range(1, CHILDREN_OPEN_MAX + 1)
    ]
    for start in range(0, len(many), 200):
        assert isinstance(await world.publish(line, peer, log, *many[start : start + 200]), Outcome)
    refused = await world.publish(line, peer, log, (Kind.SPAWN, spawn("more"), 9999))
    assert (refused.code, refused.retry_ms is not None) == ("too_many", True)
    assert (await meta_of(line, log)).children == CHILDREN_OPEN_MAX


async def test_a_run_has_so_many_children_in_all_and_no_more(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    ops = (HashSet(keys.meta(log), {"children": str(CHILDREN_MAX)}),)
    await line.commit(Commit(line.new_commit_id(), int(log.name[:2]), ops=ops))
    with pytest.raises(RequestError, match="continue as another run"):
        await world.publish(line, peer, log, (Kind.SPAWN, spawn("more"), 9999))


def test_a_record_reads_as_it_was_written() -> None:
    for run, abandon, wish in (("", False, ""), ("r-1", True, "no longer needed")):
        child = MetaChild(7, "d.1", Asked(3, 1, 9), "q", "h", abandon, run, CancelPhase.WANTED, wish)
        assert MetaChild.parse(child.slot, child.encode()) == child


async def test_runs_without_relatives_cost_nothing_more(world: World) -> None:
    line = await world.hub()
    peer, log = await parent(line)
    await world.publish(line, peer, log, SUCCESS)
    meta: RunMeta = await meta_of(line, log)
    assert (meta.stirred, meta.related) == (None, False)
    _, due = await line.store.due(NOW_MS, 100, tuple(range(PARTITIONS)))
    assert due == []
