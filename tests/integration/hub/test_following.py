"""Following a log: every entry after the position, once, or a reset that says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from orchestrator.store import keys
from orchestrator.store.memory import Fault
from protocol.entry import Entry, Position, chain, first_tag
from protocol.frames import (
    Ack,
    Entries,
    Nack,
    Part,
    Probe,
    Reset,
    ResetReason,
    Resumption,
    Role,
    Start,
    Subscribed,
    Tags,
    Unsubscribe,
)
from protocol.window import Cursor
from tests.support.hub_peer import HubPeer, identify, publish, subscribe
from tests.support.hub_world import World, topic
from tests.support.timing import eventually

LOG = "topic/a"


@asynccontextmanager
async def client(line: World) -> AsyncIterator[HubPeer]:
    async with line.peer() as peer:
        await peer.identify(identify())
        yield peer


async def fill(line: World, count: int, *, producer: str = "filler", size: int = 10, batch: int = 100) -> None:
    """Append entries through the hub."""
    async with client(line) as peer:
        response = await peer.result("producer.open", log=LOG, producer=producer)
        seq = response["last"] + 1
        while count:
            bodies = [f"{producer} {seq + place}".encode().ljust(size) for place in range(min(count, batch))]
            await peer.publish(LOG, response["fence"], seq, *bodies, producer=producer)
            seq += len(bodies)
            count -= len(bodies)


async def drain(peer: HubPeer, cursor: Cursor, upto: int, log: str = LOG) -> list[Entry]:
    """Take entries up to an offset, acknowledging each frame and checking each link of the chain."""
    found: list[Entry] = []
    while cursor.position is None or cursor.position.offset < upto:
        frame = await peer.expect(Entries, lambda frame: frame.log == log)
        found += cursor.accept(frame)
        await peer.send(Ack(log=log, offset=frame.upto))
    return found


async def head(line: World) -> Position:
    meta = await line.store.meta(topic("a"))
    assert meta is not None
    return Position(meta["epoch"], int(meta["head"]), meta["tag"])


def cursor_at(subscribed: Subscribed) -> Cursor:
    assert subscribed.subscription.at is not None, subscribed
    return Cursor(subscribed.subscription.at)


async def test_history_and_live_entries_come_without_gap_or_overlap(line: World) -> None:
    await fill(line, 1500)
    async with client(line) as peer:
        cursor = cursor_at(await peer.follow(LOG))
        writer = asyncio.create_task(fill(line, 700, batch=7))
        entries = await drain(peer, cursor, 2200)
        await writer
        assert [entry.offset for entry in entries] == list(range(1, 2201))


async def test_caught_up_is_said_once_at_the_switch(line: World) -> None:
    await fill(line, 20)
    async with client(line) as peer:
        await peer.follow(LOG)
        frames = await peer.caught_up(LOG)
        assert frames[-1].upto == 20
        await fill(line, 5)
        later = await peer.entries(LOG, 25)
        assert not any(frame.caught_up for frame in later)


async def test_a_topic_that_is_not_there_is_made_by_following_it(line: World) -> None:
    async with client(line) as peer:
        subscribed = await peer.follow("topic/new")
        assert subscribed.subscription.at is not None
        assert subscribed.subscription.at.offset == 0
        assert (await peer.caught_up("topic/new"))[-1].upto == 0


@pytest.mark.parametrize("log", ["agent/nobody", "run/05-00000000000-0123456789abcdef", "nonsense", "topic/../x"])
async def test_other_logs_that_are_not_there_are_not_found(line: World, log: str) -> None:
    async with client(line) as peer:
        verdict = (await peer.follow(log)).subscription
        assert (verdict.verdict, verdict.code) == (Resumption.REFUSED, "not_found")


async def test_an_agent_follows_no_other_agents_log(line: World) -> None:
    token = line.issue("agent", agents=("a1",))
    async with line.peer(token) as peer:
        await peer.identify(identify("a1", Role.AGENT))
        assert (await peer.follow("agent/a2")).subscription.code == "forbidden"
        assert (await peer.follow("agent/a1")).subscription.verdict is Resumption.RESUMED


async def test_latest_begins_at_the_head(line: World) -> None:
    await fill(line, 5)
    async with client(line) as peer:
        cursor = cursor_at(await peer.follow(LOG, Start.LATEST))
        await fill(line, 2)
        assert [entry.offset for entry in await drain(peer, cursor, 7)] == [6, 7]


async def test_a_position_is_resumed_in_identify(line: World) -> None:
    await fill(line, 5)
    position = await head(line)
    await fill(line, 5)
    async with line.peer() as peer:
        ready = await peer.identify(identify(subscriptions=(subscribe(LOG, position),)))
        (verdict,) = ready.subscriptions
        assert (verdict.verdict, verdict.at, verdict.head) == (Resumption.RESUMED, position, 10)
        assert [entry.offset for entry in await drain(peer, Cursor(position), 10)] == [6, 7, 8, 9, 10]


async def test_a_position_of_another_epoch_is_unknown(line: World) -> None:
    await fill(line, 3)
    async with client(line) as peer:
        verdict = (await peer.follow(LOG, Position("e" * 16, 2, first_tag("x")))).subscription
        assert (verdict.verdict, verdict.reason) == (Resumption.RESET, ResetReason.UNKNOWN)
        assert verdict.at is not None
        assert verdict.at.offset == 0


async def test_a_position_before_a_trim_is_told_the_lost_range(line: World) -> None:
    await fill(line, 3)
    position = await head(line)
    await fill(line, 10)
    await line.store.trim(topic("a"), 9)
    async with client(line) as peer:
        verdict = (await peer.follow(LOG, position)).subscription
        assert (verdict.verdict, verdict.reason) == (Resumption.RESET, ResetReason.TRIMMED)
        assert verdict.lost is not None
        assert verdict.at is not None
        assert (verdict.lost.from_, verdict.lost.to, verdict.lost.exact, verdict.at.offset) == (4, 8, True, 8)
        assert [entry.offset for entry in await drain(peer, Cursor(verdict.at), 13)] == [9, 10, 11, 12, 13]


async def answer_probes(peer: HubPeer, cursor: Cursor, log: str = LOG) -> tuple[Reset, int]:
    rounds = 0
    while True:
        frame = await peer.expect(Part, lambda frame: isinstance(frame, Probe | Reset))
        if isinstance(frame, Reset):
            return frame, rounds
        rounds += 1
        assert isinstance(frame, Probe)
        await peer.send(Tags(log=log, tags=cursor.tags_at(frame.offsets)))


@pytest.mark.parametrize(("common", "lost", "others"), [(3, 4, 9), (700, 600, 900), (10, 900, 5), (0, 30, 10)])
async def test_a_diverged_history_is_found_and_its_range_is_told(
    line: World, common: int, lost: int, others: int
) -> None:
    async with client(line) as peer:  # the log is there before the snapshot
        await peer.follow(LOG)
    await fill(line, common)
    snapshot = line.server.snapshot()
    await fill(line, lost, producer="lost")
    async with client(line) as peer:
        cursor = cursor_at(await peer.follow(LOG))
        await drain(peer, cursor, common + lost)
    line.server.restore(snapshot)
    await fill(line, others, producer="others")
    async with client(line) as peer:
        assert cursor.position is not None
        verdict = (await peer.follow(LOG, cursor.position)).subscription
        if verdict.verdict is Resumption.PROBING:
            reset, rounds = await answer_probes(peer, cursor)
            assert rounds <= 3
            verdict_lost, at = reset.lost, reset.at
            assert reset.reason is ResetReason.DIVERGED
        else:
            assert verdict.reason is ResetReason.DIVERGED
            assert verdict.lost is not None
            assert verdict.at is not None
            verdict_lost, at = verdict.lost, verdict.at
        assert (verdict_lost.from_, verdict_lost.to, verdict_lost.exact) == (common + 1, common + lost, True)
        assert at.offset == common
        replaced = await drain(peer, Cursor(at), common + others)
        assert [entry.offset for entry in replaced] == list(range(common + 1, common + others + 1))
        assert all(b"others" in entry.packed for entry in replaced)


async def test_a_live_subscription_is_reset_when_the_store_goes_back(line: World) -> None:
    await fill(line, 5)
    snapshot = line.server.snapshot()
    async with client(line) as peer:
        cursor = cursor_at(await peer.follow(LOG))
        await fill(line, 5, producer="lost")
        await drain(peer, cursor, 10)
        line.server.restore(snapshot)
        reset, _ = await answer_probes(peer, cursor)
        assert (reset.reason, reset.lost.from_, reset.lost.to, reset.at.offset) == (ResetReason.DIVERGED, 6, 10, 5)
        cursor.start(reset.at)
        await fill(line, 2, producer="others")
        assert len(await drain(peer, cursor, 7)) == 2


async def test_a_log_that_another_hub_writes_is_followed(line: World) -> None:
    other = await line.start()
    async with client(line) as peer, line.peer(hub=other) as writer:
        cursor = cursor_at(await peer.follow(LOG))
        await writer.identify(identify("w"))
        fence = await writer.publisher(LOG)
        for seq in range(1, 21):
            await writer.publish(LOG, fence, seq, b"x")
        assert len(await drain(peer, cursor, 20)) == 20


async def test_a_lost_hint_costs_time_and_no_entry(line: World) -> None:
    other = await line.start()
    line.store.hear = lambda wake: None  # type: ignore[method-assign]
    async with client(line) as peer, line.peer(hub=other) as writer:
        cursor = cursor_at(await peer.follow(LOG))
        await writer.identify(identify("w"))
        await writer.publish(LOG, await writer.publisher(LOG), 1, b"x")
        assert len(await drain(peer, cursor, 1)) == 1


async def test_no_more_is_sent_than_the_window_holds(line: World) -> None:
    await fill(line, 50)
    async with client(line) as peer:
        await peer.follow(LOG, window=10)
        got = await peer.entries(LOG, 10)
        assert got[-1].upto == 10
        assert await peer.result("log.get", log=LOG)  # whatever was on its way is here now
        assert not [frame for frame in peer.frames if isinstance(frame, Entries)]
        await peer.send(Ack(log=LOG, offset=10))
        assert (await peer.entries(LOG, 20))[-1].upto == 20


async def test_an_entry_larger_than_the_window_is_sent_alone(line: World) -> None:
    await fill(line, 3, size=5000)
    async with client(line) as peer:
        await peer.send(subscribe(LOG, Start.EARLIEST).model_copy(update={"window": {"entries": 10, "bytes": 100}}))
        for offset in (1, 2, 3):
            frame = await peer.expect(Entries)
            assert (frame.prev, frame.upto) == (offset - 1, offset)
            await peer.send(Ack(log=LOG, offset=offset))


async def test_kinds_leave_entries_out_and_close_the_range(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        await peer.follow(LOG, kinds=("other",))
        await peer.caught_up(LOG)
        await peer.publish(LOG, fence, 1, b"a", b"b", b"c")
        frame = await peer.expect(Entries)  # closed by the hub's heartbeat, a second later at most
        assert (frame.prev, frame.upto, frame.entries) == (0, 3, ())
        page = await line.store.read(topic("a"), 0, 10)
        assert page is not None
        assert frame.tag == page.after.tag == chain(page.before.tag, page.entries)


async def test_kinds_pass_on_what_was_asked_for(line: World) -> None:
    async with client(line) as peer, client(line) as other:
        fence = await peer.publisher(LOG)
        await other.follow(LOG, kinds=("note", "never"))
        await peer.publish(LOG, fence, 1, b"a", b"b")
        frames = await other.entries(LOG, 2)
        assert [entry.offset for frame in frames for entry in frame.entries] == [1, 2]


async def test_after_unsubscribe_nothing_comes(line: World) -> None:
    async with client(line) as peer:
        await peer.follow(LOG)
        await peer.caught_up(LOG)
        await peer.send(Unsubscribe(log=LOG))
        await fill(line, 3)
        await peer.result("log.get", log=LOG)
        assert not [frame for frame in peer.frames if isinstance(frame, Entries)]
        await eventually(lambda: len(line.hub.services.line.tails) == 0)


async def test_following_again_starts_anew(line: World) -> None:
    await fill(line, 4)
    async with client(line) as peer:
        await peer.follow(LOG, window=2)
        await peer.entries(LOG, 2)
        again = await peer.follow(LOG)
        peer.frames.clear()
        assert len(await drain(peer, cursor_at(again), 4)) == 4


async def test_what_was_sent_in_one_session_may_be_acknowledged_in_the_next(line: World) -> None:
    async with line.peer() as peer:
        await peer.identify(identify())
        fence = await peer.publisher(LOG)
        await peer.follow(LOG, Start.EARLIEST, durable="mine")
        await peer.publish(LOG, fence, 1, b"one", b"two")
        last = (await peer.entries(LOG, 2))[-1]
        epoch = (await peer.result("log.get", log=LOG))["head"][0]
    async with line.peer() as again:
        await again.identify(identify())
        await again.follow(LOG, Position(epoch, 2, last.tag), durable="mine")
        await again.send(Ack(log=LOG, offset=2))
    async with line.peer() as later:
        await later.identify(identify())

        async def stored() -> bool:
            verdict = (await later.follow(LOG, Start.ACKED, durable="mine")).subscription
            return bool(verdict.at and verdict.at.offset == 2)

        await eventually(stored)


async def test_a_durable_subscription_goes_on_from_what_was_acknowledged(line: World) -> None:
    await fill(line, 10)
    async with client(line) as peer:
        first = await peer.follow(LOG, Start.ACKED, durable="mine")
        cursor = cursor_at(first)
        assert cursor.position is not None
        assert cursor.position.offset == 0
        await peer.entries(LOG, 10)
        await peer.send(Ack(log=LOG, offset=6), Ack(log=LOG, offset=4))

    async def stored() -> bool:
        value = (await line.store.hash_get(keys.acks(topic("a")), "client:local/mine"))[0]
        return value is not None and value.startswith(b"6 ")

    await eventually(stored)
    async with client(line) as peer:
        again = await peer.follow(LOG, Start.ACKED, durable="mine")
        assert [entry.offset for entry in await drain(peer, cursor_at(again), 10)] == [7, 8, 9, 10]


async def test_acked_without_a_name_is_refused(line: World) -> None:
    async with client(line) as peer:
        assert (await peer.follow(LOG, Start.ACKED)).subscription.code == "invalid_params"


async def test_more_subscriptions_than_the_limit_are_refused(world: World) -> None:
    await world.start(limits={"subscriptions_max": 2})
    async with world.peer() as peer:
        await peer.identify(identify())
        assert (await peer.follow("topic/a")).subscription.code is None
        assert (await peer.follow("topic/b")).subscription.code is None
        assert (await peer.follow("topic/c")).subscription.code == "too_many"


async def test_a_store_that_is_away_refuses_a_subscription_and_keeps_the_session(line: World) -> None:
    async with client(line) as peer:
        line.server.down = True
        assert (await peer.follow(LOG)).subscription.code == "unavailable"
        line.server.down = False
        assert (await peer.follow(LOG)).subscription.verdict is Resumption.RESUMED


async def test_an_outage_in_the_middle_of_history_loses_nothing(line: World) -> None:
    await fill(line, 300)
    async with client(line) as peer:
        cursor = cursor_at(await peer.follow(LOG, window=50))
        await drain(peer, cursor, 50)
        line.server.down = True
        await peer.send(Ack(log=LOG, offset=50))
        assert (await peer.request("log.get", log=LOG)).error is not None
        line.server.down = False
        assert len(await drain(peer, cursor, 300)) == 250


async def test_a_commit_whose_reply_was_lost_is_shown_once(line: World) -> None:
    async with client(line) as peer:
        fence = await peer.publisher(LOG)
        cursor = cursor_at(await peer.follow(LOG))
        line.store.fail_next(Fault.LOST_AFTER)
        await peer.send(publish(LOG, fence, 1, b"a"))
        nack = await peer.expect(Nack)
        assert (nack.code, nack.seq) == ("unavailable", 1)
        await peer.publish(LOG, fence, 1, b"a")
        await peer.publish(LOG, fence, 2, b"b")
        assert [entry.offset for entry in await drain(peer, cursor, 2)] == [1, 2]


async def test_a_peer_that_stops_reading_costs_lag_not_memory(line: World) -> None:
    await fill(line, 400, size=20_000)
    async with client(line) as peer, client(line) as quick:
        peer.socket.transport.pause_reading()
        await peer.send(
            subscribe(LOG, Start.EARLIEST).model_copy(update={"window": {"entries": 8192, "bytes": 8 * 1024 * 1024}})
        )
        slow = [each for each in line.hub.services.connections if each.peer is not None]
        await eventually(lambda: any(each.congested for each in slow))
        await quick.follow(LOG)  # others are served meanwhile
        await quick.entries(LOG, 50)
        held = max(each._socket.buffered for each in slow)
        assert held < 2 * 1024 * 1024
        peer.socket.transport.resume_reading()
        got = await peer.entries(LOG, 400)
        assert [entry.offset for frame in got for entry in frame.entries] == list(range(1, 401))
