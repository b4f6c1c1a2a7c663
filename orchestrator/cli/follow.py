"""Entries as they come, for `watch`, `tail` and `replay`: JSON lines, or a timeline for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.cli.objects import reset_json, stored
from orchestrator.cli.output import Output
from orchestrator.cli.text import clean, since
from orchestrator.replay.timeline import BEGINS, BODY_CHARACTERS_MAX, Mark, Row, Timeline

if TYPE_CHECKING:
    from agent.entry import Entry
    from agent.errors import Reset

__all__ = ["Follower", "new_timeline", "print_reset", "show_row"]

_STYLES = {
    Mark.LOST: "bold red",
    Mark.BROKEN: "bold red",
    Mark.ERRORED: "red",
    Mark.RELEASED: "yellow",
    Mark.SUSPENDED: "cyan",
    Mark.COMMAND: "magenta",
    Mark.ASKED: "bold magenta",
    Mark.CHILD: "cyan",
    Mark.ENDED: "bold",
}
RULE_COLUMNS = 78


class Follower:
    """Prints the entries of one log in order; those of a run that goes on as another one, and then of that one.

    Args:
        out: where to.
        log: which log they are of, the first ones.
        prefix: what each line for people begins with, where several logs are followed at once.
    """

    def __init__(self, out: Output, log: str, prefix: str = "") -> None:
        self._prefix = prefix
        self._out = out
        self._log = log
        self._timeline = new_timeline(out, log)

    @property
    def state(self) -> str | None:
        """The state of the run so far; None for other logs."""
        state = self._timeline.view.state
        return None if state is None else state.value

    def entry(self, entry: Entry) -> None:
        """Print one entry."""
        if entry.log != self._log:
            self._log, self._timeline = entry.log, new_timeline(self._out, entry.log)
        rows = list(self._timeline.rows([stored(entry)]))
        if self._out.as_json:
            self._out.json(entry.to_json())
            return
        for row in rows:
            show_row(self._out, row, self._prefix)

    def reset(self, reset: Reset) -> None:
        """Say that the log could not be continued: never silently, and where the entries go."""
        print_reset(self._out, reset, self._prefix)
        self._timeline = new_timeline(self._out, self._log, whole=False)


def new_timeline(out: Output, log: str, *, whole: bool = True) -> Timeline:
    """Return a timeline to print: bodies are cut on a terminal, and whole where a program may read them."""
    return Timeline(log, whole=whole, body_characters_max=BODY_CHARACTERS_MAX if out.terminal else None)


def print_reset(out: Output, reset: Reset, prefix: str = "") -> None:
    """Print that a log could not be continued, what is lost and where it goes on."""
    if out.as_json:
        out.json(reset_json(reset))
        return
    about = "" if reset.exact else "about "
    lost = f"offsets {about}{reset.first} to {reset.last} are lost"
    out.styled(f"{prefix}== reset ({reset.reason.value}): {lost}; going on after {reset.offset} ==", "bold red")


def show_row(out: Output, row: Row, prefix: str = "") -> None:
    """Print one row of a timeline, with a rule before each attempt."""
    if row.mark in BEGINS:
        style = "bold cyan" if row.mark is Mark.STARTED else "bold yellow"
        out.styled(prefix + f"-- {clean(row.note)} ".ljust(RULE_COLUMNS, "-"), style)
    attempt = "" if row.attempt is None else f"#{row.attempt}"
    line = f"{since(row.at_ms):>10} {attempt:>3} {row.offset:>7}  {clean(row.kind):<12} {clean(row.body)}".rstrip()
    style = _STYLES.get(row.mark, "dim" if row.mark in BEGINS else "")
    out.styled(prefix + line, style)
    if row.note and row.mark not in BEGINS:
        out.styled(f"{prefix}{'':>22}  {row.mark.value}: {clean(row.note)}", style)
