"""Logs made up for the tests of replay: chained as a store would chain them."""

from __future__ import annotations

import io
from typing import Any

from orchestrator.replay.export import Exporter
from protocol.codec import pack_record, pack_value
from protocol.entry import Entry, Position, chain, origin

__all__ = ["EPOCH", "RUN", "export_bytes", "made_log", "run_log"]

EPOCH = "0123456789abcdef"
RUN = "run/07-0190f3a2b1c-00112233aabbccdd"
START_MS = 1_700_000_000_000


def made_log(*said: tuple[str, Any], step_ms: int = 10, attempt: int | None = None) -> list[Entry]:
    """Return entries of these (kind, body) pairs."""
    return [
        Entry(n, START_MS + n * step_ms, pack_record(kind, "client:test", pack_value(body), attempt=attempt, seq=n))
        for n, (kind, body) in enumerate(said, start=1)
    ]


def run_log() -> list[Entry]:
    """Return a run that lost its first agent, failed once, and was done by the third attempt."""
    told: list[tuple[int, int | None, str, Any]] = [
        (0, None, "$submitted", {"queue": "coding", "handler": "review", "input": pack_value({"repo": "."})}),
        (5, None, "$claimed", _claim(1, "worker-1")),
        (20, 1, "finding", {"file": "a.py", "line": 3}),
        (5_000, None, "$lost", {"attempt": 1, "reason": "lease", "losses": 1}),
        (5_200, None, "$claimed", _claim(2, "worker-2")),
        (5_300, 2, "$progress", {"current": 3.0, "total": 10.0, "message": "reading"}),
        (5_400, 2, "$errored", {"error": {"type": "ValueError", "message": "no such branch"}, "retryable": True}),
        (5_400, None, "$retry", {"failures": 1, "after_ms": 1000}),
        (6_400, None, "$claimed", _claim(3, "worker-2")),
        (6_500, 3, "finding", {"file": "b.py", "line": 9}),
        (6_600, 3, "$succeeded", {"result": pack_value({"findings": 2})}),
    ]
    return [
        Entry(n, START_MS + at, pack_record(kind, "hub:h1", pack_value(body), attempt=attempt, seq=n))
        for n, (at, attempt, kind, body) in enumerate(told, start=1)
    ]


def _claim(attempt: int, agent: str) -> dict[str, Any]:
    common = {"fence": START_MS + attempt, "instance": f"i{attempt}", "lease_ms": 5000, "retries": 2}
    return {"attempt": attempt, "agent": agent, "recover": "journal", **common}


def export_bytes(entries: list[Entry], log: str = RUN, before: Position | None = None) -> bytes:
    """Return the export file of these entries."""
    exporter = Exporter(log, before or origin(EPOCH), entries[-1].offset if entries else 0)
    out = io.StringIO()
    for line in (*exporter.header(), *exporter.page(entries), exporter.trailer()):
        out.write(line + "\n")
    return out.getvalue().encode()


def cut(entries: list[Entry], at: int) -> tuple[Position, list[Entry]]:
    """Return what is left of a log when its first `at` entries were trimmed."""
    return Position(EPOCH, at, chain(origin(EPOCH).tag, entries[:at])), entries[at:]
