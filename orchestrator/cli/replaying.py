"""Shows a recording: reads it twice, first for the header and then for the rows, so that it need not fit in memory."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import TYPE_CHECKING

from orchestrator.cli.follow import new_timeline, show_row
from orchestrator.cli.output import Output
from orchestrator.cli.source import Source, live_pages
from orchestrator.cli.text import clean, clock
from orchestrator.replay.timeline import Timeline, seconds
from orchestrator.replay.verify import FileVerifier, read_export
from protocol.entry import Entry, Position, next_tag
from protocol.readable import entry_object, json_line, readable

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["Recorder", "replay_file", "replay_log"]


class Recorder:
    """Shows one recording: `scan` all of its entries, then `show` them.

    Args:
        out: where to.
        until: the last offset to show; all without.
    """

    def __init__(self, out: Output, until: int | None) -> None:
        self._out = out
        self._until = until
        self._scanned: Timeline | None = None
        self._shown: Timeline | None = None
        self._tag = ""
        self._head = 0

    @property
    def twice(self) -> bool:
        """Whether `scan` has any use: JSON has no header."""
        return not self._out.as_json

    def scan(self, log: str, entries: Iterable[Entry]) -> None:
        """Take entries for the header."""
        if self._scanned is None:
            self._scanned = Timeline(log)
        for entry in entries:
            self._head = entry.offset
            if self._until is None or entry.offset <= self._until:
                for _ in self._scanned.rows((entry,)):
                    pass

    def header(self, log: str) -> None:
        """Print what the whole of it was."""
        timeline = self._scanned
        if timeline is None or timeline.count == 0:
            self._out.note(f"{log} has no entries" + ("" if self._until is None else " up to there"))
            return
        self._out.pairs(_header(timeline))
        if self._until is not None and self._until < self._head:
            self._out.note(f"as of offset {self._until} of {self._head}")
        self._out.line("")

    def show(self, log: str, before: Position, entries: Iterable[Entry]) -> None:
        """Print entries that follow the position `before`."""
        if self._shown is None:
            self._shown, self._tag = new_timeline(self._out, log), before.tag
        wanted = takewhile(lambda entry: self._until is None or entry.offset <= self._until, entries)
        for entry in wanted:
            self._tag = next_tag(self._tag, *entry)
            if self._out.as_json:
                self._out.json(entry_object(log, before.epoch, self._tag, entry))
                continue
            for row in self._shown.rows((entry,)):
                show_row(self._out, row)


def _header(timeline: Timeline) -> dict[str, object]:
    span = seconds(timeline.duration_ms)
    if not timeline.is_run:
        return {"log": timeline.log, "entries": timeline.count, "first": clock(timeline.first_ms), "span": span}
    view = timeline.view
    attempts = f"{timeline.started} ({timeline.lost} lost, {timeline.resumed} resumed, {view.failures} failed)"
    header: dict[str, object] = {
        "run": timeline.log.removeprefix("run/"),
        "handler": view.handler,
        "queue": view.queue,
        "input": _short(view.input),
        "state": view.state.value if view.state else "unknown",
        "attempts": attempts,
        "submitted": clock(timeline.first_ms),
        "duration": span,
        "entries": timeline.count,
    }
    if view.result is not None:
        header["result"] = _short(view.result)
    if view.error is not None:
        header["error"] = f"{view.error.type}: {view.error.message}"
    if timeline.broken is not None:
        header["broken"] = timeline.broken
    return {name: clean(str(value)) for name, value in header.items()}


def _short(packed: bytes, characters_max: int = 200) -> str:
    text = json_line(readable(packed))
    return text if len(text) <= characters_max else f"{text[: characters_max - 3]}..."


async def replay_log(recorder: Recorder, client: Client, log: str) -> None:
    """Show a log on the hub, up to its head as it is now."""
    pages = await live_pages(client, log)
    head = pages.head
    if recorder.twice:
        async for entries in pages:
            recorder.scan(log, entries)
        recorder.header(log)
        pages = await live_pages(client, log)
    async for entries in pages:
        recorder.show(log, pages.before, (entry for entry in entries if entry.offset <= head))


def replay_file(recorder: Recorder, source: Source) -> None:
    """Show an export file.

    Raises:
        NotVerified: it is not what an export wrote.
    """
    with source.opened() as file:
        if recorder.twice:
            verifier = FileVerifier()
            for entry in read_export(file, verifier):
                recorder.scan(verifier.log, (entry,))
            recorder.header(verifier.log)
            file.seek(0)
        verifier = FileVerifier()
        for entry in read_export(file, verifier):
            recorder.show(verifier.log, verifier.before, (entry,))
