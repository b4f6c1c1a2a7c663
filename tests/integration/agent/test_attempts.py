"""Attempts against a hub that does as it is told: cancelled, fenced, cut off, blocked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from agent import RunContext, attempt
from agent.client import Client
from agent.threads import LoopThread
from agent.worker import Agent
from protocol import frames as f
from protocol.codec import unpack_record, unpack_value
from protocol.control import Kind
from tests.support.agent_handlers import CALLS, make_agent
from tests.support.fake_hub import FakeHub
from tests.support.timing import deadline, eventually


def kinds(hub: FakeHub, run: str) -> list[str]:
    return [unpack_record(entry.packed).kind for entry in hub.log(f"run/{run}").entries]


def last(hub: FakeHub, run: str) -> object:
    return unpack_value(unpack_record(hub.log(f"run/{run}").entries[-1].packed).body)


def agents(hub: FakeHub) -> int:
    return sum(wire.identify is not None and wire.identify.role is f.Role.AGENT for wire in hub.wires)


async def idle(hub: FakeHub) -> None:
    """Wait for a heartbeat of the agent, from now on, that lists no attempt."""
    heard = len(hub.heard)
    await eventually(
        lambda: any(isinstance(beat, f.Heartbeat) and beat.attempts == () for beat in tuple(hub.heard[heard:]))
    )


@asynccontextmanager
async def serving(hub: FakeHub, agent: Agent | None = None) -> AsyncIterator[Client]:
    agent = agent or make_agent()
    task = asyncio.create_task(agent.serve(hub.url))
    try:
        async with deadline(40), Client.connect(hub.url) as client:
            await eventually(lambda: agents(hub) == 1)
            yield client
    finally:
        agent.stop(0.0)
        await task


async def start(hub: FakeHub, client: Client, handler: str, given: object = None, recover: str = "restart") -> str:
    run = await client.submit(handler, given)
    await hub.assign(run.id, recover=recover)
    return run.id


@pytest.mark.parametrize(("handler", "given", "result"), [("add", {"a": 2}, 3), ("count", {"upto": 5}, 5)])
async def test_a_handler_s_result_is_the_run_s(fake: FakeHub, handler: str, given: object, result: object) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, handler, given)
        assert await client.run(run).result() == result


async def test_a_run_that_ends_soon_is_not_followed_for_commands(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "COMMANDS_AFTER_MS", 600_000)
    async with serving(fake) as client:
        run = await start(fake, client, "add", {"a": 2})
        assert await client.run(run).result() == 3
        await idle(fake)
    assert not [frame for frame in fake.heard if isinstance(frame, f.Subscribe) and frame.log == f"run/{run}"]


@pytest.mark.parametrize(
    "handler", ["wait", "wait_plain", "wait_apart", "nap", "nap_plain", "nap_apart", "nap_plain_apart"]
)
async def test_a_cancelled_handler_stops_and_says_so_once(fake: FakeHub, handler: str) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, handler)
        await eventually(lambda: "waiting" in kinds(fake, run))
        assert await client.run(run).cancel(wait=True, reason="enough") == "cancelled"
        assert kinds(fake, run)[-1] == Kind.CANCELLED
        assert last(fake, run) == {"reason": "enough"}


async def test_a_handler_that_finishes_although_cancelled_has_succeeded(fake: FakeHub) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, "wait_stubbornly")
        await eventually(lambda: "waiting" in kinds(fake, run))
        await client.run(run).cancel(reason="enough")
        assert await client.run(run).result() == "finished anyway: enough"


async def test_an_exception_and_a_bad_input_say_whether_another_try_can_help(fake: FakeHub) -> None:
    async with serving(fake) as client:
        raised = await start(fake, client, "fail")
        bad = await start(fake, client, "add", {"a": "x"})
        await eventually(lambda: kinds(fake, raised)[-1] == kinds(fake, bad)[-1] == Kind.ERRORED)
        said = last(fake, raised)
        assert isinstance(said, dict)
        assert (said["error"]["type"], said["error"]["message"], said["retryable"]) == ("ValueError", "as told", True)
        assert "as told" in said["error"]["trace"]
        said = last(fake, bad)
        assert isinstance(said, dict)
        assert "a: Input should be a valid integer" in said["error"]["message"]
        assert said["retryable"] is False


async def test_an_error_of_any_characters_ends_its_run_and_not_the_agent(fake: FakeHub) -> None:
    agent = Agent("a")

    @agent.handler("read")
    async def read(ctx: RunContext, name: str) -> str:
        if name:
            raise ValueError(f"cannot read {bytes.fromhex(name).decode(errors='surrogateescape')}")
        return "read"

    async with serving(fake, agent) as client:
        failed = await start(fake, client, "read", "ff")
        await eventually(lambda: kinds(fake, failed)[-1:] == [Kind.ERRORED])
        assert last(fake, failed)["error"]["message"] == r"cannot read \udcff"  # type: ignore[index]
        run = await start(fake, client, "read", "")
        await eventually(lambda: kinds(fake, run)[-1:] == [Kind.SUCCEEDED])


async def test_an_attempt_goes_on_through_a_cut_and_lists_itself(fake: FakeHub) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, "wait_plain")
        await eventually(lambda: len(kinds(fake, run)) > 5)
        fake.cut()
        before = len(kinds(fake, run))
        await eventually(lambda: len(kinds(fake, run)) > before + 5)
        await client.run(run).cancel(wait=True)
        records = [unpack_record(entry.packed) for entry in fake.log(f"run/{run}").entries]
        assert [record.seq for record in records if record.seq is not None] == list(
            range(1, sum(record.seq is not None for record in records) + 1)
        )
        claim = next(identify.attempts[0] for identify in fake.identified if identify.attempts)
        assert (claim.run, claim.fence) == (run, 101)


@pytest.mark.parametrize("verdict", [f.Verdict.FENCED, f.Verdict.FINISHED])
@pytest.mark.parametrize("handler", ["wait", "wait_plain", "wait_apart"])
async def test_an_attempt_that_is_not_ours_any_more_is_stopped_and_says_nothing(
    fake: FakeHub, verdict: f.Verdict, handler: str
) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, handler)
        await eventually(lambda: "waiting" in kinds(fake, run))
        fake.verdicts = lambda claim: verdict
        fake.cut()
        await eventually(lambda: len(fake.identified) >= 4 and agents(fake) == 1)
        before = len(kinds(fake, run))
        await idle(fake)
        assert len(kinds(fake, run)) == before


async def test_an_agent_whose_task_is_cancelled_ends_whatever_its_runs_were_told_before(fake: FakeHub) -> None:
    agent, stopping = Agent("a"), asyncio.Event()

    @agent.handler("slow")
    async def slow(ctx: RunContext) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopping.set()
            await asyncio.sleep(3600)

    async with deadline(20), Client.connect(fake.url) as client:
        serving = asyncio.create_task(agent.serve(fake.url))
        await eventually(lambda: agents(fake) == 1)
        run = await start(fake, client, "slow")
        await eventually(lambda: any(isinstance(frame, f.Subscribe) for frame in fake.heard))
        await client.run(run).cancel()
        await stopping.wait()
        fake.mute_pubacks = True
        serving.cancel()
        await asyncio.wait((serving,), timeout=10)
        assert serving.cancelled()


async def test_a_fenced_publish_stops_the_handler(fake: FakeHub) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, "wait_plain")
        await eventually(lambda: "waiting" in kinds(fake, run))
        fake.refuse = lambda frame: FakeHub.nack(frame, "fenced")
        with structlog.testing.capture_logs() as logs:
            await eventually(lambda: any(line["event"] == "attempt_stopped" for line in logs))


async def test_a_blocked_loop_costs_no_heartbeat_and_gets_a_warning_with_a_remedy(fake: FakeHub) -> None:
    agent, thread = make_agent(), LoopThread("agent")
    with structlog.testing.capture_logs() as logs:
        served = thread.start(agent.serve(fake.url))
        async with deadline(40), Client.connect(fake.url) as client:
            await eventually(lambda: agents(fake) == 1)
            run = await start(fake, client, "block", {"seconds": 2.5})
            assert await client.run(run).result() == "blocked"
        thread.post(agent.stop)
        await asyncio.wrap_future(served)
    thread.stop()
    assert len([w for w in fake.identified if w.role is f.Role.AGENT]) == 1
    warning = next(line for line in logs if line["event"] == "loop_blocked")
    assert 'isolation="process"' in warning["remedy"]
    assert run in warning["running"][0]


async def test_a_held_interpreter_apart_costs_nothing_and_here_a_warning(fake: FakeHub) -> None:
    fake.heartbeat_ms = 5000
    with structlog.testing.capture_logs() as logs:
        async with serving(fake) as client:
            apart = await start(fake, client, "backtrack_apart")
            assert await client.run(apart).result() == "no match"
            assert not any(line["event"] == "interpreter_blocked" for line in logs)
            here = await start(fake, client, "backtrack")
            assert await client.run(here).result() == "no match"
            await eventually(lambda: any(line["event"] == "interpreter_blocked" for line in logs))
    warning = next(line for line in logs if line["event"] == "interpreter_blocked")
    assert 'isolation="process"' in warning["remedy"]


async def test_an_attempt_without_a_slot_or_a_handler_is_handed_back(fake: FakeHub) -> None:
    async with serving(fake, make_agent(slots=1)) as client:
        await start(fake, client, "wait")
        second = await start(fake, client, "wait")
        unknown = await start(fake, client, "nobody-serves-this")
        await eventually(lambda: sum(isinstance(frame, f.Release) for frame in fake.heard) == 2)
        said = {(frame.run, frame.reason) for frame in fake.heard if isinstance(frame, f.Release)}
        assert said == {(second, f.ReleaseReason.NO_SLOT), (unknown, f.ReleaseReason.REFUSED)}


async def test_an_unlisted_lease_that_is_assigned_again_goes_on(fake: FakeHub) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, "wait_plain")
        await eventually(lambda: len(kinds(fake, run)) > 4)
        await fake.tell_assign(run, attempt=1, fence=101, seq=fake.log(f"run/{run}").producers["attempt/1"][0])
        before = len(kinds(fake, run))
        await eventually(lambda: len(kinds(fake, run)) > before)
        await client.run(run).cancel(wait=True)


@pytest.mark.parametrize("handler", ["steps", "steps_apart"])
async def test_a_journalled_run_repeats_neither_calls_nor_entries(fake: FakeHub, handler: str) -> None:
    CALLS.clear()
    async with serving(fake) as client:
        run = await start(fake, client, handler, {"upto": 6, "stop_at": 3}, recover="journal")
        await eventually(lambda: kinds(fake, run).count("step") == 3)
        fake.verdicts = lambda claim: f.Verdict.FENCED if claim.fence == 101 else f.Verdict.CONTINUE
        fake.cut()
        await idle(fake)
        await fake.append(f"run/{run}", Kind.LOST, {"attempt": 1, "reason": "lease", "losses": 1})
        await fake.assign(run, attempt=2, recover="journal")
        assert await client.run(run).result() == [2, 4, 6, 8, 10, 12]
    entries = [unpack_record(entry.packed) for entry in fake.log(f"run/{run}").entries]
    done = [(record.index, record.kind) for record in entries if record.index is not None]
    assert done == [(index, "step" if index % 2 == 0 else Kind.CALL) for index in range(1, 13)]
    assert [record.attempt for record in entries if record.index is not None] == [1] * 6 + [2] * 6
    if handler == "steps":
        assert [f"double {number}" for number in range(1, 7)] == CALLS


@pytest.mark.parametrize("handler", ["wander", "wander_apart"])
async def test_a_journalled_handler_that_does_something_else_fails_for_good(fake: FakeHub, handler: str) -> None:
    async with serving(fake) as client:
        run = await start(fake, client, handler, recover="journal")
        await eventually(lambda: "attempt" in kinds(fake, run))
        fake.verdicts = lambda claim: f.Verdict.FENCED if claim.fence == 101 else f.Verdict.CONTINUE
        fake.cut()
        await idle(fake)
        await fake.append(f"run/{run}", Kind.LOST, {"attempt": 1, "reason": "lease", "losses": 1})
        await fake.assign(run, attempt=2, recover="journal")
        await eventually(lambda: kinds(fake, run)[-1] == Kind.ERRORED)
        said = last(fake, run)
        assert isinstance(said, dict)
        assert said["retryable"] is False
        assert "operation 1 was emit 'attempt' and is now emit 'attempt' with another value" in said["error"]["message"]
        assert "agent_handlers.py:" in said["error"]["message"]


async def test_a_child_process_serves_run_after_run_and_its_death_is_an_error(fake: FakeHub) -> None:
    async with serving(fake) as client:
        first = await client.run(await start(fake, client, "where_apart")).result()
        second = await client.run(await start(fake, client, "where_apart")).result()
        assert first == second
        run = await start(fake, client, "die_apart")
        await eventually(lambda: kinds(fake, run)[-1] == Kind.ERRORED)
        said = last(fake, run)
        assert isinstance(said, dict)
        assert "exit code 9" in said["error"]["message"]
        third = await client.run(await start(fake, client, "where_apart")).result()
        assert third != first


async def test_messages_are_handled_once_each_and_again_after_a_fault(fake: FakeHub) -> None:
    agent = make_agent()
    got: list[object] = []
    faults = 1

    @agent.on_message("reload")
    async def reload(message: object) -> None:
        nonlocal faults
        if faults:
            faults -= 1
            raise RuntimeError("not yet")
        got.append(message.body)  # type: ignore[attr-defined]

    async with serving(fake, agent) as client:
        await client.send("worker", "reload", 1)
        await client.send("worker", "other", 2)
        await client.send("worker", "reload", 3)
        await eventually(lambda: got == [1, 3])
        await eventually(lambda: fake.durables["agent/worker", "messages"] == 3)


async def test_a_drain_lets_what_runs_finish_and_hands_back_what_comes(fake: FakeHub) -> None:
    agent = make_agent()
    async with serving(fake, agent) as client:
        running = await start(fake, client, "wait_stubbornly")
        await eventually(lambda: "waiting" in kinds(fake, running))
        agent.stop(30.0)
        late = await start(fake, client, "add", {"a": 1})
        await eventually(lambda: any(isinstance(frame, f.Release) and frame.run == late for frame in fake.heard))
        await client.run(running).cancel()
        await eventually(lambda: agents(fake) == 0)
        assert kinds(fake, running)[-1] == Kind.SUCCEEDED
        assert any(isinstance(frame, f.Bye) for frame in fake.heard)


async def test_a_drain_without_time_hands_back_what_runs(fake: FakeHub) -> None:
    agent = make_agent()
    async with serving(fake, agent) as client:
        running = await start(fake, client, "wait")
        await eventually(lambda: "waiting" in kinds(fake, running))
        agent.stop(0.0)
        await eventually(lambda: agents(fake) == 0)
        released = [frame for frame in fake.heard if isinstance(frame, f.Release)]
        assert [(frame.run, frame.reason) for frame in released] == [(running, f.ReleaseReason.DRAIN)]
        assert kinds(fake, running)[-1] == "waiting"
