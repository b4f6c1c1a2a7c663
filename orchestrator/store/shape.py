"""What every commit must look like, whichever store does it.

A commit that fails here is a bug of the hub's: peers' frames are bounded long before.
"""

from __future__ import annotations

import re
from itertools import repeat

from orchestrator.store import keys
from orchestrator.store.commits import (
    COMMIT_BYTES_MAX,
    COMMIT_ENTRIES_MAX,
    Append,
    Commit,
    Condition,
    Op,
    SetPrune,
    SortedAdd,
    SortedPrune,
)

__all__ = ["COMMIT_ID_CHARS_MAX", "LONE_COMMIT_FACTOR", "check_commit"]

COMMIT_ID_CHARS_MAX = 64
LONE_COMMIT_FACTOR = 2
"""A commit may exceed its bounds (a full frame and an entry of the hub's own, say), but not by this factor."""

_COMMIT_ID = re.compile(rf"[!-~]{{1,{COMMIT_ID_CHARS_MAX}}}")


def check_commit(commit: Commit) -> tuple[int, int]:
    """Return how many entries and bytes of packed values a commit has.

    Raises:
        ValueError: it is too large, its id cannot be stored, it names a log twice or a key of another
            partition, or a claim counts entries that are not there.
    """
    if not _COMMIT_ID.fullmatch(commit.id):
        raise ValueError(f"a commit id is 1 to {COMMIT_ID_CHARS_MAX} visible characters, not {commit.id!r:.100}")
    entries = size = 0
    prefix = keys.partition_prefix(commit.partition)
    for append in commit.appends:
        _check_append(append, prefix)
        entries += len(append.entries)
        size += sum(map(len, append.entries))
    if len(commit.appends) > 1 and len({append.log for append in commit.appends}) < len(commit.appends):
        raise ValueError("a commit appends to one log twice")
    if entries > COMMIT_ENTRIES_MAX * LONE_COMMIT_FACTOR or size > COMMIT_BYTES_MAX * LONE_COMMIT_FACTOR:
        raise ValueError(f"a commit of {entries} entries and {size} bytes is too large")
    named = [key for part in (*commit.conditions, *commit.ops) for key in _keys_of(part)]
    if not all(map(str.startswith, named, repeat(prefix))):
        stray = next(key for key in named if not key.startswith(prefix))
        raise ValueError(f"{stray!r} is no key of partition {commit.partition}")
    return entries, size


def _keys_of(part: Condition | Op) -> tuple[str, ...]:
    match part:
        case SetPrune() | SortedPrune():
            return part.key, part.unless
        case SortedAdd(given=str(given)):
            return part.key, given
    return (part.key,)


def _check_append(append: Append, prefix: str) -> None:
    if not keys.log_keys(append.log).stream.startswith(prefix):
        raise ValueError(f"{append.log} does not belong to partition {prefix}")
    claim = append.producer
    if claim is None:
        return
    if not 0 <= claim.count <= len(append.entries) or claim.seq < 1:
        raise ValueError(f"{claim} does not fit {len(append.entries)} entries")
    if " " in claim.digest:
        raise ValueError(f"a digest with a space in it: {claim.digest!r:.100}")
