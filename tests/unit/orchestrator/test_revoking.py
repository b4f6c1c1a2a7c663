"""Marks of what was revoked: what each is about, how they are kept, and when they are forgotten."""

from __future__ import annotations

import pytest

from orchestrator.auth.principal import Principal
from orchestrator.auth.revocation import Revocations
from orchestrator.core import revoking
from orchestrator.core.revoking import KEPT_PAST_MS, MARKS_KEY, MARKS_MAX, Mark, Marks, Subject, Target, wider
from orchestrator.line import Line
from orchestrator.store.commits import HashSet
from orchestrator.store.memory import MemoryServer
from protocol.errors import RequestError
from tests.support.commits import commit, done
from tests.unit.orchestrator.parts import NOW_MS, line_to

NOW_S = NOW_MS // 1000
ANN = Principal("ann", "default", frozenset({"operator"}), frozenset(), NOW_S + 60, "t1", issued_s=NOW_S)


def target(subject: Subject, name: str, namespace: str = "default") -> Target:
    return Target(namespace, subject, name)


def mark(subject: Subject, name: str, since_ms: int = NOW_MS, until_ms: int | None = None) -> Mark:
    return Mark(target(subject, name), since_ms, until_ms, "client:boss")


def holding(*marks: Mark) -> Marks:
    return Marks({each.target.field: each.value.encode() for each in marks})


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (mark(Subject.TOKEN, "t1"), "the token was revoked at 1970-01-01 00:16:40 UTC; get a new one"),
        (mark(Subject.NAME, "ann"), "all tokens of 'ann' issued until 1970-01-01 00:16:40 UTC were revoked"),
        (mark(Subject.AGENT, "a1"), "the agent 'a1' was revoked"),
        (mark(Subject.KEY, "k1"), "this key of the agent was revoked"),
    ],
)
def test_each_mark_is_told_in_words(one: Mark, said: str) -> None:
    assert said in (holding(one).why(ANN, "a1", "k1") or "")


@pytest.mark.parametrize(
    "one",
    [
        mark(Subject.TOKEN, "t2"),
        mark(Subject.TOKEN, "ann"),
        mark(Subject.NAME, "bob"),
        mark(Subject.NAME, "ann", NOW_MS - 1),
        mark(Subject.AGENT, "a2"),
        mark(Subject.AGENT, "ann"),
        Mark(Target("other", Subject.TOKEN, "t1"), NOW_MS, None, "client:boss"),
    ],
)
def test_a_mark_is_about_nothing_else(one: Mark) -> None:
    assert holding(one).why(ANN, "a1", "k1") is None


def test_an_id_with_separators_in_it_is_one_id() -> None:
    odd = mark(Subject.TOKEN, "a/b c/d")
    assert Mark.parse(odd.target.field, odd.value.encode()) == odd


def test_what_a_later_release_wrote_is_told_and_hides_nothing_else() -> None:
    marks = Marks(
        {"version": b"c1", "default/planet/x": b"1 - b", "default/token/t1": mark(Subject.TOKEN, "t1").value.encode()}
    )
    assert (marks.unreadable, marks.version, len(marks)) == (["default/planet/x"], b"c1", 1)


def test_a_second_mark_never_makes_anything_good_again() -> None:
    first, second = mark(Subject.TOKEN, "t1", 5, 100), mark(Subject.TOKEN, "t1", 3, 50)
    assert (wider(second, first).since_ms, wider(second, first).until_ms) == (5, 100)
    assert wider(second, mark(Subject.TOKEN, "t1", 1, None)).until_ms is None


@pytest.fixture
async def line() -> Line:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    await done(line.store, commit(ops=(HashSet("fl:{p00}:terms:default:q", {"limit": "1"}),), partition=0))
    await line.commit(revoking.lift(line.new_commit_id(), target(Subject.TOKEN, "none")))  # tells the time
    return line


async def test_a_mark_holds_at_once_where_it_was_made_and_elsewhere_once_read(line: Line) -> None:
    here, there = Revocations(line), Revocations(line)
    await here.revoke(target(Subject.TOKEN, "t1"), "client:boss")
    assert here.why(ANN) is not None
    assert there.why(ANN) is None
    await there.load()
    assert there.why(ANN) is not None


async def test_what_is_lifted_is_good_again_everywhere(line: Line) -> None:
    here, there = Revocations(line), Revocations(line)
    await here.revoke(target(Subject.AGENT, "a1"), "client:boss")
    await there.load()
    await here.lift(target(Subject.AGENT, "a1"))
    assert here.why(ANN, "a1") is None
    await there.load()
    assert there.why(ANN, "a1") is None


async def test_marks_are_read_only_where_they_changed(line: Line) -> None:
    changes: list[str] = []
    revocations = Revocations(line)
    revocations.on_change = lambda: changes.append("changed")
    for _ in range(2):
        await revocations.revoke(target(Subject.TOKEN, "t1"), "client:boss")
        await revocations.load()
        await revocations.load()
    assert changes == ["changed", "changed"]


async def test_a_mark_is_forgotten_when_no_clock_can_be_so_late_that_it_matters(line: Line) -> None:
    revocations = Revocations(line)
    await revocations.revoke(target(Subject.TOKEN, "t1"), "client:boss", NOW_MS - KEPT_PAST_MS)
    await revocations.revoke(target(Subject.TOKEN, "t2"), "client:boss", NOW_MS - KEPT_PAST_MS + 60_000)
    await revocations.revoke(target(Subject.NAME, "ann"), "client:boss")
    await revocations._forget()
    left = await line.store.hash_all(MARKS_KEY)
    assert set(left) == {"version", "default/token/t2", "default/name/ann"}


async def test_a_mark_that_was_renewed_meanwhile_is_not_forgotten(line: Line) -> None:
    late, here = Revocations(line), Revocations(line)
    await late.revoke(target(Subject.TOKEN, "t1"), "client:boss", NOW_MS - KEPT_PAST_MS)
    await here.revoke(target(Subject.TOKEN, "t1"), "client:boss")
    await late._forget()
    assert "default/token/t1" in await line.store.hash_all(MARKS_KEY)


async def test_there_are_only_so_many_marks(line: Line) -> None:
    fields = {f"default/token/x{number}": "1 - b" for number in range(MARKS_MAX)}
    await done(line.store, commit(ops=(HashSet(MARKS_KEY, fields),), partition=revoking.MARKS_PARTITION))
    revocations = Revocations(line)
    with pytest.raises(RequestError) as refused:
        await revocations.revoke(target(Subject.TOKEN, "t1"), "client:boss")
    assert refused.value.code == "limit_reached"
    await revocations.revoke(target(Subject.TOKEN, "x7"), "client:boss")  # it is there already


async def test_one_namespace_does_not_take_the_room_of_all_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revoking, "NAMESPACE_MARKS_MAX", 2)
    revocations = Revocations(await line_to(MemoryServer(lambda: NOW_MS)))
    for number in (1, 2, 2):
        await revocations.revoke(Target("busy", Subject.TOKEN, f"t{number}"), "client:b")
    with pytest.raises(RequestError, match="2 tokens, names, agents and keys of busy are revoked") as refused:
        await revocations.revoke(Target("busy", Subject.TOKEN, "t3"), "client:b")
    assert refused.value.code == "limit_reached"
    await revocations.revoke(Target("calm", Subject.TOKEN, "t1"), "client:c")
