"""The timeline of a log: what happened when, attempt by attempt, for a person who looks for a cause.

Pure: takes entries in order, returns rows. A run's rows say what an entry meant for the run (an attempt
began, was lost, was taken up again); any other log's rows are simply its entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from protocol.codec import unpack_record, unpack_value
from protocol.control import (
    CONTROL,
    AttemptLost,
    Cancelled,
    Claimed,
    Dead,
    Expired,
    Failed,
    Kind,
    Released,
    read_control,
)
from protocol.conversation import Answered, Asked, QuestionKind, Suspended
from protocol.entry import Entry, Record
from protocol.family import ChildEnded, ChildRun, Continued, Spawn
from protocol.frames import Part, Recover
from protocol.output import STREAMS, output_of
from protocol.readable import json_line, readable_body
from protocol.run import BrokenLog, RunView, apply

__all__ = ["BEGINS", "BODY_CHARACTERS_MAX", "Mark", "Row", "Timeline", "seconds", "short_body"]

Body = TypeVar("Body", bound=Part)

BODY_CHARACTERS_MAX = 100


class Mark(Enum):
    """What an entry meant for its run."""

    NONE = ""
    STARTED = "started"
    RESUMED = "resumed"
    RESTARTED = "restarted"
    RETRIED = "retried"
    LOST = "lost"
    RELEASED = "released"
    SUSPENDED = "suspended"
    ERRORED = "errored"
    COMMAND = "command"
    ASKED = "asks"
    CHILD = "child"
    ENDED = "ended"
    BROKEN = "broken"


BEGINS = frozenset({Mark.STARTED, Mark.RESUMED, Mark.RESTARTED, Mark.RETRIED})
"""The marks that open an attempt."""

_MARKS: dict[str, Mark] = {
    Kind.LOST: Mark.LOST,
    Kind.RELEASED: Mark.RELEASED,
    Kind.SUSPENDED: Mark.SUSPENDED,
    Kind.ERRORED: Mark.ERRORED,
    Kind.CANCEL: Mark.COMMAND,
    Kind.STEER: Mark.COMMAND,
    Kind.ANSWERED: Mark.COMMAND,
    Kind.ASKED: Mark.ASKED,
    Kind.SPAWN: Mark.CHILD,
    Kind.CHILD: Mark.CHILD,
    Kind.CHILD_ENDED: Mark.CHILD,
}

_COMMANDS: dict[str, str] = {Kind.CANCEL: "the run is asked to stop", Kind.STEER: "a message to the handler"}
_WAITS_FOR = {QuestionKind.ASK: "an answer", QuestionKind.APPROVE: "approval"}
_ENDED_WORDS = {
    Mark.LOST: "was lost",
    Mark.RELEASED: "was handed back",
    Mark.SUSPENDED: "was suspended",
    Mark.ERRORED: "failed",
}

_ABOUT_ATTEMPTS: dict[str, type[Claimed] | type[AttemptLost] | type[Released]] = {
    Kind.CLAIMED: Claimed,
    Kind.LOST: AttemptLost,
    Kind.RELEASED: Released,
}


_ENDINGS: dict[str, type[Failed] | type[Dead] | type[Cancelled] | type[Expired]] = {
    Kind.FAILED: Failed,
    Kind.DEAD: Dead,
    Kind.CANCELLED: Cancelled,
    Kind.EXPIRED: Expired,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One entry on the timeline.

    Attributes:
        offset: in the log.
        at_ms: since the first entry of the log; for a run, since it was submitted.
        attempt: that the entry belongs to, None outside one.
        kind: of the entry.
        mark: what it meant for the run.
        note: that in words, where there is more to say than the mark; else empty.
        body: the body, shortened; of output what was written, of which a line may end in the middle.
    """

    offset: int
    at_ms: int
    attempt: int | None
    kind: str
    mark: Mark
    note: str
    body: str


