"""A queue with 100,000 runs on it: claims take as long as with a hundred, and the hub grows no larger."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

from orchestrator.core import runs
from orchestrator.core.queues import Queue
from orchestrator.store import keys
from orchestrator.store.base import Durability
from orchestrator.store.commits import Append, Commit, HashSet, Op, Outcome, SortedAdd
from orchestrator.store.redis import RedisStore
from protocol.control import Kind
from protocol.frames import Assign, Heartbeat
from protocol.ids import LogKind, LogName, make_run_id
from protocol.requests import RunSubmit
from tests.support.fleet import Fleet
from tests.support.hub_peer import HubPeer, connected
from tests.support.hub_work import agent, held, work_of
from tests.support.stores import valkey

FEW, MANY = 50, 50_000
"""Of each submitter."""
SUBMITTERS = ("client:ada", "client:bob")
OF_ONE_COMMIT = 250
CLAIMS = 40
SLOWER_MAX = 2.5
GROWTH_MAX_KIB = 16 * 1024
QUEUE = Queue("default", "q")
RESULT = b"\x81\xa6result\xc4\x01\xc0"


def submitted(by: str, first: int, last: int) -> Commit:
    """Return what submits these runs: for each, what the hub proposes for the first of them, under its own name."""
    made_ms, names = 1_700_000_000_000, [name_of(number, by) for number in range(first, last)]
    log, asked = names[0], RunSubmit(queue=QUEUE.name, handler="h", input=b"\xc0", key=f"{by}/{first}")
    one = runs.submit(runs.Ids(f"fill.{by}.{first}", by, f"{first:016x}"), log, asked, made_ms)
    waiting, mapping, ops = QUEUE.waiting(f"0/{by}/h"), one.guards[0].key, list[Op](one.ops)
    fields = next(op.fields for op in one.ops if isinstance(op, HashSet) and op.key == keys.meta(log))
    ref = next(str(op.fields[asked.key]) for op in one.ops if isinstance(op, HashSet) and op.key == mapping)
    for other in names[1:]:
        ops += (HashSet(keys.meta(other), fields), SortedAdd(waiting, other.name, runs.rank(other, 0)))
    ops.append(HashSet(mapping, {f"{by}/{other.name}": ref.replace(log.name, other.name) for other in names[1:]}))
    appends = tuple(Append(name, one.appends[0].entries, f"{first:016x}") for name in names)
    return one._replace(appends=appends, ops=tuple(ops))


def name_of(number: int, by: str) -> LogName:
    run = make_run_id(QUEUE.partition, 1_700_000_000_000 + number, f"{by:>8}"[-8:].encode())
    return LogName("default", LogKind.RUN, run)


async def fill(store: RedisStore, first: int, last: int, worker: HubPeer | None = None, *given: Assign) -> None:
    """Submit so many runs of each submitter; a worker that holds an attempt says so meanwhile."""
    starts = range(first, last, OF_ONE_COMMIT)
    for at in range(0, len(starts), 4):
        commits = [
            submitted(by, start, min(start + OF_ONE_COMMIT, last)) for start in starts[at : at + 4] for by in SUBMITTERS
        ]
        done = await asyncio.gather(*map(store.commit, commits))
        assert all(isinstance(outcome, Outcome) for outcome in done)
        if worker is not None:
            await worker.send(Heartbeat(attempts=tuple(map(held, given))))


async def claims_ms(worker: HubPeer, given: Assign) -> tuple[float, Assign]:
    """Return what it takes, at the median, from the end of one run to the start of the next; and the last one."""
    took = []
    for _ in range(CLAIMS):
        began = time.perf_counter()
        await worker.send(work_of(given, 1, Kind.SUCCEEDED, RESULT))
        given = await worker.expect(Assign)
        took.append((time.perf_counter() - began) * 1000)
    return median(took), given


async def test_claims_are_as_fast_and_the_hub_as_small_with_100_000_runs_as_with_100(tmp_path: Path) -> None:
    async with valkey(tmp_path, appendfsync="no") as server, Fleet() as fleet:
        hub = await fleet.hub(options=("--store", server.url, "--durability", "memory"))
        store = RedisStore(server.url, Durability.MEMORY, "filler")
        await store.open()
        async with connected(hub.url, hub.token) as worker:
            await fill(store, 0, FEW)
            await worker.identify(agent())
            few_ms, given = await claims_ms(worker, await worker.expect(Assign))
            before_kib = hub.resident_kib
            await fill(store, FEW, MANY, worker, given)
            many_ms, _ = await claims_ms(worker, given)
            grown_kib = hub.resident_kib - before_kib
        left = [await store.sorted_size(QUEUE.waiting(f"0/{by}/h")) for by in SUBMITTERS]
        await store.close()
    assert sum(left) == len(SUBMITTERS) * MANY - 2 * CLAIMS - 1
    assert max(left) - min(left) <= 1, "submitters take turns"
    assert many_ms <= SLOWER_MAX * few_ms, f"a claim took {few_ms:.2f} ms, then {many_ms:.2f} ms"
    assert grown_kib <= GROWTH_MAX_KIB, f"the hub grew by {grown_kib} KiB"
    print(f"claims: {few_ms:.2f} ms, then {many_ms:.2f} ms; the hub grew by {grown_kib} KiB")
