"""Frames that tell an agent of an attempt that is its own.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio

from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from orchestrator.store.base import Page
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.entry import Position
from protocol.frames import Assign, Recover

__all__ = ["assignment", "make_assign"]


async def assignment(line: Line, meta: RunMeta, lease_ms: int, seq: int = 0) -> Assign | None:
    """Return the frame that tells an agent of an attempt that is its own; None where the store lost it since.

    `meta` is the run's while the attempt runs; `seq` the last that the log has of the attempt.
    """
    first, tags = await asyncio.gather(line.store.read(meta.log, 0, 1), line.store.tags(meta.log, (meta.claimed_at,)))
    return make_assign(line, meta, first, tags[0], lease_ms, seq)


def make_assign(
    line: Line, meta: RunMeta, page: Page | None, tag: str | None, lease_ms: int, seq: int = 0
) -> Assign | None:
    """Make an assignment from the page that the run's log begins with, and the tag of the attempt's `$claimed`."""
    if page is None or not page.entries or tag is None:
        return None
    submitted = read_control(Submitted, unpack_record(page.entries[0].packed).body)
    now_ms = line.now_ms()
    until_ms = min((each for each in (meta.times_out_ms, meta.deadline_ms) if each), default=None)
    return Assign(
        run=meta.log.name,
        queue=meta.queue,
        handler=meta.handler,
        attempt=meta.attempt,
        fence=meta.fence,
        input=submitted.input,
        lease_ms=lease_ms,
        position=Position(page.before.epoch, meta.claimed_at, tag),
        recover=Recover(meta.recover),
        seq=seq,
        time_left_ms=None if until_ms is None else max(0, until_ms - now_ms),
        talk_from=meta.talk_from,
    )