class Timeline:
    """Folds the entries of one log into rows, and counts what happened.

    Attributes:
        view: the run as far as it was read; its state is None for other logs.
        started: attempts that began.
        lost: attempts whose agent was lost.
        resumed: attempts that took up a journal, or began at a checkpoint.
        broken: why the run's log does not fold, where it does not.
    """

    def __init__(self, log: str, *, whole: bool = True, body_characters_max: int | None = BODY_CHARACTERS_MAX) -> None:
        """Begin a timeline.

        Args:
            log: which log.
            whole: its entries come from the first on, so that a run's can be folded.
            body_characters_max: what is shown of a body; None for all of it.
        """
        self.log = log
        self._body_characters_max = body_characters_max
        self._folds = whole
        self.view = RunView()
        self.count = 0
        self.started = 0
        self.lost = 0
        self.resumed = 0
        self.first_ms = 0
        self.last_ms = 0
        self.broken: str | None = None
        self._checkpoint = 0
        self._ended_by: Mark = Mark.NONE
        self._ended_ms = 0

    @property
    def is_run(self) -> bool:
        """Whether this is the log of a run."""
        return self.log.startswith("run/")

    @property
    def duration_ms(self) -> int:
        """From the first entry to the last that was read."""
        return self.last_ms - self.first_ms

    def rows(self, entries: Iterable[Entry]) -> Iterator[Row]:
        """Yield a row for each entry; may be called again with the entries that follow."""
        for entry in entries:
            yield self._row(entry)

    def _row(self, entry: Entry) -> Row:
        record = unpack_record(entry.packed)
        if self.count == 0:
            self.first_ms = entry.ts_ms
        self.count += 1
        self.last_ms = entry.ts_ms
        mark, note = self._meaning(entry, record) if self.is_run else (Mark.NONE, "")
        attempt = record.attempt if record.attempt is not None else _attempt_named(record)
        return Row(
            offset=entry.offset,
            at_ms=entry.ts_ms - self.first_ms,
            attempt=attempt,
            kind=record.kind,
            mark=mark,
            note=note,
            body=_shown(record, self._body_characters_max),
        )

    def _meaning(self, entry: Entry, record: Record) -> tuple[Mark, str]:
        if self._folds and self.broken is None:
            try:
                self.view = apply(self.view, entry)
            except (BrokenLog, ValueError) as fault:
                self.broken = str(fault)
                return Mark.BROKEN, self.broken
        control = CONTROL.get(record.kind)
        if control is not None and control.terminal:
            span = seconds(entry.ts_ms - self.first_ms)
            return Mark.ENDED, f"{record.kind.removeprefix('$')}, {span} after it was submitted{_why(record)}"
        if record.kind == Kind.CLAIMED:
            return self._begin(entry, record)
        if record.kind == Kind.CHECKPOINT:
            self._checkpoint = entry.offset
        mark = _MARKS.get(record.kind, Mark.NONE)
        if mark is Mark.LOST:
            self.lost += 1
        if mark in _ENDED_WORDS:
            self._ended_by, self._ended_ms = mark, entry.ts_ms
        return mark, self._note(mark, record)

    def _begin(self, entry: Entry, record: Record) -> tuple[Mark, str]:
        claim = _read(Claimed, record)
        self.started += 1
        before, self._ended_by = self._ended_by, Mark.NONE
        if claim is None:
            return Mark.STARTED, ""
        after = f", {seconds(entry.ts_ms - self._ended_ms)} after the last one {_ENDED_WORDS.get(before, before.value)}"
        if before is Mark.NONE:
            return Mark.STARTED, f"attempt {claim.attempt} on {claim.agent}"
        if claim.recover is Recover.JOURNAL:
            self.resumed += 1
            return Mark.RESUMED, f"attempt {claim.attempt} resumed from the journal on {claim.agent}{after}"
        if claim.recover is Recover.CHECKPOINT and self._checkpoint:
            self.resumed += 1
            place = f"the checkpoint at offset {self._checkpoint}"
            return Mark.RESUMED, f"attempt {claim.attempt} resumed from {place} on {claim.agent}{after}"
        mark = Mark.RETRIED if before is Mark.ERRORED else Mark.RESTARTED
        return mark, f"attempt {claim.attempt} {mark.value} on {claim.agent}{after}"

    def _note(self, mark: Mark, record: Record) -> str:
        if mark is Mark.LOST:
            lost = _read(AttemptLost, record)
            return f"the agent of attempt {lost.attempt} was lost ({lost.reason})" if lost else ""
        if mark is Mark.RELEASED:
            return "the agent handed the attempt back"
        if mark is Mark.SUSPENDED:
            suspended = _read(Suspended, record)
            return f"the slot is free while the run waits for {suspended.words}" if suspended else ""
        if mark is Mark.ASKED:
            asked = _read(Asked, record)
            number = record.index or 0
            return f"question {number} ({asked.name}) waits for {_WAITS_FOR[asked.kind]}" if asked else ""
        if record.kind == Kind.ANSWERED:
            answered = _read(Answered, record)
            return f"the answer to question {answered.index}, by {answered.by}" if answered else ""
        if mark is Mark.CHILD:
            return _child_note(record)
        return _COMMANDS.get(record.kind, "")


