"""Every operation of a journal, and checkpoints, on the real hub, with agents that are killed between operations."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.client import Client
from agent.entry import Entry
from agent.runs import Run
from orchestrator.hub import Hub
from protocol.control import Kind
from tests.support.journal_handlers import STAGES, VARIANTS
from tests.support.timing import deadline

CHECKOUT = Path(__file__).parents[3]
PROGRAM = (
    "import sys; from tests.support.journal_handlers import make_agent; make_agent('a').run(directory=sys.argv[1])"
)
STOPS = [1, 3]
"""The stages after which the first attempts are killed."""

STAGE = [Kind.MARKER] * 3 + [Kind.CALL] * 3 + [Kind.MARKER] * 2 + [Kind.CALL, Kind.CHECKPOINT, "stage"]
"""What a stage of `everything` leaves in the journal."""


@dataclass
class Told:
    """A run that is over: its result, its entries, and what its handler did outside."""

    run: str
    result: Any
    entries: list[Entry]
    outside: list[dict[str, Any]]

    @property
    def attempts(self) -> list[int | None]:
        """The attempts that wrote the handler's own entries."""
        return [entry.attempt for entry in self.entries if entry.kind == "stage"]

    def of(self, kind: str) -> list[Entry]:
        """Return the entries of a kind."""
        return [entry for entry in self.entries if entry.kind == kind]


@asynccontextmanager
async def an_agent(hub: Hub) -> AsyncIterator[None]:
    """Start an agent in a process of its own, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(hub.settings.data)], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def at_stage(run: Run, attempt: int, stage: int) -> None:
    async for entry in run.watch():
        if (entry.kind, entry.body, entry.attempt) == ("stage", stage, attempt):
            return
    raise AssertionError(f"{run.id} was over before stage {stage} of attempt {attempt}")


async def told(hub: Hub, handler: str, ledger: Path) -> dict[str, Told]:
    """Run a handler in every variant at the same time, and kill the agent at each of the stops."""
    async with deadline(80), Client.connect(directory=hub.settings.data) as client:
        given = {"ledger": str(ledger), "stops": STOPS}
        runs = {variant: await client.submit(f"{handler}-{variant}", given) for variant in VARIANTS}
        for attempt, stage in enumerate(STOPS, 1):
            async with an_agent(hub):
                await asyncio.gather(*(at_stage(run, attempt, stage) for run in runs.values()))
        async with an_agent(hub):
            results = {variant: await run.result() for variant, run in runs.items()}
        outside = [json.loads(line) for line in ledger.read_text().splitlines()]
        return {
            variant: Told(
                run.id,
                results[variant],
                [entry async for entry in run.watch()],
                [line for line in outside if line["run"] == run.id],
            )
            for variant, run in runs.items()
        }


async def test_every_operation_is_done_once_wherever_the_handler_runs_and_is_killed(hub: Hub, tmp_path: Path) -> None:
    for variant, one in (await told(hub, "everything", tmp_path / "ledger")).items():
        assert one.attempts == [1, 2, 2, 3, 3], variant
        assert [one["attempt"] for one in one.outside] == [1] * 4 + [2] * 8 + [3] * 8, variant
        done = sorted((entry.index, entry.kind) for entry in one.entries if entry.index is not None)
        assert done == list(enumerate([Kind.MARKER, *STAGE * STAGES], 1)), variant
        charged = [line["what"] for line in one.outside if "charge" in line["what"]]
        assert charged == [f"{one.run}/{1 + 11 * stage + 8}/charge" for stage in range(STAGES)], variant
        drawn = [entry.body["value"] for entry in one.of(Kind.MARKER) if entry.body["op"] in ("random", "uuid")]
        stages = one.result["stages"]
        assert drawn == [it for stage in stages for it in stage[1:3]], variant
        assert [stage[3] for stage in stages] == [[f"{stage}.{n}" for n in range(3)] for stage in range(1, STAGES + 1)]
        assert [stage[4] for stage in stages] == [key.upper() for key in charged], variant
        assert one.result["version"] == 1


async def test_a_handler_with_checkpoints_goes_on_from_the_last(hub: Hub, tmp_path: Path) -> None:
    for variant, one in (await told(hub, "files", tmp_path / "ledger")).items():
        assert one.result == one.attempts == [1, 2, 2, 3, 3], variant
        assert [line["what"] for line in one.outside] == [f"{one.run}/{n}/upload" for n in (1, 3, 5, 7, 9)], variant
        assert [entry.index for entry in one.of(Kind.CHECKPOINT)] == [2, 4, 6, 8, 10], variant


async def test_a_handler_that_starts_over_does_everything_again_and_records_nothing(hub: Hub, tmp_path: Path) -> None:
    for variant, one in (await told(hub, "anew", tmp_path / "ledger")).items():
        assert one.attempts == [1, 2, 2, 2, 3, 3, 3, 3, 3], variant
        times = Counter(line["what"] for line in one.outside if "charge" in line["what"])
        assert list(times.values()) == [3, 2, 2, 1, 1], variant
        assert not one.of(Kind.MARKER) + one.of(Kind.CALL), variant
        assert len(one.of(Kind.CHECKPOINT)) == 9, variant
