"""What is done to the fleet: a script drawn from the seed, played while everybody works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum
from random import Random

from orchestrator.store.keys import log_keys
from orchestrator.store.memory import MemoryServer
from protocol.entry import Entry
from protocol.ids import LogName
from tests.support.simulation.dumps import entries_of, log_paths, meta_of
from tests.support.simulation.fleet import AgentSlot, ClientSlot, Fleet, HubSlot
from tests.support.simulation.loop import Machine
from tests.support.simulation.programs import FEED

__all__ = ["Faults", "Theme"]

FUSE_TURNS_MAX = 400
FAILOVER_SHARE = 0.35
TRIM_SHARE = 0.3
FROZEN = 6
EARLY = 0.3
LOSSES = 6
TAKEN_OVER = 8
DEAF = 6
AWAY = 4
TAIL_ENTRIES = 5
GROWN_LOOKS = 160
LOOK_S = 0.05
GIVEN_WITHIN_S = 0.3


class Theme(Enum):
    """What surely happens, whatever the seed says besides."""

    FAILOVER = "failover"
    """The store loses a tail, and subscribers that had it come back when there is another in its place."""
    FROZEN_AGENTS = "frozen agents"
    """Agents stop for longer than their lease, again and again."""
    LOSSES = "losses"
    """The store loses requests and replies, again and again."""
    TAKE_OVERS = "take-overs"
    """Other processes take over the ids of agents again and again, mostly without the hubs hearing of each other."""


class Faults:
    """The script and its player.

    Attributes:
        script: what was done, and when, in words.
    """

    def __init__(self, fleet: Fleet, rng: Random, surely: Theme | None) -> None:
        self._surely = surely
        self.script: list[str] = []
        self._fleet = fleet
        self._rng = rng
        self._outages = 0
        self._up = asyncio.Event()
        self._up.set()
        self._actions: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (8, self._cut),
            (3, self._part),
            (4, self._kill_hub),
            (3, self._kill_hub_mid_work),
            (1, self._stop_hub),
            (2, self._freeze_hub),
            (4, self._kill_agent),
            (2, self._take_over),
            (3, self._freeze_agent),
            (3, self._kill_subscriber),
            (2, self._store_down),
            (3, self._store_loses),
            (2, self._hints_lost),
        ]

    async def run(self, over_s: float) -> None:
        """Play the script, and return when all of it is over."""
        rng = self._rng
        weights = [weight for weight, _ in self._actions]
        count = rng.choice([0, 2, 5, 9, 14])
        chosen = [action for _, action in rng.choices(self._actions, weights, k=count)]
        if self._surely is Theme.FROZEN_AGENTS:
            chosen += [self._freeze_agent] * FROZEN
        if self._surely is Theme.LOSSES:
            chosen += [self._store_loses] * LOSSES
        if self._surely is Theme.TAKE_OVERS:
            chosen += [self._take_over] * TAKEN_OVER + [self._hints_lost] * DEAF
        if self._surely is not Theme.FAILOVER and rng.random() < FAILOVER_SHARE:
            chosen.append(self._fail_over)
        if rng.random() < TRIM_SHARE:
            chosen.append(self._trim)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(over_s))
            if self._surely is Theme.FAILOVER:  # early, so that there is much to publish after it
                tasks.create_task(self._at(rng.random() * over_s * EARLY, self._fail_over_unseen))
            for action in chosen:
                tasks.create_task(self._at(0.2 + rng.random() * over_s, action))

    async def _at(self, at_s: float, action: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(at_s)
        await action()

    def _say(self, what: str) -> None:
        now_s = self._fleet.loop.time()
        self.script.append(f"{now_s:8.3f} {what}")
        self._fleet.trace.note(now_s, "script", what)

    # Connections

    async def _cut(self) -> None:
        wires = list(self._fleet.network.wires.values())
        if wires:
            wire = self._rng.choice(wires)
            self._say(f"cut {wire.pipes[0].name}")
            self._fleet.network.cut(wire, self._rng)

    async def _part(self) -> None:
        wires = list(self._fleet.network.wires.values())
        if wires:
            one, other = (machine.name for machine in self._rng.choice(wires).machines)
            pause_s = self._rng.choice([0.2, 1.0, 3.0, 8.0])
            self._say(f"part {one} and {other} for {pause_s} s")
            self._fleet.network.part(one, other)
            await asyncio.sleep(pause_s)
            self._fleet.network.join(one, other)

    # Hubs

    def _hub(self) -> HubSlot | None:
        running = [slot for slot in self._fleet.hubs if slot.now is not None and slot.now.machine.alive]
        return self._rng.choice(running) if running else None

    async def _kill_hub(self) -> None:
        slot = self._hub()
        if slot is not None and slot.now is not None:
            await self._kill(slot, slot.now.machine)

    async def _kill_hub_mid_work(self) -> None:
        """Kill a hub between any two of its steps."""
        slot = self._hub()
        if slot is None or slot.now is None:
            return
        machine, burnt = slot.now.machine, asyncio.Event()
        machine.after_turns(self._rng.randrange(1, FUSE_TURNS_MAX), burnt.set)
        try:
            async with asyncio.timeout(5.0):
                await burnt.wait()
        except TimeoutError:
            return
        await self._kill(slot, machine)

    async def _kill(self, slot: HubSlot, machine: Machine) -> None:
        if not machine.alive:
            return
        pause_s = self._rng.choice([0.0, 0.3, 2.0, 6.0])
        self._say(f"kill {machine.name}, start again after {pause_s} s")
        self._fleet.kill(machine, self._rng)
        await self._start_hub(slot, pause_s)

    async def _start_hub(self, slot: HubSlot, pause_s: float) -> None:
        await asyncio.sleep(pause_s)
        await self._up.wait()
        if slot.now is not None and (not slot.now.machine.alive or slot.now.ended.done()):
            self._fleet.start_hub(slot)

    async def _stop_hub(self) -> None:
        slot = self._hub()
        if slot is not None and slot.now is not None and not slot.now.ended.done():
            self._say(f"stop {slot.now.machine.name}")
            hub = slot.now
            hub.stop()
            await asyncio.wait([hub.ended])
            await self._start_hub(slot, self._rng.random())

    async def _freeze_hub(self) -> None:
        slot = self._hub()
        if slot is not None and slot.now is not None:
            await self._freeze(slot.now.machine)

    # Agents and clients

    async def _kill_agent(self) -> None:
        slot = self._rng.choice(self._fleet.agents)
        machine = slot.machine
        if machine is None or not machine.alive:
            return
        pause_s = self._rng.choice([0.0, 0.5, 4.0])
        self._say(f"kill {machine.name}, start again after {pause_s} s")
        self._fleet.kill(machine, self._rng)
        await asyncio.sleep(pause_s)
        if slot.machine is machine:
            self._fleet.start_agent(slot)

    async def _take_over(self) -> None:
        slot: AgentSlot = self._rng.choice(self._fleet.agents)
        if slot.machine is not None and slot.machine.alive and not slot.machine.frozen:
            self._say(f"start {slot.name} again beside {slot.machine.name}")
            self._fleet.start_agent(slot)

    async def _freeze_agent(self) -> None:
        machine = self._rng.choice(self._fleet.agents).machine
        if machine is not None and machine.alive:
            await self._freeze(machine)

    async def _freeze(self, machine: Machine) -> None:
        if machine.frozen:
            return
        pause_s = self._fleet.settings.lease_ms / 1000 * self._rng.choice([0.2, 1.1, 2.0, 3.0])
        self._say(f"freeze {machine.name} for {pause_s} s")
        machine.freeze()
        await asyncio.sleep(pause_s)
        if machine.alive:
            machine.thaw()

    async def _kill_subscriber(self) -> None:
        pause_s = self._rng.choice([0.0, 1.0, 5.0])
        await self._send_away(f"after {pause_s} s", lambda: asyncio.sleep(pause_s))

    async def _send_away(self, until: str, away: Callable[[], Awaitable[None]]) -> None:
        slots = [slot for slot in self._fleet.clients if slot.follower is not None]
        slot: ClientSlot = self._rng.choice(slots)
        machine = slot.machine
        if machine is None or not machine.alive or slot.follower is None:
            return
        self._say(f"kill {machine.name}, start again {until}")
        slot.follower.crash()
        self._fleet.kill(machine, self._rng)
        await away()
        if slot.machine is machine:
            self._fleet.start_client(slot)

    # The store

    async def _store_down(self) -> None:
        pause_s = self._rng.choice([0.1, 1.0, 7.0])
        self._say(f"the store is down for {pause_s} s")
        await self._be_down(pause_s)

    async def _be_down(self, pause_s: float) -> None:
        server = self._fleet.server
        began_ms = server.clock_ms()
        self._outages += 1
        server.down = True
        self._up.clear()
        await asyncio.sleep(pause_s)
        self._outages -= 1
        if not self._outages:
            server.down = False
            self._up.set()
        self._fleet.ledger.outages_ms.append((began_ms, server.clock_ms()))

    async def _store_loses(self) -> None:
        faults = self._fleet.store_faults
        faults.lost_before, faults.lost_after = self._rng.choice([(0.05, 0.05), (0.0, 0.3), (0.2, 0.0)])
        pause_s = self._rng.random() * 4
        self._say(f"the store loses {faults.lost_before:.2f} and {faults.lost_after:.2f} for {pause_s:.1f} s")
        await asyncio.sleep(pause_s)
        faults.lost_before = faults.lost_after = 0.0

    async def _hints_lost(self) -> None:
        self._say("hints are lost")
        self._fleet.store_faults.hints_lost = 1.0
        await asyncio.sleep(self._rng.random() * 8)
        self._fleet.store_faults.hints_lost = 0.0

    async def _fail_over(self) -> None:
        """Go back to an older state, as a replica that lagged behind does."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._rng.choice([0, 1, 2])):
                tasks.create_task(self._miss_the_failover())
            pause_s = self._rng.choice([0.02, 0.2, 1.0, 3.0])
            await self._lose_tail(lambda: asyncio.sleep(pause_s))

    async def _fail_over_unseen(self) -> None:
        """Fail over while subscribers are away that were given what is lost; they come back when the log is as long."""
        await self._feed_at(1)
        upto = self._feed_head() + TAIL_ENTRIES

        async def send_away() -> None:
            await self._feed_at(upto)
            await asyncio.sleep(GIVEN_WITHIN_S)
            head = self._feed_head() + 1
            for _ in range(AWAY):
                tasks.create_task(self._send_away(f"at {head} of {FEED}", lambda: self._feed_at(head)))
            await asyncio.sleep(GIVEN_WITHIN_S)

        async with asyncio.TaskGroup() as tasks:
            await self._lose_tail(send_away)

    def _feed_head(self) -> int:
        return int(meta_of(self._fleet.server.data, FEED).get("head", "0"))

    async def _feed_at(self, head: int) -> None:
        """Wait until the feed has so many entries, but not for ever: its producer may be at its end."""
        for _ in range(GROWN_LOOKS):
            if self._feed_head() >= head:
                return
            await asyncio.sleep(LOOK_S)

    async def _miss_the_failover(self) -> None:
        """A subscriber is away meanwhile, and finds other entries where it left off."""
        await asyncio.sleep(self._rng.random())
        await self._kill_subscriber()

    async def _lose_tail(self, grow: Callable[[], Awaitable[None]]) -> None:
        server = self._fleet.server
        snapshot = server.snapshot()
        await grow()
        down_s = self._rng.choice([0.0, 0.5, 3.0])
        await self._be_down(down_s)
        trimmed = self._fleet.ledger.trimmed
        before = {
            path: [*trimmed.get(path, {}).values(), *entries_of(server.data, path)] for path in log_paths(server.data)
        }
        server.restore(snapshot)
        self._fleet.ledger.failed_over = True
        self._fleet.ledger.lost = lost = {path: _gone(server, path, entries) for path, entries in before.items()}
        told = ", ".join(f"{path} {gone[0].offset}-{gone[-1].offset}" for path, gone in lost.items() if gone)
        self._say(f"fail over; lost: {told or 'nothing'}")

    async def _trim(self) -> None:
        data, ledger = self._fleet.server.data, self._fleet.ledger
        entries = entries_of(data, FEED)
        if len(entries) > 2:
            keep_from = entries[self._rng.randrange(1, len(entries))].offset
            self._say(f"trim {FEED} before {keep_from}")
            ledger.trimmed.setdefault(FEED, {}).update({e.offset: e for e in entries if e.offset < keep_from})
            data.trim(log_keys(LogName.parse(FEED)), keep_from)


def _gone(server: MemoryServer, path: str, entries: list[Entry]) -> list[Entry]:
    kept = set(entries_of(server.data, path))
    return [entry for entry in entries if entry not in kept]
