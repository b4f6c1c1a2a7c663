"""What a command prints: JSON lines, tables on a terminal, plain lines otherwise. Notes go to standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.text import clean

__all__ = ["Output", "reader_watched"]


@contextlib.contextmanager
def reader_watched() -> Iterator[None]:
    """Turn a broken pipe into the quiet end of the command, and a full disk into one line."""
    try:
        yield
    except BrokenPipeError:
        raise CliError("nobody reads standard output any more", Exit.BROKEN_PIPE) from None
    except OSError as fault:
        raise CliError(f"standard output cannot be written: {fault.strerror}", Exit.FAILED) from None


class Output:
    """Standard output and standard error of one command.

    Args:
        as_json: print objects as JSON, one a line, and nothing else on standard output.
    """

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty() and not as_json

    def line(self, text: str) -> None:
        """Print a line on standard output, at once: whoever follows sees it now.

        Raises:
            CliError: nobody reads standard output any more, or it cannot be written.
        """
        with reader_watched():
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def json(self, value: Any) -> None:
        """Print a JSON object on a line."""
        from protocol.readable import json_line

        self.line(json_line(value))

    def note(self, text: str) -> None:
        """Say something beside the data: progress, hints, errors."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def styled(self, text: str, style: str) -> None:
        """Print a line, in a style where standard output is a terminal."""
        if not self.terminal:
            return self.line(text)
        from rich.console import Console
        from rich.text import Text

        return Console(soft_wrap=True, highlight=False).print(Text(text, style))

    def rows(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table on a terminal, else a line for each row with tabs between its cells.

        The first column is what rows are called by, so it is never cut short.
        """
        cells = [[clean(str("" if cell is None else cell)) for cell in row] for row in rows]
        if not self.terminal:
            for row in cells:
                self.line("\t".join(row))
            return
        from rich import box
        from rich.console import Console
        from rich.table import Column, Table
        from rich.text import Text

        width = max((len(row[0]) for row in cells), default=0)
        first = Column(columns[0], no_wrap=True, min_width=width)
        table = Table(first, *columns[1:], box=box.SIMPLE_HEAD, pad_edge=False)
        for row in cells:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)

    def pairs(self, values: Mapping[str, object]) -> None:
        """Print names and values, aligned on a terminal."""
        width = max(map(len, values), default=0) if self.terminal else 0
        for name, value in values.items():
            shown = clean(str("" if value is None else value))
            self.line(f"{name:<{width}}  {shown}" if self.terminal else f"{name}\t{shown}")
