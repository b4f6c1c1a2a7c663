"""The ladder by which a program is brought to its end: every cause, every rung, every grace."""

from __future__ import annotations

import pytest

from agent.executors.ladder import KILL_WAIT_S, Cause, Ladder, Rung
from agent.program import Graces

GRACES = Graces(message_s=10, term_s=5, left_s=2)


def climb(ladder: Ladder) -> list[tuple[float, Rung]]:
    """Return when each further rung is taken, where nothing helps."""
    found: list[tuple[float, Rung]] = []
    while ladder.due_s is not None:
        now_s = ladder.due_s
        assert ladder.tick(now_s - 0.001) is None, "not before its time"
        rung = ladder.tick(now_s)
        if rung is not None:
            found.append((now_s, rung))
    assert ladder.over
    return found


@pytest.mark.parametrize(
    ("cause", "speaks", "first", "then"),
    [
        (Cause.CANCELLED, True, Rung.MESSAGE, [(10, Rung.SIGTERM), (15, Rung.SIGKILL)]),
        (Cause.CANCELLED, False, Rung.SIGTERM, [(5, Rung.SIGKILL)]),
        (Cause.FINISHED, True, Rung.END_OF_INPUT, [(10, Rung.SIGTERM), (15, Rung.SIGKILL)]),
        (Cause.LEFT, True, Rung.BY_ITSELF, [(2, Rung.SIGTERM), (7, Rung.SIGKILL)]),
        (Cause.REFUSED, True, Rung.SIGTERM, [(5, Rung.SIGKILL)]),
    ],
)
def test_each_cause_begins_at_its_rung(cause: Cause, speaks: bool, first: Rung, then: list[tuple[float, Rung]]) -> None:
    ladder = Ladder(GRACES, speaks=speaks)
    assert (ladder.cause, ladder.rung, ladder.due_s, ladder.forced) == (None, None, None, False)
    assert ladder.tick(1e9) is None
    assert ladder.begin(cause, 0) is first
    assert climb(ladder) == then
    assert (ladder.cause, ladder.rung, ladder.forced) == (cause, Rung.SIGKILL, True)


@pytest.mark.parametrize("first", Cause)
@pytest.mark.parametrize("second", Cause)
def test_the_first_cause_counts(first: Cause, second: Cause) -> None:
    ladder, alone = Ladder(GRACES, speaks=True), Ladder(GRACES, speaks=True)
    ladder.begin(first, 0)
    alone.begin(first, 0)
    assert ladder.begin(second, 1) is None
    assert ladder.cause is first
    assert climb(ladder) == climb(alone)


def test_what_a_program_leaves_behind_has_a_moment_to_end_by_itself() -> None:
    ladder = Ladder(GRACES, speaks=True)
    assert ladder.leader_gone(100) is Rung.BY_ITSELF
    assert climb(ladder) == [(102, Rung.SIGTERM), (107, Rung.SIGKILL)]


@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.FINISHED])
def test_the_rest_of_a_group_whose_program_has_ended_is_not_waited_for_longer_than_that(cause: Cause) -> None:
    ladder = Ladder(GRACES, speaks=True)
    ladder.begin(cause, 0)
    assert ladder.leader_gone(3) is None
    assert climb(ladder) == [(5, Rung.SIGTERM), (10, Rung.SIGKILL)]
    late = Ladder(GRACES, speaks=True)
    late.begin(cause, 0)
    assert late.leader_gone(9.5) is None
    assert climb(late)[0] == (10, Rung.SIGTERM), "nor does it get more time by that"


def test_a_signal_s_grace_does_not_depend_on_the_program() -> None:
    ladder = Ladder(GRACES, speaks=False)
    ladder.begin(Cause.CANCELLED, 0)
    assert ladder.leader_gone(1) is None
    assert climb(ladder) == [(5, Rung.SIGKILL)]


def test_after_sigkill_a_group_is_not_waited_for_for_ever() -> None:
    ladder = Ladder(Graces(message_s=0, term_s=0, left_s=0), speaks=True)
    ladder.begin(Cause.CANCELLED, 0)
    assert [ladder.tick(0), ladder.tick(0)] == [Rung.SIGTERM, Rung.SIGKILL]
    assert ladder.due_s == KILL_WAIT_S
    assert ladder.tick(KILL_WAIT_S) is None
    assert ladder.over
