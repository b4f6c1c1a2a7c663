"""What a process takes of this machine's memory, and a limit on it. Linux only: elsewhere nothing says it.

`RLIMIT_DATA` is the limit: it counts the private memory that a process can write to (heap, anonymous maps, stacks of
threads), so that an allocation past it fails where it is made, in Python as a `MemoryError`. `RLIMIT_AS` would count
reserved addresses as well, of which threads and arenas have gigabytes that are never touched. What `RLIMIT_DATA` does
not count, shared and mapped memory, is in the resident size, which whoever watches the process looks at.

See docs/decisions/0018-isolation.md.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["LIMITS_MEMORY", "MIB", "in_mib", "limited", "resident_bytes"]

MIB = 1024 * 1024
LIMITS_MEMORY = sys.platform == "linux"
"""Whether this machine can hold a process to a limit."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Return how much memory a process holds now; 0 where it is gone, or nothing says."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def in_mib(size: int) -> str:
    """Say a size in whole MiB, rounded up."""
    return f"{-(-size // MIB)} MiB"


@contextmanager
def limited(bytes_max: int | None) -> Iterator[None]:
    """Let allocations of this process fail past a limit; None is no limit of ours."""
    if bytes_max is None or not LIMITS_MEMORY:
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = bytes_max if most == resource.RLIM_INFINITY else min(bytes_max, most)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, most))
    try:
        yield
    finally:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_DATA, (before, most))
