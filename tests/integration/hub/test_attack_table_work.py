"""A table of attacks by an agent that has a session: old seqs, old attempts, its own approval, what it was never sent.

Who gets in is in test_attack_table.py, what may be read and published in test_attack_table_logs.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from protocol.codec import pack_value
from protocol.codes import CloseCode, ErrorCode
from protocol.control import Errored, RunError
from protocol.conversation import Answered, Asked, QuestionKind
from protocol.family import Spawn
from protocol.frames import (
    Ack,
    Assign,
    AttemptClaim,
    Heartbeat,
    Hello,
    Nack,
    Part,
    Puback,
    Publish,
    Refresh,
    Release,
    ReleaseReason,
    Resumption,
    Start,
)
from tests.support.attackers import code_of, held_in, nack_of
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_work import agent, held, submit, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually

YES = pack_value(True)
DONE = pack_value({"result": b"\xc0"})
ERRORED = pack_value(Errored(error=RunError(type="E", message="m")))
ASKED = pack_value(Asked(kind=QuestionKind.APPROVE, name="push", digest="d", payload=b"\xc0"))
CHILD = pack_value(Spawn(queue="q", handler="h", input=b"\xc0", digest="d"))


# An attempt that is over


@dataclass(frozen=True)
class Lost:
    """A run that agent `a1` worked on, and that `a2` has now."""

    world: World
    thief: HubPeer
    old: Assign
    new: Assign


@asynccontextmanager
async def lost(world: World) -> AsyncIterator[Lost]:
    async with world.peer() as client, world.peer(world.issue("agent", agents=("a1",))) as thief, world.peer() as heir:
        await client.identify(identify())
        await thief.identify(agent())
        log = await submit(client)
        old = await thief.expect(Assign)
        await thief.send(work_of(old, 1, body=b"first"))
        await thief.expect(Puback)
        await client.result("agent.cordon", agent="a1")
        await heir.identify(agent("a2"))
        await thief.send(Release(run=old.run, fence=old.fence, reason=ReleaseReason.NO_SLOT))
        new = await heir.expect(Assign)
        assert (new.run, new.attempt) == (old.run, 2)
        assert new.fence > old.fence
        yield Lost(world, thief, old, new)
        before = await world.kinds(log)
        assert before == ["$submitted", "$claimed", "x", "$released", "$claimed"], "nothing of the attack is there"
        assert b"stolen" not in await held_in(world, log.path)
        await heir.send(work_of(new, 1, "$succeeded", DONE))
        await heir.expect(Puback)
        assert (await client.result("run.get", run=log.name))["state"] == "succeeded", "who has it ends it"


def artifact(given: Assign) -> dict[str, Any]:
    place = {"run": given.run, "attempt": given.attempt, "fence": given.fence, "number": 1}
    return {**place, "name": "f", "size": 6}


async def nothing(it: Lost, *frames: Part) -> str:
    """Send what is heard and has no effect; return what was refused by then."""
    await it.thief.send(*frames)
    await it.thief.result("log.list")
    return ",".join(frame.code for frame in it.thief.frames if isinstance(frame, Nack))


async def told(it: Lost, given: Assign) -> str:
    """Say again and again that it is held; return what is said to that."""

    async def refused() -> str:
        return await nothing(it, Heartbeat(attempts=(held(given),)))

    return str(await eventually(refused)).partition(",")[0]


async def claimed(it: Lost, given: Assign) -> str:
    """Come back with an attempt; return what becomes of it."""
    claims = (AttemptClaim(run=given.run, fence=given.fence, seq=1),)
    async with it.world.peer(it.world.issue("agent", agents=("a1",))) as back:
        (verdict,) = (await back.identify(agent(claims=claims))).attempts
        return verdict.verdict.value


OLD: dict[str, tuple[Callable[[Lost], Awaitable[str | None]], str]] = {
    "its next entry": (lambda it: nack_of(it.thief, work_of(it.old, 2, body=b"stolen")), "fenced"),
    "its next entry, as the new attempt": (
        lambda it: nack_of(it.thief, work_of(it.new, 1, body=b"stolen")),
        "superseded",
    ),
    "its old number with the new fence": (
        lambda it: nack_of(it.thief, work_of(it.old.model_copy(update={"fence": it.new.fence}), 2, body=b"stolen")),
        "fenced",
    ),
    "its end": (lambda it: nack_of(it.thief, work_of(it.old, 2, "$succeeded", DONE)), "fenced"),
    "its failure": (lambda it: nack_of(it.thief, work_of(it.old, 2, "$errored", ERRORED)), "fenced"),
    "the new attempt's end": (lambda it: nack_of(it.thief, work_of(it.new, 1, "$succeeded", DONE)), "superseded"),
    "a question": (lambda it: nack_of(it.thief, work_of(it.old, 2, "$asked", ASKED, index=1)), "fenced"),
    "a child": (lambda it: nack_of(it.thief, work_of(it.old, 2, "$spawn", CHILD, index=1)), "fenced"),
    "an artifact": (lambda it: code_of(it.thief, "artifact.open", **artifact(it.old)), "fenced"),
    "an artifact of the new one": (lambda it: code_of(it.thief, "artifact.open", **artifact(it.new)), "fenced"),
    "a release": (
        lambda it: nothing(it, Release(run=it.old.run, fence=it.old.fence, reason=ReleaseReason.NO_SLOT)),
        "",
    ),
    "that it holds it": (lambda it: told(it, it.old), "fenced"),
    "that it holds the new one": (lambda it: nothing(it, Heartbeat(attempts=(held(it.new),))), ""),
    "that it took it along": (lambda it: claimed(it, it.old), "fenced"),
    "that it took the new one along": (lambda it: claimed(it, it.new), "fenced"),
    "a release of the new one": (
        lambda it: nothing(it, Release(run=it.new.run, fence=it.new.fence, reason=ReleaseReason.NO_SLOT)),
        "",
    ),
}


@pytest.mark.parametrize(("attack", "code"), OLD.values(), ids=OLD)
async def test_an_attempt_that_another_agent_has_now_is_not_written_to(
    calm: World, attack: Callable[[Lost], Awaitable[str | None]], code: str
) -> None:
    async with lost(calm) as it:
        assert await attack(it) == code


# What it has said already


SAID = {1: b"\xa3one", 2: b"\xa3two"}
SEQS: dict[str, tuple[int, bytes, str]] = {
    "the last again": (2, SAID[2], "puback"),
    "other words in its place": (2, b"\xa3new", "producer_conflict"),
    "an older one": (1, SAID[1], "puback"),
    "other words in the place of an older one": (1, b"\xa3new", "puback"),
    "one that comes later": (4, b"\xa3new", "out_of_order"),
    "the highest there is": (2**53 - 1, b"\xa3new", "out_of_order"),
}


@pytest.mark.parametrize(("seq", "body", "outcome"), SEQS.values(), ids=SEQS)
async def test_an_entry_with_a_seq_that_is_not_its_turn_changes_nothing(
    calm: World, seq: int, body: bytes, outcome: str
) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        log = await submit(client)
        given = await worker.expect(Assign)
        for number, said in SAID.items():
            await worker.send(work_of(given, number, body=said))
            await worker.expect(Puback)
        before = await held_in(calm, log.path)
        await worker.send(work_of(given, seq, body=body))
        if outcome == "puback":
            assert (await worker.expect(Puback)).seq == 2
        else:
            assert (await worker.expect(Nack)).code == outcome
        assert await held_in(calm, log.path) == before
        await worker.send(work_of(given, 3, body=b"\xa5three"))
        assert (await worker.expect(Puback)).seq == 3


async def test_an_old_seq_of_a_topic_is_not_kept_twice_either(calm: World) -> None:
    async with calm.peer() as peer:
        await peer.identify(identify())
        fence = await peer.publisher("topic/a")
        await peer.publish("topic/a", fence, 1, b"1", b"2")
        await peer.send(publish("topic/a", fence, 1, b"3"))
        assert (await peer.expect(Puback)).seq == 2
        assert await nack_of(peer, publish("topic/a", fence - 1, 3, b"3")) == ErrorCode.FENCED
        assert (await peer.result("log.get", log="topic/a"))["head"][1] == 2


# Its own approval


@dataclass(frozen=True)
class Asks:
    """An agent that has asked for an approval, and the run."""

    world: World
    token: str
    worker: HubPeer
    given: Assign

    def answered(self) -> Publish:
        body = pack_value(Answered(index=1, digest="d", answer=YES, by="ada"))
        return work_of(self.given, 2, "$answered", body)

    @property
    def answer(self) -> dict[str, Any]:
        return {"run": self.given.run, "answer": YES}


async def as_a_client(it: Asks) -> CloseCode:
    """Open a client's session with the agent's token."""
    async with it.world.peer(it.token) as peer:
        await peer.expect(Hello)
        await peer.send(identify("a1"))
        return CloseCode((await peer.told())[0])


async def refreshed(it: Asks) -> CloseCode:
    """Bring a newer token that permits to answer, of an operator of the same name."""
    await it.worker.send(Refresh(token=it.world.issue("operator", name="a1")))
    return CloseCode((await it.worker.told())[0])


ANSWERS: dict[str, tuple[Callable[[Asks], Awaitable[object]], object]] = {
    "with a request": (lambda it: code_of(it.worker, "run.answer", **it.answer), "forbidden"),
    "by its place": (lambda it: code_of(it.worker, "run.answer", **it.answer, question=1), "forbidden"),
    "by what steers": (lambda it: code_of(it.worker, "run.steer", run=it.given.run, body=YES), "forbidden"),
    "as an entry of its own": (lambda it: nack_of(it.worker, it.answered()), "invalid_entry"),
    "as a client": (as_a_client, CloseCode.FORBIDDEN),
    "with an operator's token": (refreshed, CloseCode.FORBIDDEN),
}


OPERATOR_TOO = {f"{how}, and is an operator too": row for how, row in ANSWERS.items() if how != "as a client"}
"""As a client such a token may answer: whoever gives it to an agent trusts the agent with that."""


@pytest.mark.parametrize("how", [*ANSWERS, *OPERATOR_TOO])
async def test_an_agent_does_not_answer_its_own_approval(calm: World, how: str) -> None:
    attack, outcome = {**ANSWERS, **OPERATOR_TOO}[how]
    scopes = ("agent", "operator") if how in OPERATOR_TOO else ("agent",)
    token = calm.issue(*scopes, agents=("a1",), name="a1")
    async with calm.peer() as client, calm.peer(token) as worker:
        await client.identify(identify("ada"))
        await worker.identify(agent())
        log = await submit(client)
        given = await worker.expect(Assign)
        await worker.send(work_of(given, 1, "$asked", ASKED, index=1))
        await worker.expect(Puback)
        assert await attack(Asks(calm, token, worker, given)) == outcome
        assert await calm.kinds(log) == ["$submitted", "$claimed", "$asked"]
        assert (await client.result("run.get", run=log.name))["asking"] == 1, "it is open"
        await client.result("run.answer", run=log.name, answer=YES)
        assert (await calm.kinds(log))[-1] == "$answered"


# What it was never sent


async def ahead(peer: HubPeer) -> None:
    await peer.follow("topic/a")
    await peer.send(Ack(log="topic/a", offset=10**9))


async def one_ahead(peer: HubPeer) -> None:
    fence = await peer.publisher("topic/a")
    await peer.publish("topic/a", fence, 1, b"1", b"2")
    await peer.follow("topic/a", window=1)
    await peer.entries("topic/a", 1)
    await peer.send(Ack(log="topic/a", offset=2))


async def ahead_for_good(peer: HubPeer) -> None:
    await peer.publisher("topic/a")
    await peer.follow("topic/a", durable="d")
    await peer.send(Ack(log="topic/a", offset=1))


ACKS: dict[str, Callable[[HubPeer], Awaitable[None]]] = {
    "far ahead": ahead,
    "one ahead of its window": one_ahead,
    "on a durable subscription": ahead_for_good,
}


@pytest.mark.parametrize("how", ACKS)
async def test_who_acknowledges_the_future_is_closed(calm: World, how: str) -> None:
    async with calm.peer() as bystander, calm.peer() as peer:
        await bystander.identify(identify("bystander"))
        await peer.identify(identify())
        await ACKS[how](peer)
        assert await peer.closed() == CloseCode.ACK_AHEAD
        fence = await bystander.publisher("topic/a")
        await bystander.publish("topic/a", fence, 1, b"1") if how != "one ahead of its window" else None
        async with calm.peer() as again:
            await again.identify(identify())
            verdict = (await again.follow("topic/a", Start.ACKED, durable="d")).subscription
            assert (verdict.verdict, verdict.at and verdict.at.offset) == (Resumption.RESUMED, 0)
