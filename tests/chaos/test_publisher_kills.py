"""A publisher that is killed and started again on its outbox puts each line of its source into the topic once."""

from __future__ import annotations

import sys

import redis

from agent.client import Client
from orchestrator.store import keys
from protocol.codec import pack_value
from protocol.ids import LogName
from tests.chaos.amounts import rounds
from tests.chaos.histories import NOWHERE
from tests.support.checkers import assert_kept, check_log, check_sequence
from tests.support.fleet import Fleet, HubProcess, Process, dump_log
from tests.support.proxy import FaultProxy
from tests.support.timing import eventually

TOPIC = "lines"
LINES = 3000
KILLS = 10


def head_of(hub: HubProcess) -> int:
    """Read from the store itself how many entries the topic has."""
    with redis.Redis(unix_socket_path=str(hub.store_socket)) as store:
        return int(store.hget(keys.meta(LogName.parse(f"topic/{TOPIC}")), "head") or 0)


def begun(publisher: Process) -> int:
    """Return how often the program has said where it begins."""
    return sum(line.startswith("from ") for line in publisher.output().splitlines())


async def test_a_publisher_killed_again_and_again_publishes_each_line_once() -> None:
    count, kills = rounds(LINES), rounds(KILLS)
    lines = [f"line {number} of the source" for number in range(1, count + 1)]
    async with Fleet() as fleet, FaultProxy(NOWHERE, patient=True) as proxy:
        hub = await fleet.hub()
        proxy.target = hub.address
        source = fleet.directory / "source.txt"
        source.write_text("".join(f"{line}\n" for line in lines))
        publisher = fleet.program(
            "publisher",
            [sys.executable, "-m", "tests.chaos.numbered_lines", str(source), TOPIC, str(fleet.directory / "state")],
            {"FLEETLINE_HUB": proxy.url, "FLEETLINE_TOKEN": hub.token},
        )
        async with Client.connect(hub.url, token=hub.token) as client:
            for kill in range(kills):
                target = (kill + 1) * count // (kills + 2)
                publisher.spawn()
                await eventually(lambda kill=kill: begun(publisher) == kill + 1, 60)  # type: ignore[misc]
                await eventually(lambda target=target: head_of(hub) >= target, 60)  # type: ignore[misc]
                await publisher.kill()
                if kill % 3 == 2:
                    await hub.restart()
            assert head_of(hub) < count, "it was done before the last kill"
            publisher.spawn()
            assert await publisher.ended(60) == 0, publisher.tail()
            marks = [int(line.split()[1]) for line in publisher.output().splitlines() if line.startswith("from ")]
            assert len(marks) == kills + 1
            assert marks == sorted(marks)
            assert 0 < marks[-1] < count
            dump = await dump_log(client, f"topic/{TOPIC}")
            assert_kept(check_log(dump), check_sequence(dump, "line", [pack_value(line) for line in lines]))
