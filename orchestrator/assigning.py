"""Frames that tell an agent of an attempt that is its own.

Specification: docs/protocol.md, section "Work".
"""

from __future__ import annotations

import asyncio

from orchestrator.core.run_meta import RunMeta
from orchestrator.line import Line
from protocol.codec import unpack_record
from protocol.control import Submitted, read_control
from protocol.entry import Position
from protocol.frames import Assign, Recover

__all__ = ["assignment", "make_assign"]


async def assignment(line: Line, meta: RunMeta, lease_ms: int, seq: int = 0) -> Assign | None:
    """Return the frame that tells an agent of an attempt that is its own; None where the store lost it since.

    `meta` is the run's while the attempt runs; `seq` the last that the log has of the attempt.
    """
    page, tags = await asyncio.gather(line.store.read(meta.log, 0, 1), line.store.tags(meta.log, (meta.claimed_at,)))
    if page is None or not page.entries or tags[0] is None:
        return None
    position = Position(page.before.epoch, meta.claimed_at, tags[0])
    return make_assign(line, meta, page.entries[0].packed, position, lease_ms, seq)


def make_assign(line: Line, meta: RunMeta, first: bytes, position: Position, lease_ms: int, seq: int = 0) -> Assign:
    """Make an assignment from the first entry of the run's log, and where that has the attempt's `$claimed`."""
    submitted = read_control(Submitted, unpack_record(first).body)
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
        position=position,
        recover=Recover(meta.recover),
        seq=seq,
        time_left_ms=None if until_ms is None else max(0, until_ms - now_ms),
        talk_from=meta.talk_from,
    )
