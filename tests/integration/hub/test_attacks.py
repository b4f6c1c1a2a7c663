"""What an attack on the promise found: peers of ill will, and the unlucky moment. The hub goes on and stays exact."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from itertools import count

import pytest

from orchestrator.families import Families
from orchestrator.newborn import Newborn
from orchestrator.retention import Retention
from orchestrator.schedules import Schedules
from orchestrator.store.base import DueAt, Page, StoreError
from orchestrator.store.commits import Commit, HashSet, Outcome, Refused
from orchestrator.timekeeper import Timekeeper
from protocol.codec import pack_value
from protocol.codes import CloseCode, ErrorCode
from protocol.frames import (
    Assign,
    AttemptClaim,
    AttemptVerdict,
    Heartbeat,
    Nack,
    Puback,
    Release,
    ReleaseReason,
    Resumption,
    Start,
    Verdict,
)
from protocol.ids import LogName
from protocol.limits import Limits
from tests.support.hub_peer import identify, publish
from tests.support.hub_work import agent, connection_of, held, state, submit, work_of
from tests.support.hub_world import World, topic
from tests.support.timing import deadline, eventually

LOG = "topic/a"
BODY_BYTES_MAX = Limits().body_bytes_max
BUFFERED_MAX = 1024 * 1024
BAD_RUNS = ("hello", "99-x", "-1foo", " 7:meta", "\u0663\u0663x", "", "07\n")


# Sessions


async def test_an_attempt_stays_with_the_session_that_opened_last(calm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older session, slow to open, may not take an attempt back from a newer one."""
    other = await calm.start(heartbeat_ms=5_000)
    work, reached, gate = calm.hub.services.work, asyncio.Event(), asyncio.Event()
    reopen = work.reopen

    async def slow(peer: object, claims: tuple[AttemptClaim, ...]) -> tuple[AttemptVerdict, ...]:
        reached.set()
        await gate.wait()
        return await reopen(peer, claims)  # type: ignore[arg-type]

    async with calm.peer() as client, calm.peer() as first, calm.peer() as second, calm.peer(hub=other) as third:
        await client.identify(identify())
        await first.identify(agent())
        log = await submit(client)
        given = await first.expect(Assign)
        claims = (AttemptClaim(run=given.run, fence=given.fence, seq=0),)
        monkeypatch.setattr(work, "reopen", slow)
        opening = asyncio.create_task(second.identify(agent(claims=claims)))
        await reached.wait()
        assert (await third.identify(agent(claims=claims))).attempts[0].verdict is Verdict.CONTINUE
        gate.set()
        assert (await opening).attempts[0].verdict is Verdict.FENCED
        assert await second.closed() == CloseCode.GOING_AWAY
        await third.send(work_of(given, 1, body=b"new"))
        await third.expect(Puback)
        meta = await calm.store.meta(log)
        assert meta is not None
        assert third.ready is not None
        assert meta["session"] == third.ready.session


