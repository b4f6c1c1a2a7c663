"""Publishing to a topic: acknowledged once it is in the log, once, in order, or refused with a reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orchestrator.core.sessions import agent_log
from orchestrator.store.memory import Fault
from protocol.codec import encode, unpack_record
from protocol.frames import Nack, Puback, Publish, Request, Response, Role
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_world import World, topic

LOG = "topic/a"


@asynccontextmanager
async def client(line: World, token: str | None = None) -> AsyncIterator[HubPeer]:
    async with line.peer(token) as peer:
        await peer.identify(identify())
        yield peer


async def bodies(line: World) -> list[bytes]:
    page = await line.store.read(topic("a"), 0, 1000)
    assert page is not None
    return [unpack_record(entry.packed).body for entry in page.entries]


async def nacked(peer: HubPeer, frame: Publish) -> Nack:
    await peer.send(frame)
    return await peer.expect(Nack)


async def test_the_source_is_who_was_authenticated(line: World) -> None:
    async with client(line, line.issue("operator", name="ann")) as peer:
        await peer.publish(LOG, await peer.publisher(LOG), 1, b"x")
    page = await line.store.read(topic("a"), 0, 1)
    assert page is not None
    record = unpack_record(page.entries[0].packed)
    assert (record.src, record.seq, record.attempt) == ("client:ann", 1, None)


async def test_many_frames_in_flight_keep_their_order(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        frames = [publish(LOG, fence, seq, b"%d" % seq, b"%d" % (seq + 1)) for seq in range(1, 400, 2)]
        await peer.send_raw(b"".join(map(encode, frames)))
        last = await peer.expect(Puback, lambda frame: frame.seq == 400)
        assert last.offset == 400
        assert await bodies(line) == [b"%d" % seq for seq in range(1, 401)]


async def test_pubacks_are_cumulative_and_grow(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.send(*(publish(LOG, fence, seq, b"x") for seq in range(1, 101)))
        seen = [await peer.expect(Puback)]
        while seen[-1].seq < 100:
            seen.append(await peer.expect(Puback))
        assert [frame.seq for frame in seen] == sorted({frame.seq for frame in seen})
        assert all(frame.offset == frame.seq for frame in seen)


async def test_a_retry_is_acknowledged_and_not_appended_again(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        first = await peer.publish(LOG, fence, 1, b"a", b"b")
        again = await peer.publish(LOG, fence, 1, b"a", b"b")
        assert (again.seq, again.offset) == (first.seq, first.offset)
        await peer.publish(LOG, fence, 2, b"b", b"c")  # a part of it is new
        assert await bodies(line) == [b"a", b"b", b"c"]


async def test_other_entries_with_the_same_numbers_are_a_conflict(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.publish(LOG, fence, 1, b"a")
        assert (await nacked(peer, publish(LOG, fence, 1, b"b"))).code == "producer_conflict"


async def test_a_gap_is_out_of_order_and_consumes_nothing(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        nack = await nacked(peer, publish(LOG, fence, 3, b"c"))
        assert (nack.code, nack.last, nack.seq) == ("out_of_order", 0, 3)
        await peer.publish(LOG, fence, 1, b"a")


async def test_a_producer_that_was_never_opened_is_unknown(line: World) -> None:
    async with client(line) as peer:
        assert (await nacked(peer, publish(LOG, 1, 1, b"a"))).code == "producer_unknown"


async def test_opening_a_producer_again_fences_the_owner_before(line: World) -> None:
    async with client(line) as old, client(line) as new:
        fence = await old.publisher(LOG)
        await old.publish(LOG, fence, 1, b"a")
        opened = await new.result("producer.open", log=LOG, producer="p")
        assert opened["last"] == 1
        assert (await nacked(old, publish(LOG, fence, 2, b"old"))).code == "fenced"
        await new.publish(LOG, opened["fence"], 2, b"new")
        assert await bodies(line) == [b"a", b"new"]


async def test_an_expected_head_that_is_not_the_head_is_told(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.publish(LOG, fence, 1, b"a")
        nack = await nacked(peer, publish(LOG, fence, 2, b"b", expect=0))
        assert (nack.code, nack.head) == ("expect_failed", 1)
        await peer.send(publish(LOG, fence, 2, b"b", expect=1))
        assert (await peer.expect(Puback)).offset == 2


async def test_lost_acknowledged_entries_are_told_to_their_publisher(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.publish(LOG, fence, 1, b"a")
        snapshot = line.server.snapshot()
        await peer.publish(LOG, fence, 2, b"b", b"c")
        line.server.restore(snapshot)
        nack = await nacked(peer, publish(LOG, fence, 4, b"d"))
        assert (nack.code, nack.last) == ("publisher_lost", 1)
        assert nack.message == "entries 2 to 3 were acknowledged, and the store has lost them"


@pytest.mark.parametrize("kind", ["$claimed", "$steer", "Upper", "", "a b", "x" * 129])
async def test_kinds_that_are_not_a_peers_are_refused(line: World, kind: str) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        frame = Publish(log=LOG, producer="p", seq=1, fence=fence, entries=((kind, b"", None, None),))
        assert (await nacked(peer, frame)).code == "invalid_entry"
        await peer.publish(LOG, fence, 1, b"a")


async def test_entries_over_the_limits_are_refused(world: World) -> None:
    await world.start(limits={"body_bytes_max": 100, "frame_entries_max": 4})
    async with client(world) as peer:
        fence = await peer.publisher(LOG)
        assert (await nacked(peer, publish(LOG, fence, 1, b"x" * 101))).code == "entry_too_large"
        assert (await nacked(peer, publish(LOG, fence, 1, *[b"x"] * 5))).code == "invalid_entry"
        await peer.publish(LOG, fence, 1, *[b"x" * 100] * 4)


async def test_more_in_flight_than_announced_is_left_to_wait(world: World) -> None:
    await world.start(limits={"publish_entries_max": 10})
    async with client(world) as peer:
        fence = await peer.publisher(LOG)
        await peer.send(*(publish(LOG, fence, seq, b"x") for seq in range(1, 201)))
        assert (await peer.expect(Puback, lambda frame: frame.seq == 200)).offset == 200


async def test_a_viewer_may_not_publish(line: World) -> None:
    async with client(line, line.issue("viewer")) as peer:
        assert (await nacked(peer, publish(LOG, 1, 1, b"x"))).code == "forbidden"


async def test_only_an_operator_writes_to_an_agents_log(line: World) -> None:
    async with line.peer(line.issue("agent", agents=("a1",))) as agent:
        await agent.identify(identify("a1", Role.AGENT))
        assert (await nacked(agent, publish("agent/a1", 1, 1, b"x"))).code == "forbidden"
    async with client(line) as peer:
        await peer.publish("agent/a1", await peer.publisher("agent/a1"), 1, b"x")
        assert "note" in await line.kinds(agent_log("default", "a1"))


@pytest.mark.parametrize("log", ["topic/..", "topic/a/b", "nonsense", "run/x", "agent/"])
async def test_a_log_that_is_none_is_refused(line: World, log: str) -> None:
    async with client(line) as peer:
        assert (await nacked(peer, publish(log, 1, 1, b"x"))).code == "not_found"


@pytest.mark.parametrize("fault", [Fault.DOWN, Fault.LOST_BEFORE, Fault.LOST_AFTER])
async def test_what_the_store_did_not_answer_can_be_sent_again(line: World, fault: Fault) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        line.store.fail_next(fault)
        nack = await nacked(peer, publish(LOG, fence, 1, b"a"))
        assert nack.code == "unavailable"
        assert nack.retry_ms is not None
        assert (await peer.publish(LOG, fence, 1, b"a")).offset == 1
        assert await bodies(line) == [b"a"]


async def test_a_full_store_is_told_as_such(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        line.store.fail_next(Fault.FULL)
        assert (await nacked(peer, publish(LOG, fence, 1, b"a"))).code == "store_full"


async def test_namespaces_do_not_see_each_other(line: World) -> None:
    async with client(line) as here, client(line, line.issue("operator", namespace="other")) as there:
        await here.publish(LOG, await here.publisher(LOG), 1, b"here")
        await there.publish(LOG, await there.publisher(LOG), 1, b"there")
        assert await bodies(line) == [b"here"]


async def test_a_publish_whose_peer_has_gone_is_in_the_log_once(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.send(publish(LOG, fence, 1, b"a"))
    async with client(line) as peer:
        opened = await peer.result("producer.open", log=LOG, producer="p")
        await peer.publish(LOG, opened["fence"], 1, b"a")
        assert await bodies(line) == [b"a"]


async def test_requests_past_the_limit_are_told_so(world: World) -> None:
    await world.start(limits={"requests_max": 3})
    async with client(world) as peer:
        release = asyncio.Event()
        answer = world.hub.services.methods.call

        async def slow(*arguments: object) -> Response:
            await release.wait()
            return await answer(*arguments)  # type: ignore[arg-type]

        world.hub.services.methods.call = slow  # type: ignore[method-assign, assignment]
        await peer.send(*(Request(id=number, method="log.list") for number in range(10, 15)))
        refused = [await peer.expect(Response) for _ in range(2)]
        assert [(each.id, each.error and each.error.code) for each in refused] == [(13, "too_many"), (14, "too_many")]
        release.set()
        answered = [await peer.expect(Response) for _ in range(3)]
        assert sorted((each.id, each.error) for each in answered) == [(10, None), (11, None), (12, None)]
