"""Resident memory of the hub for one authenticated idle agent, beside a bare websockets server.

See docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path

from scripts.bench.lib.child import Child
from scripts.bench.lib.hub import Hub
from scripts.bench.lib.machine import describe, rss_kib
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Report, Target, say, summarise
from scripts.bench.lib.tokens import agent_tokens

__all__: list[str] = []

WARM_UP = 200
"""Connections that are there before the first look, so that what a server makes once is not counted."""
CONCURRENCY = 64
OPEN_S = 120.0


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is measured.

    Attributes:
        connections: how many are opened between the two looks.
        settle_s: idle time before a look.
    """

    connections: int
    settle_s: float


FULL = Amount(connections=2_000, settle_s=7.0)
"""It settles for longer than a heartbeat's interval: heartbeats, timers and acks have had their turn."""
SMOKE = Amount(connections=20, settle_s=0.1)

IDLE_KIB_MAX = 30.0

OURS = "fleetline, hub"
STORE = "fleetline, store"
BARE = "bare websockets"


def _grown(
    load: Child,
    url: str,
    pids: dict[str, int],
    tokens: list[dict[str, str]] | None,
    amount: Amount,
) -> list[float]:
    """Return by how many KiB each process grows for one of so many connections."""
    count = amount.connections
    warm_up: dict[str, object] = {"count": WARM_UP} if tokens is None else {"tokens": tokens[0]}
    measured: dict[str, object] = {"count": count} if tokens is None else {"tokens": tokens[1]}
    load.ask(OPEN_S, do="open", url=url, concurrency=CONCURRENCY, **warm_up)
    time.sleep(amount.settle_s)
    before = [rss_kib(pid) for pid in pids.values()]
    load.ask(OPEN_S, do="open", url=url, concurrency=CONCURRENCY, **measured)
    time.sleep(amount.settle_s)
    grown = [(rss_kib(pid) - old) / count for pid, old in zip(pids.values(), before, strict=True)]
    lost = load.ask(OPEN_S, do="close")["lost"]
    if lost:
        raise SystemExit(f"{lost} idle connections were ended by the server")
    return grown


def _bare(amount: Amount) -> float:
    with Child("scripts.bench.lib.bare") as server, Child("scripts.bench.lib.connections") as load:
        [grown] = _grown(load, server.answer(OPEN_S)["url"], {BARE: server.pid}, None, amount)
        return grown


def _ours(folder: Path, amount: Amount) -> tuple[float, float]:
    hub = Hub(folder)
    try:
        url = hub.start()
        tokens = [agent_tokens(hub.data, "warm", WARM_UP), agent_tokens(hub.data, "idle", amount.connections)]
        with Child("scripts.bench.lib.connections") as load:
            grown, store = _grown(load, url, {OURS: hub.pid, STORE: hub.store_pid}, tokens, amount)
            return grown, store
    finally:
        hub.close()


def main() -> int:
    """Run it."""
    options = parse("Memory of the hub for one idle agent, beside a bare websockets server.", rounds=3)
    amount = SMOKE if options.smoke else FULL
    began = time.monotonic()
    machine = describe()
    values: dict[str, list[float]] = {OURS: [], STORE: [], BARE: []}
    with workspace() as folder:
        for number in range(1, options.rounds + 1):
            hub_kib, store_kib = _ours(folder / str(number), amount)
            values[OURS].append(hub_kib)
            values[STORE].append(store_kib)
            values[BARE].append(_bare(amount))
            say(f"round {number}/{options.rounds}: hub {hub_kib:.1f} KiB, bare {values[BARE][-1]:.1f} KiB")
    figures = tuple(summarise(name, "KiB a connection", found) for name, found in values.items())
    report = Report(
        "idle",
        machine,
        {"connections": amount.connections, "warm_up": WARM_UP, "settle_s": amount.settle_s, "compression": "off"},
        figures,
        (Target(f"{OURS}: KiB for an idle agent", figures[0].median, IDLE_KIB_MAX, at_most=True),),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
