"""Queries, as a hub passes them on: limits, sessions that end, hubs that are gone, and letters that make no sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from orchestrator.line import Line
from orchestrator.peers import Peer, Peers
from orchestrator.querying import ASKED_MAX, PASSED_ON_MAX, Querying
from orchestrator.reading import Reading
from orchestrator.registry import Registry
from orchestrator.store.base import Letter
from orchestrator.store.memory import MemoryServer
from protocol.codec import pack_value
from protocol.conversation import QUERY_VALUE_BYTES_MAX, RunQueried, RunQuery
from protocol.errors import RequestError
from protocol.frames import Part, Query, Reply, Role
from tests.support.permits import client_permit
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to, settled, start_run

SCOPES = frozenset({"viewer"})


class Desk:
    """One hub's part in queries."""

    def __init__(self, line: Line) -> None:
        self.line, self.peers, self.registry = line, Peers(1_000), Registry(line)
        self.tasks: set[asyncio.Task[None]] = set()
        self.querying = Querying(line, Reading(line, self.registry), self.registry, self.peers, self._spawn)
        self.asked: list[Query] = []

    def _spawn(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def agent(self, session: str = "s1") -> Peer:
        """Let the agent be connected here."""

        def send(frame: Part) -> None:
            assert isinstance(frame, Query)
            self.asked.append(frame)

        peer = agent_peer(send, session=session)
        self.peers.add(peer)
        self.registry.connected(peer)
        return peer

    def ask(self, run: str, *, session: str = "c1", timeout_ms: int = 60_000) -> asyncio.Task[RunQueried]:
        client = Peer("default", "client:c", Role.CLIENT, "c", "i", session, 0, client_permit(), lambda _: None)
        params = RunQuery(run=run, name="status", timeout_ms=timeout_ms)
        return asyncio.create_task(self.querying.query(client, "", params))

    async def listen(self) -> None:
        """Take letters, as a hub does."""
        async for said in self.line.store.wakes():
            if isinstance(said, Letter):
                self.querying.hear(said.body)


@asynccontextmanager
async def two_desks() -> AsyncIterator[tuple[Desk, Desk]]:
    server = MemoryServer(lambda: NOW_MS)
    one, two = Desk(await line_to(server, "hub-1")), Desk(await line_to(server, "hub-2"))
    async with asyncio.TaskGroup() as tasks:
        listening = [tasks.create_task(desk.listen()) for desk in (one, two)]
        yield one, two
        for task in listening:
            task.cancel()


@pytest.fixture
async def desk() -> Desk:
    return Desk(await line_to(MemoryServer(lambda: NOW_MS)))


async def code_of(task: asyncio.Task[RunQueried]) -> str:
    with pytest.raises(RequestError) as fault:
        await task
    return fault.value.code


async def running(desk: Desk, peer: Peer) -> str:
    run, _ = await start_run(desk.line, peer)
    return run.log.name


async def test_a_reply_of_another_session_or_to_nothing_is_no_reply(desk: Desk) -> None:
    peer = desk.agent()
    task = desk.ask(await running(desk, peer))
    await settled(lambda: bool(desk.asked))
    other = agent_peer(lambda _: None, session="s0")
    desk.querying.on_reply(other, Reply(id=desk.asked[0].id, value=b"\x01"))
    desk.querying.on_reply(peer, Reply(id=desk.asked[0].id + 1, value=b"\x02"))
    desk.querying.on_reply(peer, Reply(id=desk.asked[0].id, value=b"\x03"))
    desk.querying.on_reply(peer, Reply(id=desk.asked[0].id, value=b"\x04"))
    assert (await task).value == b"\x03"


async def test_a_reply_that_is_too_large_is_a_failure_of_the_query(desk: Desk) -> None:
    peer = desk.agent()
    task = desk.ask(await running(desk, peer))
    await settled(lambda: bool(desk.asked))
    desk.querying.on_reply(peer, Reply(id=desk.asked[0].id, value=b"x" * (QUERY_VALUE_BYTES_MAX + 1)))
    assert await code_of(task) == "query_failed"


async def ends_session(desk: Desk, peer: Peer) -> None:
    desk.querying.gone(peer)


async def stops(desk: Desk, _: Peer) -> None:
    desk.querying.close()


@pytest.mark.parametrize("end", [ends_session, stops])
async def test_what_cannot_be_replied_to_any_more_is_said_at_once(
    desk: Desk, end: Callable[[Desk, Peer], object]
) -> None:
    peer = desk.agent()
    run = await running(desk, peer)
    tasks = [desk.ask(run) for _ in range(3)]
    await settled(lambda: len(desk.asked) == 3)
    await end(desk, peer)  # type: ignore[misc]
    assert [await code_of(task) for task in tasks] == ["no_reply"] * 3


async def test_a_query_ends_at_its_time(desk: Desk) -> None:
    assert await code_of(desk.ask(await running(desk, desk.agent()), timeout_ms=1)) == "no_reply"


async def test_one_session_asks_and_one_agent_is_asked_so_much_at_once(desk: Desk) -> None:
    peer = desk.agent()
    run = await running(desk, peer)
    tasks = [desk.ask(run, session=f"c{number // ASKED_MAX}") for number in range(PASSED_ON_MAX)]
    await settled(lambda: len(desk.asked) == PASSED_ON_MAX)
    assert await code_of(desk.ask(run, session="c0")) == "too_many"
    assert await code_of(desk.ask(run, session="c9")) == "too_many"
    for query in desk.asked:
        desk.querying.on_reply(peer, Reply(id=query.id, value=b"\x01"))
    assert {(await task).value for task in tasks} == {b"\x01"}
    again = desk.ask(run, session="c0")
    await settled(lambda: len(desk.asked) == PASSED_ON_MAX + 1)
    desk.querying.on_reply(peer, Reply(id=desk.asked[-1].id, value=b"\x02"))
    assert (await again).value == b"\x02"


async def test_an_agent_that_is_away_is_told_so(desk: Desk) -> None:
    peer = agent_peer(lambda _: None)
    run = await running(desk, peer)
    assert await code_of(desk.ask(run)) == "no_reply"  # it was never seen
    desk.registry.connected(desk.agent("s2"))  # the session that holds the attempt is over
    assert await code_of(desk.ask(run)) == "no_reply"


async def test_a_query_crosses_hubs_and_one_that_is_gone_does_not_answer() -> None:
    async with two_desks() as (one, two):
        peer = two.agent()
        await two.registry.agents("default")  # what was noted is written
        await two.line.store.sorted_put("fl:hubs", two.line.hub_id, NOW_MS + 60_000)
        run = await running(two, peer)
        task = one.ask(run)
        await settled(lambda: bool(two.asked))
        two.querying.on_reply(peer, Reply(id=two.asked[0].id, value=b"\x07"))
        assert (await task).value == b"\x07"
        two.peers.remove(peer)
        assert await code_of(one.ask(run)) == "no_reply"  # it has just gone elsewhere
        await two.line.store.close()
        assert await code_of(one.ask(run)) == "no_reply"  # nobody listens there


@pytest.mark.parametrize("letter", [b"", b"\xc1", pack_value(7), pack_value({"t": "asking"}), pack_value({"t": "new"})])
async def test_a_letter_that_makes_no_sense_has_no_effect(desk: Desk, letter: bytes) -> None:
    desk.querying.hear(letter)
    assert not desk.asked
    assert not desk.tasks