async def test_a_claim_for_a_session_that_ended_meanwhile_is_handed_back(
    calm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    claiming, gate, commit = asyncio.Event(), asyncio.Event(), calm.store.commit

    async def slow(proposed: Commit) -> Outcome | Refused:
        if any(isinstance(op, HashSet) and "claimed_at" in op.fields for op in proposed.ops):
            claiming.set()
            await gate.wait()
        return await commit(proposed)

    monkeypatch.setattr(calm.store, "commit", slow)
    async with calm.peer() as client, calm.peer() as first, calm.peer() as second:
        await client.identify(identify())
        await first.identify(agent())
        await submit(client)
        await claiming.wait()
        first.socket.transport.abort()
        await eventually(lambda: connection_of(calm, "a1") is None)
        await second.identify(agent())
        gate.set()
        assert (await second.expect(Assign)).attempt == 2


async def test_a_connection_that_breaks_while_the_hub_waits_for_room_ends(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as ghost:
        await client.identify(identify())
        fence = await client.publisher(LOG)
        for seq in range(1, 4):
            await client.publish(LOG, fence, seq, b"x" * 900_000)
        await ghost.identify(agent("ghost"))
        ghost.socket.transport.pause_reading()
        link = connection_of(calm, "ghost")
        assert link is not None
        requests = count(1)

        async def waits() -> bool:
            frame = {"t": "request", "id": next(requests), "method": "log.read", "params": {"log": LOG}}
            await ghost.send_raw(pack_value(frame))
            return link._incoming.waits

        await eventually(waits)
        ghost.socket.transport.abort()
        await eventually(lambda: connection_of(calm, "ghost") is None)
        assert calm.hub.services.peers.agent("default", "ghost") is None
        assert await state(client, await submit(client)) == "queued"


# Attempts


async def test_an_agent_gets_no_more_attempts_than_it_may_list(world: World) -> None:
    await world.start(heartbeat_ms=5_000, limits={"attempts_max": 4})
    async with world.peer() as client, world.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent(slots=6))
        logs = [await submit(client, f"k{number}") for number in range(6)]
        given = [await worker.expect(Assign) for _ in range(4)]
        await worker.send(Heartbeat(attempts=tuple(held(each) for each in given)))
        await worker.send(work_of(given[0], 1, "$succeeded", pack_value({"result": b""})))
        await worker.expect(Assign)
        states = [await state(client, log) for log in logs]
        assert sorted(states) == ["queued"] + 4 * ["running"] + ["succeeded"]


async def test_a_lease_that_is_fresh_again_is_not_taken(calm: World) -> None:
    """Whoever read that it ran out looks again."""
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        log = await submit(client)
        given = await worker.expect(Assign)
        await worker.send(Release(run=given.run, fence=given.fence, reason=ReleaseReason.NO_SLOT))
        assert (await worker.expect(Assign)).attempt == 2
        await calm.hub.services.work.expire(log)
        assert await calm.kinds(log) == ["$submitted", "$claimed", "$released", "$claimed"]


async def test_a_hub_that_stood_still_takes_no_lease_before_it_heard_its_agents(calm: World) -> None:
    services, clock, now_ms = calm.hub.services, calm.server.clock_ms, 0
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        log = await submit(client)
        await worker.expect(Assign)
        schedules = Schedules(services.line, lambda _: None)
        families = Families(services.line, lambda _: None)
        keeper = Timekeeper(
            services.line, services.work, schedules, families, services.registry, 1_500, lambda: now_ms, services.spawn
        )
        calm.server.clock_ms = lambda: clock() + now_ms

        async def later(step_ms: int) -> list[str]:
            nonlocal now_ms
            now_ms += step_ms
            await keeper._act()
            return await calm.kinds(log)

        for _ in range(4):
            await later(500)
        assert await later(60_000) == ["$submitted", "$claimed"]
        assert await later(500) == ["$submitted", "$claimed"]
        await later(500)
        assert (await later(500))[:3] == ["$submitted", "$claimed", "$lost"]


async def test_a_failover_that_loses_a_claim_leaves_the_run_to_be_claimed_again(
    calm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = calm.store.commit
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        log = await submit(client)
        before = calm.server.snapshot()

        async def fail_over(proposed: Commit) -> Outcome | Refused:
            outcome = await commit(proposed)
            if any(isinstance(op, HashSet) and "claimed_at" in op.fields for op in proposed.ops):
                calm.server.restore(before)
                monkeypatch.setattr(calm.store, "commit", commit)
            return outcome

        monkeypatch.setattr(calm.store, "commit", fail_over)
        await worker.identify(agent())
        lost = await worker.expect(Assign)
        assert await state(client, log) == "queued"
        await worker.send(Heartbeat(attempts=(held(lost),)))
        refused = await worker.expect(Nack)
        assert (refused.code, refused.seq) == ("fenced", 0)
        given = await worker.expect(Assign)
        assert (given.run, given.attempt) == (log.name, 1)
        assert given.fence > lost.fence
        assert await state(client, log) == "running"


@pytest.mark.parametrize("cancelled", [False, True], ids=["queued", "cancelled"])
async def test_an_attempt_that_the_hub_does_not_know_is_refused_when_heartbeats_go_on_listing_it(
    calm: World, cancelled: bool
) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        async with calm.peer() as worker:
            await worker.identify(agent())
            log = await submit(client)
            given = await worker.expect(Assign)
        meta = await calm.hub.services.work._meta(log)
        assert meta is not None
        await calm.hub.services.work._lose(meta, "its lease ran out")
        if cancelled:
            await client.result("run.cancel", run=given.run)
        async with calm.peer() as worker:
            await worker.identify(agent(queue="other"))
            told: list[Nack] = []

            async def refused() -> bool:
                await worker.send(Heartbeat(attempts=(held(given), held(given, numbered=False))))
                await worker.result("log.get", log=log.path)
                told.extend(frame for frame in worker.frames if isinstance(frame, Nack))
                return bool(told)

            await eventually(refused)
            assert (told[0].code, told[0].seq, told[0].producer) == (ErrorCode.FENCED, 0, "attempt/1")
            assert told[0].log == log.path


async def test_an_ending_that_crosses_a_heartbeat_is_not_refused(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        log = await submit(client)
        given = await worker.expect(Assign)
        beat = Heartbeat(attempts=(held(given),))
        await worker.send(work_of(given, 1, "$succeeded", pack_value({"result": b""})), beat)
        await worker.expect(Puback)
        await worker.send(Heartbeat(attempts=()))
        await submit(client, "k2")
        await worker.expect(Assign)
        assert await state(client, log) == "succeeded"
        assert not [frame for frame in worker.frames if isinstance(frame, Nack)]


# The store


async def test_a_durable_subscription_that_acknowledged_nothing_is_told_of_what_it_lost(world: World) -> None:
    await world.start(heartbeat_ms=5_000, log_entries_max=1_000)
    async with world.peer() as client, world.peer() as reader:
        await client.identify(identify())
        await reader.identify(identify("reader"))
        fence = await client.publisher(LOG)
        await client.publish(LOG, fence, 1, *[b"important"] * 50)
        await reader.follow(LOG, Start.ACKED, durable="d")
        await reader.entries(LOG, 50)
        reader.socket.transport.abort()
        retention = Retention(world.hub.services.line, 1_000)
        for seq in range(51, 1_651, 200):
            await client.publish(LOG, fence, seq, *[b"x"] * 200)
        await retention.cut(topic("a"))
        async with world.peer() as again:
            await again.identify(identify("reader"))
            verdict = (await again.follow(LOG, Start.ACKED, durable="d")).subscription
            assert (verdict.verdict, verdict.at and verdict.at.offset) == (Resumption.RESUMED, 0)
        for seq in range(1_651, 4_651, 200):
            await client.publish(LOG, fence, seq, *[b"x"] * 200)
        await retention.cut(topic("a"))
        async with world.peer() as again:
            await again.identify(identify("reader"))
            verdict = (await again.follow(LOG, Start.ACKED, durable="d")).subscription
            assert verdict.verdict is Resumption.RESET
            assert verdict.lost is not None
            assert verdict.lost.from_ == 1


async def test_a_run_that_cannot_be_read_keeps_no_other_from_its_agent(
    calm: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = calm.store.meta
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        damaged, sound = await submit(client, "k1"), await submit(client, "k2")

        async def broken_meta(log: LogName) -> dict[str, str] | None:
            if log == damaged:
                raise StoreError("FLHOLE")
            return await meta(log)

        monkeypatch.setattr(calm.store, "meta", broken_meta)
        monkeypatch.setattr(Newborn, "take", lambda *_: None)  # nothing of it is at hand any more
        await worker.identify(agent(slots=2))
        assert (await worker.expect(Assign)).run == sound.name
        assert await state(client, sound) == "running"


async def test_a_log_that_cannot_be_read_ends_no_other_session(calm: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read = calm.store.read

    async def broken(log: LogName, after: int, *limits: int) -> Page | None:
        if log == topic("a"):
            raise StoreError("FLHOLE")
        return await read(log, after, *limits)

    async with calm.peer() as bystander, calm.peer() as victim:
        await bystander.identify(identify())
        await victim.identify(identify("victim"))
        fence = await bystander.publisher(LOG)
        await bystander.publish(LOG, fence, 1, b"1", b"2")
        monkeypatch.setattr(calm.store, "read", broken)
        await victim.follow(LOG, Start.EARLIEST)
        assert await victim.closed() == CloseCode.INTERNAL_ERROR
        assert await bystander.result("log.list")


@pytest.mark.parametrize("fault", [StoreError("NOPERM"), RuntimeError("a bug")], ids=["store", "bug"])
async def test_a_loop_of_the_hub_that_fails_is_begun_again(
    calm: World, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    due, failed = calm.store.due, asyncio.Event()

    async def broken(
        now_ms: int, limit: int, partitions: Collection[int], ahead_ms: int = 0
    ) -> tuple[list[DueAt], list[DueAt]]:
        if not failed.is_set():
            failed.set()
            raise fault
        came.set()
        return await due(now_ms, limit, partitions, ahead_ms)

    came = asyncio.Event()
    monkeypatch.setattr(calm.store, "due", broken)
    async with calm.peer() as bystander, deadline(10):
        await bystander.identify(identify())
        await failed.wait()
        await came.wait()
        assert (await bystander.result("run.list"))["runs"] == ()


async def test_a_frame_that_comes_again_is_acknowledged_once(calm: World) -> None:
    async with calm.peer() as peer:
        await peer.identify(identify())
        fence = await peer.publisher(LOG)
        await peer.publish(LOG, fence, 1, b"1", b"2")
        await peer.publish(LOG, fence, 3, b"3")
        await peer.send(publish(LOG, fence, 1, b"1", b"2"))
        again = await peer.expect(Puback)
        assert (again.seq, again.offset) == (3, 3)
        assert (await peer.result("log.get", log=LOG))["head"][1] == 3
