"""Artifacts: files that a handler attaches to its run, each in chunks in a log of its own.

A log `artifact/RUN.ATTEMPT.NUMBER` lies in its run's partition, and only that attempt writes it, while it is the run's.
It was opened with a name and a size, so its chunks are known: all of `CHUNK_BYTES`, but for the last. When all of them
are durable the attempt writes `$attached` into the run's log; before that there is no artifact.

Specification: docs/protocol.md, section "Artifacts".
"""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple

from pydantic import Field

from protocol.errors import InvalidName
from protocol.frames import Name, Part, UInt
from protocol.ids import LogKind, LogName

__all__ = [
    "ARTIFACTS_MAX",
    "CHUNK",
    "CHUNK_BYTES",
    "NAME_BYTES_MAX",
    "Artifact",
    "ArtifactOpen",
    "ArtifactOpened",
    "ArtifactPlace",
    "Attached",
    "check_artifact_name",
    "chunk_bytes",
    "chunk_count",
]

CHUNK = "chunk"
"""The kind of an artifact's entries; the body is the chunk, a packed value."""

CHUNK_BYTES = 256 * 1024
"""Bytes of every chunk but the last."""

ARTIFACTS_MAX = 1000
"""Artifacts of one run, those that were begun and not finished among them."""

NAME_BYTES_MAX = 255
"""Bytes of an artifact's name, as of a file's."""

_PLACE = re.compile(r"([0-9a-f-]+)\.([1-9][0-9]{0,9})\.([1-9][0-9]{0,9})")

Sha256 = Annotated[str, Field(min_length=64, max_length=64)]
FileName = Annotated[str, Field(max_length=NAME_BYTES_MAX)]


class ArtifactPlace(NamedTuple):
    """Which artifact a log holds: the run, the attempt that writes it, and its number among those of that attempt."""

    run: str
    attempt: int
    number: int

    @property
    def name(self) -> str:
        """The name of the log, without its kind."""
        return f"{self.run}.{self.attempt}.{self.number}"

    def log(self, namespace: str) -> LogName:
        """The log."""
        return LogName(namespace, LogKind.ARTIFACT, self.name)

    @classmethod
    def of(cls, log: LogName) -> ArtifactPlace:
        """Return which artifact a log holds, which is one of artifacts."""
        match = _PLACE.fullmatch(log.name)
        if match is None:
            raise InvalidName(f"{log.path[:160]!r} is not the log of an artifact")
        return cls(match[1], int(match[2]), int(match[3]))


class Attached(Part):
    """A file is whole in its log. Of several of one name, the one that was begun last counts."""

    name: FileName
    log: Name
    size: UInt
    sha256: Sha256


class Artifact(Attached):
    """An artifact of a run, and the attempt that wrote it."""

    attempt: UInt


class ArtifactOpen(Part):
    """`artifact.open`: begin an artifact, or go on with it. Only for the session that has the attempt.

    `number` counts the artifacts of the attempt, from 1.

    Errors: `not_found`; `fenced` where the attempt is not this session's (any more); `limit_reached`;
    `invalid_params` where this number was opened with another name or size, or the name is none.
    """

    run: Name
    attempt: UInt
    fence: UInt
    number: Annotated[int, Field(ge=1, le=9_999_999_999)]
    name: FileName
    size: UInt


class ArtifactOpened(Part):
    """The log to publish the chunks to, as `attempt/N` with the attempt's fence, and how many it has."""

    log: Name
    last: UInt


def check_artifact_name(name: str) -> str:
    """Return the name of an artifact: one that a file may have, anywhere.

    Raises:
        ValueError: it is none.
    """
    fits = name not in ("", ".", "..") and not any(part in "/\\" or not part.isprintable() for part in name)
    if not fits or len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX or not _is_utf8(name):
        raise ValueError(
            f"{name!r:.160} is no name for an artifact: it is 1 to {NAME_BYTES_MAX} bytes of printable characters "
            "without slashes, and not . or .."
        )
    return name


def chunk_count(size: int) -> int:
    """Return how many chunks a file of so many bytes has."""
    return -(-size // CHUNK_BYTES)


def chunk_bytes(size: int, seq: int) -> int:
    """Return how many bytes chunk `seq` of a file of `size` bytes has; 0 behind its last."""
    return max(0, min(CHUNK_BYTES, size - (seq - 1) * CHUNK_BYTES))


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
