"""What was refused, counted and written down."""

from __future__ import annotations

import pytest

from orchestrator.audit import Audit
from orchestrator.core.refusals import (
    NOTED_MAX,
    OTHERS,
    PEER_MAX,
    REPEAT_MS,
    STRANGERS_MAX,
    Counted,
    Refusal,
    Tallies,
    asked_for,
    audit_log,
    network_of,
)
from orchestrator.core.sessions import Denied, agent_log
from orchestrator.line import Line
from orchestrator.store.commits import Append, Commit
from orchestrator.store.memory import Fault, MemoryServer, MemoryStore
from orchestrator.telemetry import Counters
from protocol.codec import unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.frames import Identify, Role
from protocol.ids import LogName, partition_of
from protocol.refusals import What
from tests.unit.orchestrator.parts import NOW_MS, line_to


def refusal(about: str = "topic/a", who: str = "client:ann", **fields: str) -> Refusal:
    return Refusal("default", What.PUBLISH, "forbidden", who=who, about=about, **fields)


def counts(taken: list[Counted]) -> list[tuple[str, int]]:
    return [(each.refusal.about, each.count) for each in taken]


def test_a_refusal_is_written_at_once_and_its_repetitions_once_an_interval() -> None:
    tallies = Tallies()
    tallies.note(refusal(), 0)
    assert counts(tallies.take(1)) == [("topic/a", 1)]
    for now_ms in range(10, 1010):
        tallies.note(refusal(), now_ms)
    assert tallies.take(REPEAT_MS) == []
    (again,) = tallies.take(REPEAT_MS + 1)
    assert (again.count, again.first_ms, again.last_ms) == (1000, 10, 1009)


def test_what_does_not_come_again_is_forgotten() -> None:
    tallies = Tallies()
    tallies.note(refusal(), 0)
    tallies.take(0)
    assert (tallies.take(REPEAT_MS), len(tallies)) == ([], 0)
    tallies.note(refusal(), REPEAT_MS)
    assert counts(tallies.take(REPEAT_MS)) == [("topic/a", 1)]


def test_a_clock_that_went_back_keeps_nothing_unwritten() -> None:
    tallies = Tallies()
    tallies.note(refusal(), 10 * REPEAT_MS)
    tallies.take(10 * REPEAT_MS)
    tallies.note(refusal(), 0)
    assert counts(tallies.take(1)) == [("topic/a", 1)]


def test_one_peer_takes_so_much_room_and_no_more_and_nothing_is_left_uncounted() -> None:
    tallies = Tallies()
    for number in range(1000):
        tallies.note(refusal(f"topic/t{number}"), 0)
    tallies.note(refusal("topic/b", "client:bob"), 0)
    taken = tallies.take(0)
    assert len(taken) == PEER_MAX + 2
    (others,) = [each for each in taken if each.refusal.reason == OTHERS]
    assert (others.refusal.who, others.refusal.about, others.count) == ("client:ann", "", 1000 - PEER_MAX)
    assert ("topic/b", 1) in counts(taken)
    tallies.take(REPEAT_MS)
    assert len(tallies) == 0
    tallies.note(refusal("topic/t999"), REPEAT_MS)
    assert counts(tallies.take(REPEAT_MS)) == [("topic/t999", 1)]


def test_strangers_share_their_room() -> None:
    tallies = Tallies()
    for number in range(10_000):
        network = f"10.{number // 256}.{number % 256}.0/24"
        tallies.note(Refusal("default", What.SESSION, "unauthenticated", network=network), 0)
    assert len(tallies) == STRANGERS_MAX + 1
    assert sum(each.count for each in tallies.take(0)) == 10_000


def test_any_number_of_peers_is_bounded_too() -> None:
    tallies = Tallies()
    for number in range(NOTED_MAX + 1000):
        tallies.note(refusal(who=f"client:c{number}"), 0)
    assert len(tallies) == NOTED_MAX + 1
    assert sum(each.count for each in tallies.take(0)) == NOTED_MAX + 1000


def test_what_could_not_be_written_is_counted_on_and_written_soon() -> None:
    tallies = Tallies()
    tallies.note(refusal(), 1)
    taken = tallies.take(2)
    tallies.note(refusal(), 5)
    tallies.put_back(taken)
    (again,) = tallies.take(6)
    assert (again.count, again.first_ms, again.last_ms) == (2, 1, 5)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "loopback"),
        ("::1", "loopback"),
        ("::ffff:198.51.100.7", "198.51.100.0/24"),
        ("198.51.100.7", "198.51.100.0/24"),
        ("2001:db8:1:2::3%eth0", "2001:db8:1::/48"),
        ("2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("", "unknown"),
        ("nonsense", "unknown"),
    ],
)
def test_no_whole_address_is_written_down(address: str, network: str) -> None:
    assert network_of(address) == network


def test_of_a_request_only_names_are_written_down() -> None:
    params = {"run": "r1", "body": b"secret", "answer": "secret", "queue": 7, "log": "l" * 500, "token": "secret"}
    assert asked_for("run.answer", params) == ("run.answer r1 " + "l" * 500)[:160]


# Writing


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer(lambda: NOW_MS)


@pytest.fixture
async def line(server: MemoryServer) -> Line:
    return await line_to(server)


async def written(line: Line, log: LogName) -> list[dict[str, object]]:
    page = await line.store.read(log, 0, 1000)
    records = [unpack_record(entry.packed) for entry in page.entries] if page else []
    found = [unpack_value(record.body) for record in records if record.kind == "$refused"]
    assert {record.src for record in records if record.kind == "$refused"} <= {"hub:hub-1"}
    return [{name: value for name, value in each.items() if value is not None} for each in found]


async def test_an_agents_refusals_are_in_its_log_and_those_of_an_agent_without_one_in_the_audit(line: Line) -> None:
    log = agent_log("default", "a1")
    await line.commit(Commit("c", partition_of(log), appends=(Append(log, (), "e"),)))
    audit = Audit(line, Counters())
    for agent in ("a1", "a2"):
        audit.note(refusal(who=f"agent:{agent}", agent=agent))
    await audit.write()
    assert [each["who"] for each in await written(line, log)] == ["agent:a1"]
    assert [each["who"] for each in await written(line, audit_log("default"))] == ["agent:a2"]
    assert await line.store.meta(agent_log("default", "a2")) is None


async def test_a_store_that_is_away_fails_nobody_and_is_told_later(line: Line) -> None:
    counters = Counters()
    audit = Audit(line, counters)
    assert isinstance(line.store, MemoryStore)
    line.store.fail_next(Fault.FULL)
    audit.note(refusal())
    await audit.write()
    assert await written(line, audit_log("default")) == []
    audit.note(refusal())
    await audit.write()
    assert [each["count"] for each in await written(line, audit_log("default"))] == [2]
    assert counters.refusals == 2


async def test_who_was_not_authenticated_is_only_a_network_and_a_reason(line: Line) -> None:
    audit = Audit(line, Counters())
    frame = Identify(version=1, role=Role.AGENT, id="secret", instance="i", token="secret")
    denied = Denied(CloseCode.UNAUTHENTICATED, "the token is not valid: secret", "invalid")
    audit.denied(frame, denied, "198.51.100.7")
    await audit.write()
    (said,) = await written(line, audit_log("default"))
    assert said.pop("first_ms") == said.pop("last_ms")
    expected = {"what": "session", "code": "unauthenticated", "reason": "invalid", "network": "198.51.100.0/24"}
    assert said == {**expected, "count": 1}
