"""What an attempt's entries come to."""

from __future__ import annotations

import pytest

from orchestrator import work as working
from orchestrator.core.timers import member
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.peers import Held, Peers
from orchestrator.store import keys
from orchestrator.store.base import StoreUnavailable
from orchestrator.store.commits import Commit, Outcome, Refusal, Refused, SortedAdd
from orchestrator.store.memory import MemoryServer
from orchestrator.work import Work
from protocol.codec import pack_value, unpack_record
from protocol.control import Errored, Failed, Kind, RunError, Succeeded, read_control
from protocol.conversation import Asked, QuestionKind, Suspended
from protocol.family import Continue, Spawn
from protocol.frames import HandlerSpec, Nack, Part, Puback, Publish, Recover, Release, ReleaseReason
from protocol.ids import LogName, partition_of
from protocol.run import RunState
from tests.support.timing import deadline
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, making_for, meta_of, start_run


@pytest.fixture
async def line() -> Line:
    return await line_to(MemoryServer(lambda: NOW_MS))


def work_on(line: Line, losses_max: int = 10) -> Work:
    return Work(line, Peers(1_000), Dispatch(line, Peers(1_000), 1_000), making_for(line), 1_000, losses_max)


def entries(log: LogName, held: Held, seq: int, count: int = 1, *, attempt: int = 1) -> Publish:
    rows = tuple(("said", b"%d" % number, None, None) for number in range(seq, seq + count))
    return Publish(log=log.path, producer=f"attempt/{attempt}", seq=seq, fence=held.fence, entries=rows)


async def over(line: Line, log: LogName) -> None:
    """Let the lease of a run's attempt be over."""
    partition = partition_of(log)
    due = Commit(line.new_commit_id(), partition, ops=(SortedAdd(keys.leases(partition), member(log), NOW_MS),))
    assert isinstance(await line.commit(due), Outcome)


async def test_a_run_whose_log_is_at_its_limit_ends_as_failed(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working, "RUN_ENTRIES_MAX", 5)
    work, peer = work_on(line), agent_peer(lambda _: None)
    meta, held = await start_run(line, peer)
    assert isinstance(await work.publish(peer, meta.log, entries(meta.log, held, 1, 2)), Puback)
    assert (await meta_of(line, meta.log)).state is RunState.RUNNING
    answer = await work.publish(peer, meta.log, entries(meta.log, held, 3))
    assert isinstance(answer, Puback)
    assert (answer.seq, answer.offset) == (3, 5)
    assert (await meta_of(line, meta.log)).state is RunState.FAILED
    page = await line.store.read(meta.log, 5, 10)
    assert page is not None
    (last,) = [unpack_record(entry.packed) for entry in page.entries]
    assert last.kind == Kind.FAILED
    assert read_control(Failed, last.body).error.type == "run_log_full"
    refused = await work.publish(peer, meta.log, entries(meta.log, held, 4))
    assert isinstance(refused, Nack)
    assert refused.code == "run_finished"


async def test_entries_are_acknowledged_even_where_the_run_could_not_be_ended_at_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "RUN_ENTRIES_MAX", 3)
    work, peer = work_on(line), agent_peer(lambda _: None)
    meta, held = await start_run(line, peer)

    async def away(*_: object) -> None:
        raise StoreUnavailable("the store does not answer")

    with monkeypatch.context() as outage:
        outage.setattr(working, "settle", away)
        assert isinstance(await work.publish(peer, meta.log, entries(meta.log, held, 1)), Puback)
    assert (await meta_of(line, meta.log)).state is RunState.RUNNING
    assert isinstance(await work.publish(peer, meta.log, entries(meta.log, held, 2)), Puback)
    assert (await meta_of(line, meta.log)).state is RunState.FAILED


async def test_an_attempt_that_the_store_has_lost_is_fenced(line: Line) -> None:
    work, peer = work_on(line), agent_peer(lambda _: None)
    meta, held = await start_run(line, peer)
    refused = await work.publish(peer, meta.log, entries(meta.log, held, 4, attempt=2))
    assert isinstance(refused, Nack)
    assert refused.code == "fenced"


async def test_the_end_of_an_earlier_attempt_that_comes_again_leaves_the_one_that_runs_alone(line: Line) -> None:
    work, peer = work_on(line), agent_peer(lambda _: None)
    meta, first = await start_run(line, peer)
    peer.held[meta.log.name] = first
    error = pack_value({"error": {"type": "E", "message": "no"}})
    rows = ((Kind.ERRORED.value, error, None, None),)
    ended = Publish(log=meta.log.path, producer="attempt/1", seq=1, fence=first.fence, entries=rows)
    assert isinstance(await work.publish(peer, meta.log, ended), Puback)
    assert meta.log.name not in peer.held
    second = Held(2, first.fence + 1, "q")
    peer.held[meta.log.name] = second
    assert isinstance(await work.publish(peer, meta.log, ended), Puback)
    assert peer.held == {meta.log.name: second}


