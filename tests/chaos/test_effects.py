"""Agents that are killed at random while their runs do something outside: each effect is there once, by its key."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from random import Random

from agent.client import Client
from agent.runs import Run
from protocol.control import Kind
from tests.chaos.amounts import rounds
from tests.support.checkers import Dump, assert_kept
from tests.support.fleet import AgentProcess, Fleet, dump_log
from tests.support.run_checkers import check_journal, check_run
from tests.support.timing import eventually

PAYMENTS = 5
KILL_EVERY_S = 0.5
KILLS_LEAST = 5
SETTINGS = {"FLEETLINE_LEASE_MS": "2000", "FLEETLINE_LOSSES_MAX": "1000"}


async def kill_at_random(agents: list[AgentProcess], over: asyncio.Event) -> int:
    """Kill one agent after the other, and start it again, until all runs are over. Returns how many were killed."""
    chance, kills = Random(3), 0
    while not over.is_set():
        agent = chance.choice(agents)
        await agent.kill()
        agent.spawn()
        kills += 1
        try:
            await asyncio.wait_for(over.wait(), KILL_EVERY_S)
        except TimeoutError:
            continue
    return kills


def check_ledger(dump: Dump, paid: list[tuple[str, int, int]]) -> None:
    """Hold a run to it that what is outside fits its log.

    Each effect is there under one key, its fences only grow, and none was made again whose call was recorded.
    """
    run = dump.log.removeprefix("run/")
    keys = dict.fromkeys(key for key, _, _ in paid)
    assert list(keys) == [f"{run}/{1 + 4 * number}/pay" for number in range(PAYMENTS)]
    recorded = {record.index: record.attempt for _, record in dump.records() if record.kind == Kind.CALL}
    for key in keys:
        tries = [(fence, attempt) for other, fence, attempt in paid if other == key]
        assert tries == sorted(set(tries)), f"{key} went out with {tries}"
        assert tries[-1][1] == recorded[int(key.split("/")[1]) + 1], f"{key} went out again after it was recorded"


async def test_agents_killed_twice_a_second_make_each_effect_once(tmp_path: Path) -> None:
    count, ledger = rounds(150), tmp_path / "ledger"
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        agents = [fleet.agent("tests.chaos.apps:payer", hub, agent_id=f"payer-{number}") for number in range(3)]
        async with Client.connect(hub.url, token=hub.token) as client:
            for agent in agents:
                await agent.connected(client)
            given = {"ledger": str(ledger), "payments": PAYMENTS}
            runs = [await client.submit("pay", given, key=f"pay-{number}") for number in range(count)]
            await eventually(ledger.exists)
            over = asyncio.Event()
            killing = asyncio.create_task(kill_at_random(agents, over))
            try:
                results = await asyncio.gather(*(run.result(timeout=200) for run in runs))
            finally:
                over.set()
                kills = await killing
            assert kills >= KILLS_LEAST
            assert any([(await run.get()).attempt > 1 for run in runs]), "no kill met a run"
            paid = read_ledger(ledger)
            for run, result in zip(runs, results, strict=True):
                await judge(client, run, result, paid[run.id])


async def judge(client: Client, run: Run, result: list[str], paid: list[tuple[str, int, int]]) -> None:
    dump = await dump_log(client, run.log)
    assert_kept(check_run(dump, await run.get()), check_journal(dump))
    assert dump.bodies("paid") == [bytes([number]) for number in range(PAYMENTS)]
    assert result == [f"receipt {number} of {run.id}/{1 + 4 * number}/pay" for number in range(PAYMENTS)]
    check_ledger(dump, paid)


def read_ledger(ledger: Path) -> dict[str, list[tuple[str, int, int]]]:
    """Return key, fence and attempt of every payment, by run, in the order of the ledger."""
    paid: defaultdict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for line in ledger.read_text().splitlines():
        key, fence, attempt = line.split()
        paid[key.split("/")[0]].append((key, int(fence), int(attempt)))
    return paid
