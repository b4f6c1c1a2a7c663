"""How fast agents are back after the hub was killed, by token and by key, beside bare websockets handshakes.

See docs/benchmarks.md.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.lib.child import Child
from scripts.bench.lib.hub import Hub
from scripts.bench.lib.machine import cpu_seconds, describe, family, rss_peak_kib
from scripts.bench.lib.options import finish, parse, workspace
from scripts.bench.lib.report import Figure, Report, Target, ratio, say, summarise
from scripts.bench.lib.tokens import agent_tokens, join_tokens

__all__: list[str] = []

AGENTS = 2_000
"""They all come at once, as they do when a hub was killed; so do the bare connections."""
OPEN_S = 120.0
BARE_SHARE = 0.5


@dataclass(slots=True)
class Rounds:
    """What the rounds of one hub came to, in order; CPU times in µs an agent."""

    rates: list[float] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    from_kill_s: list[float] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    hub_us: list[float] = field(default_factory=list)
    store_us: list[float] = field(default_factory=list)
    load_us: list[float] = field(default_factory=list)
    signing_us: list[float] = field(default_factory=list)

    def rows(self, name: str) -> tuple[Figure, ...]:
        """Return what the table says of this hub."""
        hub, store, load = (summarise("", "", each).median for each in (self.hub_us, self.store_us, self.load_us))
        note = f"µs of processor an agent: hub {hub:.0f}, store {store:.0f}, load {load:.0f}"
        return (
            summarise(name, "agents/s", self.rates, note),
            summarise("… live, from listening", "s", self.live_s),
            summarise("… live, from the kill", "s", self.from_kill_s),
            summarise("… hub's peak memory", "MiB", self.peak_mib),
            summarise("… hub's processor time", "µs an agent", self.hub_us),
        )

    def proof_rows(self, tokens: Rounds) -> tuple[Figure, ...]:
        """Return what the table says besides of agents that sign, next to the same storm of agents with tokens."""
        rate = [one / other for one, other in zip(self.rates, tokens.rates, strict=True)]
        more_us = [one - other for one, other in zip(self.hub_us, tokens.hub_us, strict=True)]
        return (
            summarise("… the load's own signing", "µs an agent", self.signing_us),
            summarise("… rate, to that by token", "times", rate),
            summarise("… hub's, more than by token", "µs an agent", more_us),
        )


@dataclass(slots=True)
class Bare:
    """A bare server of so many processes, and what its rounds came to."""

    processes: int
    rates: list[float] = field(default_factory=list)
    server_us: list[float] = field(default_factory=list)

    def handshakes(self, agents: int) -> float:
        """Start it, and return at which rate so many connections opened."""
        with ExitStack() as stack:
            servers = [stack.enter_context(Child("scripts.bench.lib.bare"))]
            url = servers[0].answer(OPEN_S)["url"]
            for _ in range(self.processes - 1):
                servers.append(stack.enter_context(Child("scripts.bench.lib.bare", url.rpartition(":")[2])))
                servers[-1].answer(OPEN_S)
            load = stack.enter_context(Child("scripts.bench.lib.connections"))
            before = sum(cpu_seconds(server.pid) for server in servers)
            opened = load.ask(OPEN_S, do="open", url=url, count=agents, concurrency=agents)
            self.server_us.append((sum(cpu_seconds(server.pid) for server in servers) - before) / agents * 1e6)
            self.rates.append(agents / float(opened["seconds"]))
            load.ask(OPEN_S, do="close")
        return self.rates[-1]

    def row(self) -> Figure:
        """Return what the table says of it."""
        processes = "one process" if self.processes == 1 else f"{self.processes} processes"
        note = f"µs of processor a connection: server {summarise('', '', self.server_us).median:.0f}"
        return summarise(f"bare handshakes, {processes}", "connections/s", self.rates, note)


class Fleet:
    """A hub that was killed, and the agents that wait for it and follow it wherever it listens.

    Args:
        stack: ends both.
        folder: for the hub's data.
        workers: how many processes the hub has.
        agents: how many there are.
        keys: each has a key that the hub knows, and no token; without, each has a token and no key.
    """

    def __init__(self, stack: ExitStack, folder: Path, workers: int, agents: int, *, keys: bool = False) -> None:
        self.rounds = Rounds()
        self._agents = agents
        self._proofs = agents if keys else 0
        self._hub = Hub(folder, workers)
        stack.callback(self._hub.close)
        url = self._hub.start()
        self._load = stack.enter_context(Child("scripts.bench.lib.connections"))
        tokens = (join_tokens if keys else agent_tokens)(self._hub.data, "agent", agents)
        self._load.ask(OPEN_S, do="open", url=url, tokens=tokens, keys=keys, concurrency=agents)
        self._lost_s = self._kill()

    def _kill(self) -> float:
        """Kill the hub; return how long it took until every agent knew."""
        killed = time.monotonic()
        self._hub.kill()
        lost = self._load.ask(OPEN_S, do="wait_lost")["lost"]
        assert lost == self._agents, f"{lost} of {self._agents} noticed that the hub is gone"
        return time.monotonic() - killed

    def resume(self) -> float:
        """Start the hub, return at which rate the agents came back, and kill it, so that it costs nothing meanwhile."""
        hub, agents, rounds = self._hub, self._agents, self.rounds
        began = time.monotonic()
        url = hub.start()
        start_s = time.monotonic() - began
        processes, store_pid = family(hub.pid), hub.store_pid
        hub_before, store_before = sum(map(cpu_seconds, processes)), cpu_seconds(store_pid)
        back = self._load.ask(OPEN_S, do="reopen", url=url, concurrency=agents)
        assert back["live"] == back["resumed"] == agents, f"of {agents} agents only {back} are back where they were"
        assert back["proved"] == self._proofs, f"{back['proved']} of {agents} proved that they hold a key"
        seconds = float(back["seconds"])
        rounds.rates.append(agents / seconds)
        rounds.live_s.append(seconds)
        rounds.from_kill_s.append(self._lost_s + start_s + seconds)
        rounds.peak_mib.append(sum(map(rss_peak_kib, processes)) / 1024)
        rounds.hub_us.append((sum(map(cpu_seconds, processes)) - hub_before) / agents * 1e6)
        rounds.store_us.append((cpu_seconds(store_pid) - store_before) / agents * 1e6)
        rounds.load_us.append(float(back["cpu_s"]) / agents * 1e6)
        rounds.signing_us.append(float(back["signing_s"]) / agents * 1e6)
        self._lost_s = self._kill()
        return agents / seconds


def main() -> int:
    """Run it."""
    options = parse("Agents coming back after the hub was killed, beside bare websockets handshakes.", rounds=5)
    agents = 20 if options.smoke else AGENTS
    began = time.monotonic()
    machine = describe()
    workers = max(2, machine.cores)
    bare, bare_many = Bare(1), Bare(workers)
    with workspace() as folder, ExitStack() as stack:
        many = Fleet(stack, folder / "many", workers, agents)
        keyed = Fleet(stack, folder / "keyed", workers, agents, keys=True)
        one = Fleet(stack, folder / "one", 1, agents)
        for number in range(1, options.rounds + 1):
            by_token, by_key, alone = many.resume(), keyed.resume(), one.resume()
            opened, opened_many = bare.handshakes(agents), bare_many.handshakes(agents)
            said = (
                f"{by_token:,.0f} agents/s resumed, {by_key:,.0f} by key, {alone:,.0f} with one worker, "
                f"{opened:,.0f} bare handshakes/s, {opened_many:,.0f} with {workers} processes"
            )
            say(f"round {number}/{options.rounds}: {said}")
    report = Report(
        "resume",
        machine,
        {"agents": agents, "workers": workers, "compression": "off"},
        (
            *many.rounds.rows(f"agents resumed, {workers} workers"),
            *keyed.rounds.rows(f"agents resumed by key, {workers} workers"),
            *keyed.rounds.proof_rows(many.rounds),
            *one.rounds.rows("agents resumed, one worker"),
            bare.row(),
            bare_many.row(),
        ),
        (Target("agents resumed to bare handshakes", ratio(many.rounds.rates, bare.rates), BARE_SHARE),),
        options.rounds,
        time.monotonic() - began,
    )
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
