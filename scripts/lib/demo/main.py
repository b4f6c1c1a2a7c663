"""The demo: three agents analyse the standard library while their hub, themselves and their connections are killed."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from pathlib import Path

import structlog
from analysis import groups
from fleet import ROOT, Fleet
from rich.console import Console
from rich.table import Table
from verdict import Tally, compare

from agent import Client, Entry, Run, RunEnded

sys.path.insert(0, str(ROOT))

from tests.support.proxy import FaultProxy
from tests.support.timing import eventually

AGENTS = ("worker-1", "worker-2", "worker-3")
VICTIM, _, PROXIED = AGENTS
OUTSTANDING_MAX = 12
"""Runs that wait or are worked on, at once: twice what the agents take, so that each blow finds work under way."""
BLOWS_AT = (0.15, 0.35, 0.55, 0.75)
"""The shares of the runs that are done when the hub, an agent, a connection and the hub again are hit."""
BEGUN_ENTRIES = 5
"""The agent is killed while it holds a run that has as many: what its successor need not do again is seen then."""
DONE_WITHIN_S = 300.0
HIT_WITHIN_S = 60.0
RUNS_MAX = 1_000


class Demo:
    """What happens, in order, and what is counted meanwhile."""

    def __init__(self, fleet: Fleet, proxy: FaultProxy, client: Client, console: Console, runs_max: int) -> None:
        """Take a fleet that runs, the proxy through which one agent reaches its hub, and a client of the hub."""
        self.fleet = fleet
        self.proxy = proxy
        self.client = client
        self.console = console
        self.runs: dict[str, Run] = {}
        self.work = dict(islice(groups().items(), runs_max))
        self.done = 0
        self.seen = 0
        self.blows: Counter[str] = Counter()
        self.progress = asyncio.Condition()
        self.outstanding = asyncio.Semaphore(OUTSTANDING_MAX)
        self.may_submit = asyncio.Event()
        self.may_submit.set()
        self.killed_hubs: set[str] = set()
        self.began = time.monotonic()

    def say(self, what: str) -> None:
        """Print a line of progress."""
        seconds = time.monotonic() - self.began
        self.console.print(
            f"[dim]{seconds:6.1f} s  {self.done:3d}/{len(self.work)} runs  {self.seen:5d} entries seen[/dim]  {what}",
            soft_wrap=True,
        )

    async def run(self) -> bool:
        """Do all of it. Returns whether everything came out right."""
        await eventually(self._everybody_is_here, HIT_WITHIN_S)
        files = sum(map(len, self.work.values()))
        self.say(f"a hub with its store, three agents; {files} source files in {len(self.work)} runs")
        async with asyncio.timeout(DONE_WITHIN_S), asyncio.TaskGroup() as tasks:
            guard = tasks.create_task(self.fleet.guard())
            async with asyncio.TaskGroup() as works:
                for name in self.work:
                    works.create_task(self._have_done(name))
                works.create_task(self._hurt())
            guard.cancel()
        self.say("all runs are over; now the raw logs beside a plain computation in this process")
        return await self._judge()

    async def _everybody_is_here(self) -> bool:
        here = {agent.agent for agent in await self.client.agents() if agent.connected}
        return here == set(AGENTS)

    async def _have_done(self, name: str) -> None:
        """Submit a run and follow it to its end: one gap-free stream, whatever happens to the connection."""
        async with self.outstanding:
            await self.may_submit.wait()
            run = self.runs[name] = await self.client.submit("analyse", {"files": self.work[name]}, key=name)
            async for _ in run.watch():
                self.seen += 1
        async with self.progress:
            self.done += 1
            self.progress.notify_all()
        if self.done % 20 == 0:
            self.say("")

    def _reached(self, share: float) -> bool:
        return self.done >= share * len(self.work)

    async def _hurt(self) -> None:
        """Hit the fleet, each time a further share of the runs is done."""
        steps: tuple[Callable[[], Awaitable[None]], ...] = (
            self._kill_hub,
            self._kill_agent,
            self._cut_connection,
            self._kill_hub,
        )
        for share, step in zip(BLOWS_AT, steps, strict=True):
            async with self.progress:
                await self.progress.wait_for(partial(self._reached, share))
            await step()

    async def _kill_hub(self) -> None:
        self.killed_hubs.add((await self.client.agent(VICTIM)).hub)
        await self.fleet.kill("hub")
        self.blows["hub kills"] += 1
        self.say("[red]SIGKILL to the hub[/red]")
        await self.fleet.start_hub()
        self.say("a new hub listens")

    async def _kill_agent(self) -> None:
        """Kill an agent that holds runs. Where it had just ended its last one, it is its successor's turn."""
        held: tuple[str, ...] = ()
        # The others would have done everything before it is back since the hub was killed.
        self.may_submit.clear()
        await eventually(self._victim_is_back, HIT_WITHIN_S)
        self.may_submit.set()
        while not held and not self._reached(1):
            await eventually(self._victim_is_caught, HIT_WITHIN_S)
            await self.fleet.kill(VICTIM)
            self.blows["agent kills"] += 1
            await eventually(self._victim_is_gone, HIT_WITHIN_S)
            held = (await self.client.agent(VICTIM)).runs
            self.say(f"[red]SIGKILL to {VICTIM}[/red], runs in its hands: {len(held)}")
            await self.fleet.start_agent(VICTIM)
            self.say(f"{VICTIM} has a successor")

    async def _victim_is_caught(self) -> bool:
        """Freeze the agent and look what it holds; it goes on where that is nothing that is well under way."""
        if self._reached(1):
            return True
        self.fleet.pause(VICTIM)
        if await self._victim_is_back():
            held = (await self.client.agent(VICTIM)).runs
            logs = await asyncio.gather(*(self.client.log(f"run/{run}") for run in held))
            if any(log.head.offset >= BEGUN_ENTRIES for log in logs):
                return True
        self.fleet.resume(VICTIM)
        return False

    async def _victim_is_back(self) -> bool:
        info = await self.client.agent(VICTIM)
        return info.connected and info.hub not in self.killed_hubs

    async def _victim_is_gone(self) -> bool:
        return not (await self.client.agent(VICTIM)).connected

    async def _cut_connection(self) -> None:
        # The agent may not be back yet since the hub was killed.
        self.blows["cut connections"] += await eventually(self.proxy.cut, HIT_WITHIN_S)
        self.say(f"[red]cut[/red] the connection of {PROXIED}")

    async def _judge(self) -> bool:
        tally = Tally()
        shared: tuple[int, str] = (0, "")
        for name, run in self.runs.items():
            entries = [entry async for entry in self.client.read(f"run/{run.id}")]
            compare(tally, name, self.work[name], entries, await self._result(run))
            shared = max(shared, (_shared(entries), run.id))
        resumes = await self._resumes() + tally.attempts - tally.runs
        self._summary(tally, resumes)
        if shared[0]:
            self.console.print("\nA run that two processes worked on, as its log tells it:\n")
            await self._replay(shared[1])
        for complaint in tally.complaints:
            self.console.print(f"[red]{complaint}[/red]")
        return tally.right() and all(self.blows[blow] for blow in ("hub kills", "agent kills", "cut connections"))

    @staticmethod
    async def _result(run: Run) -> object:
        try:
            return await run.result()
        except RunEnded as fault:
            return fault

    async def _resumes(self) -> int:
        """Return how many sessions of agents went on from one before."""
        count = 0
        for name in AGENTS:
            kinds = [entry.kind async for entry in self.client.read(f"agent/{name}")]
            count += kinds.count("$connected") - 1
        return count

    def _summary(self, tally: Tally, resumes: int) -> None:
        table = Table(title="What came of it", show_header=False, min_width=40)
        rows = {
            "runs": tally.runs,
            "entries": tally.entries,
            **self.blows,
            "resumes": resumes,
            "lost": tally.lost,
            "repeated": tally.repeated,
            "differences": tally.differences,
        }
        for name, number in rows.items():
            table.add_row(name, str(number))
        self.console.print(table)

    async def _replay(self, run: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "orchestrator.cli.main", "replay", run),
            *("--hub", self.fleet.url, "--token-file", str(self.fleet.data / "local.token")),
            cwd=ROOT,
        )
        await process.wait()


