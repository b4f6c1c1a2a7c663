"""Work, as an agent written from docs/protocol.md alone does it on a real hub."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.raw_client import Frame, Producer, RawClient, Refused, pack, unpack
from tests.support.raw_hub import RawHub, raw_hub
from tests.support.timing import eventually

QUEUE = "coding"
OFFER: dict[str, Any] = {"queues": [QUEUE], "slots": 1, "handlers": [{"name": "review", "retries": 1}]}
INSTANCE = "1257a4ce"


@pytest_asyncio.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RawHub]:
    async with raw_hub(tmp_path, lease_ms=3_000) as running:
        yield running


async def submit(client: RawClient, key: str = "one", **params: Any) -> str:
    given = {"queue": QUEUE, "handler": "review", "input": pack({"repo": "."}), "key": key}
    run: str = (await client.request("run.submit", **(given | params)))["run"]
    return run


async def started(hub: RawHub, **offer: Any) -> tuple[RawClient, RawClient, Frame, Producer]:
    """Submit a run and have an agent take it."""
    client, agent = await hub.client(), await hub.agent(**(OFFER | {"instance": INSTANCE} | offer))
    run = await submit(client)
    assign = await agent.next_assign()
    assert assign["run"] == run
    return client, agent, assign, agent.attempt(assign)


async def kinds_of(client: RawClient, run: str) -> list[str]:
    """Return the kinds of a run's log, followed from the start with its chain checked."""
    await client.subscribe(f"run/{run}", "earliest")
    return [record[0] for record in await client.wait_caught_up(f"run/{run}")]


async def state_of(client: RawClient, run: str) -> str:
    state: str = (await client.request("run.get", run=run))["state"]
    return state


async def test_a_run_is_assigned_worked_on_and_succeeds(hub: RawHub) -> None:
    client, agent, assign, attempt = await started(hub)
    assert (assign["attempt"], assign["queue"], assign["handler"]) == (1, QUEUE, "review")
    assert unpack(assign["input"]) == {"repo": "."}
    assert assign["position"][1] == 2
    await agent.publish(attempt, [("finding", pack({"line": number}), number) for number in (1, 2, 3)])
    await agent.publish(attempt, [("$progress", pack({"current": 3, "total": 3}))])
    await agent.finish(attempt, "$succeeded", {"result": pack({"found": 3})})
    kinds = await kinds_of(client, assign["run"])
    assert kinds == ["$submitted", "$claimed", "finding", "finding", "finding", "$progress", "$succeeded"]
    assert client.following[f"run/{assign['run']}"].tags[2] == assign["position"][2]
    finding = client.following[f"run/{assign['run']}"].records()[3]
    assert finding[:6] == ["finding", "agent:builder", 1, 2, 2, None]
    info = await client.request("run.get", run=assign["run"])
    assert (info["state"], info["attempt"], unpack(info["result"])) == ("succeeded", 1, {"found": 3})
    with pytest.raises(Refused) as refused:
        await agent.publish(attempt, [("finding", b"")])
    assert refused.value.code == "run_finished"


async def test_the_same_key_is_the_same_run(hub: RawHub) -> None:
    client = await hub.client()
    run = await submit(client)
    assert await client.request("run.submit", queue=QUEUE, handler="review", input=pack({"repo": "."}), key="one") == {
        "run": run,
        "created": False,
    }
    with pytest.raises(Refused) as refused:
        await submit(client, input=pack("another"))
    assert refused.value.code == "key_conflict"
    assert refused.value.details["data"] == {"run": run}
    assert [each["run"] for each in (await client.request("run.list"))["runs"]] == [run]


