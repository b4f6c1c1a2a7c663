"""Tokens that are held to names, over real sockets: what they permit, what they do not, and what is said of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.core.refusals import audit_log
from orchestrator.core.sessions import agent_log
from protocol.codec import pack_value
from protocol.codes import CloseCode
from protocol.conversation import Asked, QuestionKind
from protocol.family import Spawn
from protocol.frames import (
    Assign,
    HandlerSpec,
    Hello,
    Identify,
    Nack,
    Part,
    Puback,
    Publish,
    Refresh,
    Refreshed,
    Role,
    Start,
    Subscribe,
)
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder

CODING = {
    "read": ["queue/coding", "topic/news.*", "agent/a-*"],
    "publish": ["topic/news.*", "agent/a-*"],
    "submit": ["coding"],
    "control": ["queue/coding", "agent/a-*"],
}


def token(world: World, *scopes: str, may: dict[str, list[str]] = CODING, **options: Any) -> str:
    return world.issue(*scopes, may=may, **options)


@asynccontextmanager
async def session(world: World, *scopes: str, **options: Any) -> AsyncIterator[HubPeer]:
    """Open a client's session with a token that is held to names."""
    async with world.peer(token(world, *scopes, **options)) as peer:
        await peer.identify(identify())
        yield peer


@asynccontextmanager
async def anybody(world: World) -> AsyncIterator[HubPeer]:
    async with world.peer() as peer:
        await peer.identify(identify())
        yield peer


async def code(peer: HubPeer, method: str, **params: Any) -> str | None:
    """Return the code of the error that a request is answered with, if any."""
    response = await peer.request(method, **params)
    return None if response.error is None else response.error.code


async def submit(peer: HubPeer, queue: str, **params: Any) -> str:
    asked = {"queue": queue, "handler": "h", "input": b"", "key": f"k-{queue}", **params}
    return str((await peer.result("run.submit", **asked))["run"])


def worker(agent: str = "a-1", *queues: str) -> Identify:
    return identify(agent, Role.AGENT, queues=queues, slots=4, handlers=(HandlerSpec(name="h"),))


def said(assign: Assign, kind: str, body: Part, seq: int = 1) -> Publish:
    """Return what an attempt publishes to its run's log."""
    entry = (kind, pack_value(body), seq, None)
    producer = f"attempt/{assign.attempt}"
    return Publish(log=f"run/{assign.run}", producer=producer, seq=seq, fence=assign.fence, entries=(entry,))


@pytest.fixture
async def runs(either: World) -> dict[str, str]:
    """A run, a schedule, a topic and an agent on each side of what the tokens of these tests are for."""
    async with anybody(either) as peer:
        for name in ("news.eu", "other"):
            await peer.publisher(f"topic/{name}")
        for agent in ("a-1", "b-1"):
            await peer.result("agent.send", agent=agent, kind="note", body=b"")
        for queue in ("coding", "other"):
            asked = {"schedule": f"s-{queue}", "cron": "0 0 1 1 *", "queue": queue, "handler": "h", "input": b""}
            await peer.result("schedule.add", **asked)
        return {queue: await submit(peer, queue) for queue in ("coding", "other")}


