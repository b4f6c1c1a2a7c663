"""The stacks of handlers that do not stop: how much of them is kept, and when they are not said."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from agent.attempt_state import AttemptState
from agent.executors.stacks import Overdue, cut_stacks, record
from agent.outbox import Outbox
from agent.stream import Stream
from protocol.entry import Position
from protocol.frames import Assign, Puback, Recover
from protocol.limits import Limits

RUN = "01-00000000001-0000000000000001"


def attempt(**limits: int) -> tuple[Outbox, AttemptState]:
    box = Outbox(Limits(**limits))
    stream = Stream(box, f"run/{RUN}", "attempt/1", 7)
    box.add(stream)
    assign = Assign(
        run=RUN,
        queue="q",
        handler="h",
        attempt=1,
        fence=7,
        input=b"",
        lease_ms=1000,
        position=Position("0123456789abcdef", 1, "0123456789abcdef"),
        recover=Recover.RESTART,
        time_left_ms=60,
    )
    return box, AttemptState(assign, stream)


def kinds(box: Outbox) -> list[str]:
    return [entry[0] for frame in box.take(0, 1 << 20) for entry in frame.entries]


def test_of_long_stacks_both_ends_are_kept() -> None:
    assert cut_stacks("short") == "short"
    cut = cut_stacks("a" * 100 + "b" * 100, 50)
    assert (cut[:25], cut[-25:], "150 characters" in cut) == ("a" * 25, "b" * 25, True)


def test_nothing_is_recorded_behind_the_last_entry_nor_of_an_attempt_that_is_not_ours() -> None:
    box, state = attempt()
    assert record(state, "stacks", {})
    assert isinstance(state.outlet, Stream)
    state.outlet.offer("$succeeded", b"", last=True)
    assert not record(state, "stacks", {})
    assert kinds(box) == ["stacks", "$succeeded"]
    _, fenced = attempt()
    fenced.stop("fenced", fenced=True)
    assert not record(fenced, "stacks", {})


async def test_a_handler_that_stops_in_time_leaves_no_stacks() -> None:
    box, state = attempt()
    overdue = Overdue(state, lambda: "stacks", grace_s=60)
    state.stop("enough")
    overdue.close()
    await asyncio.sleep(0)
    assert kinds(box) == []


async def test_whoever_closes_knows_whether_the_child_is_being_killed() -> None:
    _, state = attempt()
    dumping, killed = threading.Event(), Future[None]()

    def stacks() -> str:
        dumping.set()
        return ""

    overdue = Overdue(state, stacks, lambda: killed.set_result(None), grace_s=0)
    state.stop("enough")
    await asyncio.to_thread(dumping.wait)
    assert not overdue.close()
    await asyncio.wrap_future(killed)
    assert Overdue(attempt()[1], str).close()


async def test_a_handler_that_does_not_is_dumped_and_then_killed() -> None:
    box, state = attempt()
    killed: Future[list[str]] = Future()
    Overdue(state, lambda: threading.current_thread().name, lambda: killed.set_result(kinds(box)), grace_s=0)
    state.stop("enough")
    assert await asyncio.wrap_future(killed) == ["stacks"]


def test_what_we_note_waits_while_the_window_is_full_and_goes_before_what_comes_next() -> None:
    box, state = attempt(publish_entries_max=1)
    assert state.outlet.offer("event", b"")
    state.note("$received", b"")
    assert kinds(box) == ["event"]
    box.on_puback(Puback(log=f"run/{RUN}", producer="attempt/1", seq=1, offset=1, level="local"))
    state.send_progress()
    assert kinds(box) == ["$received"]
