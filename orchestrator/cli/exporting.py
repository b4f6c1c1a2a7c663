"""Writes export files, and verifies files and logs."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.output import reader_watched
from orchestrator.cli.source import Source, faults_named, live_pages
from orchestrator.replay.export import Exporter
from orchestrator.replay.verify import FileVerifier, read_export
from protocol.entry import Position

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["Verified", "verify_file", "verify_log", "write_log"]


@dataclass(frozen=True, slots=True)
class Verified:
    """A log or file that verifies: its end, and how many entries were checked."""

    log: str
    head: Position
    count: int

    @property
    def first(self) -> int:
        """Offset of the first entry."""
        return self.head.offset - self.count + 1

    def to_json(self) -> dict[str, Any]:
        """Return the object that is printed; it is the last line of an export."""
        head = self.head
        return {"log": self.log, "epoch": head.epoch, "head": head.offset, "tag": head.tag, "count": self.count}


async def write_log(client: Client, log: str, output: str | None) -> int:
    """Write an export of a log, and return how many entries it has.

    Raises:
        CliError: the log does not verify, or the file cannot be written.
    """
    with faults_named(log):
        pages = await live_pages(client, log)
        exporter = Exporter(log, pages.before, pages.head)
        with _written(output) as file:
            file.writelines(f"{line}\n" for line in exporter.header())
            async for entries in pages:
                file.writelines(f"{line}\n" for line in exporter.page(entries))
            file.write(f"{exporter.trailer()}\n")
    return exporter.position.offset - pages.before.offset


@contextlib.contextmanager
def _written(output: str | None) -> Iterator[TextIO]:
    """Open what an export goes to; a file takes its name only once it is whole and on disk."""
    if output is None or output == "-":
        with reader_watched():
            yield sys.stdout
            sys.stdout.flush()
        return
    path = Path(output)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with beside.open("x", encoding="ascii", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as fault:
        denied = isinstance(fault, PermissionError)
        raise CliError(
            f"--output: {output} cannot be written: {fault.strerror}; nothing was left there",
            Exit.FORBIDDEN if denied else Exit.USAGE,
        ) from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


async def verify_log(client: Client, log: str) -> Verified:
    """Verify a log on the hub, up to its head as it is now.

    Raises:
        NotVerified: it is not what was written.
    """
    pages = await live_pages(client, log)
    async for _ in pages:
        pass
    return Verified(log, pages.verifier.position, pages.verifier.count)


def verify_file(source: Source) -> Verified:
    """Verify an export file.

    Raises:
        NotVerified: it is not what an export wrote.
    """
    verifier = FileVerifier()
    with source.opened() as file:
        for _ in read_export(file, verifier):
            pass
    return Verified(verifier.log, verifier.position, verifier.count)
