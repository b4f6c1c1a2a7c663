"""Who there is in a simulation: hubs, agents and clients, each a machine that can be killed and started again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from agent.client import Client
from agent.errors import SessionSuperseded
from agent.worker import Agent
from orchestrator.store.memory import MemoryServer
from protocol.frames import Window
from tests.support.simulation.follower import Follower
from tests.support.simulation.hubs import HubMachine, settings_of, token_for
from tests.support.simulation.ledger import Followed, Ledger
from tests.support.simulation.loop import Machine, SimulationLoop
from tests.support.simulation.net import Network
from tests.support.simulation.programs import (
    FEED,
    HUBS_URL,
    ROOM,
    Operator,
    Producer,
    Talker,
    make_agent,
    make_client,
)
from tests.support.simulation.store import SimulatedStore, StoreFaults
from tests.support.simulation.trace import Trace

__all__ = ["AgentSlot", "ClientSlot", "Fleet", "HubSlot"]

SKEW_MS = 3_000


@dataclass(eq=False)
class HubSlot:
    """A place for a hub: one process after the other."""

    name: str
    born: int = 0
    now: HubMachine | None = None
    store: SimulatedStore | None = None


@dataclass(eq=False)
class AgentSlot:
    """A place for an agent: the same id in one process after the other, sometimes in two at a time."""

    name: str
    slots: int
    born: int = 0
    machine: Machine | None = None
    processes: list[tuple[Machine, Agent, asyncio.Task[Any]]] = field(default_factory=list)


@dataclass(eq=False)
class ClientSlot:
    """A place for a client's program. One that has a `follower` can be killed and started again."""

    name: str
    born: int = 0
    machine: Machine | None = None
    client: Client | None = None
    follower: Follower | None = None
    window: Window = field(default_factory=Window)
    work: asyncio.Task[Any] | None = None


