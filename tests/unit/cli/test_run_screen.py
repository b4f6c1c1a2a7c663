"""The live view of a run: what it knows after each entry, and its picture. No terminal is needed."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from agent.entry import read_entry
from agent.errors import Reset
from orchestrator.cli.run_lines import CHARACTERS_MAX, LINES_MAX
from orchestrator.cli.run_screen import RunScreen, draw_runs, progress_line
from protocol.codec import pack_record, pack_value
from protocol.control import Progress
from protocol.entry import Entry
from protocol.frames import ResetReason
from protocol.requests import RunInfo
from tests.unit.replay.entries import EPOCH, RUN, START_MS, made_log, run_log

NAME = RUN.removeprefix("run/")


def info(**more: Any) -> RunInfo:
    told = {
        "state": "queued",
        "handler": "review",
        "queue": "coding",
        "attempt": 0,
        "submitted_ms": START_MS,
        "head": 1,
    }
    return RunInfo(run=NAME, **{**told, **more})


def screen_of(entries: list[Entry], **more: Any) -> RunScreen:
    screen = RunScreen(info(**more))
    for entry in entries:
        screen.entry(read_entry(RUN, EPOCH, entry, None))
    return screen


def running(*said: tuple[str, Any]) -> list[Entry]:
    """Return a run whose attempt has said this."""
    begun = run_log()[:2]
    return begun + [
        Entry(n, START_MS + 10 * n, pack_record(kind, "agent:a", pack_value(body), attempt=1, seq=n, index=n))
        for n, (kind, body) in enumerate(said, start=3)
    ]


def painted(picture: RenderableType, width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(picture)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_a_run_is_known_after_each_entry() -> None:
    seen, screen = [], screen_of([])
    for upto in range(1, len(run_log()) + 1):
        screen = screen_of(run_log()[:upto])
        seen.append((screen.state, screen.attempt, screen.agent))
    assert seen[:5] == [
        ("queued", 0, None),
        ("running", 1, "worker-1"),
        ("running", 1, "worker-1"),
        ("queued", 1, None),
        ("running", 2, "worker-2"),
    ]
    assert seen[-1] == ("succeeded", 3, None)
    assert screen.over
    assert [line.text for line in screen.lines][:4] == [
        '$submitted {"queue":"coding","handler":"review","input":{"repo":"."}}',
        "attempt 1 on worker-1",
        'finding {"file":"a.py","line":3}',
        "the agent of attempt 1 was lost (lease)",
    ]


def test_the_picture_of_a_run_that_goes_on() -> None:
    screen = screen_of(run_log()[:6])
    head, where, bar, *said = painted(draw_runs([screen], START_MS + 7_000, 100, 20))
    assert head == f"{NAME} running, 7.0 s, 6 entries"
    assert where == "review on coding, attempt 2 by worker-2"
    assert bar == "███████░░░░░░░░░░░░░░░░░  30%  3 of 10  reading"
    assert said[-1] == "  attempt 2 resumed from the journal on worker-2, 200 ms after the last one was lost"


def test_the_summary_of_a_run_that_ended() -> None:
    screen = screen_of(run_log())
    screen.known(info(state="succeeded", attempt=3, agent="worker-2", result=pack_value({"findings": 2})))
    head, where, result, *_ = painted(draw_runs([screen], START_MS + 99_000, 100, 20))
    assert head == f"{NAME} succeeded, 6.6 s, 11 entries"
    assert where == "review on coding, attempt 3 by worker-2"
    assert result == 'result: {"findings":2}'
    failed = screen_of(run_log()[:1])
    failed.known(info(state="cancelled", reason="enough"))
    assert failed.state == "queued", "what the entries say goes before"


def test_a_run_that_goes_on_as_another_one_is_that_one_from_then_on() -> None:
    screen = screen_of(run_log())
    screen.known(info(state="succeeded", attempt=3))
    for entry in run_log()[:2]:
        screen.entry(read_entry("run/another", EPOCH, entry, None))
    assert (screen.info.run, screen.state, screen.attempt, screen.agent) == ("another", "running", 1, "worker-1")
    screen.known(info(state="dead"))
    assert screen.state == "running"
    assert screen.info.run == "another", "what is told of the first one is not of this one"


def test_why_a_run_waits_is_in_the_picture() -> None:
    screen = screen_of(run_log()[:1])
    screen.known(info(reason="no connected agent serves the queue 'coding'"))
    assert "waits because no connected agent serves the queue 'coding'" in painted(
        draw_runs([screen], START_MS, 100, 9)
    )


def test_questions_say_how_they_are_answered_and_commands_what_became_of_them() -> None:
    asked = {"digest": "d", "name": "push", "payload": pack_value({"branch": "main"})}
    screen = screen_of(
        running(
            ("$asked", {"kind": "approve", **asked}),
            ("$asked", {"kind": "ask", **asked, "name": "version"}),
            ("$steer", {"id": "m1", "body": pack_value("hurry")}),
            ("$received", {"id": "m1"}),
            ("$cancel", {"reason": "enough"}),
        )
    )
    shown = painted(draw_runs([screen], START_MS, 100, 30))
    assert 'question 3: approve push {"branch":"main"}' in shown
    assert f"  fleetline run answer {NAME} 3.d --approve or --deny" in shown
    assert f"  fleetline run answer {NAME} 4.d VALUE" in shown
    assert "message m1 delivered" in shown
    assert "cancel: asked for, its handler has not stopped yet" in shown


def test_a_chatty_run_is_kept_within_bounds() -> None:
    screen = screen_of(running(*((("stdout", {"text": f"{n} " + "x" * 2000})) for n in range(3 * LINES_MAX))))
    assert len(screen.lines) == LINES_MAX
    assert screen.entries == 3 * LINES_MAX + 2
    assert max(len(line.text) for line in screen.lines) == CHARACTERS_MAX
    for height in (1, 2, 9, 24):
        shown = painted(draw_runs([screen, screen], START_MS, 100, height), width=80)
        assert len(shown) <= max(2, height)
        assert all(len(line) <= 80 for line in shown)
    assert painted(draw_runs([screen], START_MS, 100, 24))[-1].startswith(f"  {3 * LINES_MAX - 1} xxx")


def out(said: str | bytes, stream: str = "stdout") -> tuple[str, dict[str, Any]]:
    """Return what `ctx.write` sends."""
    return stream, {"text" if isinstance(said, str) else "data": said, "more": True, "writes": 1}


def line(said: str, stream: str = "stdout") -> tuple[str, dict[str, Any]]:
    """Return what is sent of a line of a program."""
    return stream, {"text": said}


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        ([out("one\ntw"), out("o\n")], ["one", "two"]),
        ([line("go"), line("on", "stderr")], ["go", "on"]),
        ([line("ended twice\n"), line("go")], ["ended twice", "go"]),
        ([out("a\n\nb\n")], ["a", "", "b"]),
        ([out(b"pass\xc3"), out(b"\xa9\xff")], ["passé\\xff"]),
        ([out(b"no\n", "stderr")], ["no"]),
        ([out("1%\r"), out("2%\r")], ["2%"]),
        ([out("a\tb\r\n")], ["a       b"]),
        ([out("o"), line("e", "stderr"), line("k")], ["o", "e", "k"]),
        ([out("o"), ("$progress", {"current": 1}), line("k")], ["ok"]),
        ([("note", "plain"), ("found", {"text": "x"}), ("done", None)], ["note plain", 'found {"text":"x"}', "done"]),
        ([("stdout", {"other": 1}), ("stdout", "x")], ['stdout {"other":1}', "stdout x"]),
    ],
)
def test_output_is_shown_as_it_was_written(said: list[tuple[str, Any]], seen: list[str]) -> None:
    assert [shown.text for shown in screen_of(running(*said)).lines][2:] == seen


def test_of_a_line_that_goes_on_the_end_is_in_the_picture() -> None:
    words = [out(f"word{n} ") for n in range(1000)]
    screen = screen_of(running(*words))
    *_, last = painted(draw_runs([screen], START_MS, 40, 9), width=40)
    assert last.endswith("word998 word999")
    assert len(last) <= 40
    assert len(screen.lines) == 3
    assert max(len(screen.lines[-1].text), len(screen.lines[-1].end)) <= CHARACTERS_MAX
    whole = screen_of(running(*words, out("\n")))
    assert painted(draw_runs([whole], START_MS, 40, 9), width=40)[-1].startswith("  word0 word1 ")


EVIL = "\x1b[2J\x1b]0;owned\x07\rover\x9b31m\u202etxt\u2028 [bold]漢字"


@pytest.mark.parametrize(
    "said",
    [
        ("stdout", {"text": EVIL}),
        ("stderr", {"text": f"{EVIL}\n{EVIL}"}),
        out(EVIL.encode()),
        ("note", EVIL),
        ("finding", {"file": EVIL}),
        ("$progress", {"current": 1.0, "total": 2.0, "message": EVIL}),
        ("$asked", {"kind": "ask", "digest": "d", "name": "n", "payload": pack_value(EVIL)}),
        ("$steer", {"id": EVIL, "body": pack_value(EVIL)}),
    ],
    ids=lambda said: said[0],
)
def test_nothing_that_a_run_says_moves_the_cursor(said: tuple[str, Any]) -> None:
    screen = screen_of(running(said))
    screen.known(info(state="failed", reason=EVIL, agent=EVIL, error={"type": "E", "message": EVIL}))
    shown = painted(draw_runs([screen], START_MS, 100, 30), width=300)
    text = "".join(shown)
    assert "over" in text
    assert all(character.isprintable() for character in text)


def test_wide_characters_do_not_break_the_width() -> None:
    screen = screen_of(running(("stdout", {"text": "漢字" * 200})))
    shown = painted(draw_runs([screen], START_MS, 100, 30), width=40)
    assert max(len(line) + sum(ord(character) > 0x2E80 for character in line) for line in shown) <= 40


def test_lost_history_is_said_and_the_hub_knows_the_state() -> None:
    screen = screen_of(run_log()[:3])
    screen.reset(Reset(RUN, ResetReason.DIVERGED, 3, 9, False, EPOCH, 3))
    assert screen.lines[-1].text == "reset (diverged): offsets about 3 to 9 are lost"
    screen.known(info(state="running", attempt=4, agent="worker-3"))
    for entry in run_log()[5:6]:
        screen.entry(read_entry(RUN, EPOCH, entry, None))
    assert (screen.state, screen.attempt, screen.agent) == ("running", 4, "worker-3")


def test_a_log_that_does_not_fold_is_shown_all_the_same() -> None:
    screen = screen_of(made_log(("found", {"a": 1}), ("found", {"a": 2})), state="running")
    assert screen.state == "running"
    assert screen.lines[-1].text.startswith("found")


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress(current=3.0), "progress 3"),
        (Progress(current=3.0, total=0.0, message="m"), "progress 3  m"),
        (Progress(current=30.0, total=10.0), "█" * 24 + " 100%  30 of 10"),
        (Progress(current=-1.0, total=10.0), "░" * 24 + "   0%  -1 of 10"),
        (Progress(current=float("nan"), total=10.0), "progress nan"),
        (Progress(current=1.0, total=float("inf")), "progress 1"),
    ],
)
def test_progress_of_any_numbers(progress: Progress, line: str) -> None:
    assert progress_line(progress) == line
