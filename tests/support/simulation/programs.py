"""The programs of the fleet, as their authors would write them: handlers, and what clients do."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from pydantic import SecretStr

from agent.client import Client
from agent.discovery import Endpoint
from agent.errors import ExpectFailed, PublisherLost, PublishRefused, RequestError, RunEnded, SubscriptionRefused
from agent.links import Links
from agent.publisher import Publisher
from agent.runs import Run
from agent.worker import Agent
from protocol.codec import pack_value
from protocol.codes import ErrorCode
from protocol.frames import Identify, Role
from protocol.version import VERSION
from tests.support.checkers import Acknowledged
from tests.support.simulation.entropy import OneThread
from tests.support.simulation.hubs import token_for
from tests.support.simulation.ledger import Ledger, Produced
from tests.support.simulation.loop import Machine

__all__ = ["FEED", "HUBS_URL", "QUEUE", "ROOM", "Operator", "Producer", "Talker", "make_agent", "make_client"]

LAST_ENTRIES = 5
HUBS_URL = "ws://localhost"  # any of them; plain, since nothing leaves the simulation
QUEUE = "work"
FEED = "topic/feed"
ROOM = "topic/room"


def make_client(machine: Machine, name: str) -> Client:
    """Make a client that connects to whichever hub answers. Call it on its machine."""
    endpoint = Endpoint(HUBS_URL, SecretStr(token_for(name)))
    identity = Identify(version=VERSION, role=Role.CLIENT, id=name, instance=machine.name.replace("#", "-"))
    thread: Any = OneThread()
    links = Links(identity, lambda: endpoint, thread)
    links.main.open()
    return Client(links)


# Agents


def make_agent(name: str, slots: int) -> Agent:
    """Make an agent with every handler that the simulation has."""
    agent = Agent(name, slots=slots, queues=(QUEUE,))

    @agent.handler("steps", retries=2)
    async def steps(context: Any, count: int, pause_ms: int, fails: int) -> int:
        for number in range(count):
            await context.emit("step", {"n": number})
            context.progress(number, count)
            await asyncio.sleep(pause_ms / 1000)
        if context.attempt <= fails:
            raise RuntimeError(f"attempt {context.attempt} fails, as it was told to")
        return count

    @agent.handler("journal", recover="journal", suspend_after=0.05)
    async def journal(context: Any, count: int, pause_ms: int, fails: int) -> int:
        total = 0
        for number in range(count):
            total += await context.call("double", _double, number, pause_ms)
            drawn = [await context.random(), str(await context.now()), await context.version("drawn")]
            async with context.effect("double") as key:
                await context.emit("doubled", {"n": number, "total": total, "drawn": drawn, "key": key})
            await context.sleep(pause_ms / 1000)
        return total

    @agent.handler("saved", recover="checkpoint", retries=2)
    async def saved(context: Any, count: int, pause_ms: int, fails: int) -> int:
        for number in range(context.last_checkpoint or 0, count):
            await context.emit("step", {"n": number})
            await context.checkpoint(number + 1)
            await context.sleep(pause_ms / 1000)
        if context.attempt <= fails:
            raise RuntimeError(f"attempt {context.attempt} fails, as it was told to")
        return count

    @agent.handler("stubborn")
    async def stubborn(context: Any, count: int, pause_ms: int, fails: int) -> str:
        try:
            for number in range(count):
                await context.emit("step", {"n": number})
                await asyncio.sleep(pause_ms / 1000)
        except asyncio.CancelledError:
            await asyncio.sleep(0.3)
            return "finished nevertheless"
        return "finished"

    return agent


async def _double(number: int, pause_ms: int) -> int:
    await asyncio.sleep(pause_ms / 1000)
    return number * 2


# Clients


class Operator:
    """Submits runs with keys, some of them twice; waits for some, cancels some."""

    def __init__(self, client: Client, ledger: Ledger, rng: Random, prefix: str) -> None:
        self._client = client
        self._ledger = ledger
        self._rng = rng
        self._prefix = prefix

    async def work(self, runs: int, over_s: float) -> None:
        """Do all of it."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(runs):
                tasks.create_task(self._one(f"{self._prefix}{number}", self._rng.random() * over_s, Random(number)))

    async def _one(self, key: str, after_s: float, rng: Random) -> None:
        await asyncio.sleep(after_s)
        handler = self._rng.choice(["steps", "steps", "journal", "saved", "stubborn"])
        given = {
            "count": self._rng.randrange(1, 8),
            "pause_ms": self._rng.choice([0, 5, 100, 700]),
            "fails": self._rng.choice([0, 0, 0, 1, 3]),
        }
        run = await self._submit(handler, given, key)
        if self._rng.random() < 0.3:
            again = await self._submit(handler, given, key)
            if again.id != run.id and not self._ledger.lost.get(f"run/{run.id}"):
                self._ledger.faults.append(f"key {key} gave {run.id} and then {again.id}")
        async with asyncio.TaskGroup() as tasks:
            if self._rng.random() < 0.5:
                tasks.create_task(self._wait(run))
            if self._rng.random() < 0.25:
                await asyncio.sleep(rng.random() * 3)
                await self._cancel(run)

    async def _submit(self, handler: str, given: dict[str, int], key: str) -> Run:
        run = await self._client.submit(
            handler, given, queue=QUEUE, key=key, priority=self._rng.choice([0, 0, 5]), retries=None
        )
        self._ledger.runs[key].append(run.id)
        return run

    async def _cancel(self, run: Run) -> None:
        try:
            await run.cancel()
        except RequestError as refused:
            self._ledger.missing[run.id] = refused.code

    async def _wait(self, run: Run) -> None:
        try:
            await run.result()
            self._ledger.results[run.id] = "succeeded"
        except RunEnded as ended:
            self._ledger.results[run.id] = type(ended).__name__.removeprefix("Run").lower()
        except (RequestError, SubscriptionRefused) as refused:
            self._ledger.missing[run.id] = refused.code


