"""What a live view of a run shows: a fold over its entries, and its picture. Neither knows a terminal or a clock.

Whatever a run says, a line of the picture is printable text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from math import isfinite
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text

from orchestrator.cli.objects import stored
from orchestrator.cli.run_lines import CHARACTERS_MAX, Line, Lines
from orchestrator.cli.talking import question_name
from orchestrator.cli.text import clean
from orchestrator.replay.timeline import BEGINS, Mark, Row, Timeline, seconds, short_body
from protocol.control import Kind
from protocol.conversation import QuestionKind
from protocol.output import output_of
from protocol.readable import json_line, readable
from protocol.run import FINAL, RunState
from protocol.talk import Message, Question, Talk

if TYPE_CHECKING:
    from agent.entry import Entry
    from agent.errors import Reset
    from protocol.control import Progress
    from protocol.requests import RunInfo

__all__ = ["RunScreen", "draw_runs", "progress_line"]

QUESTIONS_MAX = 3
MESSAGES_MAX = 3
BAR_COLUMNS = 24

STATE_STYLES = {
    "queued": "yellow",
    "running": "cyan",
    "succeeded": "bold green",
    "cancelled": "bold yellow",
    "expired": "bold yellow",
    "failed": "bold red",
    "dead": "bold red",
}
_LINE_STYLES = {
    Mark.LOST: "bold red",
    Mark.BROKEN: "bold red",
    Mark.ERRORED: "red",
    Mark.RELEASED: "yellow",
    Mark.COMMAND: "magenta",
    Mark.ASKED: "magenta",
    Mark.ENDED: "bold",
}
INDENT = "  "


class RunScreen:
    """A run as its view shows it: what the hub said of it at first, and then what its entries say.

    Attributes:
        info: the run as the hub last told it.
        entries: how many were folded.
    """

    def __init__(self, info: RunInfo) -> None:
        self.info = info
        self.entries = 0
        self._lines = Lines()
        self._timeline = self._new_timeline()

    def _new_timeline(self, *, whole: bool = True) -> Timeline:
        return Timeline(f"run/{self.info.run}", whole=whole, body_characters_max=CHARACTERS_MAX)

    def entry(self, entry: Entry) -> None:
        """Take in the next entry."""
        self.entries += 1
        if entry.log != self._timeline.log:
            self._go_on_as(entry)
        for row in self._timeline.rows([stored(entry)]):
            self._take(row, entry)

    def _take(self, row: Row, entry: Entry) -> None:
        """Take in what an entry has to say; progress has a place of its own."""
        if row.kind == Kind.PROGRESS:
            return
        output = output_of(row.kind, entry.body)
        if output is not None:
            ends_twice = output.endswith(b"\n\n") and entry.body.get("more") is not True
            self._lines.write(row.kind, output[:-1] if ends_twice else output)
        elif row.mark in BEGINS:
            self._lines.begin()
            self._lines.say(row.note, "bold cyan" if row.mark is Mark.STARTED else "bold yellow")
        else:
            self._lines.say(_said(row, entry), _LINE_STYLES.get(row.mark, "dim" if row.kind.startswith("$") else ""))

    def _go_on_as(self, first: Entry) -> None:
        """The run goes on as another one, whose first entry this is."""
        self.info = type(self.info)(
            run=first.log.removeprefix("run/"),
            handler=self.info.handler,
            queue=self.info.queue,
            state=RunState.QUEUED.value,
            attempt=0,
            submitted_ms=first.ts_ms,
            head=first.offset,
        )
        self._timeline = self._new_timeline()

    def reset(self, reset: Reset) -> None:
        """Take in that history was lost: what was known by it is known from the hub alone from now on."""
        about = "" if reset.exact else "about "
        lost = f"offsets {about}{reset.first} to {reset.last} are lost"
        self._lines.begin()
        self._lines.say(f"reset ({reset.reason.value}): {lost}", "bold red")
        self._timeline = self._new_timeline(whole=False)

    def known(self, info: RunInfo) -> None:
        """Take in the run as the hub tells it now; not of another one, into which its entries have not led yet."""
        if info.run == self.info.run:
            self.info = info

    @property
    def lines(self) -> deque[Line]:
        """The latest lines of what it said."""
        return self._lines.latest

    @property
    def state(self) -> str:
        """The state of the run."""
        view = self._timeline.view
        folded = view.state is not None and self._timeline.broken is None
        return view.state.value if folded and view.state is not None else self.info.state

    @property
    def over(self) -> bool:
        """Whether the run is over."""
        return self.state in FINAL

    @property
    def attempt(self) -> int:
        """Number of the latest attempt, 0 before the first."""
        return max(self._timeline.view.attempt, self.info.attempt)

    @property
    def agent(self) -> str | None:
        """Who holds the run; when nobody does, who held it last, as far as the hub said so."""
        return self._timeline.view.agent or self.info.agent

    @property
    def progress(self) -> Progress | None:
        """How far its handler said that it is."""
        return self._timeline.view.progress

    @property
    def talk(self) -> Talk:
        """What it was told and asks."""
        return self._timeline.view.talk

    @property
    def cancelling(self) -> bool:
        """Whether it is asked to stop, and has not."""
        return (self._timeline.view.cancelling or self.info.cancelling) and not self.over

    @property
    def finished_ms(self) -> int | None:
        """When it ended; None before."""
        return self._timeline.view.finished_ms or self.info.finished_ms


def _said(row: Row, entry: Entry) -> str:
    """Return what an entry says that is no output: text as it is, anything else as JSON."""
    if row.mark in (Mark.ENDED, Mark.LOST, Mark.RELEASED):
        return row.note
    return f"{row.kind} {entry.body if isinstance(entry.body, str) else row.body}"


def draw_runs(screens: Sequence[RunScreen], now_ms: int, width: int, height: int) -> Group:
    """Return the picture of runs, in at most `height` lines; each has its share of them."""
    share = max(1, height // len(screens))
    return Group(*(line for screen in screens for line in _draw(screen, now_ms, width, share)))


def _draw(screen: RunScreen, now_ms: int, width: int, height: int) -> list[Text]:
    head = [_head(screen, now_ms), _where(screen), *_said_of(screen)][:height]
    room = height - len(head)
    latest = list(screen.lines)[-room:] if room else []
    return head + [_text(INDENT + _shown(line, width - len(INDENT)), line.style) for line in latest]


def _shown(line: Line, width: int) -> str:
    """Return what is shown of a line: of one that goes on and does not fit, the end."""
    if not line.end or cell_len(line.text) <= width:
        return line.text
    end = line.end
    while end and cell_len(end) >= width:  # room for the mark that something is left out
        end = end[max(1, (cell_len(end) - width) // 2) :]
    return f"…{end}"


def _head(screen: RunScreen, now_ms: int) -> Text:
    took_ms = max(0, (screen.finished_ms or now_ms) - screen.info.submitted_ms)
    text = _text(f"{screen.info.run} ", "bold")
    text.append(screen.state, STATE_STYLES.get(screen.state, ""))
    text.append(f", {seconds(took_ms)}, {screen.entries} entries")
    return text


def _where(screen: RunScreen) -> Text:
    held = f" by {screen.agent}" if screen.agent and screen.attempt else ""
    attempt = f", attempt {screen.attempt}{held}" if screen.attempt else ""
    return _text(f"{screen.info.handler} on {screen.info.queue}{attempt}")


def _said_of(screen: RunScreen) -> Iterator[Text]:
    """Yield what stands above the output: why it waits or how it ended, progress, what it was told, what it asks."""
    if screen.state == "queued" and screen.info.reason:
        yield _text(f"waits because {screen.info.reason}", "yellow")
    yield from _outcome(screen)
    if screen.progress is not None:
        yield _text(progress_line(screen.progress), "cyan")
    if screen.cancelling:
        yield _text("cancel: asked for, its handler has not stopped yet", "magenta")
    yield from _messages(list(screen.talk.messages.values()))
    waiting = screen.talk.waiting
    for question in waiting[:QUESTIONS_MAX]:
        yield from _question(screen.info.run, question)
    if len(waiting) > QUESTIONS_MAX:
        yield _text(
            f"and {len(waiting) - QUESTIONS_MAX} more questions: fleetline run show {screen.info.run}", "magenta"
        )


def _outcome(screen: RunScreen) -> Iterator[Text]:
    if not screen.over or screen.info.state != screen.state:
        return
    if screen.info.result is not None:
        yield _text(f"result: {short_body(readable(screen.info.result), CHARACTERS_MAX)}", "green")
    if screen.info.error is not None:
        yield _text(f"error: {screen.info.error.get('type')}: {screen.info.error.get('message')}", "red")
    if screen.info.reason:
        yield _text(f"reason: {screen.info.reason}", "yellow")


def _messages(messages: list[Message]) -> Iterator[Text]:
    if len(messages) > MESSAGES_MAX:
        yield _text(f"{len(messages) - MESSAGES_MAX} messages before", "dim")
    for message in messages[-MESSAGES_MAX:]:
        reply = "" if message.value is None else f" {json_line(readable(message.value))}"
        yield _text(f"message {message.id} {message.state.value}{reply}", "magenta")


def _question(run: str, question: Question) -> Iterator[Text]:
    asked = short_body(readable(question.payload), CHARACTERS_MAX)
    yield _text(f"question {question.index}: {question.kind.value} {question.name} {asked}", "bold magenta")
    choices = "--approve or --deny" if question.kind is QuestionKind.APPROVE else "VALUE"
    yield _text(f"  fleetline run answer {run} {question_name(question)} {choices}", "magenta")


def progress_line(progress: Progress) -> str:
    """Return how far something is: a bar where it is known of how much."""
    message = f"  {progress.message}" if progress.message else ""
    if progress.total is None or not isfinite(progress.current) or not isfinite(progress.total) or progress.total <= 0:
        return f"progress {progress.current:g}{message}"
    part = min(1.0, max(0.0, progress.current / progress.total))
    full = int(part * BAR_COLUMNS)
    bar = "█" * full + "░" * (BAR_COLUMNS - full)
    return f"{bar} {part:4.0%}  {progress.current:g} of {progress.total:g}{message}"


def _text(said: str, style: str = "") -> Text:
    """Return one line that ends where the terminal does; nothing in it is more than text."""
    return Text(clean(said[: 2 * CHARACTERS_MAX]), style, no_wrap=True, overflow="ellipsis")