async def test_a_cancel_reaches_the_agent_and_ends_the_run(hub: RawHub) -> None:
    client, agent, assign, attempt = await started(hub)
    log = f"run/{assign['run']}"
    await agent.subscribe(log, assign["position"], kinds=["$cancel"])
    with pytest.raises(Refused) as refused:
        await agent.publish(attempt, [("$cancelled", pack({}))])
    assert refused.value.code == "invalid_entry"
    assert await client.request("run.cancel", op="op-1", run=assign["run"], reason="enough") == {"state": "running"}
    (command,) = await agent.wait_entries(log, 1)
    assert (command[0], command[1], unpack(command[6])) == ("$cancel", "client:ada", {"reason": "enough"})
    await agent.finish(attempt, "$cancelled", {"reason": "enough"})
    assert await state_of(client, assign["run"]) == "cancelled"


async def test_a_run_that_waits_is_cancelled_at_once(hub: RawHub) -> None:
    client = await hub.client()
    run = await submit(client)
    assert await client.request("run.cancel", op="op-1", run=run) == {"state": "cancelled"}
    assert await kinds_of(client, run) == ["$submitted", "$cancel", "$cancelled"]


async def test_an_attempt_goes_on_after_a_broken_connection(hub: RawHub) -> None:
    client, agent, assign, attempt = await started(hub)
    await agent.publish(attempt, [("finding", pack(1)), ("finding", pack(2))])
    await agent.drop()
    claim = {"run": assign["run"], "fence": assign["fence"], "seq": 3}
    again = await hub.agent(**OFFER, instance=INSTANCE, session=agent.ready["session"], attempts=[claim])
    assert again.ready["resumed"] is True
    assert again.ready["fence"] > agent.ready["fence"]
    (verdict,) = again.ready["attempts"]
    assert (verdict["verdict"], verdict["seq"]) == ("continue", 2)
    attempt = again.attempt(assign | {"seq": verdict["seq"]})
    await again.publish(attempt, [("finding", pack(3))])
    await again.finish(attempt, "$succeeded", {"result": pack(None)})
    kinds = await kinds_of(client, assign["run"])
    assert kinds == ["$submitted", "$claimed", "finding", "finding", "finding", "$succeeded"]


async def test_an_attempt_that_was_not_listed_is_assigned_again(hub: RawHub) -> None:
    _, agent, assign, attempt = await started(hub)
    await agent.publish(attempt, [("finding", pack(1))])
    await agent.drop()
    again = await hub.agent(**OFFER, instance=INSTANCE)
    repeated = await again.next_assign()
    assert repeated == assign | {"seq": 1}


async def test_another_process_of_the_same_agent_takes_over(hub: RawHub) -> None:
    client, old, assign, attempt = await started(hub)
    claim = {"run": assign["run"], "fence": assign["fence"], "seq": 0}
    new = await hub.agent(**OFFER, instance="another", attempts=[claim])
    assert new.ready["attempts"][0]["verdict"] == "fenced"
    assert await old.closed() == 4508
    second = await new.next_assign()
    assert (second["run"], second["attempt"]) == (assign["run"], 2)
    assert second["fence"] > assign["fence"]
    await new.finish(new.attempt(second), "$succeeded", {"result": b""})
    kinds = await kinds_of(client, assign["run"])
    assert kinds == ["$submitted", "$claimed", "$lost", "$claimed", "$succeeded"]
    await client.subscribe("agent/builder", "earliest")
    story = [record[0] for record in await client.wait_caught_up("agent/builder")]
    assert story == ["$connected", "$superseded", "$connected"]
    assert attempt.acked == 0


async def test_a_lease_lasts_while_heartbeats_list_it_and_not_without(hub: RawHub) -> None:
    client, agent, assign, attempt = await started(hub)
    for _ in range(5):
        await agent.heartbeat()
        assert await state_of(client, assign["run"]) == "running"
    agent.attempts.clear()  # as if it had forgotten

    async def retaken() -> bool:
        await asyncio.gather(agent.heartbeat(), client.heartbeat())
        return bool((await client.request("run.get", run=assign["run"]))["attempt"] == 2)

    await eventually(retaken, within_s=30)
    second = await agent.next_assign()  # its slot was free again at once
    assert (second["run"], second["attempt"]) == (assign["run"], 2)
    with pytest.raises(Refused) as refused:
        await agent.publish(attempt, [("finding", b"")])
    assert refused.value.code == "fenced"
    assert await kinds_of(client, assign["run"]) == ["$submitted", "$claimed", "$lost", "$claimed"]


