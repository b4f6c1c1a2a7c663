"""Runs that are to be done later, by some time, within some time, and by some agents only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import timekeeper
from protocol.codec import unpack_record
from protocol.frames import Assign, HandlerSpec, Identify, Nack, Request, Response, Role
from protocol.ids import LogName
from tests.support.hub_peer import HubPeer, identify
from tests.support.hub_work import agent, work_of
from tests.support.hub_world import World
from tests.support.timing import eventually


async def submit(client: HubPeer, **options: Any) -> str:
    """Submit a run, and return its id."""
    wanted = {"queue": "q", "handler": "h", "input": b"", "key": "k", **options}
    return str((await client.result("run.submit", **wanted))["run"])


async def shown(client: HubPeer, run: str) -> Any:
    return await client.result("run.get", run=run)


async def ends(client: HubPeer, run: str) -> Any:
    """Return what the hub says of a run once it is over."""

    async def over() -> Any:
        info = await shown(client, run)
        return info if info.get("finished_ms") else None

    return await eventually(over)


async def times(world: World, run: str) -> dict[str, int]:
    """Return when a run's entries of each kind were written, in ms."""
    page = await world.store.read(LogName.parse(f"run/{run}", "default"), 0, 100)
    assert page is not None
    return {unpack_record(entry.packed).kind: entry.ts_ms for entry in page.entries}


