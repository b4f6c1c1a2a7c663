"""Two namespaces with the same names in both: of one nothing crosses into the other, not even that it is there.

What a tenant is answered beside another one, who has all the names that it asks for, is compared with what it is
answered where there is nobody else: every method, subscription and publish, from a table that no method can be missing
from. What the other has in the store is then as it was.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.hub import Hub
from protocol.codes import CloseCode
from protocol.frames import (
    Assign,
    AttemptClaim,
    Entries,
    HandlerSpec,
    Hello,
    Identify,
    Nack,
    Publish,
    Ready,
    Role,
)
from protocol.requests import METHODS
from tests.support.hub_peer import HubPeer, identify, publish
from tests.support.hub_world import World
from tests.support.keyholder import Keyholder

HERE, THERE = "one", "two"
SCOPES = ("admin", "agent", "operator", "viewer")
JOB = {"queue": "coding", "handler": "h", "input": b"", "key": "k"}
CRON = {"schedule": "nightly", "cron": "0 0 1 1 *", "queue": "coding", "handler": "h", "input": b""}


def of_run(**more: Any) -> Callable[[str], dict[str, Any]]:
    return lambda run: {"run": run, **more}


# what is asked of each method, given the id of a run of the other tenant
ASKED: dict[str, list[Callable[[str], dict[str, Any]]]] = {
    "run.get": [of_run()],
    "run.wait": [of_run(wait_ms=1)],
    "run.list": [lambda _: {}, lambda _: {"queue": "coding"}, lambda run: {"parent": run}],
    "run.cancel": [of_run()],
    "run.steer": [of_run(body=b"\xc0")],
    "run.answer": [of_run(answer=b"\xc3")],
    "run.query": [of_run(name="status", timeout_ms=1)],
    "run.retry": [of_run()],
    "queue.list": [lambda _: {}],
    "queue.get": [lambda _: {"queue": "coding"}],
    "queue.dead": [lambda _: {"queue": "coding"}],
    "queue.retry": [lambda _: {"queue": "coding"}],
    "queue.purge": [lambda _: {"queue": "coding"}],
    "schedule.list": [lambda _: {}],
    "schedule.get": [lambda _: {"schedule": "nightly"}],
    "schedule.set": [lambda _: {"schedule": "nightly", "paused": True}],
    "schedule.remove": [lambda _: {"schedule": "nightly"}],
    "log.read": [
        lambda run: {"log": f"run/{run}"},
        lambda run: {"log": f"artifact/{run}.1.1"},
        lambda _: {"log": "topic/news"},
        lambda _: {"log": "topic/audit"},
        lambda _: {"log": "agent/a-1"},
    ],
    "log.get": [lambda run: {"log": f"run/{run}"}, lambda _: {"log": "topic/news"}],
    "log.list": [
        lambda _: {},
        *(lambda _, kind=kind: {"kind": kind} for kind in ("run", "topic", "agent", "artifact")),
    ],
    "agent.list": [lambda _: {}],
    "agent.get": [lambda _: {"agent": "a-1"}],
    "agent.cordon": [lambda _: {"agent": "a-1"}],
    "agent.uncordon": [lambda _: {"agent": "a-1"}],
    "agent.drain": [lambda _: {"agent": "a-1"}],
    "token.check": [lambda _: {"token": "t-1", "name": "ann", "issued_s": 1}],
    "key.list": [lambda _: {}],
    "key.accept": [lambda _: {"name": "agent/k-1"}],
    "key.reject": [lambda _: {"name": "agent/k-1"}],
    "key.revoke": [lambda _: {"name": "agent/k-1"}],
    "token.revoked": [lambda _: {}],
    "token.unrevoke": [lambda _: {"token": "t-1"}, lambda _: {"name": "bob"}],
    "token.revoke": [lambda _: {"token": "t-1"}, lambda _: {"name": "bob"}],
    "artifact.open": [of_run(attempt=1, number=1, fence=1, name="f", size=1)],
    "producer.open": [lambda _: {"log": "topic/news", "producer": "p"}],
    "agent.send": [lambda _: {"agent": "a-1", "kind": "note", "body": b""}],
    "run.submit": [lambda _: dict(JOB), lambda _: dict(JOB)],
    "queue.set": [lambda _: {"queue": "coding", "paused": True}],
    "schedule.add": [lambda _: dict(CRON)],
}
"""In this order: what makes something in the tenant itself comes last."""


@asynccontextmanager
async def session(
    world: World, namespace: str, frame: Identify | None = None, hub: Hub | None = None
) -> AsyncIterator[HubPeer]:
    token = world.issue(*SCOPES, name="ann", namespace=namespace, agents=("*",))
    async with world.peer(token, hub) as peer:
        await peer.identify(frame or identify("ann"))
        yield peer


def worker(slots: int = 1, **fields: Any) -> Identify:
    return identify("a-1", Role.AGENT, queues=("coding",), slots=slots, handlers=(HandlerSpec(name="h"),), **fields)


async def furnish(world: World, stack: AsyncExitStack) -> tuple[HubPeer, HubPeer, Assign]:
    """Give one tenant something under each name that the other asks for: an operator, an agent, its attempt."""
    client = await stack.enter_async_context(session(world, HERE))
    agent = await stack.enter_async_context(session(world, HERE, worker()))
    await client.result("run.submit", **JOB)
    assign = await agent.expect(Assign)
    opening: dict[str, Any] = {
        "run": assign.run,
        "attempt": 1,
        "number": 1,
        "fence": assign.fence,
        "name": "f",
        "size": 1,
    }
    assert (await agent.request("artifact.open", **opening)).error is None
    await client.result("run.submit", **(JOB | {"key": "waits"}))
    await client.result("schedule.add", **CRON)
    fence = await client.publisher("topic/news")
    await client.publish("topic/news", fence, 1, b"a", b"b", b"c")
    await client.result("agent.send", agent="a-1", kind="note", body=b"")
    await client.result("token.revoke", token="t-1")
    async with world.peer("") as peer:
        token = world.issue("agent", name="rack", namespace=HERE, agents=("k-1",), uses=1)
        await Keyholder("k-1", namespace=HERE).enter(peer, token)
    denied = await client.request("artifact.open", **opening)
    assert denied.error is not None
    await world.hub.services.audit.write()
    return client, agent, assign


def masked(value: Any) -> Any:
    """Return an answer without what is never the same twice: times, fences, ids of runs, epochs, tags."""
    if isinstance(value, dict):
        return {name: masked(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked(each) for each in value]
    if isinstance(value, str):
        return re.sub(r"\b[0-9a-f]{16}\b", "HEX", re.sub(r"\d\d-[0-9a-f]{11}-[0-9a-f]{16}", "RUN", value))
    if isinstance(value, bytes):
        return "bytes"
    return "TIME" if isinstance(value, int) and value > 10**12 else value


async def answers(world: World, run: str) -> list[tuple[str, Any]]:
    """Return what a tenant is answered to everything in the table."""
    found: list[tuple[str, Any]] = []
    async with session(world, THERE) as peer:
        for method, cases in ASKED.items():
            for case in cases:
                response = await peer.request(method, **case(run))
                error = response.error
                found.append((method, masked((error.code, error.message) if error else response.result)))
    return found


def kept(world: World, namespace: str) -> dict[str, Any]:
    """Return everything that the store has of a namespace."""
    data = world.server.data
    found: dict[str, Any] = {}
    for values in (data.streams, data.hashes, data.sorted_sets, data.sets):
        for key, value in values.items():
            if f":{namespace}:" in key:
                found[key] = str(value)
            elif isinstance(value, dict) and key != "fl:agents":
                found[key] = {name: str(each) for name, each in value.items() if name.startswith(f"{namespace}/")}
    return {key: value for key, value in found.items() if value}


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """A store with a hub that nobody else uses."""
    async with AsyncExitStack() as stack:
        world = World(tmp_path / "alone", stack)
        await world.start(heartbeat_ms=5_000)
        yield world


def test_the_table_has_every_method() -> None:
    assert set(ASKED) == set(METHODS)


async def test_every_answer_is_that_of_a_tenant_who_is_alone(calm: World, alone: World) -> None:
    async with AsyncExitStack() as stack:
        _, _, assign = await furnish(calm, stack)
        before = kept(calm, HERE)
        assert len(before) > 20
        beside = await answers(calm, assign.run)
        assert beside == await answers(alone, assign.run)
        assert kept(calm, HERE) == before


async def test_subscriptions_see_their_own_history_and_no_other(calm: World, alone: World) -> None:
    async with AsyncExitStack() as stack:
        _, _, assign = await furnish(calm, stack)
        client = await stack.enter_async_context(session(calm, HERE, hub=await calm.start()))  # hints come from there
        logs = ("topic/news", "topic/audit", "agent/a-1", f"run/{assign.run}", f"artifact/{assign.run}.1.1")
        verdicts = []
        for world in (calm, alone):
            peer = await stack.enter_async_context(session(world, THERE))
            said = [await peer.follow(log) for log in logs]
            verdicts.append([masked(each.model_dump()) for each in said])
            if world is calm:
                fence = int((await client.result("producer.open", log="topic/news", producer="q"))["fence"])
                await client.publish("topic/news", fence, 1, b"theirs", producer="q")
            fence = await peer.publisher("topic/news")
            assert (await peer.publish("topic/news", fence, 1, b"ours")).offset == 1
            first = await peer.expect(Entries, lambda frame: frame.log == "topic/news" and bool(frame.entries))
            assert (first.prev, b"ours" in first.entries[0].packed) == (0, True)
            packed = [each.packed for frame in peer.frames if isinstance(frame, Entries) for each in frame.entries]
            assert b"theirs" not in b"".join(packed)
        assert verdicts[0] == verdicts[1]


async def test_what_is_published_under_anothers_run_and_fence_is_refused_as_if_it_were_not_there(
    calm: World, alone: World
) -> None:
    async with AsyncExitStack() as stack:
        _, _, assign = await furnish(calm, stack)
        refused = []
        for world in (calm, alone):
            claim = AttemptClaim(run=assign.run, fence=assign.fence, seq=0)
            peer = await stack.enter_async_context(session(world, THERE, worker(slots=0, attempts=(claim,))))
            assert isinstance(peer.ready, Ready)
            said: list[Any] = [verdict.model_dump() for verdict in peer.ready.attempts]
            for log in (f"run/{assign.run}", f"artifact/{assign.run}.1.1"):
                entry = ("chunk", b"\xc4\x01x", None, None)
                frame = Publish(log=log, producer="attempt/1", seq=1, fence=assign.fence, entries=(entry,))
                await peer.send(frame)
                said.append((await peer.expect(Nack)).model_dump())
            await peer.send(publish("topic/news", 1, 1, b"x"))
            said.append((await peer.expect(Nack)).model_dump())
            refused.append(masked(said))
        assert refused[0] == refused[1]


async def test_an_agent_of_the_same_name_takes_over_nobody_and_is_given_no_other_tenants_runs(calm: World) -> None:
    async with AsyncExitStack() as stack:
        client, agent, assign = await furnish(calm, stack)
        assert agent.ready is not None
        idle = worker(slots=4).model_copy(update={"id": "a-2"})
        neighbour = await stack.enter_async_context(session(calm, HERE, idle))
        await neighbour.expect(Assign)  # what waited in its own namespace
        mine = await stack.enter_async_context(session(calm, THERE))
        run = (await mine.result("run.submit", **JOB))["run"]
        assert (await mine.result("run.get", run=run))["state"] == "queued"
        frame = worker(slots=4, session=agent.ready.session)
        other = await stack.enter_async_context(session(calm, THERE, frame))
        assert other.ready is not None
        assert other.ready.resumed is False
        await mine.result("queue.set", queue="coding", limit=1)
        assert (await other.expect(Assign)).run == run
        assert not [each for peer in (other, neighbour) for each in peer.frames if isinstance(each, Assign)]
        assert (await client.result("run.get", run=assign.run))["state"] == "running"
        assert (await client.result("queue.get", queue="coding")).get("limit") is None
        assert (await client.result("agent.get", agent="a-1"))["connected"] is True


async def test_a_refusal_is_told_in_the_tenants_own_audit(calm: World) -> None:
    async with AsyncExitStack() as stack:
        client, _, _ = await furnish(calm, stack)
        head = (await client.result("log.get", log="agent/a-1"))["head"]
        token = calm.issue("agent", name="eve", namespace=THERE, agents=("x",))
        async with calm.peer(token) as peer:
            await peer.expect(Hello)
            await peer.send(worker())
            assert await peer.closed() == CloseCode.FORBIDDEN
        await calm.hub.services.audit.write()
        assert (await client.result("log.get", log="agent/a-1"))["head"] == head
        other = await stack.enter_async_context(session(calm, THERE))
        assert (await other.result("log.get", log="topic/audit"))["head"][1] == 1


@pytest.mark.parametrize("name", ["k-1", "k-2"], ids=["there", "not there"])
async def test_a_proof_for_another_tenant_tells_nothing_of_its_keys(calm: World, name: str) -> None:
    """A peer with a token of its own tenant gets the same, whether the other has such a key or not."""
    async with AsyncExitStack() as stack:
        await furnish(calm, stack)
        for token, code in (
            (calm.issue("agent", namespace=THERE, agents=("*",)), None),
            (calm.issue("agent", namespace=THERE, agents=("*",), uses=1), CloseCode.FORBIDDEN),
            ("", CloseCode.UNAUTHENTICATED),
        ):
            async with calm.peer("") as peer:
                hello = await peer.expect(Hello)
                await peer.send(Keyholder(name, namespace=HERE).proven(hello, token=token or None))
                if code is None:
                    assert (await peer.expect(Ready)).namespace == THERE
                else:
                    assert (await peer.told())[0] == code