async def test_an_attempt_that_is_released_goes_to_another_agent(hub: RawHub) -> None:
    client, agent, assign, _ = await started(hub)
    await hub.agent("other", **OFFER)
    agent.attempts.clear()
    await agent.send({"t": "release", "run": assign["run"], "fence": assign["fence"], "reason": "drain"})

    async def taken() -> bool:
        info = await client.request("run.get", run=assign["run"])
        return bool(info["attempt"] == 2 and info["state"] == "running")

    await eventually(taken)
    assert await kinds_of(client, assign["run"]) == ["$submitted", "$claimed", "$released", "$claimed"]


async def test_a_failed_attempt_is_tried_again_until_its_retries_are_used_up(hub: RawHub) -> None:
    client, agent, assign, attempt = await started(hub)
    error = {"type": "ValueError", "message": "no"}
    await agent.finish(attempt, "$errored", {"error": error})
    assert await state_of(client, assign["run"]) == "queued"
    second = await agent.next_assign()
    await agent.finish(agent.attempt(second), "$errored", {"error": error})
    info = await client.request("run.get", run=assign["run"])
    assert (info["state"], info["error"]) == ("dead", error)
    kinds = await kinds_of(client, assign["run"])
    assert kinds == ["$submitted", "$claimed", "$errored", "$retry", "$claimed", "$errored", "$dead"]


async def test_entries_that_an_attempt_may_not_write_are_refused(hub: RawHub) -> None:
    _, agent, _, attempt = await started(hub)
    entries: list[list[tuple[str, bytes]]] = [
        [("$claimed", pack({}))],
        [("$shout", pack({}))],
        [("$progress", pack({"current": "half"}))],
        [("$progress", b"\xc1")],
        [("$succeeded", pack({"result": b""})), ("finding", b"")],
    ]
    for frame in entries:
        with pytest.raises(Refused) as refused:
            await agent.publish(attempt, frame)
        assert (frame[0][0], refused.value.code) == (frame[0][0], "invalid_entry")
    assert await agent.publish(attempt, [("finding", b"")]) == 3


async def test_another_agent_cannot_write_to_the_run(hub: RawHub) -> None:
    _, _, assign, _ = await started(hub)
    thief = await hub.agent("thief")
    stolen = thief.attempt(assign)
    thief.attempts.clear()
    with pytest.raises(Refused) as refused:
        await thief.publish(stolen, [("finding", b"")])
    assert refused.value.code in {"fenced", "superseded"}
    client = await hub.client()
    with pytest.raises(Refused) as refused:
        await client.publish(client.attempt(assign), [("finding", b"")])
    assert refused.value.code == "forbidden"


async def test_messages_reach_an_agent_from_where_it_acknowledged(hub: RawHub) -> None:
    client = await hub.client()
    for number in range(2):
        await client.request("agent.send", op=f"op-{number}", agent="builder", kind="reload", body=pack(number))
    listed = {"t": "subscribe", "log": "agent/builder", "from": "acked", "durable": "inbox", "kinds": ["reload"]}
    agent = await hub.agent(subscriptions=[listed])
    assert [unpack(record[6]) for record in await agent.wait_entries("agent/builder", 2)] == [0, 1]
    await agent.ack("agent/builder")
    await hub.store_acks(agent)
    await agent.close()
    await client.request("agent.send", op="op-2", agent="builder", kind="reload", body=pack(2))
    again = await hub.agent(subscriptions=[listed])
    assert [unpack(record[6]) for record in await again.wait_entries("agent/builder", 1)] == [2]
    info = await client.request("agent.get", agent="builder")
    assert info["connected"] is True


async def test_an_agent_follows_no_other_agents_log(hub: RawHub) -> None:
    await hub.agent("other")
    agent = await hub.agent()
    with pytest.raises(Refused) as refused:
        await agent.subscribe("agent/other", "earliest")
    assert refused.value.code == "forbidden"
