"""Queries, as an agent takes them: whom they are for, how many at once, and what becomes of them in the end."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from agent.queries import Queries, Switchboard
from protocol.codec import pack_value, unpack_value
from protocol.conversation import QUERIES_AT_ONCE_MAX
from protocol.frames import Query, Reply
from tests.support.timing import eventually_sync

RUN = "01-00000000001-0000000000000001"


def query(number: int = 1, name: str = "status", args: Any = None, run: str = RUN, fence: int = 7) -> Query:
    packed = None if args is None else pack_value(args)
    return Query(id=number, run=run, fence=fence, name=name, args=packed, timeout_ms=60_000)


def codes(replies: list[Reply]) -> list[tuple[int, str | None]]:
    return [(reply.id, reply.error.code if reply.error else None) for reply in replies]


class Bench:
    """One attempt of an agent whose link looks for replies when it is asked to."""

    def __init__(self) -> None:
        self.wakes = 0
        self.board = Switchboard(self._wake)
        self.queries = Queries("review")
        self.board.put(RUN, 7, self.queries)

    def _wake(self) -> None:
        self.wakes += 1

    def said(self, count: int) -> list[Reply]:
        eventually_sync(lambda: self.wakes >= count)
        return self.board.replies()


def test_a_query_is_for_the_attempt_with_its_fence_alone() -> None:
    bench = Bench()
    bench.queries.on("status", lambda: 1)
    bench.board.ask(query(1, fence=6))
    bench.board.ask(query(2, run=RUN[:-1] + "2"))
    bench.board.ask(query(3))
    assert sorted(codes(bench.said(3))) == [(1, "not_running"), (2, "not_running"), (3, None)]
    bench.board.remove(RUN, Queries("another"))
    bench.board.remove(RUN, bench.queries)
    bench.board.ask(query(4))
    assert codes(bench.said(4)) == [(4, "not_running")]


def test_a_reply_is_never_said_on_another_connection() -> None:
    bench, go = Bench(), threading.Event()
    bench.queries.on("status", go.wait)
    bench.board.ask(query(1))
    bench.board.disconnected()
    bench.board.ask(query(1))
    go.set()
    assert codes(bench.said(2)) == [(1, None)]


def test_so_many_are_under_way_at_once_and_a_reply_makes_room() -> None:
    bench, passed_on = Bench(), list[int]()
    bench.queries.forward(lambda number, _: passed_on.append(number))
    for number in range(QUERIES_AT_ONCE_MAX + 1):
        bench.board.ask(query(number))
    [refused] = bench.said(1)
    assert (refused.id, refused.error and refused.error.code) == (QUERIES_AT_ONCE_MAX, "no_reply")
    assert refused.error is not None
    assert refused.error.retry_ms == 1000
    bench.queries.answered(passed_on[0], pack_value("one"))
    bench.queries.answered(passed_on[0], pack_value("two"))
    assert [(reply.id, unpack_value(reply.value or b"")) for reply in bench.said(2)] == [(0, "one")]
    bench.board.ask(query(99))
    assert len(passed_on) == QUERIES_AT_ONCE_MAX + 1


def test_when_the_handler_is_over_everybody_is_told_and_nobody_is_asked() -> None:
    bench = Bench()
    bench.queries.forward(lambda number, _: None)
    bench.board.ask(query(1))
    bench.queries.close()
    bench.board.ask(query(2))
    assert codes(bench.said(2)) == [(1, "not_running"), (2, "not_running")]


async def test_the_function_of_an_async_handler_runs_on_its_loop() -> None:
    bench, loop = Bench(), asyncio.get_running_loop()
    bench.queries.answer_on(loop)

    async def where(of: str) -> list[object]:
        return [of, asyncio.get_running_loop() is loop]

    bench.queries.on("where", where)
    bench.board.ask(query(1, "where", "x"))
    [reply] = await asyncio.to_thread(bench.said, 1)
    assert unpack_value(reply.value or b"") == ["x", True]


def test_a_loop_that_is_closed_has_no_handler_any_more() -> None:
    bench, loop = Bench(), asyncio.new_event_loop()
    bench.queries.answer_on(loop)
    bench.queries.on("status", lambda: 1)
    loop.close()
    bench.board.ask(query(1))
    assert codes(bench.said(1)) == [(1, "not_running")]


@pytest.mark.parametrize("value", [object(), 2**70])
def test_what_cannot_be_packed_is_a_failure_of_the_query(value: object) -> None:
    bench = Bench()
    bench.queries.on("status", lambda: value)
    bench.board.ask(query(1))
    assert codes(bench.said(1)) == [(1, "query_failed")]