def _shared(entries: list[Entry]) -> int:
    """Return 1 and how much each of the two attempts of a run did, whichever did less; 0 where there was one."""
    claims = [place for place, entry in enumerate(entries) if entry.kind == "$claimed"]
    if len(claims) < 2:
        return 0
    own = [place for place, entry in enumerate(entries) if not entry.kind.startswith("$")]
    before = sum(place < claims[1] for place in own)
    return 1 + min(before, len(own) - before)


async def demo(folder: Path, runs_max: int) -> bool:
    """Run the demo in a folder. Returns whether everything came out right."""
    console = Console(highlight=False)
    async with Fleet(folder) as fleet, FaultProxy(("127.0.0.1", fleet.port)) as proxy:
        for name in AGENTS:
            await fleet.start_agent(name, f"ws://127.0.0.1:{proxy.port}" if name == PROXIED else None)
        token = (fleet.data / "local.token").read_text().strip()
        async with Client.connect(fleet.url, token=token) as client:
            return await Demo(fleet, proxy, client, console, runs_max).run()


def main() -> None:
    """Read the command line, run the demo, exit with 1 if anything is off."""
    parser = argparse.ArgumentParser(description="Real work through kills and cut connections, and the proof.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep the data and the logs of all processes here")
    parser.add_argument("--runs", type=int, default=RUNS_MAX, metavar="N", help="do no more than N runs")
    asked = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    if asked.keep is not None:
        asked.keep.mkdir(parents=True, exist_ok=True)
        sys.exit(not asyncio.run(demo(asked.keep.resolve(), asked.runs)))
    with tempfile.TemporaryDirectory(prefix="fleetline-demo-") as folder:
        sys.exit(not asyncio.run(demo(Path(folder), asked.runs)))


if __name__ == "__main__":
    main()
