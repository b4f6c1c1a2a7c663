"""Questions and messages of runs whose hub or agent is killed while they wait."""

from __future__ import annotations

from pathlib import Path

from agent.client import Client
from agent.runs import Run
from protocol.codec import unpack_value
from protocol.control import Kind
from tests.support.checkers import assert_kept
from tests.support.fleet import AgentProcess, Fleet, dump_log
from tests.support.run_checkers import check_journal, check_run
from tests.support.timing import eventually

APP = "tests.chaos.apps:decider"
SETTINGS = {"FLEETLINE_LEASE_MS": "2000"}


async def waits(run: Run, name: str) -> None:
    """Wait until a question of a run waits for its answer."""

    async def look() -> bool:
        return any(question.name == name for question in (await run.talk()).waiting)

    await eventually(look, 60)


async def check(client: Client, run: Run) -> list[str]:
    """Hold the run's log to what is promised of it. Return the kinds of its entries."""
    dump = await dump_log(client, run.log)
    assert_kept(check_run(dump, await run.get()))
    assert_kept(check_journal(dump))
    return [record.kind for _, record in dump.records()]


async def test_an_approval_asked_before_the_hub_died_is_given_after_it_and_one_nobody_gives_is_denied() -> None:
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        fleet.agent(APP, hub, agent_id="d1")
        async with Client.connect(hub.url, token=hub.token) as client:
            given = await client.submit("release", {"timeout": 120, "ledger": str(fleet.directory / "given")})
            denied = await client.submit("release", {"timeout": 3, "ledger": str(fleet.directory / "denied")})
            await waits(given, "push")
            await waits(denied, "push")
            await hub.restart()
            await given.answer(True)
            assert await given.result(60) == {"pushed": True, "heard": []}
            assert await denied.result(60) == {"pushed": False, "heard": []}
            for run in (given, denied):
                kinds = await check(client, run)
                assert (kinds.count(Kind.CLAIMED), kinds.count(Kind.ASKED), kinds.count(Kind.ANSWERED)) == (1, 1, 1)


async def test_a_new_attempt_goes_on_behind_the_answered_question_and_hears_the_same_messages() -> None:
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(APP, hub, agent_id="d1")
        async with Client.connect(hub.url, token=hub.token) as client:
            ledger = fleet.directory / "ledger"
            run = await client.submit("release", {"timeout": 120, "ledger": str(ledger), "messages": 3})
            for number in range(2):
                assert (await run.steer(number, wait=True)).state == "applied"
            await agent.kill()
            await run.steer(2)
            await agent_again(agent, client)
            await waits(run, "push")
            await agent.kill()
            await run.answer(True)  # while no agent is there
            await agent_again(agent, client)
            assert await run.result(60) == {"pushed": True, "heard": [0, 1, 2]}
            kinds = await check(client, run)
            assert kinds.count(Kind.CLAIMED) == 3
            assert (kinds.count(Kind.ASKED), kinds.count(Kind.ANSWERED)) == (1, 1)
            assert kinds.count(Kind.RECEIVED) == 4  # the three messages and the answer
            assert lines(ledger) == ["pushed"]


async def test_a_question_of_a_killed_agent_has_its_time_all_the_same() -> None:
    async with Fleet(SETTINGS) as fleet:
        hub = await fleet.hub()
        agent = fleet.agent(APP, hub, agent_id="d1")
        async with Client.connect(hub.url, token=hub.token) as client:
            run = await client.submit("release", {"timeout": 3, "ledger": str(fleet.directory / "ledger")})
            await waits(run, "push")
            await agent.kill()

            async def denied() -> bool:
                return not (await run.talk()).waiting

            await eventually(denied, 60)
            (question,) = (await run.talk()).questions.values()
            assert (question.state, unpack_value(question.answer or b""), question.by) == (
                "timed_out",
                False,
                "timeout",
            )
            await agent_again(agent, client)
            assert await run.result(60) == {"pushed": False, "heard": []}
            await check(client, run)


async def agent_again(agent: AgentProcess, client: Client) -> None:
    """Start an agent again, and wait until it is there."""
    agent.spawn()
    await agent.connected(client)


def lines(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines()
