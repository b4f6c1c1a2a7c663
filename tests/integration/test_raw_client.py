"""Logs and requests, as a client written from docs/protocol.md alone sees them on a real hub."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from protocol.ids import LogName
from tests.support.raw_client import Producer, RawClient, Refused, first_tag, next_tag, pack, unpack
from tests.support.raw_hub import RawHub, raw_hub

TOPIC = "topic/news"
VECTORS = json.loads((Path(__file__).parents[2] / "docs" / "protocol-vectors.json").read_text(encoding="utf-8"))


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RawHub]:
    async with raw_hub(tmp_path) as running:
        yield running


async def said(client: RawClient, count: int, *, kind: str = "said") -> Producer:
    """Publish this many entries to the topic."""
    producer = await client.producer(TOPIC, "feed")
    first = producer.seq + 1
    await client.publish(producer, [(kind, pack({"n": number})) for number in range(first, first + count)])
    return producer


def numbers(records: list[list[Any]]) -> list[int]:
    return [unpack(record[6])["n"] for record in records]


@pytest.mark.parametrize("chain", VECTORS["chains"], ids=lambda chain: chain["what"])
def test_the_raw_client_computes_the_tags_of_the_vectors(chain: dict[str, Any]) -> None:
    tag = first_tag(chain["epoch"])
    assert tag == chain["tag_0"]
    for entry in chain["entries"]:
        tag = next_tag(tag, entry["offset"], entry["ts_ms"], bytes.fromhex(entry["packed"]))
        assert tag == entry["tag"]


@pytest.mark.parametrize("in_header", [True, False])
async def test_a_session_opens(hub: RawHub, in_header: bool) -> None:
    client = await hub.client("ada", in_header=in_header)
    assert client.hello["versions"] == [1]
    assert client.hello["durability"] == "local"
    assert client.ready["principal"] == "client:ada"
    assert (client.ready["namespace"], client.ready["scopes"]) == ("default", ["operator"])
    assert client.ready["resumed"] is False
    assert client.ready["expires_ms"] > client.hello["store_ms"]


@pytest.mark.parametrize("token", ["", "rubbish", "eyJhbGciOiJub25lIn0.e30."])
async def test_a_token_that_is_none_opens_no_session(hub: RawHub, token: str) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        await RawClient.open(hub.hub.url, token, name="ada", in_header=False)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4506


async def test_an_agent_needs_a_token_for_agents(hub: RawHub) -> None:
    with pytest.raises(ConnectionClosed) as closed:
        await RawClient.open(hub.hub.url, hub.token("ada", "operator"), name="ada", role="agent")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4507


async def test_what_is_published_is_followed_with_its_chain(hub: RawHub) -> None:
    client, watcher = await hub.client("ada"), await hub.client("bob")
    verdict = await watcher.subscribe(TOPIC, "earliest")
    assert (verdict["verdict"], verdict["at"][1], verdict["head"]) == ("resumed", 0, 0)
    await watcher.wait_caught_up(TOPIC)
    producer = await said(client, 5)
    assert (producer.acked, producer.offset, producer.level) == (5, 5, "local")
    records = await watcher.wait_entries(TOPIC, 5)
    assert numbers(records) == [1, 2, 3, 4, 5]
    assert records[0][:6] == ["said", "client:ada", None, 1, None, None]
    info = await watcher.request("log.get", log=TOPIC)
    assert info["head"] == watcher.following[TOPIC].position


async def test_a_position_resumes_after_a_broken_connection(hub: RawHub) -> None:
    writer, reader = await hub.client("ada"), await hub.client("bob")
    await said(writer, 3)
    await reader.subscribe(TOPIC, "earliest")
    await reader.wait_entries(TOPIC, 3)
    position = reader.following[TOPIC].position
    await reader.drop()
    await said(writer, 2)
    listed = {"t": "subscribe", "log": TOPIC, "from": position}
    again = await hub.client("bob", session=reader.ready["session"], subscriptions=[listed])
    assert again.ready["resumed"] is True
    assert again.ready["subscriptions"][0]["verdict"] == "resumed"
    assert numbers(await again.wait_entries(TOPIC, 2)) == [4, 5]


async def test_a_durable_subscription_resumes_from_what_it_acknowledged(hub: RawHub) -> None:
    client = await hub.client()
    await said(client, 5)
    await client.subscribe(TOPIC, "acked", durable="reader")
    await client.wait_entries(TOPIC, 5)
    await client.ack(TOPIC, 3)
    await hub.store_acks(client)
    again = await hub.client()
    verdict = await again.subscribe(TOPIC, "acked", durable="reader")
    assert verdict["at"][1] == 3
    assert numbers(await again.wait_caught_up(TOPIC)) == [4, 5]


async def test_a_window_holds_back_what_is_not_acknowledged(hub: RawHub) -> None:
    client = await hub.client()
    await said(client, 10)
    await client.subscribe(TOPIC, "earliest", window={"entries": 4, "bytes": 100_000})
    await client.wait_entries(TOPIC, 4)
    await client.request("log.get", log=TOPIC)
    assert len(client.following[TOPIC].entries) == 4
    await client.ack(TOPIC)
    await client.wait_entries(TOPIC, 8)
    await client.ack(TOPIC)
    assert numbers(await client.wait_caught_up(TOPIC)) == list(range(1, 11))


async def test_one_entry_is_sent_even_if_it_is_larger_than_the_window(hub: RawHub) -> None:
    client = await hub.client()
    producer = await client.producer(TOPIC, "feed")
    await client.publish(producer, [("said", b"x" * 5000), ("said", b"y" * 5000)])
    await client.subscribe(TOPIC, "earliest", window={"entries": 10, "bytes": 100})
    await client.wait_entries(TOPIC, 1)
    await client.request("log.get", log=TOPIC)
    assert len(client.following[TOPIC].entries) == 1
    await client.ack(TOPIC)
    await client.wait_entries(TOPIC, 2)


async def test_kinds_leave_out_the_others_and_the_range_still_closes(hub: RawHub) -> None:
    client = await hub.client()
    for kind in ("said", "noise", "said"):
        await said(client, 2, kind=kind)
    await client.subscribe(TOPIC, "earliest", kinds=["said"])
    assert numbers(await client.wait_caught_up(TOPIC)) == [1, 2, 5, 6]
    position = client.following[TOPIC].position
    assert position is not None
    assert position[1] == 6


async def test_a_trimmed_history_is_reset_with_the_range(hub: RawHub) -> None:
    client = await hub.client()
    await said(client, 6)
    epoch = (await client.request("log.get", log=TOPIC))["head"][0]
    cut = await hub.hub.services.line.store.trim(LogName.parse(TOPIC), 5)
    verdict = await client.subscribe(TOPIC, [epoch, 0, first_tag(epoch)])
    assert (verdict["verdict"], verdict["reason"]) == ("reset", "trimmed")
    assert verdict["lost"] == {"from": 1, "to": 4, "exact": True}
    assert verdict["at"] == list(cut or ())
    assert numbers(await client.wait_caught_up(TOPIC)) == [5, 6]


async def test_another_log_of_the_same_name_is_reset_as_unknown(hub: RawHub) -> None:
    client = await hub.client()
    await said(client, 2)
    verdict = await client.subscribe(TOPIC, ["other", 7, "0" * 16])
    assert (verdict["verdict"], verdict["reason"]) == ("reset", "unknown")
    assert numbers(await client.wait_caught_up(TOPIC)) == [1, 2]


async def test_a_history_that_parted_is_probed_and_reset_where_it_parted(hub: RawHub) -> None:
    client = await hub.client()
    await said(client, 10)
    await client.subscribe(TOPIC, "earliest")
    await client.wait_entries(TOPIC, 10)
    following = client.following[TOPIC]
    assert following.position is not None
    for offset in range(7, 11):  # as if the log had lost these, and written others
        following.tags[offset] = "f" * 16
    following.position[2] = "f" * 16
    verdict = await client.subscribe(TOPIC, following.position)
    assert verdict["verdict"] == "probing"
    reset = await client.wait_reset(TOPIC)
    assert (reset["reason"], reset["at"][1]) == ("diverged", 6)
    assert reset["lost"] == {"from": 7, "to": 10, "exact": True}
    assert numbers(await client.wait_caught_up(TOPIC)) == [7, 8, 9, 10]


async def test_a_log_that_is_not_there_is_refused(hub: RawHub) -> None:
    client = await hub.client()
    for log, start, code in (
        ("agent/nobody", "earliest", "not_found"),
        ("nonsense", "earliest", "not_found"),
        (TOPIC, "acked", "invalid_params"),
    ):
        with pytest.raises(Refused) as refused:
            await client.subscribe(log, start)
        assert refused.value.code == code


async def test_a_retry_is_acknowledged_and_appended_once(hub: RawHub) -> None:
    client = await hub.client()
    producer = await said(client, 3)
    producer.seq = 1
    assert await client.publish(producer, [("said", pack({"n": number})) for number in (2, 3)], expect=0) == 3
    producer.seq = 1
    assert await client.publish(producer, [("said", pack({"n": number})) for number in (2, 3, 4)]) == 4
    assert (await client.request("log.get", log=TOPIC))["head"][1] == 4


async def test_a_publish_that_cannot_be_is_refused_with_its_code(hub: RawHub) -> None:
    client = await hub.client()
    producer = await said(client, 3)

    async def code(entries: list[tuple[str, bytes]], **changes: Any) -> tuple[str, dict[str, Any]]:
        before = producer.seq, producer.fence, producer.acked
        producer.seq, producer.fence = changes.pop("seq", producer.seq), changes.pop("fence", producer.fence)
        producer.acked = 0
        with pytest.raises(Refused) as refused:
            await client.publish(producer, entries, **changes)
        producer.seq, producer.fence, producer.acked = before
        return refused.value.code, refused.value.details

    ok = ("said", pack({"n": 4}))
    refused, nack = await code([ok], seq=7)
    assert (refused, nack["last"]) == ("out_of_order", 3)
    refused, nack = await code([ok], expect=2)
    assert (refused, nack["head"]) == ("expect_failed", 3)
    limits = client.hello["limits"]
    assert (await code([("said", b"x" * (limits["body_bytes_max"] + 1))]))[0] == "entry_too_large"
    assert (await code([("$submitted", b"")]))[0] == "invalid_entry"
    assert (await code([("Not a kind", b"")]))[0] == "invalid_entry"
    assert (await code([ok] * (limits["frame_entries_max"] + 1)))[0] == "invalid_entry"
    assert (await code([("said", b"1"), ("said", b"2"), ("said", b"3")], seq=0))[0] == "producer_conflict"
    assert (await code([ok], fence=producer.fence - 1))[0] == "fenced"
    assert await client.publish(producer, [ok], expect=3) == 4


async def test_opening_a_producer_again_fences_the_one_before(hub: RawHub) -> None:
    first, second = await hub.client(), await hub.client()
    old = await said(first, 2)
    new = await said(second, 1)
    assert (new.seq, new.offset) == (3, 3)
    with pytest.raises(Refused) as refused:
        await first.publish(old, [("said", b"")])
    assert refused.value.code == "fenced"


async def test_an_op_is_done_once(hub: RawHub) -> None:
    client = await hub.client()
    op = secrets.token_hex(8)
    answers = [await client.request("agent.send", op=op, agent="builder", kind="reload") for _ in range(3)]
    assert answers == [{"log": "agent/builder", "offset": 1}] * 3
    page = await client.request("log.read", log="agent/builder")
    assert (page["head"], len(page["entries"])) == (1, 1)
    assert page["before"][1:] == [0, first_tag(page["before"][0])]


async def test_requests_that_cannot_be_are_refused_with_their_code(hub: RawHub) -> None:
    client = await hub.client()
    asked: list[tuple[str, dict[str, Any], str]] = [
        ("run.dance", {}, "unknown_method"),
        ("run.get", {}, "invalid_params"),
        ("run.get", {"run": "../x"}, "invalid_params"),
        ("run.get", {"run": "00-00000000000-0000000000000000"}, "not_found"),
        ("log.get", {"log": "topic/none"}, "not_found"),
        ("agent.get", {"agent": "nobody"}, "not_found"),
        ("agent.send", {"agent": "builder", "kind": "reload"}, "invalid_params"),
        ("log.list", {"limit": 1001}, "invalid_params"),
    ]
    for method, params, code in asked:
        with pytest.raises(Refused) as refused:
            await client.request(method, **params)
        assert (method, refused.value.code) == (method, code)


async def test_a_viewer_reads_and_no_more(hub: RawHub) -> None:
    viewer = await RawClient.open(hub.hub.url, hub.token("eve", "viewer"), name="eve")
    assert await viewer.request("log.list") == {"logs": []}
    with pytest.raises(Refused) as refused:
        await viewer.producer(TOPIC, "feed")
    assert refused.value.code == "forbidden"
    await viewer.close()


async def test_invalid_messages_end_the_session_with_the_code_of_the_vectors(hub: RawHub) -> None:
    for vector in VECTORS["invalid"]:
        client = await hub.client()
        await client.send_bytes(bytes.fromhex(vector["hex"]))
        assert (vector["what"], await client.closed()) == (vector["what"], vector["code"])
        assert client.error is not None
        assert client.error["code"] == vector["code"]


async def test_an_ack_of_what_was_never_sent_ends_the_session(hub: RawHub) -> None:
    client = await hub.client()
    await client.subscribe(TOPIC, "earliest")
    await client.ack(TOPIC, 99)
    assert await client.closed() == 4509


async def test_a_hub_that_stops_says_goodbye(tmp_path: Path) -> None:
    async with raw_hub(tmp_path) as hub:
        client = await RawClient.open(hub.hub.url, hub.token("ada", "operator"), name="ada")
    assert await client.closed() == 4000
    assert client.goaway is not None
