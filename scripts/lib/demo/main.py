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

from agent import Client, Run, RunEnded

sys.path.insert(0, str(ROOT))

from tests.support.proxy import FaultProxy

PROXIED = "worker-3"
BLOWS_AT = (0.15, 0.35, 0.55, 0.75)
"""The shares of the runs that are done when the hub, an agent, a connection and the hub again are hit."""
DONE_WITHIN_S = 300.0
CUT_AGAIN_S = 0.01
RUNS_MAX = 1_000


class Demo:
    """What happens, in order, and what is counted meanwhile."""

    def __init__(self, fleet: Fleet, proxy: FaultProxy, console: Console, runs_max: int) -> None:
        """Take a fleet that runs, and the proxy through which one agent reaches its hub."""
        self.fleet = fleet
        self.proxy = proxy
        self.console = console
        self.work = dict(islice(groups().items(), runs_max))
        self.done = 0
        self.seen = 0
        self.blows: Counter[str] = Counter()
        self.progress = asyncio.Condition()
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
        files = sum(map(len, self.work.values()))
        self.say(f"a hub with its store, three agents; {files} source files in {len(self.work)} runs")
        token = (self.fleet.data / "local.token").read_text().strip()
        async with Client.connect(self.fleet.url, token=token) as client:
            runs = {
                name: await client.submit("analyse", {"files": files}, key=name) for name, files in self.work.items()
            }
            async with asyncio.timeout(DONE_WITHIN_S), asyncio.TaskGroup() as tasks:
                guard = tasks.create_task(self.fleet.guard())
                async with asyncio.TaskGroup() as watches:
                    for run in runs.values():
                        watches.create_task(self._watch(run))
                    watches.create_task(self._hurt())
                guard.cancel()
            self.say("all runs are over; now the raw logs beside a plain computation in this process")
            return await self._judge(client, runs)

    async def _watch(self, run: Run) -> None:
        """Follow a run to its end: one gap-free stream, whatever happens to the connection."""
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
        await self.fleet.kill("hub")
        self.blows["hub kills"] += 1
        self.say("[red]SIGKILL to the hub[/red]")
        await self.fleet.start_hub()
        self.say("a new hub listens")

    async def _kill_agent(self) -> None:
        await self.fleet.kill("worker-1")
        self.blows["agent kills"] += 1
        self.say("[red]SIGKILL to worker-1[/red], with two runs in its hands")
        await self.fleet.start_agent("worker-1")
        self.say("worker-1 has a successor")

    async def _cut_connection(self) -> None:
        while not (cut := self.proxy.cut()):  # the agent may not be back yet since the hub was killed
            await asyncio.sleep(CUT_AGAIN_S)
        self.blows["cut connections"] += cut
        self.say(f"[red]cut[/red] the connection of {PROXIED}")

    async def _judge(self, client: Client, runs: dict[str, Run]) -> bool:
        tally = Tally()
        resumed = ""
        for name, run in runs.items():
            entries = [entry async for entry in client.read(f"run/{run.id}")]
            compare(tally, name, self.work[name], entries, await self._result(run))
            if not resumed and sum(entry.kind == "$claimed" for entry in entries) > 1:
                resumed = run.id
        resumes = await self._resumes(client) + tally.attempts - tally.runs
        self._summary(tally, resumes)
        if resumed:
            self.console.print("\nA run that two processes worked on, as its log tells it:\n")
            await self._replay(resumed)
        for complaint in tally.complaints:
            self.console.print(f"[red]{complaint}[/red]")
        return tally.right() and all(self.blows[blow] for blow in ("hub kills", "agent kills", "cut connections"))

    @staticmethod
    async def _result(run: Run) -> object:
        try:
            return await run.result()
        except RunEnded as fault:
            return fault

    async def _resumes(self, client: Client) -> int:
        """Return how many sessions of agents went on from one before."""
        count = 0
        for name in ("worker-1", "worker-2", PROXIED):
            kinds = [entry.kind async for entry in client.read(f"agent/{name}")]
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


async def demo(folder: Path, runs_max: int) -> bool:
    """Run the demo in a folder. Returns whether everything came out right."""
    console = Console(highlight=False)
    async with Fleet(folder) as fleet, FaultProxy(("127.0.0.1", fleet.port)) as proxy:
        for name in ("worker-1", "worker-2"):
            await fleet.start_agent(name)
        await fleet.start_agent(PROXIED, f"ws://127.0.0.1:{proxy.port}")
        return await Demo(fleet, proxy, console, runs_max).run()


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
