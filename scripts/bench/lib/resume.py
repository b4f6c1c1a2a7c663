"""How fast agents are back after the hub was killed, beside bare websockets handshakes.

See docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from scripts.bench.lib.child import Child
from scripts.bench.lib.hub import Hub
from scripts.bench.lib.machine import cpu_seconds, describe, rss_peak_kib
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Report, Target, ratio, say, summarise
from scripts.bench.lib.tokens import agent_tokens

__all__: list[str] = []

AGENTS = 2_000
CONCURRENCY = 128
"""Connections that are on their way at the same time, to either server."""
OPEN_S = 120.0
BARE_SHARE = 0.5


@dataclass(slots=True)
class Rounds:
    """What the rounds came to, in order."""

    rates: list[float] = field(default_factory=list)
    bare_rates: list[float] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    from_kill_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    hub_us: list[float] = field(default_factory=list)
    store_us: list[float] = field(default_factory=list)
    load_us: list[float] = field(default_factory=list)
    bare_us: list[float] = field(default_factory=list)


def _resume(hub: Hub, load: Child, agents: int, rounds: Rounds) -> None:
    killed = time.monotonic()
    hub.kill()
    lost = load.ask(OPEN_S, do="wait_lost")["lost"]
    assert lost == agents, f"{lost} of {agents} noticed that the hub is gone"
    url = hub.start()
    listening = time.monotonic()
    store_pid = hub.store_pid
    hub_before, store_before = cpu_seconds(hub.pid), cpu_seconds(store_pid)
    back = load.ask(OPEN_S, do="reopen", url=url, concurrency=CONCURRENCY)
    assert back["live"] == back["resumed"] == agents, f"of {agents} agents only {back} are back where they were"
    seconds = float(back["seconds"])
    rounds.rates.append(agents / seconds)
    rounds.live_s.append(seconds)
    rounds.from_kill_s.append(listening - killed + seconds)
    rounds.peak_mib.append(rss_peak_kib(hub.pid) / 1024)
    rounds.hub_us.append(cpu_seconds(hub.pid).since(hub_before) / agents * 1e6)
    rounds.store_us.append(cpu_seconds(store_pid).since(store_before) / agents * 1e6)
    rounds.load_us.append(float(back["cpu_s"]) / agents * 1e6)


def _bare(agents: int, rounds: Rounds) -> None:
    with Child("scripts.bench.lib.bare") as server, Child("scripts.bench.lib.connections") as load:
        url = server.answer(OPEN_S)["url"]
        before = cpu_seconds(server.pid)
        opened = load.ask(OPEN_S, do="open", url=url, count=agents, concurrency=CONCURRENCY)
        rounds.bare_us.append(cpu_seconds(server.pid).since(before) / agents * 1e6)
        rounds.bare_rates.append(agents / float(opened["seconds"]))
        load.ask(OPEN_S, do="close")


def main() -> int:
    """Run it."""
    options = parse("Agents coming back after the hub was killed, beside bare websockets handshakes.", rounds=5)
    agents = 20 if options.smoke else AGENTS
    began = time.monotonic()
    machine = describe()
    rounds = Rounds()
    with workspace() as folder, ExitStack() as stack:
        hub = Hub(folder / "hub")
        stack.callback(hub.close)
        url = hub.start()
        load = stack.enter_context(Child("scripts.bench.lib.connections"))
        tokens = agent_tokens(hub.data, "agent", agents)
        load.ask(OPEN_S, do="open", url=url, tokens=tokens, concurrency=CONCURRENCY)
        for number in range(1, options.rounds + 1):
            _resume(hub, load, agents, rounds)
            _bare(agents, rounds)
            say(
                f"round {number}/{options.rounds}: {rounds.rates[-1]:,.0f} agents/s resumed, "
                f"{rounds.bare_rates[-1]:,.0f} bare handshakes/s"
            )
    note = (
        f"µs of processor an agent: hub {summarise('', '', rounds.hub_us).median:.0f}, "
        f"store {summarise('', '', rounds.store_us).median:.0f}, load {summarise('', '', rounds.load_us).median:.0f}"
    )
    report = Report(
        "resume",
        machine,
        {"agents": agents, "concurrency": CONCURRENCY, "compression": "off"},
        (
            summarise("agents resumed", "agents/s", rounds.rates, note),
            summarise(
                "bare websockets handshakes",
                "connections/s",
                rounds.bare_rates,
                f"µs of processor a connection: server {summarise('', '', rounds.bare_us).median:.0f}",
            ),
            summarise("from listening until all are live", "s", rounds.live_s),
            summarise("from the kill until all are live", "s", rounds.from_kill_s),
            summarise("hub's peak memory", "MiB", rounds.peak_mib),
        ),
        (Target("agents resumed to bare handshakes", ratio(rounds.rates, rounds.bare_rates), BARE_SHARE),),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