async def test_what_may_be_read_is_all_that_is_seen(either: World, runs: dict[str, str]) -> None:
    async with session(either, "viewer") as peer:
        mine, other = runs["coding"], runs["other"]
        for method, name, inside, outside in (
            ("run.get", "run", mine, other),
            ("queue.get", "queue", "coding", "other"),
            ("schedule.get", "schedule", "s-coding", "s-other"),
            ("log.read", "log", f"run/{mine}", f"run/{other}"),
            ("log.get", "log", "topic/news.eu", "topic/other"),
            ("log.read", "log", "agent/a-1", "agent/b-1"),
        ):
            assert await code(peer, method, **{name: inside}) is None, method
            assert await code(peer, method, **{name: outside}) == "forbidden", method
        for log in (f"run/{mine}", "topic/news.eu", "agent/a-1"):
            assert (await peer.follow(log)).subscription.code is None
        for log in (f"run/{other}", "topic/other", "agent/b-1", "topic/audit"):
            assert (await peer.follow(log)).subscription.code == "forbidden"
        assert [run["run"] for run in (await peer.result("run.list"))["runs"]] == [mine]
        assert [run["run"] for run in (await peer.result("run.list", limit=1))["runs"]] == [mine]
        assert [each["queue"] for each in (await peer.result("queue.list"))["queues"]] == ["coding"]
        assert [each["schedule"] for each in (await peer.result("schedule.list", limit=1))["schedules"]] == ["s-coding"]
        logs = {each["log"] for each in (await peer.result("log.list"))["logs"]}
        assert logs == {f"run/{mine}", "topic/news.eu", "agent/a-1"}
        assert await code(peer, "run.get", run=mine[:-1] + ("0" if mine[-1] != "0" else "1")) == "not_found"


async def test_a_subscription_with_which_a_session_opens_is_held_to_names_too(
    either: World, runs: dict[str, str]
) -> None:
    asked = [f"run/{runs['other']}", f"run/{runs['coding']}", "topic/other"]
    subscriptions = tuple(Subscribe.model_validate({"log": log, "from": Start.EARLIEST}) for log in asked)
    async with either.peer(token(either, "viewer")) as peer:
        ready = await peer.identify(identify(subscriptions=subscriptions))
        assert [verdict.code for verdict in ready.subscriptions] == ["forbidden", None, "forbidden"]


async def test_an_operator_acts_where_its_token_says_and_nowhere_else(either: World, runs: dict[str, str]) -> None:
    async with session(either, "operator") as peer:
        for method, name, inside, outside, rest in (
            ("run.submit", "queue", "coding", "other", {"handler": "h", "input": b"", "key": "k"}),
            ("run.steer", "run", runs["coding"], runs["other"], {"body": b"\xc0"}),
            ("queue.set", "queue", "coding", "other", {"paused": True}),
            ("schedule.set", "schedule", "s-coding", "s-other", {"paused": True}),
            ("schedule.remove", "schedule", "s-coding", "s-other", {}),
            ("agent.send", "agent", "a-1", "b-1", {"kind": "note", "body": b""}),
            ("producer.open", "log", "topic/news.x", "topic/other", {"producer": "p"}),
            ("run.cancel", "run", runs["coding"], runs["other"], {}),
            ("run.retry", "run", runs["coding"], runs["other"], {}),
            ("queue.purge", "queue", "coding", "other", {}),
        ):
            assert await code(peer, method, **{name: outside}, **rest) == "forbidden", method
            assert await code(peer, method, **{name: inside}, **rest) is None, method
        for log, expected in (("topic/other", "forbidden"), ("topic/news.x", "fenced")):
            await peer.send(publish(log, 1, 1, b"x"))
            assert (await peer.expect(Nack)).code == expected
        assert await code(peer, "token.revoke", token="t") == "forbidden"
        assert await code(peer, "key.accept", name="agent/a-1") == "forbidden"


async def test_an_agent_serves_only_queues_that_its_token_names(line: World) -> None:
    agents = token(line, "agent", agents=("a-1",), may={"serve": ["coding"]}, name="bob")
    async with line.peer(agents) as peer:
        await peer.identify(worker("a-1", "coding"))
    async with line.peer(agents) as peer:
        await peer.expect(Hello)
        await peer.send(worker("a-1", "coding", "other"))
        told, why = await peer.told()
        assert (told, "'other'" in why) == (CloseCode.FORBIDDEN, True)


