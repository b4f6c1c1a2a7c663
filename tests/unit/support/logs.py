"""Logs and runs as they should be, for checks that plant what should not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from protocol.codec import pack_record, pack_value
from protocol.control import AttemptLost, Claimed, Kind, Submitted, Succeeded
from protocol.entry import Entry, Position, chain, origin
from protocol.frames import Part, Recover
from tests.support.checkers import Dump

__all__ = ["EPOCH", "dump_of", "good_run", "hubs", "rechained", "topic"]

EPOCH = "6f1c"
HUB = "hub:h1"


def dump_of(log: str, packed: Sequence[bytes], epoch: str = EPOCH) -> Dump:
    """Return a log with these entries, dense and chained."""
    entries = tuple(Entry(offset, 1000 + offset, value) for offset, value in enumerate(packed, 1))
    return rechained(Dump(log, origin(epoch), origin(epoch), entries))


def rechained(dump: Dump) -> Dump:
    """Return a dump whose last position fits its entries, whatever they are."""
    epoch, offset, tag = dump.before
    head = dump.entries[-1].offset if dump.entries else offset
    return replace(dump, after=Position(epoch, head, chain(tag, dump.entries)))


def topic(count: int, *, epoch: str = EPOCH, prefix: str = "line", after: Dump | None = None) -> Dump:
    """Return a topic with numbered lines; with `after`, a log that has that one's history first."""
    first = [entry.packed for entry in after.entries] if after else []
    lines = [pack_record("said", "client:c", pack_value(f"{prefix} {number}"), seq=number) for number in range(count)]
    return dump_of("topic/feed", [*first, *lines], epoch)


def hubs(kind: Kind, body: Part, attempt: int | None = None) -> bytes:
    """Return a control entry of the hub."""
    return pack_record(kind, HUB, pack_value(body), attempt=attempt)


def claimed(attempt: int, fence: int, agent: str) -> bytes:
    claim = Claimed(
        attempt=attempt, fence=fence, agent=agent, instance="i1", lease_ms=5000, recover=Recover.JOURNAL, retries=0
    )
    return hubs(Kind.CLAIMED, claim, attempt)


def event(attempt: int, agent: str, seq: int, index: int) -> bytes:
    return pack_record("step", f"agent:{agent}", pack_value({"n": index}), attempt=attempt, seq=seq, index=index)


def good_run() -> Dump:
    """Return a run of two attempts: 1 submitted, 2 claimed, 3-4 events, 5 lost, 6 claimed, 7-8 events, 9 done."""
    asked = Submitted(queue="q", handler="work", input=pack_value(None), key="k")
    done = pack_record(
        Kind.SUCCEEDED, "agent:two", pack_value(Succeeded(result=pack_value(4))), attempt=2, seq=3, index=None
    )
    return dump_of(
        "run/1",
        [
            hubs(Kind.SUBMITTED, asked),
            claimed(1, 10, "one"),
            event(1, "one", 1, 1),
            event(1, "one", 2, 2),
            hubs(Kind.LOST, AttemptLost(attempt=1, reason="its lease ran out", losses=1)),
            claimed(2, 20, "two"),
            event(2, "two", 1, 3),
            event(2, "two", 2, 4),
            done,
        ],
    )
