"""Who may open a session, and what opening and ending one proposes."""

from __future__ import annotations

import pytest

from orchestrator.auth.principal import ANY_AGENT, Principal
from orchestrator.core.permissions import Permit
from orchestrator.core.sessions import (
    SUPERSEDED_MAX,
    Denied,
    Newcomer,
    Opening,
    agent_log,
    close_session,
    judge,
    open_session,
    principal_name,
    was_superseded,
)
from orchestrator.store.commits import Guard, HashSet
from protocol.codec import unpack_record, unpack_value
from protocol.codes import CloseCode
from protocol.frames import HandlerSpec, Identify

LOG = agent_log("default", "a1")
NEWCOMER = Newcomer(session="s2", instance="p2", hub_id="h", src="hub:h", commit="c", epoch="e", mark="m")


def principal(*scopes: str, agents: tuple[str, ...] = ()) -> Principal:
    return Principal("ann", "default", frozenset(scopes), frozenset(agents), 10**10, "id")


def agent(**fields: object) -> Identify:
    return Identify.model_validate({"version": 1, "role": "agent", "id": "a1", "instance": "p1", **fields})


def test_an_agent_that_its_token_names_may_open_a_session() -> None:
    assert isinstance(judge(agent(), principal("agent", agents=("a1",))), Permit)
    assert isinstance(judge(agent(), principal("agent", agents=(ANY_AGENT,))), Permit)


@pytest.mark.parametrize(
    ("frame", "who", "code"),
    [
        (agent(version=2), principal("agent", agents=("a1",)), CloseCode.VERSION_UNSUPPORTED),
        (agent(id="a/1"), principal("agent", agents=("a1",)), CloseCode.INVALID_FRAME),
        (agent(instance="P 1"), principal("agent", agents=("a1",)), CloseCode.INVALID_FRAME),
        (agent(queues=("a:b",)), principal("agent", agents=("a1",)), CloseCode.INVALID_FRAME),
        (agent(handlers=(HandlerSpec(name="X"),)), principal("agent", agents=("a1",)), CloseCode.INVALID_FRAME),
        (agent(labels={"a": "b c"}), principal("agent", agents=("a1",)), CloseCode.INVALID_FRAME),
        (agent(), principal("agent", agents=("a2",)), CloseCode.FORBIDDEN),
        (agent(), principal("agent"), CloseCode.FORBIDDEN),
        (agent(), principal("operator", agents=("a1",)), CloseCode.FORBIDDEN),
        (agent(role="client"), principal("agent", agents=("a1",)), CloseCode.FORBIDDEN),
    ],
)
def test_others_may_not(frame: Identify, who: Principal, code: CloseCode) -> None:
    denied = judge(frame, who)
    assert isinstance(denied, Denied)
    assert denied.code is code


def test_a_client_is_who_its_token_says_whatever_its_id() -> None:
    assert principal_name(principal("operator"), agent(role="client", id="bob")) == "client:ann"
    assert principal_name(principal("agent"), agent()) == "agent:a1"


def test_the_first_session_of_an_agent_has_the_stores_time_as_its_fence() -> None:
    opening = open_session(LOG, None, NEWCOMER, 5000)
    assert (opening.fence, opening.takeover, opening.previous) == (5000, False, "")
    assert opening.commit.guards == tuple(
        Guard(opening.commit.guards[0].key, field, None) for field in ("fence", "told")
    )
    (entry,) = opening.commit.appends[0].entries
    record = unpack_record(entry)
    assert record.kind == "$connected"
    assert unpack_value(record.body) == {
        "session": "s2",
        "fence": 5000,
        "instance": "p2",
        "hub": "h",
        "takeover": False,
    }


def test_a_fence_grows_even_where_the_clock_went_back() -> None:
    opening = open_session(LOG, {"fence": "9000", "session": "s1", "instance": "p2", "open": "0"}, NEWCOMER, 5000)
    assert opening.fence == 9001
    assert opening.commit.guards[0].expected == "9000"


def test_an_open_session_of_another_process_is_taken_over_and_superseded() -> None:
    opening = open_session(LOG, {"fence": "1", "session": "s1", "instance": "p1", "open": "1"}, NEWCOMER, 5000)
    assert (opening.takeover, opening.previous) == (True, "s1")
    kinds = [unpack_record(entry).kind for entry in opening.commit.appends[0].entries]
    assert kinds == ["$superseded", "$connected"]
    first = unpack_record(opening.commit.appends[0].entries[0])
    assert unpack_value(first.body) == {"session": "s1", "by": "s2"}


def test_a_session_that_ended_is_not_superseded() -> None:
    opening = open_session(LOG, {"fence": "1", "session": "s1", "instance": "p1", "open": "0"}, NEWCOMER, 5000)
    assert len(opening.commit.appends[0].entries) == 1


def fields_set(opening: Opening) -> dict[str, str | bytes]:
    (op,) = opening.commit.ops
    assert isinstance(op, HashSet)
    return dict(op.fields)


def test_a_process_whose_id_was_taken_over_is_remembered_and_its_own_reconnects_are_not() -> None:
    known = {"fence": "1", "session": "s1", "instance": "p1", "open": "0"}
    taken = fields_set(open_session(LOG, known, NEWCOMER, 5000))
    assert taken["superseded"] == "p1"
    assert was_superseded({"superseded": "p0 p1"}, "p1")
    assert not was_superseded({"superseded": "p0 p1"}, "p2")
    assert not was_superseded(None, "p1")
    assert "superseded" not in fields_set(open_session(LOG, {**known, "instance": "p2"}, NEWCOMER, 5000))


def test_only_so_many_superseded_processes_are_remembered() -> None:
    known = {"fence": "1", "instance": "p1", "superseded": " ".join(f"q{number}" for number in range(SUPERSEDED_MAX))}
    kept = str(fields_set(open_session(LOG, known, NEWCOMER, 5000))["superseded"]).split()
    assert (len(kept), kept[0], kept[-1]) == (SUPERSEDED_MAX, "q1", "p1")


def test_the_end_of_a_session_is_guarded_on_its_being_the_newest() -> None:
    commit = close_session(LOG, "s1", "bye", "hub:h", "c")
    assert [(guard.field, guard.expected) for guard in commit.guards] == [("session", "s1")]
    record = unpack_record(commit.appends[0].entries[0])
    assert (record.kind, record.src) == ("$disconnected", "hub:h")
