"""Where handlers run: what crosses to them, and what crosses back."""

from __future__ import annotations

import multiprocessing

from agent.executors.child import _PipeOutlet

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