def looked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Return what tells whether the timekeeper has looked at what is due since this was called."""
    due, looks = world.store.due, 0

    async def counted(*args: Any) -> Any:
        nonlocal looks
        looks += 1
        return await due(*args)

    monkeypatch.setattr(world.store, "due", counted)
    return lambda: looks > 0


def labelled(name: str, **labels: str) -> Identify:
    return identify(name, Role.AGENT, name, queues=("q",), slots=1, handlers=(HandlerSpec(name="h"),), labels=labels)


async def test_a_run_that_is_delayed_is_not_taken_before(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        began_ms = calm.server.clock_ms()
        run = await submit(client, delay_ms=600)
        info = await shown(client, run)
        assert (info["state"], info["reason"]) == ("queued", "it was delayed")
        assert (await worker.expect(Assign)).run == run
        when = await times(calm, run)
        assert when["$claimed"] - began_ms >= 600
        assert info["not_before_ms"] <= when["$claimed"]


@pytest.mark.parametrize("delay_ms", [1, 200])
async def test_a_short_delay_does_not_wait_for_the_timekeepers_next_look(
    calm: World, monkeypatch: pytest.MonkeyPatch, delay_ms: int
) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        monkeypatch.setattr(timekeeper, "PERIOD_S", 3_600.0)
        await eventually(looked_again(calm, monkeypatch))
        run = await submit(client, delay_ms=delay_ms)
        assert (await worker.expect(Assign)).run == run


async def test_a_run_that_nobody_took_by_its_deadline_expires(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = await submit(client, deadline_ms=300)
        info = await ends(client, run)
        assert (info["state"], info["reason"]) == ("expired", "its deadline passed while it was queued")
        assert (await client.request("run.cancel", run=run)).result == {"state": "expired"}


@pytest.mark.parametrize("reason", ["not needed", None])
async def test_a_run_that_was_cancelled_says_why(calm: World, reason: str | None) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        run = await submit(client)
        await client.request("run.cancel", run=run, reason=reason)
        info = await shown(client, run)
        assert (info["state"], info.get("reason")) == ("cancelled", reason)


async def test_a_run_whose_delay_lasts_past_its_deadline_is_refused(calm: World) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        wanted: dict[str, Any] = {"queue": "q", "handler": "h", "input": b"", "key": "k"}
        for delay_ms in (300, 301):
            answer = await client.request("run.submit", **wanted, delay_ms=delay_ms, deadline_ms=300)
            assert answer.error is not None
            assert answer.error.code == "invalid_params"
            assert f"a delay of {delay_ms} ms is not over before the deadline, after 300 ms" in answer.error.message
        await submit(client, delay_ms=299, deadline_ms=300)


async def test_a_deadline_ends_a_run_that_is_being_worked_on_and_frees_its_slot(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = await submit(client, deadline_ms=700)
        given = await worker.expect(Assign)
        assert given.time_left_ms is not None
        assert 0 < given.time_left_ms <= 700
        assert (await worker.expect(Nack)).code == "fenced"
        assert (await ends(client, run))["state"] == "expired"
        await worker.send(work_of(given, 1))
        assert (await worker.expect(Nack)).code == "run_finished"
        after = await submit(client, key="another")
        assert (await worker.expect(Assign)).run == after


async def test_an_attempt_that_takes_too_long_is_taken_and_tried_again_as_often_as_is_allowed(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await worker.identify(agent())
        run = await submit(client, timeout_ms=300, retries=1, backoff_ms=1, backoff_max_ms=1)
        for attempt in (1, 2):
            assert (await worker.expect(Assign)).attempt == attempt
            assert (await worker.expect(Nack)).producer == f"attempt/{attempt}"
        info = await ends(client, run)
        assert (info["state"], info["error"]["type"]) == ("dead", "TimeoutError")
        assert info["error"]["message"] == "the attempt took longer than 300 ms"


async def test_a_run_goes_only_to_agents_with_the_labels_that_it_asks_for(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as plain, calm.peer() as other, calm.peer() as fit:
        await client.identify(identify())
        await plain.identify(labelled("plain"))
        await other.identify(labelled("other", gpu="h100", tier="a"))
        run = await submit(client, where="tier in (a, b), gpu=h200")

        async def waits() -> bool:
            reason = (await shown(client, run)).get("reason")
            return bool(reason == "no connected agent that has the handler 'h' has the labels gpu=h200,tier in (a,b)")

        await eventually(waits)
        await fit.identify(labelled("fit", gpu="h200", tier="b"))
        assert (await fit.expect(Assign)).run == run
        assert not any(isinstance(frame, Assign) for frame in (*plain.frames, *other.frames))


async def test_runs_that_ask_for_nothing_go_to_any_agent_beside_those_that_do(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        await submit(client, key="picky", where="ssd")
        easy = await submit(client, key="easy", where="")
        await worker.identify(agent())
        assert (await worker.expect(Assign)).run == easy


@pytest.mark.parametrize("where", ["gpu=", "a in (", "a" * 513, "a,,b"])
async def test_what_is_no_selector_is_refused(calm: World, where: str) -> None:
    async with calm.peer() as client:
        await client.identify(identify())
        answer = await client.request("run.submit", queue="q", handler="h", input=b"", key="k", where=where)
        assert answer.error is not None
        assert answer.error.code == "invalid_params"


async def test_a_run_that_is_over_is_done_again_as_a_new_run_and_once_for_each_request(calm: World) -> None:
    async with calm.peer() as client, calm.peer() as worker:
        await client.identify(identify())
        run = await submit(client, input=b"\x07", priority=3, where="tier=a", retries=2, deadline_ms=300)
        waiting = await client.request("run.retry", run=run)
        assert waiting.error is not None
        assert waiting.error.code == "not_over"
        await ends(client, run)
        for number in (98, 99):
            await client.send(Request(id=number, op="same", method="run.retry", params={"run": run}))
        answers = [(await client.expect(Response)).result for _ in range(2)]
        again = str(answers[0]["run"])
        assert answers == [{"run": again, "created": True}, {"run": again, "created": False}]
        assert again != run
        info = await shown(client, again)
        assert (info["retry_of"], info["where"], info.get("deadline_ms")) == (run, "tier=a", None)
        await worker.identify(labelled("worker", tier="a"))
        given = await worker.expect(Assign)
        assert (given.run, given.input) == (again, b"\x07")