def _child_note(record: Record) -> str:
    """Say what an entry about a child means."""
    if record.kind == Kind.SPAWN:
        spawn = _read(Spawn, record)
        return f"child {record.index or 0} is to do {spawn.handler}" if spawn else ""
    if record.kind == Kind.CHILD:
        made = _read(ChildRun, record)
        return f"child {made.index} is run {made.run}" if made else ""
    ended = _read(ChildEnded, record)
    if ended is None:
        return ""
    why = f"{ended.error.type}: {ended.error.message}" if ended.error else ended.reason
    return f"child {ended.index} ended as {ended.state}{f': {why}' if why else ''}"


def seconds(ms: int) -> str:
    """Return a span of time for people: 12 ms, 3.4 s, 2 min 5 s, 3 h 0 min."""
    if ms < 1000:
        return f"{ms} ms"
    if ms < 60_000:
        return f"{ms / 1000:.1f} s"
    minutes, rest_ms = divmod(ms, 60_000)
    if minutes < 60:
        return f"{minutes} min {rest_ms // 1000} s"
    return f"{minutes // 60} h {minutes % 60} min"


def short_body(body: Any, characters_max: int | None = BODY_CHARACTERS_MAX) -> str:
    """Return a readable body on one line, with what does not fit left out; null is empty."""
    if body is None:
        return ""
    return _short(json_line(body), characters_max)


def _shown(record: Record, characters_max: int | None) -> str:
    """Return the body of an entry for people: output as it was written, anything else as JSON."""
    written = _output(record)
    if written is None:
        return short_body(readable_body(record.kind, record.body), characters_max)
    return _short(written.decode("utf-8", "backslashreplace").removesuffix("\n"), characters_max)


def _output(record: Record) -> bytes | None:
    if record.kind not in STREAMS:
        return None
    try:
        return output_of(record.kind, unpack_value(record.body))
    except ValueError:
        return None


def _short(text: str, characters_max: int | None) -> str:
    return text if characters_max is None or len(text) <= characters_max else f"{text[: characters_max - 3]}..."


def _why(record: Record) -> str:
    """Return why a run ended as it did, where its last entry says so: the reason, and the error, whole."""
    if record.kind == Kind.CONTINUED:
        continued = _read(Continued, record)
        return f": it goes on as {continued.run}" if continued else ""
    model = _ENDINGS.get(record.kind)
    ending = _read(model, record) if model else None
    if ending is None:
        return ""
    error = getattr(ending, "error", None)
    said = f"{error.type}: {error.message}" if error else ""
    return "".join(f": {part}" for part in (getattr(ending, "reason", None), said) if part)


def _read(model: type[Body], record: Record) -> Body | None:
    try:
        return read_control(model, record.body)
    except ValueError:
        return None


def _attempt_named(record: Record) -> int | None:
    """Return the attempt that an entry of the hub is about."""
    model = _ABOUT_ATTEMPTS.get(record.kind)
    found = _read(model, record) if model else None
    return found.attempt if found else None