async def test_a_release_of_an_earlier_attempt_leaves_the_one_that_runs_alone(line: Line) -> None:
    work, peer = work_on(line), agent_peer(lambda _: None)
    meta, first = await start_run(line, peer)
    peer.held[meta.log.name] = first
    handed_back = Release(run=meta.log.name, fence=first.fence, reason=ReleaseReason.NO_SLOT)
    await work.release(peer, handed_back)
    assert meta.log.name not in peer.held
    second = Held(2, first.fence + 1, "q")
    peer.held[meta.log.name] = second
    await work.release(peer, handed_back)
    assert peer.held == {meta.log.name: second}


async def test_a_lease_is_judged_by_its_own_end_alone(line: Line) -> None:
    """However many others of its partition are due: each is asked about by itself."""
    work, peer = work_on(line), agent_peer(lambda _: None, slots=2)
    late, _ = await start_run(line, peer, 1)
    kept, _ = await start_run(line, peer, 2)
    await over(line, late.log)
    for log in (late.log, kept.log):
        await work.expire(log)
    assert (await meta_of(line, late.log)).state is RunState.QUEUED
    assert (await meta_of(line, kept.log)).state is RunState.RUNNING
    await work.expire(late.log)
    assert (await meta_of(line, late.log)).losses == 1


@pytest.mark.parametrize(("losses_max", "state"), [(1, RunState.DEAD), (2, RunState.QUEUED)])
async def test_a_run_is_given_up_once_its_agents_were_lost_as_often_as_the_hub_allows(
    line: Line, losses_max: int, state: RunState
) -> None:
    meta, _ = await start_run(line, agent_peer(lambda _: None))
    await over(line, meta.log)
    await work_on(line, losses_max).expire(meta.log)
    assert (await meta_of(line, meta.log)).state is state


async def test_an_attempt_that_was_bound_though_the_reply_was_lost_is_held(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta, _ = await start_run(line, agent_peer(lambda _: None))
    back = agent_peer(lambda _: None, session="s2", fence=2)
    commits: list[Commit] = []

    async def lost(line: Line, commit: Commit) -> Outcome | Refused:
        commits.append(commit)
        done = await line.commit(commit)
        return Refused(Refusal.GUARD, 0, 0, None) if len(commits) == 1 else done

    monkeypatch.setattr(working, "settle", lost)
    assert await work_on(line).reopen(back, ()) == ()
    assert len(commits) == 2
    assert list(back.held) == [meta.log.name]


ASKED = (Kind.ASKED, Asked(kind=QuestionKind.ASK, name="what", digest="d", payload=b"\xc0"), 1)
SPAWN = (Kind.SPAWN, Spawn(queue="q", handler="h", input=b"\xc0", digest="d"), 1)
AWAY = (Kind.SUSPENDED, Suspended(questions=(1,)), None)
DONE = (Kind.SUCCEEDED, Succeeded(result=b"\xc0"), None)
FAILED = (Kind.ERRORED, Errored(error=RunError(type="ValueError", message="no")), None)
ON = (Kind.CONTINUE, Continue(input=b"\xc0"), None)


@pytest.mark.parametrize(
    ("first", "last", "state"),
    [
        (ASKED, AWAY, RunState.QUEUED),
        (ASKED, FAILED, RunState.FAILED),
        (SPAWN, DONE, RunState.SUCCEEDED),
        (SPAWN, FAILED, RunState.FAILED),
        (SPAWN, ON, RunState.SUCCEEDED),
    ],
)
async def test_a_frame_that_asks_or_hands_out_work_may_end_its_attempt_too(
    line: Line, first: tuple[Kind, Part, int | None], last: tuple[Kind, Part, int | None], state: RunState
) -> None:
    work, peer = work_on(line), agent_peer(lambda _: None)
    peer.handlers = {"h": HandlerSpec(name="h", recover=Recover.JOURNAL)}
    meta, held = await start_run(line, peer)
    rows = tuple((kind.value, pack_value(body), index, None) for kind, body, index in (first, last))
    frame = Publish(log=meta.log.path, producer="attempt/1", seq=1, fence=held.fence, entries=rows)
    async with deadline(5):
        assert isinstance(await work.publish(peer, meta.log, frame), Puback)
    assert (await meta_of(line, meta.log)).state is state
