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

__all__ = ["assignment", "input_of", "make_assign"]


async def assignment(line: Line, meta: RunMeta, lease_ms: int, seq: int = 0) -> Assign | None:
    """Return the frame that tells an agent of an attempt that is its own; None where the store lost it since.

    `meta` is the run's while the attempt runs; `seq` the last that the log has of the attempt.
    """
    page, tags = await asyncio.gather(line.store.read(meta.log, 0, 1), line.store.tags(meta.log, (meta.claimed_at,)))
    if page is None or not page.entries or tags[0] is None:
        return None
    position = Position(page.before.epoch, meta.claimed_at, tags[0])
    return make_assign(line, meta, input_of(page.entries[0].packed), position, lease_ms, seq)


def input_of(first: bytes) -> bytes:
    """Return what a run was submitted with, from the first entry of its log.

    Raises:
        ValueError: that is not a `$submitted`.
    """
    return read_control(Submitted, unpack_record(first).body).input


def make_assign(line: Line, meta: RunMeta, given: bytes, position: Position, lease_ms: int, seq: int = 0) -> Assign:
    """Make an assignment of a run with this input; `position` is where its log has the attempt's `$claimed`."""
    ends_ms = [each for each in (meta.times_out_ms, meta.deadline_ms) if each]
    return Assign(
        run=meta.log.name,
        queue=meta.queue,
        handler=meta.handler,
        attempt=meta.attempt,
        fence=meta.fence,
        input=given,
        lease_ms=lease_ms,
        position=position,
        recover=Recover(meta.recover),
        seq=seq,
        time_left_ms=max(0, min(ends_ms) - line.now_ms()) if ends_ms else None,
        talk_from=meta.talk_from,
    )
