"""An agent's own log: it is given every message once it is there, or told which it cannot be given."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import redis

from agent.client import Client
from orchestrator.store import keys
from protocol.frames import ResetReason
from protocol.ids import LogName
from tests.chaos.amounts import rounds
from tests.chaos.histories import away, restore, snapshot, store_of
from tests.support.fleet import AgentProcess, Fleet, HubProcess
from tests.support.proxy import FaultProxy
from tests.support.timing import eventually

AGENT = "listener"
LOG = LogName.parse(f"agent/{AGENT}")


@dataclass(slots=True)
class Listening:
    """An agent that listens, behind a proxy."""

    hub: HubProcess
    agent: AgentProcess
    proxy: FaultProxy
    fleet: Fleet

    async def send(self, *notes: str) -> None:
        """Send messages, from a client that comes for them."""
        async with Client.connect(self.hub.url, token=self.hub.token, timeout=30) as client:
            for note in notes:
                await client.send(AGENT, "note", note)

    def notes(self) -> list[str]:
        """Return what was written down, in order."""
        path = self.fleet.directory / "notes"
        return [line.partition(" ")[2] for line in path.read_text().splitlines()] if path.exists() else []

    async def noted(self, *last: str) -> None:
        """Wait until these are what was written down last."""
        await eventually(lambda: self.notes()[-len(last) :] == list(last), 30)

    async def settled(self) -> None:
        """Wait until everything that was written down is acknowledged in the store."""

        def acked() -> bool:
            with redis.Redis(unix_socket_path=str(self.hub.store_socket)) as store:
                heads = [int(value.split()[0]) for value in store.hvals(keys.acks(LOG))]
            lines = (self.fleet.directory / "notes").read_text().splitlines()
            return heads != [] and heads[0] >= int(lines[-1].partition(" ")[0])

        await eventually(acked)

    def resets(self) -> list[dict[str, Any]]:
        """Return the resets that the agent has written to its log."""
        lines = [line for line in self.agent.output().splitlines() if '"messages_reset"' in line]
        return [json.loads(line) for line in lines]


@asynccontextmanager
async def listening() -> AsyncIterator[Listening]:
    async with Fleet() as fleet:
        hub = await fleet.hub()
        async with FaultProxy(hub.address, patient=True) as proxy:
            notes = {"NOTES": str(fleet.directory / "notes")}
            agent = fleet.agent("tests.chaos.apps:listener", hub, agent_id=AGENT, url=proxy.url, environment=notes)
            async with Client.connect(hub.url, token=hub.token) as client:
                await agent.connected(client)
            yield Listening(hub, agent, proxy, fleet)


async def test_messages_to_an_agent_that_is_away_wait_for_it() -> None:
    async with listening() as there:
        expected = []
        for turn in range(rounds(3)):
            here, gone = (
                [f"{turn} here {number}" for number in range(5)],
                [f"{turn} gone {number}" for number in range(5)],
            )
            await there.send(*here)
            await there.noted(*here)
            await there.settled()
            await there.agent.kill()
            await there.send(*gone)
            there.agent.spawn()
            await there.noted(*gone)
            expected += here + gone
        assert there.notes() == expected


async def test_an_agent_is_told_which_messages_were_trimmed() -> None:
    async with listening() as there, store_of(there.hub) as store:
        await there.send("1", "2", "3")
        await there.noted("1", "2", "3")
        async with away(there.proxy):
            await there.send("4", "5", "6", "7")
            meta = await store.meta(LOG)
            assert meta is not None
            cut = await store.trim(LOG, int(meta["head"]))
        await there.noted("3", "7")
        (reset,) = there.resets()
        assert cut is not None
        assert (reset["reason"], reset["last"]) == (ResetReason.TRIMMED, cut.offset)


async def test_an_agent_is_told_that_its_log_is_another() -> None:
    async with listening() as there, store_of(there.hub) as store:
        await there.send("1", "2", "3")
        await there.noted("1", "2", "3")
        async with away(there.proxy):
            await store.delete(LOG)
        await eventually(there.resets, 30)
        await there.send("4")
        await there.noted("3", "4")
        assert there.resets()[0]["reason"] == ResetReason.UNKNOWN


async def test_an_agent_is_told_that_its_log_diverged_and_given_what_took_its_place() -> None:
    async with listening() as there:
        await there.send("1", "2", "3")
        await there.noted("1", "2", "3")
        await there.settled()
        await snapshot(there.hub, "copy")
        await there.hub.start()
        await there.send("lost 4", "lost 5")
        await there.noted("lost 4", "lost 5")
        async with away(there.proxy):
            await restore(there.hub, "copy")
            await there.hub.start()
            await there.send("new 4", "new 5", "new 6")
        await there.noted("new 4", "new 5", "new 6")
        (reset,) = there.resets()
        assert reset["reason"] == ResetReason.DIVERGED
        # It follows one kind, and so knows tags where its frames ended: up to 3 (offset 4) all is common,
        # and 6 is another. No more can be said, and that is said.
        assert (reset["first"], reset["exact"]) == (5, False)
        assert reset["last"] >= 7
