"""What a run leaves besides its result: its output.

Specification: docs/protocol.md, section "Output".
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.entry import Entry
from protocol.output import output_of

__all__ = ["Output", "output_in"]


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a run wrote.

    Attributes:
        stream: `stdout` or `stderr`.
        data: bytes, as they were written.
        attempt: which attempt wrote it.
        entry: where it stands in the run's log.
    """

    stream: str
    data: bytes
    attempt: int
    entry: Entry = field(repr=False)


def output_in(entry: Entry) -> Output | None:
    """Return the output in an entry, if it is any."""
    data = output_of(entry.kind, entry.body)
    return None if data is None else Output(entry.kind, data, entry.attempt or 0, entry)
