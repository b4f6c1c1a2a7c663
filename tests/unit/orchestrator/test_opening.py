"""Which of two sessions of one agent goes on, and what the other is told."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.opening import check_fence, join, leave
from orchestrator.peers import Peer, Peers
from orchestrator.services import Services
from orchestrator.store.commits import Append, Commit, HashSet
from orchestrator.store.keys import meta
from orchestrator.store.memory import MemoryServer
from orchestrator.telemetry import Counters
from protocol.codes import CloseCode
from protocol.ids import LogKind, LogName, partition_of
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to

MINE, OTHER = "i1", "i2"


class Connection:
    """A connection that notes how it is ended."""

    def __init__(self) -> None:
        self.ended: list[CloseCode] = []

    def fail(self, code: CloseCode, message: str) -> None:
        self.ended.append(code)


class Desk:
    """The part of a hub that counts agents in."""

    def __init__(self) -> None:
        registry = SimpleNamespace(connected=lambda _: None, disconnected=lambda _: None)
        work = SimpleNamespace(offer=lambda _: None, joined=lambda _: None, heed=lambda *_: None)
        parts = {
            "sessions": SimpleNamespace(leave=lambda *_: None),
            "registry": registry,
            "work": work,
            "querying": SimpleNamespace(gone=lambda _: None),
        }
        parts["meters"] = parts["sessions"]
        self.hub = SimpleNamespace(peers=Peers(1_000), agents={}, counters=Counters(), **parts)

    @property
    def services(self) -> Services:
        return cast(Services, self.hub)

    def join(self, peer: Peer) -> Connection:
        """Count in a session that was fenced."""
        connection: Any = Connection()
        join(self.services, connection, peer, ())
        return cast(Connection, connection)


def session(fence: int, instance: str) -> Peer:
    return agent_peer(lambda _: None, session=f"s{fence}", fence=fence, instance=instance)


@pytest.mark.parametrize(("instance", "code"), [(MINE, CloseCode.GOING_AWAY), (OTHER, CloseCode.SUPERSEDED)])
@pytest.mark.parametrize("newer_first", [False, True])
def test_an_older_session_is_ended_for_good_only_by_another_process(
    instance: str, code: CloseCode, newer_first: bool
) -> None:
    desk = Desk()
    older, newer = session(1, instance), session(2, MINE)
    order = (newer, older) if newer_first else (older, newer)
    ended = {peer.fence: desk.join(peer).ended for peer in order}
    assert ended == {1: [code], 2: []}
    assert desk.hub.peers.agent("default", "a") is newer
    assert desk.hub.counters.superseded == 1


@pytest.mark.parametrize(("instance", "code"), [(MINE, CloseCode.GOING_AWAY), (OTHER, CloseCode.SUPERSEDED)])
async def test_a_session_that_another_hub_took_over_from_is_told_whether_to_come_back(
    instance: str, code: CloseCode
) -> None:
    desk = Desk()
    desk.hub.line = await line_to(MemoryServer(lambda: NOW_MS))
    mine = session(5, MINE)
    connection = desk.join(mine)
    await _fence(desk, mine, 5, MINE)
    await check_fence(desk.services, mine)
    assert connection.ended == []
    await _fence(desk, mine, 6, instance)
    await check_fence(desk.services, mine)
    assert connection.ended == [code]


async def test_what_another_hub_hinted_at_while_a_session_opened_is_looked_up() -> None:
    desk = Desk()
    desk.hub.line = await line_to(MemoryServer(lambda: NOW_MS))
    looked: list[Coroutine[Any, Any, None]] = []
    desk.hub.spawn = looked.append
    mine = session(5, MINE)
    desk.join(mine)
    assert looked == []
    desk.hub.peers.remove(mine)
    desk.hub.peers.miss("default", mine.id, 10_000)
    await _fence(desk, mine, 6, OTHER)
    connection = desk.join(mine)
    await looked.pop()
    assert connection.ended == [CloseCode.SUPERSEDED]


async def test_a_newer_session_that_came_and_went_while_an_older_one_opened_is_looked_up() -> None:
    desk = Desk()
    desk.hub.line = await line_to(MemoryServer(lambda: NOW_MS))
    looked: list[Coroutine[Any, Any, None]] = []
    desk.hub.spawn = looked.append
    older, newer = session(5, MINE), session(6, OTHER)
    await _fence(desk, newer, 6, OTHER)
    desk.join(newer)
    leave(desk.services, newer, "bye")
    looked.pop().close()  # which writes down that it left
    connection = desk.join(older)
    await looked.pop()
    assert connection.ended == [CloseCode.SUPERSEDED]


def test_a_missed_hint_is_kept_for_as_long_as_a_session_takes_to_open() -> None:
    peers, peer = Peers(1_000), session(5, MINE)
    peers.miss("default", peer.id, 10_000)
    peers.miss("default", "other", 10_999)
    assert peers.missed(peer)
    peers.miss("default", "other", 11_000)
    assert peers.missed(peer)
    peers.miss("default", "other", 12_000)
    assert not peers.missed(peer)


async def _fence(desk: Desk, peer: Peer, fence: int, instance: str) -> None:
    """Write a session as the hub that opened it does."""
    log = LogName("default", LogKind.AGENT, peer.id)
    fields = HashSet(meta(log), {"fence": str(fence), "instance": instance})
    line = desk.hub.line
    commit = Commit(line.new_commit_id(), partition_of(log), appends=(Append(log, (), "e"),), ops=(fields,))
    await line.commit(commit)