async def test_an_agent_decides_about_nobody_not_even_with_an_operators_scope(calm: World) -> None:
    """It answers no question of its own, and steers, cancels and drains nobody."""
    async with anybody(calm) as client, calm.peer() as peer:  # the token of development has every scope
        await peer.identify(worker("a-1", "coding", "other"))
        run = await submit(client, "coding")
        assign = await peer.expect(Assign)
        asked = Asked(kind=QuestionKind.APPROVE, name="push", digest="d", payload=b"\xc0")
        await peer.send(said(assign, "$asked", asked))
        await peer.expect(Puback)
        assert await code(peer, "run.answer", run=run, answer=pack_value(True)) == "forbidden"
        assert await code(peer, "run.steer", run=run, body=b"\xc0") == "forbidden"
        assert await code(peer, "run.cancel", run=run) == "forbidden"
        assert await code(peer, "agent.drain", agent="b-1") == "forbidden"
        assert await code(peer, "run.submit", queue="coding", handler="h", input=b"", key="k2") == "forbidden"
        assert (await peer.follow("agent/b-1")).subscription.code == "forbidden"
        assert await code(client, "run.answer", run=run, answer=pack_value(True)) is None


async def test_a_child_goes_only_where_the_token_of_its_parents_agent_says(line: World) -> None:
    agents = token(line, "agent", agents=("a-1",), may={"submit": ["coding"]})
    async with anybody(line) as client, line.peer(agents) as peer:
        await peer.identify(worker("a-1", "coding"))
        run = await submit(client, "coding")
        assign = await peer.expect(Assign)
        child = Spawn(queue="other", handler="h", input=b"\xc0", digest="d")
        await peer.send(said(assign, "$spawn", child))
        nack = await peer.expect(Nack)
        assert (nack.code, "'other'" in (nack.message or "")) == ("forbidden", True)
        await peer.send(said(assign, "$spawn", child.model_copy(update={"queue": "coding"})))
        assert (await peer.expect(Puback)).seq == 1
        await line.hub.services.audit.write()
        page = await line.store.read(agent_log("default", "a-1"), 0, 100)
        assert page is not None
        assert f"run/{run}".encode() in page.entries[-1].packed


async def test_a_refresh_that_permits_less_has_the_session_opened_anew(line: World) -> None:
    async with line.peer(token(line, "viewer")) as peer:
        await peer.identify(identify())
        assert await code(peer, "log.get", log="topic/other") == "forbidden"
        await peer.send(Refresh(token=line.issue("operator")))
        await peer.expect(Refreshed)
        assert await code(peer, "log.get", log="topic/other") == "not_found"
        assert await code(peer, "agent.send", agent="x", kind="note", body=b"") is None
        await peer.send(Refresh(token=token(line, "operator")))
        assert (await peer.told())[0] == CloseCode.GOING_AWAY


async def test_a_key_does_what_its_join_token_was_for(line: World) -> None:
    holder = Keyholder("a-1")
    other = Keyholder("b-1")
    join = line.issue("agent", name="rack", agents=("a-*",), uses=1, may={"serve": ["coding"], "publish": []})
    async with line.peer("") as peer:
        await other.enter(peer, line.issue("agent", name="rack", agents=("b-1",), uses=1))
    for bring in (join, None):  # enrolled, and known
        async with line.peer("") as peer:
            await holder.enter(peer, bring, queues=("coding",))
            assert await code(peer, "producer.open", log="topic/news", producer="p") == "forbidden"
            assert [key["name"] for key in (await peer.result("key.list"))["keys"]] == ["agent/a-1"]
        async with line.peer("") as peer:
            hello = await peer.expect(Hello)
            await peer.send(holder.proven(hello, queues=("other",)))
            assert (await peer.told())[0] == CloseCode.FORBIDDEN


async def test_what_patterns_refuse_is_in_the_audit(line: World) -> None:
    async with session(line, "operator", name="ann") as peer:
        assert await code(peer, "run.submit", queue="other", handler="h", input=b"", key="k") == "forbidden"
    await line.hub.services.audit.write()
    assert await line.kinds(audit_log("default")) == ["$refused"]
