"""A schedule that is due every second, while hubs are killed: each due time is one run."""

from __future__ import annotations

from pathlib import Path

from agent.client import Client
from protocol.ids import LogName
from tests.support.fleet import Fleet, HubProcess
from tests.support.stores import valkey
from tests.support.timing import eventually

TAKEN_OVER_WITHIN_S = 40.0


async def due_times(client: Client) -> list[int]:
    """Return the due times that runs were made for, as their keys say, in the order of time."""
    found = []
    for info in await client.runs(1000):
        log = LogName.parse(f"run/{info.run}").path
        [submitted] = [entry async for entry in client.read(log, 0, 1)]
        found.append(int(submitted.body["key"].rsplit("/", 1)[1]))
    return sorted(found)


async def goes_on(hub: HubProcess, more: int) -> list[int]:
    """Wait until a hub knows of so many more due times that became runs; return all of them."""
    async with Client.connect(hub.url, token=hub.token, timeout=30) as client:
        before = len(await client.runs(1000))

        async def so_many() -> bool:
            return len(await client.runs(1000)) >= before + more

        await eventually(so_many, TAKEN_OVER_WITHIN_S)
        return await due_times(client)


async def test_each_due_time_is_one_run_though_every_hub_is_killed_in_turn(tmp_path: Path) -> None:
    async with valkey(tmp_path) as store, Fleet() as fleet:
        hubs = [await fleet.hub(name, options=("--store", store.url)) for name in ("first", "second")]
        async with Client.connect(hubs[0].url, token=hubs[0].token, timeout=30) as client:
            info = await client.add_schedule("each-second", "* * * * * *", "nobody")
        for dead, alive in (hubs, hubs[::-1]):
            await dead.kill()
            await goes_on(alive, 3)
            await dead.start()
        for hub in hubs:
            await hub.kill()
        for hub in hubs:
            await hub.start()
        times = await goes_on(hubs[0], 3)
    assert times[0] == info.next_ms
    assert times == list(range(times[0], times[-1] + 1, 1000))
