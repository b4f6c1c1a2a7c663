"""What a command prints: JSON lines, tables on a terminal, plain lines otherwise. Notes go to standard error."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.text import clean

__all__ = ["Output", "reader_watched"]

GAP = 2
"""Between columns that were made to fit."""
CELL_LEAST = 4


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

    def raw(self, data: bytes, *, error: bool = False) -> None:
        """Write bytes as they are, to standard error where that is said; a terminal is not given control characters.

        Raises:
            CliError: nobody reads standard output any more, or it cannot be written.
        """
        stream = sys.stderr if error else sys.stdout
        if stream.isatty():
            lines = data.decode("utf-8", "backslashreplace").split("\n")
            data = "\n".join("\t".join(map(clean, line.split("\t"))) for line in lines).encode()
        with reader_watched():
            stream.buffer.write(data)
            stream.flush()

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

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return shutil.get_terminal_size().columns

    def rows(
        self, columns: Sequence[str], rows: Iterable[Sequence[object]], cut: Collection[str] | None = None
    ) -> None:
        """Print a table on a terminal, else a line for each row with tabs between its cells.

        Args:
            columns: their names. The first is what rows are called by, so it is never cut short.
            rows: the cells.
            cut: the columns that may be cut to fit a terminal, all others are whole; without it, they are folded.
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

        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        if cut is None:
            shown = [Column(name, no_wrap=at == 0, min_width=widths[0] * (at == 0)) for at, name in enumerate(columns)]
            table = Table(*shown, box=box.SIMPLE_HEAD, pad_edge=False)
        else:
            widths = _fitting(widths, [name in cut for name in columns], self.width - GAP * len(columns))
            shown = [Column(name, no_wrap=True, width=width) for name, width in zip(columns, widths, strict=True)]
            table = Table(*shown, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, GAP - 1, 0, 0))
        for row in cells:
            table.add_row(*map(Text, row))
        Console(highlight=False).print(table)

    def pairs(self, values: Mapping[str, object]) -> None:
        """Print names and values, aligned on a terminal."""
        width = max(map(len, values), default=0) if self.terminal else 0
        for name, value in values.items():
            shown = clean(str("" if value is None else value))
            self.line(f"{name:<{width}}  {shown}" if self.terminal else f"{name}\t{shown}")


def _fitting(widths: list[int], may_be_cut: list[bool], room: int) -> list[int]:
    """Return widths that fit: the widest of those that may be cut gives way first."""
    widths = list(widths)
    while sum(widths) > room:
        widest = max((at for at, may in enumerate(may_be_cut) if may), key=widths.__getitem__)
        if widths[widest] <= CELL_LEAST:
            break
        widths[widest] -= 1
    return widths
