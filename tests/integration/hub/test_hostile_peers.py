"""What peers of ill will send: names that cannot be, and more than can be kept or sent on. It is refused or bounded."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from orchestrator.connection import ASKED_MAX, BYE_CHARACTERS_MAX
from orchestrator.store.base import Page
from protocol.codec import encode, pack_value
from protocol.codes import ErrorCode
from protocol.frames import (
    Assign,
    AttemptClaim,
    Bye,
    Heartbeat,
    HeldAttempt,
    Nack,
    Puback,
    Release,
    ReleaseReason,
    Resumption,
    Start,
    Subscribe,
    Verdict,
)
from protocol.limits import Limits
from tests.support.hub_peer import identify, subscribe
from tests.support.hub_work import AGENT_LOG, agent, connection_of, submit, work_of
from tests.support.hub_world import World, topic
from tests.support.timing import eventually

LOG = "topic/a"
BODY_BYTES_MAX = Limits().body_bytes_max
BUFFERED_MAX = 1024 * 1024
BAD_RUNS = ("hello", "99-x", "-1foo", " 7:meta", "\u0663\u0663x", "", "07\n")


@pytest.mark.parametrize("run", BAD_RUNS, ids=repr)
async def test_a_run_that_cannot_be_is_not_the_agents(calm: World, run: str) -> None:
    async with calm.peer() as worker:
        ready = await worker.identify(agent(claims=(AttemptClaim(run=run, fence=1, seq=0),)))
        assert [verdict.verdict for verdict in ready.attempts] == [Verdict.FENCED]
        for _ in range(2):
            await worker.send(Heartbeat(attempts=(HeldAttempt(run=run, fence=1, attempt=1),)))
        await worker.send(Release(run=run, fence=1, reason=ReleaseReason.REFUSED))
        assert (await worker.result("run.list"))["runs"] == ()
        assert not [frame for frame in worker.frames if isinstance(frame, Nack)]


async def test_a_durable_name_that_cannot_be_is_refused(calm: World) -> None:
    async with calm.peer() as peer:
        await peer.identify(identify())
        verdict = await peer.follow(LOG, durable="a b\n/c")
        assert verdict.subscription.verdict is Resumption.REFUSED


async def test_little_is_kept_of_the_reason_for_leaving(calm: World) -> None:
    async with calm.peer() as worker:
        await worker.identify(agent())
        await worker.send(Bye(reason="r" * 1_000_000))
        await worker.closed()

    async def left() -> Page | None:
        page = await calm.store.read(AGENT_LOG, 0, 100)
        return page if page is not None and len(page.entries) == 2 else None

    page = await eventually(left)
    assert page is not None
    assert max(len(entry.packed) for entry in page.entries) < BYE_CHARACTERS_MAX + 200


async def test_an_input_that_could_not_be_sent_on_is_refused(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        over, most = b"x" * (BODY_BYTES_MAX + 1), b"x" * BODY_BYTES_MAX
        submitted = await client.request("run.submit", queue="q", handler="h", input=over, key="k")
        message = await client.request("agent.send", agent="a1", kind="m", body=over)
        for response in (submitted, message):
            assert response.error is not None
            assert response.error.code == ErrorCode.ENTRY_TOO_LARGE
        await client.result("run.submit", queue="q", handler="h", input=most, key="k")
        assert (await worker.expect(Assign)).input == most


async def test_a_list_of_runs_that_failed_with_much_to_say_can_be_sent(calm: World) -> None:
    error = {"type": "E", "message": "m", "trace": "t" * 900_000}
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        for number in range(5):
            await submit(client, f"k{number}")
            given = await worker.expect(Assign)
            await worker.send(work_of(given, 1, "$errored", pack_value({"error": error})))
            await worker.expect(Puback)
        assert len((await client.result("run.list"))["runs"]) == 5


async def test_a_viewer_makes_no_topic(calm: World) -> None:
    async with calm.peer(calm.issue("viewer", name="eye")) as viewer:
        await viewer.identify(identify("eye"))
        verdict = await viewer.follow(LOG, Start.LATEST, durable="d")
        assert verdict.subscription.code == ErrorCode.NOT_FOUND
    assert await calm.store.meta(topic("a")) is None


FLOODS = {
    "to a topic": subscribe(LOG, Start.EARLIEST),
    "to what cannot be": subscribe("x" * 160, Start.EARLIEST),
    "for good": subscribe(LOG, Start.EARLIEST, durable="d"),
}


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
async def test_what_is_asked_for_by_a_peer_that_reads_nothing_stays_in_its_socket(
    calm: World, frame: Subscribe
) -> None:
    async with calm.peer() as bystander, calm.peer() as ghost:
        await bystander.identify(identify())
        await ghost.identify(identify("ghost"))
        ghost.socket.transport.pause_reading()
        link = connection_of(calm, "ghost")
        assert link is not None
        message = encode(frame) * 400

        async def flood() -> None:
            with contextlib.suppress(OSError):
                while True:
                    await ghost.send_raw(message)

        flooding = asyncio.create_task(flood())
        try:
            await eventually(lambda: link._incoming.waits)
            for _ in range(10):
                await bystander.result("log.list")
                assert link._asked <= ASKED_MAX
                assert link._socket.buffered < BUFFERED_MAX
        finally:
            flooding.cancel()
            await asyncio.wait([flooding])