class Fleet:
    """All of it."""

    def __init__(
        self,
        loop: SimulationLoop,
        seed: int,
        network: Network,
        server: MemoryServer,
        store_faults: StoreFaults,
        trace: Trace,
        ledger: Ledger,
    ) -> None:
        self.loop = loop
        self.network = network
        self.server = server
        self.store_faults = store_faults
        self.trace = trace
        self.ledger = ledger
        self.machines: dict[str, Machine] = {}
        self.healed = asyncio.Event()
        self._seed = seed
        self._rng = rng = Random(f"fleet/{seed}")
        lease_ms = rng.choice([2_000, 3_000, 6_000])
        self.settings = settings_of(lease_ms, rng.choice([400, 900]))
        self.hubs = [HubSlot(f"hub{number}") for number in range(rng.choice([1, 2, 2]))]
        self.agents = [AgentSlot(f"agent{number}", rng.choice([1, 2, 4])) for number in range(rng.choice([1, 2, 3]))]
        self.clients = [ClientSlot("operator"), ClientSlot("producer"), ClientSlot("talker")]
        self.clients += [self._subscriber(number) for number in range(rng.choice([2, 3, 4]))]

    def _subscriber(self, number: int) -> ClientSlot:
        rng = self._rng
        name = f"subscriber{number}"
        kinds = rng.choice([None, None, ("note",)])
        followed = Followed(name, ROOM if kinds is None and rng.random() < 0.2 else FEED, kinds)
        self.ledger.followers[name] = followed
        follower = Follower(followed, Random(f"{name}/{self._seed}"), durable=rng.random() < 0.4)
        window = Window(entries=rng.choice([1, 5, 1024]), bytes=rng.choice([1_000, 1 << 20]))
        return ClientSlot(name, follower=follower, window=window)

    # Starting

    async def start(self, work_s: float) -> None:
        """Start everybody, and let them work for about so long."""
        for hub in self.hubs:
            self.start_hub(hub)
        for agent in self.agents:
            self.start_agent(agent)
        rng = self._rng
        works: dict[str, Callable[[Client], Coroutine[Any, Any, None]]] = {
            "operator": lambda client: Operator(client, self.ledger, Random(f"op/{self._seed}"), "key").work(
                12, work_s
            ),
            "producer": lambda client: Producer(client, self.ledger, Random(f"pub/{self._seed}"), self.healed).work(
                150, work_s
            ),
            "talker": lambda client: Talker(client, self.ledger, Random(f"talk/{self._seed}")).work(20, work_s),
        }
        for slot in self.clients:
            self.start_client(slot, works.get(slot.name))
            await asyncio.sleep(rng.random() * 0.2)

    def machine(self, slot: HubSlot | AgentSlot | ClientSlot) -> Machine:
        """Return a new process for a place."""
        slot.born += 1
        name = f"{slot.name}#{slot.born}"
        rng = Random(f"machine/{name}/{self._seed}")
        machine = Machine(
            self.loop, name, skew_ms=rng.randrange(-SKEW_MS, SKEW_MS), born_ms=rng.randrange(0, 1_000_000)
        )
        self.machines[name] = machine
        return machine

    def start_hub(self, slot: HubSlot) -> None:
        """Start a hub."""
        machine = self.machine(slot)
        rng = Random(f"store/{machine.name}/{self._seed}")
        slot.store = SimulatedStore(self.server, machine.name, self.loop, rng, self.store_faults, self.trace)
        slot.now = machine.context.copy().run(
            HubMachine, machine, self.network, self.settings, slot.store, self._note_birth
        )

    def _note_birth(self, hub_id: str) -> None:
        self.ledger.born_ms[hub_id] = self.server.clock_ms()

    def start_agent(self, slot: AgentSlot) -> None:
        """Start an agent; one of the same id that runs is superseded."""
        machine = slot.machine = self.machine(slot)
        agent = make_agent(slot.name, slot.slots)
        slot.processes.append((machine, agent, machine.start(self._serve(agent), machine.name)))

    async def _serve(self, agent: Agent) -> None:
        with suppress(SessionSuperseded):
            await agent.serve(HUBS_URL, token=token_for(agent.name), drain_s=5.0)

    def start_client(self, slot: ClientSlot, work: Callable[[Client], Coroutine[Any, Any, None]] | None = None) -> None:
        """Start a client's program."""
        machine = slot.machine = self.machine(slot)
        client = slot.client = machine.context.copy().run(make_client, machine, slot.name)
        if slot.follower is not None:
            machine.context.copy().run(slot.follower.follow, client, slot.window)
        if work is not None:
            slot.work = machine.start(work(client), machine.name)

    # Ending

    def kill(self, machine: Machine, rng: Random) -> None:
        """End a process as SIGKILL does."""
        self.network.listeners.pop(machine.name, None)
        for hub in self.hubs:
            if hub.now is not None and hub.now.machine is machine and hub.store in self.server.stores:
                self.server.stores.remove(hub.store)
                hub.store._opened = False
        self.network.drop(machine, rng)
        machine.kill()

    async def heal(self) -> None:
        """Let everything be up that should be."""
        self.server.down = False
        self.store_faults.lost_before = self.store_faults.lost_after = self.store_faults.hints_lost = 0.0
        self.network.join_all()
        for machine in self.machines.values():
            if machine.frozen:
                machine.thaw()
        for hub in self.hubs:
            if hub.now is None or not hub.now.machine.alive or hub.now.ended.done():
                self.start_hub(hub)
        for agent in self.agents:
            if agent.machine is None or not agent.machine.alive:
                self.start_agent(agent)
        for slot in self.clients:
            if slot.machine is None or not slot.machine.alive:
                self.start_client(slot)
        self.healed.set()
        await asyncio.sleep(0)

    async def leave(self) -> None:
        """Clients and agents say goodbye."""
        for slot in self.clients:
            if slot.client is not None and slot.machine is not None:
                if slot.follower is not None:
                    slot.follower.crash()
                slot.machine.run(slot.client.links.close, "done")
        waiting = []
        for machine, agent, task in (process for slot in self.agents for process in slot.processes):
            if machine.alive and not task.done():
                machine.run(agent.stop, 1.0)
                waiting.append(task)
        if waiting:
            await asyncio.wait(waiting)

    async def stop_hubs(self) -> None:
        """Drain every hub."""
        running = [hub.now for hub in self.hubs if hub.now is not None and not hub.now.ended.done()]
        for hub in running:
            hub.stop()
        if running:
            await asyncio.wait([hub.ended for hub in running])

    def kill_all(self) -> None:
        """End every process."""
        for machine in self.machines.values():
            if machine.alive:
                self.kill(machine, Random(0))

    def faults(self) -> list[str]:
        """Return what went wrong in programs and hubs that should not have."""
        hubs = [hub.now for hub in self.hubs if hub.now is not None and hub.now.broken is not None]
        found = [f"{hub.machine.name} ended: {hub.broken!r}" for hub in hubs]
        for agent in self.agents:
            ended = [(machine.name, _fault(task)) for machine, _, task in agent.processes if machine.alive]
            found += [f"{name} ended: {fault!r}" for name, fault in ended if fault is not None]
        for slot in self.clients:
            fault = _fault(slot.work) if slot.work is not None and slot.machine and slot.machine.alive else None
            if fault is not None:
                found.append(f"{slot.name} failed: {fault!r}")
        return found


def _fault(task: asyncio.Task[Any]) -> BaseException | None:
    if not task.done() or task.cancelled():
        return None
    return task.exception()
