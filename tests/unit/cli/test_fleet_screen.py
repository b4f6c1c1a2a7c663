"""One look at the fleet: what it is made of, and its picture. No terminal is needed."""

from __future__ import annotations

import json

from orchestrator.cli.fleet_screen import AGENTS_MAX, RUNS_MAX, STALE_MS, Look, busiest, draw_look, lines
from protocol.requests import AgentInfo, QueueInfo, RunInfo
from tests.unit.cli.test_run_screen import painted

NOW_MS = 1_700_000_000_000


def agent(name: str, *, connected: bool = True, load: float | None = None, cordoned: bool = False) -> AgentInfo:
    labels = {"version": "7"}
    return AgentInfo(
        agent=name, connected=connected, hub="h", instance="i", session="s", since_ms=0,
        labels=labels, queues=("q",), slots=4, load=load, cordoned=cordoned,
    )  # fmt: skip


def queue(name: str, waiting: int = 0, active: int = 0, *, paused: bool = False) -> QueueInfo:
    return QueueInfo(queue=name, waiting=waiting, later=1, active=active, limit=9, paused=paused)


def run(number: int, state: str, submitted_ms: int, finished_ms: int | None = None, queue: str = "q") -> RunInfo:
    return RunInfo(
        run=f"r{number}", state=state, handler="h", queue=queue, attempt=1,
        submitted_ms=submitted_ms, finished_ms=finished_ms, head=1,
    )  # fmt: skip


RUNS = (
    run(4, "queued", NOW_MS - 3_000),
    run(3, "queued", NOW_MS - 65_000),
    run(2, "succeeded", NOW_MS - 70_000, NOW_MS - 1_000),
    run(1, "failed", NOW_MS - 200_000, NOW_MS - 90_000),
)


def look() -> Look:
    agents = (agent("a", load=0.25), agent("b", load=0.5, cordoned=True), agent("c", connected=False))
    queues = (queue("idle", paused=True), queue("q", 2, 3))
    return Look.of(NOW_MS, agents, queues, RUNS, {"a": ("r9",), "b": ("r7", "r8")})


def test_a_look_as_lines() -> None:
    assert lines(look()) == [
        "total\t2 of 3 agents connected, 3 of 8 slots in use; 2 queues, 2 waiting, 2 later; 1 runs a minute",
        "queue\tq\topen\t2\t1\t3\t9\t1 min 5 s",
        "queue\tidle\tpaused\t0\t1\t0\t9\t",
        "agent\tb\tconnected cordoned\t2/4\t50%\t7\tr7 and 1 more",
        "agent\ta\tconnected\t1/4\t25%\t7\tr9",
        "agent\tc\taway\t0/4\t\t7\t",
    ]


def test_a_look_as_an_object() -> None:
    told = json.loads(json.dumps(look().json()))
    assert list(told) == ["ts_ms", "agents", "queues", "totals"]
    assert told["agents"][0] == {
        "agent": "b", "state": "connected cordoned", "slots": 4, "load": 0.5, "version": "7", "runs": ["r7", "r8"],
    }  # fmt: skip
    assert told["queues"][0]["oldest_ms"] == 65_000
    assert (told["totals"]["ended"], told["totals"]["at_least"]) == (1, False)


def test_a_run_that_is_to_come_later_does_not_wait_yet() -> None:
    later = run(1, "queued", NOW_MS - 9_000).model_copy(update={"not_before_ms": NOW_MS + 1})
    due = run(2, "queued", NOW_MS - 9_000).model_copy(update={"not_before_ms": NOW_MS - 2_000})
    assert Look.of(NOW_MS, (), (queue("q", 1),), (later,), {}).queues[0].oldest_ms is None
    assert Look.of(NOW_MS, (), (queue("q", 1),), (later, due), {}).queues[0].oldest_ms == 2_000


def test_where_the_newest_runs_do_not_reach_back_a_minute_the_rate_is_a_lower_bound() -> None:
    many = [run(n, "succeeded", NOW_MS - 10_000, NOW_MS - 5_000) for n in range(RUNS_MAX)]
    assert lines(Look.of(NOW_MS, (), (), many, {}))[0].endswith(f"{RUNS_MAX}+ runs a minute")


def test_a_large_fleet_fits_the_terminal_and_says_how_many_more_there_are() -> None:
    agents = [agent(f"agent-{n:04}", load=n / 1000, connected=n % 2 == 0) for n in range(1000)]
    queues = [queue(f"queue-{n:04}", waiting=n) for n in range(300)]
    large = Look.of(NOW_MS, agents, queues, (), {})
    assert len(large.agents) == AGENTS_MAX
    assert [one.agent for one in busiest(agents)[:2]] == ["agent-0998", "agent-0996"]
    shown = painted(draw_look(large, NOW_MS, 30))
    assert len(shown) <= 30
    assert "and 289 more queues" in shown
    assert "and 989+ more agents" in shown
    assert any(line.startswith("queue-0299") for line in shown)


def test_what_agents_call_themselves_cannot_move_the_cursor() -> None:
    evil = agent("a").model_copy(update={"labels": {"version": "\x1b[2J\x9b\u202e"}})
    text = "".join(painted(draw_look(Look.of(NOW_MS, (evil,), (), (), {}), NOW_MS, 30)))
    assert "\\x1b[2J" in text
    assert all(character.isprintable() for character in text)


def test_a_look_that_grew_old_says_so() -> None:
    assert painted(draw_look(look(), NOW_MS + STALE_MS - 1, 30))[0].startswith("2 of 3")
    assert painted(draw_look(look(), NOW_MS + STALE_MS, 30))[0].startswith("as of 10 s ago: ")
