"""The link over a real socket: cut anywhere, closed with any code, and back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.client import Client
from agent.errors import (
    ExpectFailed,
    HistoryReset,
    HubUnreachable,
    LinkClosed,
    LinkEnded,
    NotAuthenticated,
    PublisherLost,
    SessionSuperseded,
)
from agent.sync_client import SyncClient
from agent.worker import Agent
from protocol import frames as f
from protocol.codec import unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.entry import Position
from tests.support.fake_hub import FakeHub
from tests.support.timing import deadline, eventually

ENTRIES = 300


def bodies(hub: FakeHub, log: str) -> list[object]:
    return [unpack_value(unpack_record(entry.packed).body) for entry in hub.log(log).entries]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 7, 11])
async def test_a_connection_cut_at_any_frame_loses_and_repeats_nothing(fake: FakeHub, frames: int) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        reader = client.subscribe("topic/feed")
        fake.frames_before_cut = frames
        publisher = await client.publisher("feed")
        for number in range(ENTRIES):
            if number % 100 == 50:
                fake.frames_before_cut = frames
            await publisher.publish("n", number)
        await publisher.flush()
        seen = [(await anext(reader)).body for _ in range(ENTRIES)]
    assert bodies(fake, "topic/feed") == seen == list(range(ENTRIES))


async def test_a_hub_that_dies_between_commit_and_acknowledgement_has_each_entry_once(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        await client.publish("room", "say", "first")
        fake.mute_pubacks = True
        offset = asyncio.create_task(client.publish("room", "say", "second"))
        await eventually(lambda: len(fake.log("topic/room").entries) == 2)
        fake.mute_pubacks = False
        await fake.stop()
        await fake.start()
        assert await offset == 2
        assert await client.publish("room", "say", "third") == 3
    assert bodies(fake, "topic/room") == ["first", "second", "third"]


async def test_an_unanswered_submit_makes_one_run(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        fake.frames_before_cut = 1
        run = await client.submit("h", 1)
        assert list(fake.runs) == [run.id]


@pytest.mark.parametrize(
    ("code", "error", "said"),
    [
        (CloseCode.SUPERSEDED, SessionSuperseded, "give every agent process an id of its own"),
        (CloseCode.UNAUTHENTICATED, NotAuthenticated, "fleetline token issue"),
        (CloseCode.INVALID_FRAME, LinkEnded, "run the same version of both"),
    ],
)
async def test_a_terminal_code_ends_everything_and_says_what_to_do(
    fake: FakeHub, code: CloseCode, error: type[LinkEnded], said: str
) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        reader = client.subscribe("topic/feed")
        fake.mute_pubacks = True
        publishing = asyncio.create_task(client.publish("room", "say", 1))
        await eventually(lambda: fake.log("topic/room").entries)
        await fake.close_all(code, "because")
        for waiting in (publishing, anext(reader), client.runs()):
            with pytest.raises(error, match="because") as ended:
                await waiting
            assert said in str(ended.value)
        assert len(fake.identified) == 1


async def test_a_code_that_passes_is_survived_and_goaway_says_when_to_come_back(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        await fake.close_all(CloseCode.GOING_AWAY, goaway_ms=1)
        await eventually(lambda: len(fake.identified) == 2)
        assert await client.publish("room", "say", 1) == 1
        assert fake.identified[1].session is not None
        assert fake.identified[1].instance == fake.identified[0].instance


async def test_a_session_that_ends_in_the_message_in_which_it_begins_is_followed_by_another(fake: FakeHub) -> None:
    fake.ends_at = (1, 2)
    async with deadline(10), Client.connect(fake.url) as client:
        assert await client.publish("room", "say", 1) == 1
        assert len(fake.identified) == 3


async def test_a_wrong_token_is_refused_before_anything_is_said(fake: FakeHub) -> None:
    fake.token = "right"
    with pytest.raises(NotAuthenticated, match="the token is not known"):
        await Client.connect(fake.url, token="wrong")
    async with Client.connect(fake.url, token="right"):
        pass


async def test_no_hub_is_reported_in_time_with_the_address() -> None:
    async with deadline(5):
        with pytest.raises(HubUnreachable, match=r"ws://127\.0\.0\.1:1/ within 0\.3 s"):
            await Client.connect("ws://127.0.0.1:1", timeout=0.3)


async def test_reading_resumes_after_the_verified_position_and_two_readers_have_two_links(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        one, two = client.subscribe("topic/feed"), client.subscribe("topic/feed", kinds=["b"])
        for number in range(4):
            await fake.append("topic/feed", "ab"[number % 2], number)
        assert [(await anext(one)).body for _ in range(4)] == [0, 1, 2, 3]
        assert [(await anext(two)).body for _ in range(2)] == [1, 3]
        fake.cut()
        await fake.append("topic/feed", "b", 4)
        assert ((await anext(one)).body, (await anext(two)).body) == (4, 4)
        again = [asked for identify in fake.identified for asked in identify.subscriptions if asked.from_]
        assert {asked.from_[1] for asked in again if not isinstance(asked.from_, f.Start)} <= {3, 4}


async def test_a_replaced_history_is_a_reset_and_never_silent(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        reader = client.subscribe("topic/feed")
        await fake.append("topic/feed", "k", "old")
        assert (await anext(reader)).body == "old"
        del fake.logs["topic/feed"]
        await fake.append("topic/feed", "k", "new")
        fake.cut()
        with pytest.raises(HistoryReset) as reset:
            await anext(reader)
        assert reset.value.reset.reason is f.ResetReason.UNKNOWN
        assert (await anext(reader)).body == "new"


async def test_what_is_handled_is_acknowledged_for_the_next_process(fake: FakeHub) -> None:
    async with deadline(20):
        for number in range(4):
            await fake.append("topic/feed", "k", number)
        async with Client.connect(fake.url) as client:
            reader = client.subscribe("topic/feed", "acked", durable="me")
            assert [(await anext(reader)).body for _ in range(3)] == [0, 1, 2]
            await eventually(lambda: fake.durables["topic/feed", "me"] == 2)
        async with Client.connect(fake.url) as client:
            reader = client.subscribe("topic/feed", "acked", durable="me", auto_ack=False)
            entry = await anext(reader)
            assert entry.body == 2
            entry.ack()
            await eventually(lambda: fake.durables["topic/feed", "me"] == 3)


async def test_a_failed_expectation_names_the_head(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        assert await client.publish("doc", "edit", 1, expect=0) == 1
        with pytest.raises(ExpectFailed) as failed:
            await client.publish("doc", "edit", 2, expect=0)
        assert failed.value.head == 1
        assert await client.publish("doc", "edit", 2, expect=1) == 2


async def test_a_store_that_lost_acknowledged_entries_is_reported_with_their_range(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        publisher = await client.publisher("feed")
        for number in range(5):
            await publisher.publish("n", number)
        await publisher.flush()
        log = fake.log("topic/feed")
        del log.entries[3:], log.tags[3:]
        next(iter(log.producers.values()))[:] = [3, 3]
        await publisher.publish("n", 5)
        with pytest.raises(PublisherLost) as lost:
            await publisher.flush()
        assert (lost.value.first, lost.value.last) == (4, 5)


async def test_a_refusal_that_passes_keeps_the_order(fake: FakeHub) -> None:
    refusals = 3

    def refuse(frame: f.Publish) -> f.Nack | None:
        nonlocal refusals
        if frame.seq > 1 and refusals:
            refusals -= 1
            return FakeHub.nack(frame, "unavailable", retry_ms=20)
        return None

    fake.refuse = refuse
    async with deadline(20), Client.connect(fake.url) as client:
        publisher = await client.publisher("feed")
        for number in range(ENTRIES):
            await publisher.publish("n", number)
        await publisher.flush()
    assert refusals == 0
    assert bodies(fake, "topic/feed") == list(range(ENTRIES))


async def test_whoever_asks_after_the_end_is_told_and_does_not_wait(fake: FakeHub) -> None:
    async with deadline(20):
        client = await Client.connect(fake.url)
        before = client.subscribe("topic/feed")
        await client.close()
        for late in (before, client.subscribe("topic/feed"), client.subscribe("topic/feed")):
            with pytest.raises(LinkClosed):
                await anext(late)
            with pytest.raises(LinkClosed):
                await late.caught_up()
        for asked in (client.runs(), client.publish("room", "say", 1), client.publisher("room")):
            with pytest.raises(LinkClosed):
                await asked


async def test_a_blocking_client_says_that_it_was_closed(fake: FakeHub) -> None:
    def use() -> None:
        client = SyncClient.connect(fake.url)
        assert client.publish("room", "say", 1) == 1
        client.close()
        with pytest.raises(LinkClosed):
            client.runs()

    async with deadline(20):
        await asyncio.to_thread(use)


async def test_a_reader_that_is_closed_does_not_leave_those_waiting_who_wait_for_it_to_catch_up(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        reader = client.subscribe("topic/feed")
        waiting = asyncio.create_task(reader.caught_up())
        reader.close()
        with pytest.raises(LinkClosed):
            await reader.caught_up()
        await asyncio.wait((waiting,))


async def test_readers_that_come_and_go_share_a_connection(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        await fake.append("topic/feed", "k", 1)
        for _ in range(20):
            client.subscribe("topic/feed").close()  # before the hub has answered
        async with client.subscribe("topic/feed") as reader:
            assert (await anext(reader)).body == 1
        assert len(fake.identified) == 1


@pytest.mark.parametrize(
    "wish", [{"kinds": []}, {"kinds": ["k"] * 65}, {"durable": "x" * 161}, {"from_": Position("e", -1, "0" * 16)}]
)
async def test_a_wish_that_the_protocol_has_no_words_for_is_refused_where_it_is_made(
    fake: FakeHub, wish: dict[str, Any]
) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        with pytest.raises(ValueError, match="validation error"):
            client.subscribe("topic/feed", **wish)
        assert await client.publish("room", "say", 1) == 1


@pytest.mark.parametrize("number", [-1, 2**63, True, "1"])
async def test_a_number_that_is_no_offset_is_refused_where_it_is_given(
    fake: FakeHub, number: Any, tmp_path: Path
) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        publisher, on_disk = await client.publisher("room"), await client.publisher("room", tmp_path)
        for asked in (
            client.publish("room", "say", 1, cause=number),
            client.publish("room", "say", 1, expect=number),
            publisher.publish("say", 1, cause=number),
            on_disk.publish("say", 1, cause=number),
        ):
            with pytest.raises(ValueError, match="is no offset"):
                await asked
        await on_disk.aclose()
        assert await client.publish("room", "say", 1, cause=0, expect=0) == 1


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"labels": {"gpu": "x" * 161}}, "not a value of the label"),
        ({"labels": {"gpu": 8}}, "not a value of the label"),
        ({"slots": -1}, "validation error"),
    ],
)
async def test_an_agent_that_cannot_be_announced_is_refused_before_it_connects(
    fake: FakeHub, facts: dict[str, Any], why: str
) -> None:
    async with deadline(20):
        with pytest.raises(ValueError, match=why):
            await Agent("a", **facts).serve(fake.url)


async def test_an_entry_without_a_verified_tag_is_no_place_to_go_on_after(fake: FakeHub) -> None:
    async with deadline(20), Client.connect(fake.url) as client:
        run = await client.submit("h", 1)
        async with client.subscribe(run.log, kinds=["$submitted"]) as reader:
            entry = await anext(reader)
        for follow in (run.watch, lambda after: client.subscribe(run.log, after)):
            with pytest.raises(ValueError, match="no verified tag"):
                follow(entry)
