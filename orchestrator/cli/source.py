"""Where recorded entries come from: a log on the hub, or an export file. Both are verified as they are read."""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from orchestrator.cli.errors import CliError
from orchestrator.cli.exits import Exit
from orchestrator.cli.output import Output
from orchestrator.replay.verify import ChainVerifier, NotVerified
from protocol.entry import Entry, Position, origin
from protocol.requests import LogRead, LogReadPage

if TYPE_CHECKING:
    from agent.client import Client

__all__ = ["LivePages", "Source", "faults_named", "live_pages", "named"]

_LOG = re.compile(r"(agent|run|topic)/.+|[0-9]{2}-[0-9a-f]{11}-[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class Source:
    """What FILE_OR_LOG means: exactly one of the two is set. The file `-` is standard input."""

    log: str | None = None
    file: str | None = None

    @property
    def title(self) -> str:
        """What to call it in a message."""
        return self.log or ("standard input" if self.file == "-" else str(self.file))

    @contextlib.contextmanager
    def opened(self) -> Iterator[BinaryIO]:
        """Open the file for reading, from its beginning as often as wanted."""
        assert self.file is not None
        if self.file != "-":
            with Path(self.file).open("rb") as file:
                yield file
            return
        with tempfile.TemporaryFile() as file:
            while block := sys.stdin.buffer.read(1 << 20):
                file.write(block)
            file.seek(0)
            yield file


def named(text: str) -> Source:
    """Read FILE_OR_LOG: a file that exists is a file.

    Raises:
        CliError: it is neither.
    """
    from orchestrator.cli.inputs import parse_log

    if text == "-" or Path(text).is_file():
        return Source(file=text)
    if _LOG.fullmatch(text):
        return Source(log=parse_log(text))
    logs = "run/ID, topic/NAME, agent/ID or artifact/ID"
    raise CliError(f"{text[:160]!r} is neither a file that is there nor a log; a log is {logs}")


@contextlib.contextmanager
def faults_named(title: str, out: Output | None = None) -> Iterator[None]:
    """Say of what it is that does not verify, and leave with the exit code for it.

    Args:
        title: what is read.
        out: where an object says so too, if JSON is asked for.
    """
    try:
        yield
    except NotVerified as fault:
        if out is not None and out.as_json:
            out.json({"what": title, "offset": fault.offset, "error": fault.what})
        raise CliError(f"{title} {fault}", Exit.UNVERIFIED) from fault


class LivePages:
    """The pages of a log, from the first entry that is kept to the head as it was when reading began.

    Attributes:
        before: the position before the first entry.
        head: the offset that reading ends at.
        verifier: has checked what was read so far.
    """

    def __init__(self, client: Client, log: str, first: LogReadPage, claim: Position) -> None:
        self.before = first.before
        self.head = first.head
        self.verifier = ChainVerifier(first.before, claim)
        self._client = client
        self._log = log
        self._first: LogReadPage | None = first

    async def __aiter__(self) -> AsyncIterator[tuple[Entry, ...]]:
        if self.before.offset == 0 and self.before != origin(self.before.epoch):
            raise NotVerified(1, "the log does not begin with the tag of its epoch")
        while (place := self.verifier.position.offset) < self.head or self._first is not None:
            page, self._first = self._first, None
            if page is None:
                page = await self._client.ask("log.read", LogRead(log=self._log, after=place))
            self.verifier.page(page.before, page.after, page.entries)
            if self.verifier.position.offset == place < self.head:
                raise NotVerified(place + 1, f"the log ends at offset {place}, its head was {self.head}")
            yield page.entries


async def live_pages(client: Client, log: str) -> LivePages:
    """Begin to read a log.

    Raises:
        RequestError: there is no such log.
    """
    claim = (await client.log(log)).head
    first: LogReadPage = await client.ask("log.read", LogRead(log=log))
    if first.head < claim.offset:
        raise NotVerified(first.head + 1, f"the log ends at offset {first.head}, its head was {claim.offset}")
    return LivePages(client, log, first, claim)
