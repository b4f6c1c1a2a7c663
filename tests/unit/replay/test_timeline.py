"""Timelines: what an entry meant for its run, and when."""

from __future__ import annotations

import pytest

from orchestrator.replay.timeline import Mark, Row, Timeline, seconds, short_body
from protocol.run import RunState
from tests.unit.replay.entries import RUN, made_log, run_log


def rows() -> tuple[Timeline, list[Row]]:
    timeline = Timeline(RUN)
    return timeline, list(timeline.rows(run_log()))


def test_a_run_shows_its_attempts_kills_and_resumes() -> None:
    timeline, told = rows()
    marks = [(row.offset, row.mark) for row in told if row.mark is not Mark.NONE]
    assert marks == [
        (2, Mark.STARTED),
        (4, Mark.LOST),
        (5, Mark.RESUMED),
        (7, Mark.ERRORED),
        (9, Mark.RESUMED),
        (11, Mark.ENDED),
    ]
    assert (timeline.started, timeline.lost, timeline.resumed) == (3, 1, 2)
    assert timeline.view.state is RunState.SUCCEEDED
    assert timeline.duration_ms == 6_600


def test_notes_say_who_and_how_long_after() -> None:
    _, told = rows()
    assert told[3].note == "the agent of attempt 1 was lost (lease)"
    assert told[4].note == "attempt 2 resumed from the journal on worker-2, 200 ms after the last one was lost"
    assert told[10].note == "succeeded, 6.6 s after it was submitted"


def test_an_attempt_that_began_at_a_checkpoint_is_shown_with_its_place() -> None:
    def claim(attempt: int) -> tuple[str, dict[str, object]]:
        common = {"fence": attempt, "agent": "w", "instance": "i", "lease_ms": 1, "retries": 0}
        return "$claimed", {"attempt": attempt, "recover": "checkpoint", **common}

    lost = ("$lost", {"attempt": 1, "reason": "lease", "losses": 1})
    submitted = ("$submitted", {"queue": "q", "handler": "h", "input": b""})
    without = Timeline(RUN)
    assert [row.mark for row in without.rows(made_log(submitted, claim(1), lost, claim(2)))][-1] is Mark.RESTARTED
    timeline = Timeline(RUN)
    told = list(timeline.rows(made_log(submitted, claim(1), ("$checkpoint", {"value": b"\x07"}), lost, claim(2))))
    assert told[2].body == '{"value":7}'
    assert (told[4].mark, timeline.resumed, timeline.broken) == (Mark.RESUMED, 1, None)
    assert told[4].note == "attempt 2 resumed from the checkpoint at offset 3 on w, 10 ms after the last one was lost"


def test_what_becomes_of_children_and_the_run_that_goes_on_is_said() -> None:
    claim = {"attempt": 1, "fence": 1, "agent": "w", "instance": "i", "lease_ms": 1, "retries": 0, "recover": "journal"}
    child = {"index": 0, "digest": "d", "run": "child-run"}
    told = list(
        Timeline(RUN).rows(
            made_log(
                ("$submitted", {"queue": "q", "handler": "h", "input": b""}),
                ("$claimed", claim),
                ("$spawn", {"queue": "q", "handler": "lint", "input": b"", "digest": "d"}),
                ("$child", {**child, "queue": "q", "handler": "lint"}),
                ("$child_ended", {**child, "state": "cancelled", "offset": 3, "reason": "not needed"}),
                ("$continue", {"input": b""}),
                ("$continued", {"run": "next-run"}),
            )
        )
    )
    assert [(row.mark, row.note) for row in told[2:5]] == [
        (Mark.CHILD, "child 0 is to do lint"),
        (Mark.CHILD, "child 0 is run child-run"),
        (Mark.CHILD, "child 0 ended as cancelled: not needed"),
    ]
    assert told[-1].note == "continued, 60 ms after it was submitted: it goes on as next-run"


def test_rows_count_time_from_the_submit_and_name_the_attempt() -> None:
    _, told = rows()
    assert [(row.at_ms, row.attempt) for row in told[:5]] == [(0, None), (5, 1), (20, 1), (5_000, 1), (5_200, 2)]


def test_bodies_are_decoded_and_short() -> None:
    _, told = rows()
    assert told[0].body == '{"queue":"coding","handler":"review","input":{"repo":"."}}'
    assert len(short_body("x" * 1000)) == 100
    assert short_body(None) == ""


def test_a_run_that_does_not_fold_is_shown_all_the_same() -> None:
    timeline = Timeline(RUN)
    entries = run_log()
    told = list(timeline.rows([entries[0], *entries[2:]]))
    assert len(told) == len(entries) - 1
    assert told[1].mark is Mark.BROKEN
    assert timeline.broken == "offset 3 after 1"


def test_another_log_is_shown_without_meaning() -> None:
    timeline = Timeline("topic/news")
    told = list(timeline.rows(made_log(("post", {"a": 1}), ("$claimed", None))))
    assert [(row.kind, row.mark) for row in told] == [("post", Mark.NONE), ("$claimed", Mark.NONE)]
    assert timeline.view.state is None


@pytest.mark.parametrize(
    ("ms", "text"), [(12, "12 ms"), (3_400, "3.4 s"), (125_000, "2 min 5 s"), (10_800_000, "3 h 0 min")]
)
def test_spans_of_time_read_well(ms: int, text: str) -> None:
    assert seconds(ms) == text
