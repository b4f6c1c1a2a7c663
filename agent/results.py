"""What a run leaves besides its result: its output, and the files that it attached.

Specification: docs/protocol.md, sections "Output" and "Artifacts".
"""

from __future__ import annotations

import asyncio
import os
import secrets
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from agent.entry import Entry
from agent.reading import Page, pages
from protocol.artifacts import Artifact, check_artifact_name
from protocol.codec import unpack_record, unpack_value
from protocol.errors import FleetlineError
from protocol.output import output_of

if TYPE_CHECKING:
    from agent.link import Link

__all__ = ["ArtifactBroken", "Output", "fetch", "output_in"]


class ArtifactBroken(FleetlineError):
    """What was fetched is not what was attached: its size or its SHA-256 is another. Nothing was written."""


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


async def fetch(link: Link, artifact: Artifact, path: Path) -> Path:
    """Fetch an artifact to a file, or into a directory under its name. Returns where it is.

    It is written beside its place, verified, made durable and renamed: its place never holds a part of it.

    Raises:
        ArtifactBroken: it is not what was attached.
        OSError: it cannot be written.
    """
    part = await asyncio.to_thread(_Part, path, artifact)
    try:
        async for page in pages(link, artifact.log, 0):
            await asyncio.to_thread(part.write, page)
        return await asyncio.to_thread(part.finish)
    finally:
        part.close()


class _Part:
    """An artifact while it is fetched: a file beside its place, which `finish` puts there."""

    def __init__(self, path: Path, artifact: Artifact) -> None:
        self._artifact = artifact
        self._place = path / check_artifact_name(artifact.name) if path.is_dir() else path
        self._part = self._place.with_name(f".fetch-{secrets.token_hex(8)}.part")
        self._file = self._part.open("xb")
        self._digest = sha256()
        self._size = 0

    def write(self, page: Page) -> None:
        """Add chunks."""
        for entry in page.entries:
            chunk = unpack_value(unpack_record(entry.packed).body)
            if isinstance(chunk, bytes):
                self._digest.update(chunk)
                self._size += len(chunk)
                self._file.write(chunk)

    def finish(self) -> Path:
        """Verify it, and put it in its place. Returns that."""
        said, found = self._artifact, (self._size, self._digest.hexdigest())
        if found != (said.size, said.sha256):
            raise ArtifactBroken(
                f"artifact {said.name!r} came as {found[0]} bytes with the SHA-256 {found[1]}; it was attached as "
                f"{said.size} bytes with {said.sha256}; nothing was written; look at its log, {said.log}"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self._place)
        return self._place

    def close(self) -> None:
        """Leave nothing behind beside its place."""
        self._file.close()
        self._part.unlink(missing_ok=True)
