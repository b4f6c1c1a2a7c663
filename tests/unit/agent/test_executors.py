"""Where handlers run: what crosses to them, and what crosses back."""

from __future__ import annotations

import multiprocessing
import queue
from typing import Any

from agent.executors.child import _Current, _PipeOutlet, _take
from protocol.conversation import Steer
from protocol.entry import Position
from protocol.frames import Assign, Recover

LOG = "run/01-00000000001-0000000000000001"


def test_the_answer_to_a_flush_of_an_earlier_attempt_is_not_taken_for_one_to_this() -> None:
    parent, child = multiprocessing.Pipe()
    earlier, outlet = _PipeOutlet(child, LOG, 1000), _PipeOutlet(child, LOG, 1000)
    earlier.acknowledged(0)
    waiting = outlet.acknowledged(0)
    (_, late), (_, number) = parent.recv(), parent.recv()
    outlet.on_flushed(late, None)
    outlet.on_flushed(late, "fenced")
    assert (waiting.done(), outlet.dead) == (False, None)
    outlet.on_flushed(number, None)
    assert waiting.done()


def test_what_is_said_of_an_attempt_that_is_over_is_not_taken_for_one_of_the_same_fence() -> None:
    _parent, pipe = multiprocessing.Pipe()
    current = _Current()
    todo: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def say(*message: Any) -> None:
        _take(message, pipe, current, todo)

    say("stop", ("none", 7), "before any", False)
    say("start", b"", _assigned("now", fence=7), None, None, None, None, 1000, None)
    state = todo.get_nowait().state
    for which in (("before", 7), ("now", 6)):
        say("stop", which, "too late", False)
        say("told", which, Steer(id="a", body=b"\xc0"))
    assert (state.cancelled, state.inbox.take()) == (False, None)
    say("told", ("now", 7), Steer(id="b", body=b"\xc0"))
    say("stop", ("now", 7), "in time", False)
    assert (state.reason, state.inbox.take().id) == ("in time", "b")


def _assigned(run: str, *, fence: int) -> Assign:
    return Assign(
        run=run,
        queue="default",
        handler="work",
        attempt=1,
        fence=fence,
        input=b"\x80",
        lease_ms=1000,
        position=Position("e", 1, "0" * 16),
        recover=Recover.RESTART,
    )
