"""What is said of an agent: proposed on what was read, and heeded in the order in which it was said."""

from __future__ import annotations

import pytest

from orchestrator.core.runs import Ids
from orchestrator.core.sessions import Newcomer, agent_log, close_session, open_session
from orchestrator.core.standing import Standing, cordon, drain
from orchestrator.dispatch import Dispatch
from orchestrator.line import Line
from orchestrator.peers import Peers
from orchestrator.store import keys
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from orchestrator.store.memory import MemoryServer
from protocol.codec import unpack_record
from protocol.frames import Heartbeat
from protocol.frames import Part as FramePart
from protocol.ids import partition_of
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to

LOG = agent_log("default", "a")
ANSWER = HashSet(keys.ops(partition_of(LOG), "default", 0), {"op": b"answer"})


async def opened(line: Line, instance: str = "i1") -> dict[str, str]:
    """Open a session of the agent; return its log's meta."""
    newcomer = Newcomer("s1", instance, "h", "hub:h", line.new_commit_id(), "e", "m")
    meta = await line.store.meta(LOG)
    assert isinstance(await line.commit(open_session(LOG, meta, newcomer, NOW_MS).commit), Outcome)
    return await meta_of(line)


async def meta_of(line: Line) -> dict[str, str]:
    meta = await line.store.meta(LOG)
    assert meta is not None
    return meta


def said(line: Line, meta: dict[str, str], what: str, **terms: int | None) -> Commit:
    ids = Ids(line.new_commit_id(), "client:ada")
    if what == "drain":
        return drain(ids, LOG, meta, ANSWER, NOW_MS, grace_ms=terms.get("grace_ms"))
    return cordon(ids, LOG, meta, ANSWER, NOW_MS, cordoned=what == "cordon")


async def kinds(line: Line) -> list[str]:
    page = await line.store.read(LOG, 0, 100)
    assert page is not None
    return [unpack_record(entry.packed).kind for entry in page.entries]


async def test_a_cordon_outlives_sessions_and_a_drain_is_of_one_process() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    for what in ("cordon", "drain"):
        assert isinstance(await line.commit(said(line, meta, what, grace_ms=5_000)), Outcome)
        meta = await meta_of(line)
    now = Standing.parse(meta)
    assert (now.cordoned, now.drains("i1"), now.drains("i2"), now.drain_until_ms) == (True, True, False, NOW_MS + 5_000)
    later = Standing.parse(await opened(line, "i2"))
    assert (later.cordoned, later.drains("i2")) == (True, False)


async def test_each_change_has_a_higher_number_and_takes_back_what_it_is_about() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    numbers = [Standing.parse(meta).told]
    for what in ("cordon", "drain", "uncordon", "drain"):
        terms = {"grace_ms": 1_000 if what == "drain" and len(numbers) == 2 else None}
        assert isinstance(await line.commit(said(line, meta, what, **terms)), Outcome)
        meta = await meta_of(line)
        numbers.append(Standing.parse(meta).told)
    assert numbers == sorted(set(numbers))
    now = Standing.parse(meta)
    assert (now.cordoned, now.drain_until_ms) == (False, None)
    assert (await kinds(line))[1:] == ["$cordoned", "$draining", "$uncordoned", "$draining"]


@pytest.mark.parametrize("second", ["cordon", "drain"])
async def test_what_was_decided_on_an_older_word_is_refused(second: str) -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    assert isinstance(await line.commit(said(line, meta, "cordon")), Outcome)
    assert isinstance(await line.commit(said(line, meta, second)), Refused)


async def test_a_session_does_not_open_on_an_older_word() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    newcomer = Newcomer("s2", "i1", "h", "hub:h", line.new_commit_id(), "e", "m")
    opening = open_session(LOG, meta, newcomer, NOW_MS)
    assert isinstance(await line.commit(said(line, meta, "cordon")), Outcome)
    assert isinstance(await line.commit(opening.commit), Refused)


async def test_a_drain_is_refused_where_another_process_has_come_meanwhile() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    commit = said(line, meta, "drain")
    await opened(line, "i2")
    assert isinstance(await line.commit(commit), Refused)


async def test_a_process_that_has_finished_is_forgotten_and_the_log_says_so() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    meta = await opened(line)
    assert isinstance(await line.commit(said(line, meta, "drain", grace_ms=9)), Outcome)
    left = close_session(LOG, "s1", "bye: drained", "hub:h", line.new_commit_id(), drained_instance="i1")
    assert isinstance(await line.commit(left), Outcome)
    assert (await kinds(line))[-2:] == ["$disconnected", "$drained"]
    now = Standing.parse(await meta_of(line))
    assert (now.draining, now.drain_until_ms) == ("", None)


async def test_a_hub_heeds_the_latest_word_in_whatever_order_it_hears() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    dispatch, peer = Dispatch(line, Peers(1_000), 1_000), agent_peer(lambda _: None)
    dispatch.heed(peer, Standing(told=2, cordoned=True))
    dispatch.heed(peer, Standing(told=1, cordoned=False))
    assert (peer.shut, peer.slots_free) == (True, 0)
    dispatch.heed(peer, Standing(told=3))
    assert (peer.shut, peer.slots_free) == (False, 1)


async def test_an_agent_is_told_to_finish_with_the_time_that_is_left() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    told: list[FramePart] = []
    dispatch, peer = Dispatch(line, Peers(1_000), 1_000), agent_peer(told.append)
    dispatch.heed(peer, Standing(told=1, draining="another process"))
    dispatch.heed(peer, Standing(told=2, draining=peer.instance))
    dispatch.heed(peer, Standing(told=3, draining=peer.instance, drain_until_ms=1))
    assert all(isinstance(frame, Heartbeat) and frame.drain for frame in told)
    assert [frame.drain_ms for frame in told if isinstance(frame, Heartbeat)] == [None, 0]
