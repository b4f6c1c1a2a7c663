"""Names, logs, run ids, and the partition that each belongs to.

Specification: docs/protocol.md, sections "Names" and "Partitions".
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from zlib import crc32

from protocol.errors import InvalidName

__all__ = [
    "PARTITIONS",
    "LogKind",
    "LogName",
    "check_name",
    "make_run_id",
    "partition_of",
    "queue_partition",
    "run_made_ms",
    "run_of",
]

PARTITIONS = 64
"""Partitions of a deployment. Written into the store once; never changed."""


class LogKind(StrEnum):
    """The four kinds of log."""

    AGENT = "agent"
    RUN = "run"
    TOPIC = "topic"
    ARTIFACT = "artifact"
    """A file that an attempt of a run attached, in chunks; `protocol.artifacts` says how it is named."""

    __hash__ = str.__hash__  # as it would be, but made in C: names of logs are looked up all the time


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
_KINDS: dict[str, LogKind] = {kind.value: kind for kind in LogKind}
_RUN_ID = re.compile(r"([0-5][0-9]|6[0-3])-[0-9a-f]{11}-[0-9a-f]{16}")
_ARTIFACT = re.compile(rf"{_RUN_ID.pattern}\.[1-9][0-9]{{0,9}}\.[1-9][0-9]{{0,9}}")
_IN_RUNS_PARTITION = frozenset({LogKind.RUN, LogKind.ARTIFACT})


class LogName(NamedTuple):
    """A log: its namespace, its kind and its name. On the wire it is `kind/name`."""

    namespace: str
    kind: LogKind
    name: str

    @classmethod
    def parse(cls, text: str, namespace: str = "default") -> LogName:
        """Read `kind/name`.

        Raises:
            InvalidName: where the text is not of that form.
        """
        word, slash, name = text.partition("/")
        kind = _KINDS.get(word)
        if not slash or kind is None:
            raise InvalidName(f"{text[:160]!r} is not a log; a log is agent/ID, run/ID, topic/NAME or artifact/ID")
        if kind is LogKind.RUN:
            if not _RUN_ID.fullmatch(name):
                raise InvalidName(f"{name[:160]!r} is not a run id")
            return cls(check_name(namespace), kind, name)  # it is a name, too
        if kind is LogKind.ARTIFACT and not _ARTIFACT.fullmatch(name):
            raise InvalidName(f"{name[:160]!r} is not an artifact; an artifact is RUN.ATTEMPT.NUMBER")
        return cls(check_name(namespace), kind, check_name(name))

    @property
    def path(self) -> str:
        """The log as it is written on the wire, without its namespace."""
        return f"{self.kind}/{self.name}"


def check_name(name: str) -> str:
    """Return `name` where it is one.

    Raises:
        InvalidName: where it does not match `[a-z0-9][a-z0-9._-]{0,127}`.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(
            f"{name[:160]!r} is not a name; a name is 1 to 128 of a-z 0-9 . _ - and begins with a letter or digit"
        )
    return name


@lru_cache(maxsize=4096)
def queue_partition(namespace: str, queue: str) -> int:
    """Return the partition of a queue, which is also that of all its runs."""
    return crc32(f"{namespace}/{queue}".encode()) % PARTITIONS


def run_of(log: LogName) -> LogName:
    """Return the log of the run that a log is of: its own, or that which an artifact is attached to."""
    return LogName(log.namespace, LogKind.RUN, log.name.partition(".")[0])


def make_run_id(partition: int, now_ms: int, randomness: bytes) -> str:
    """Make a run id: its partition, the time in ms and 8 random bytes, the latter two in hex."""
    assert 0 <= partition < PARTITIONS, partition
    assert len(randomness) == 8, len(randomness)
    return f"{partition:02d}-{now_ms:011x}-{randomness.hex()}"


def run_made_ms(run: str) -> int:
    """Return when a run was made, by the clock of the hub that made it, as its id says."""
    return int(run[3:14], 16)


@lru_cache(maxsize=16_384)
def partition_of(log: LogName) -> int:
    """Return the partition that holds a log: a run's id names it, also for artifacts; others are placed by name.

    Raises:
        InvalidName: where a run id names a partition that does not exist.
    """
    if log.kind in _IN_RUNS_PARTITION:
        partition = int(log.name[:2])
        if partition >= PARTITIONS:
            raise InvalidName(f"{log.name!r} is not a run id: there is no partition {partition}")
        return partition
    return crc32(f"{log.namespace}/{log.path}".encode()) % PARTITIONS
