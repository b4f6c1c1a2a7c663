"""Durable ingest: how many entries a second one publisher process gets acknowledged.

See docs/benchmarks.md for what is compared, and why it is fair.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from protocol.limits import DEFAULT_LIMITS
from scripts.bench.lib.child import Child
from scripts.bench.lib.hub import Hub
from scripts.bench.lib.jetstream import JetStream, server_version
from scripts.bench.lib.machine import cpu_seconds, describe
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Figure, Report, Target, ratio, say, summarise

__all__: list[str] = []

BODY_BYTES = 128
IN_FLIGHT = DEFAULT_LIMITS.publish_entries_max
"""Entries published and not yet acknowledged, for every system: what a hub announces if not told otherwise."""
ROUND_S = 120.0
SMOKE_ENTRIES = 300

SYNCED_TIMES = 20.0
UNSYNCED_TIMES = 2.0

OURS = "fleetline"
SYNCED = "JetStream, synced"
SYNCED_RAW = "JetStream, synced, raw client"
UNSYNCED = "JetStream, not synced"
UNSYNCED_RAW = "JetStream, not synced, raw client"


@dataclass(slots=True)
class System:
    """One system under test, with what its rounds came to.

    Attributes:
        entries: how many one round publishes, so that a round takes some seconds.
        publisher: the process that publishes.
        servers: processes that take the entries, by what they are.
        client: how the publisher is to do it.
    """

    name: str
    entries: int
    publisher: Child
    url: str
    servers: dict[str, int]
    client: str = ""
    rates: list[float] = field(default_factory=list)
    costs: dict[str, list[float]] = field(default_factory=dict)

    def measure(self, entries: int, name: str) -> float:
        """Publish and return the entries acknowledged in a second; note what each process spent on one."""
        pids = {**self.servers, "publisher": self.publisher.pid}
        before = {role: cpu_seconds(pid) for role, pid in pids.items()}
        answer = self.publisher.ask(
            ROUND_S,
            url=self.url,
            name=name,
            count=entries,
            body_bytes=BODY_BYTES,
            in_flight=IN_FLIGHT,
            client=self.client,
        )
        for role, pid in pids.items():
            spent_us = (cpu_seconds(pid) - before[role]) / entries * 1e6
            self.costs.setdefault(role, []).append(spent_us)
        return entries / float(answer["seconds"])

    def figure(self) -> Figure:
        """Return its rate, with what its processes spent on an entry."""
        spent = ", ".join(f"{role} {sorted(costs)[len(costs) // 2]:.1f}" for role, costs in self.costs.items())
        return summarise(self.name, "entries/s", self.rates, f"µs of processor an entry: {spent}")


def _start(stack: ExitStack, folder: Path) -> list[System]:
    hub = Hub(folder / "fleetline")
    stack.callback(hub.close)
    url = hub.start()
    ours = stack.enter_context(Child("scripts.bench.lib.publisher", str(hub.data)))
    systems = [System(OURS, 200_000, ours, url, {"hub": hub.pid, "store": hub.store_pid})]
    theirs = stack.enter_context(Child("scripts.bench.lib.jetstream"))
    for label, raw_label, sync_always, entries in (
        (SYNCED, SYNCED_RAW, True, 6_000),
        (UNSYNCED, UNSYNCED_RAW, False, 60_000),
    ):
        server = JetStream(folder / label, sync_always=sync_always)
        stack.callback(server.close)
        address, servers = server.url(), {"server": server.process.pid}
        systems.append(System(label, entries, theirs, address, servers, "library"))
        systems.append(System(raw_label, entries, theirs, address, servers, "raw"))
    return systems


def _run(systems: list[System], rounds: int, entries_of: Callable[[System], int]) -> None:
    for system in systems:  # connections, caches and the first pages of files are not what is measured
        system.measure(SMOKE_ENTRIES, "warm-up-" + system.client)
        system.costs.clear()
    for number in range(1, rounds + 1):
        for system in systems:
            rate = system.measure(entries_of(system), f"round-{number}-{system.client}")
            system.rates.append(rate)
            say(f"round {number}/{rounds}: {system.name}: {rate:,.0f} entries/s")


def main() -> int:
    """Run it."""
    options = parse("Durable ingest, beside NATS JetStream.", rounds=5)
    began = time.monotonic()
    machine = describe()
    with workspace() as folder, ExitStack() as stack:
        systems = _start(stack, folder)
        _run(systems, options.rounds, lambda system: SMOKE_ENTRIES if options.smoke else system.entries)
    rates = {system.name: system.rates for system in systems}
    report = Report(
        "ingest",
        machine,
        {
            "body_bytes": BODY_BYTES,
            "entries_in_flight": IN_FLIGHT,
            "entries": {system.name: system.entries for system in systems},
            "durability": {OURS: "local: fsync before the acknowledgement", SYNCED: "sync_interval: always"},
            "nats-server": server_version(),
            "event loop": "uvloop in every Python process",
        },
        tuple(system.figure() for system in systems),
        (
            Target(f"{OURS} to {SYNCED}", ratio(rates[OURS], rates[SYNCED]), SYNCED_TIMES),
            Target(f"{OURS} to {UNSYNCED}", ratio(rates[OURS], rates[UNSYNCED]), UNSYNCED_TIMES),
        ),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