class Producer:
    """Publishes to the feed, in bursts; opens a new producer where the store lost entries of the last one.

    The last entries of each are published when the fleet is whole again: whoever publishes must learn what was lost.
    """

    def __init__(self, client: Client, ledger: Ledger, rng: Random, healed: asyncio.Event) -> None:
        self._healed = healed
        self._client = client
        self._ledger = ledger
        self._rng = rng

    async def work(self, entries: int, over_s: float) -> None:
        """Publish so many entries, and wait until they are acknowledged."""
        while entries > 0:
            publisher = await self._client.publisher(FEED)
            assert isinstance(publisher, Publisher)
            produced = Produced(FEED, publisher)
            self._ledger.producers.append(produced)
            number = len(self._ledger.producers)
            try:
                while entries > 0:
                    if entries <= LAST_ENTRIES:
                        await self._healed.wait()
                    left = entries if self._healed.is_set() else entries - LAST_ENTRIES
                    burst = min(left, self._rng.choice([1, 1, 3, 20]))
                    for _ in range(burst):
                        value = {"p": number, "n": len(produced.bodies), "fill": "x" * self._rng.choice([0, 10, 900])}
                        await publisher.publish(self._rng.choice(["item", "item", "note"]), value)
                        produced.bodies.append(pack_value(value))
                    entries -= burst
                    await asyncio.sleep(self._rng.random() * 2 * over_s * burst / 200)
                await publisher.flush()
            except PublisherLost as lost:
                produced.ended = lost
            except PublishRefused as refused:
                produced.ended = refused
                self._judge(refused)

    def _judge(self, refused: PublishRefused) -> None:
        """A producer that the store forgot in a failover is refused; no other is."""
        if refused.code != ErrorCode.PRODUCER_UNKNOWN or not self._ledger.failed_over:
            self._ledger.faults.append(f"the producer was refused: {refused}")


class Talker:
    """Publishes single entries to the room and learns each one's place; some of them on a condition."""

    def __init__(self, client: Client, ledger: Ledger, rng: Random) -> None:
        self._client = client
        self._ledger = ledger
        self._rng = rng
        self._name = f"{rng.getrandbits(32):08x}"

    async def work(self, entries: int, over_s: float) -> None:
        """Publish so many entries."""
        head: int | None = None
        for number in range(entries):
            await asyncio.sleep(self._rng.random() * 2 * over_s / entries)
            value = {"who": self._name, "n": number}
            expect = head if self._rng.random() < 0.3 else None
            try:
                head = await self._client.publish(ROOM, "said", value, expect=expect)
            except ExpectFailed as failed:
                head = failed.head
            except PublisherLost:
                head = None
            except PublishRefused as refused:
                head = None
                if refused.code != ErrorCode.PRODUCER_UNKNOWN or not self._ledger.failed_over:
                    self._ledger.faults.append(f"the talker was refused: {refused}")
            else:
                self._ledger.acknowledged[ROOM].append(Acknowledged("said", pack_value(value), head))
