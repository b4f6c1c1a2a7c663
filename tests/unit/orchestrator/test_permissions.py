"""What sessions may do: every method, scope and kind of pattern in one table, which no method can be missing from."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.core.patterns import ANYTHING, PATTERNS_MAX, InvalidPattern, Patterns, matches
from orchestrator.core.permissions import DECIDED_MAX, RULES, Action, Permit, Scope, may_open
from orchestrator.peers import Peer
from orchestrator.permitting import Permitting
from orchestrator.reading import Reading
from orchestrator.schedules import Schedules
from protocol.errors import RequestError
from protocol.frames import Role
from protocol.ids import LogKind, LogName, make_run_id, queue_partition
from protocol.requests import METHODS

ACT = ("operator", "admin")
WATCH = ("viewer", *ACT)
SEE = ("agent", *WATCH)
NOBODY: tuple[str, ...] = ()
INSIDE, OUTSIDE = "coding", "other"


def run_id(queue: str) -> str:
    return make_run_id(queue_partition("default", queue), 1, queue.encode().ljust(8)[:8])


QUEUES = {run_id(INSIDE): INSIDE, run_id(OUTSIDE): OUTSIDE}
NAMES = {
    "queue": (INSIDE, OUTSIDE),
    "run": (run_id(INSIDE), run_id(OUTSIDE)),
    "agent": ("a-1", "b-1"),
    "log": ("topic/news.eu", "topic/other"),
    "schedule": ("s-coding", "s-other"),
}
"""What requests are about: a name that the patterns below are of, and one that they are not of."""

LISTS = {
    "read": ("queue/cod*", "agent/a-*", "topic/news.*"),
    "publish": ("agent/a-*", "topic/news.*"),
    "submit": ("cod*",),
    "serve": ("coding",),
    "control": ("queue/cod*", "agent/a-*"),
}

# method: which scopes may, by which list of patterns, and which parameter names what it is about
TABLE: dict[str, tuple[tuple[str, ...], str, str]] = {
    "run.submit": (ACT, "submit", "queue"),
    "run.retry": (ACT, "submit", "run"),
    "run.get": (SEE, "read", "run"),
    "run.wait": (SEE, "read", "run"),
    "run.list": (SEE, "", ""),
    "run.cancel": (ACT, "control", "run"),
    "run.steer": (ACT, "control", "run"),
    "run.answer": (ACT, "control", "run"),
    "run.query": (SEE, "read", "run"),
    "queue.list": (SEE, "", ""),
    "queue.get": (SEE, "read", "queue"),
    "queue.set": (ACT, "control", "queue"),
    "queue.purge": (ACT, "control", "queue"),
    "queue.dead": (SEE, "read", "queue"),
    "queue.retry": (ACT, "submit", "queue"),
    "schedule.add": (ACT, "submit", "queue"),
    "schedule.list": (SEE, "", ""),
    "schedule.get": (SEE, "read", "schedule"),
    "schedule.set": (ACT, "control", "schedule"),
    "schedule.remove": (ACT, "control", "schedule"),
    "artifact.open": (("agent",), "", "run"),
    "producer.open": (("agent", *ACT), "publish", "log"),
    "log.read": (SEE, "read", "log"),
    "log.get": (SEE, "read", "log"),
    "log.list": (SEE, "", ""),
    "agent.list": (SEE, "", ""),
    "agent.get": (SEE, "read", "agent"),
    "agent.send": (ACT, "publish", "agent"),
    "agent.cordon": (ACT, "control", "agent"),
    "agent.uncordon": (ACT, "control", "agent"),
    "agent.drain": (ACT, "control", "agent"),
    "token.revoke": (("admin",), "", ""),
    "token.unrevoke": (("admin",), "", ""),
    "token.revoked": (("admin",), "", ""),
    "token.check": (SEE, "", ""),
    "key.list": (SEE, "", ""),
    "key.accept": (("admin",), "", ""),
    "key.reject": (("admin",), "", ""),
    "key.revoke": (("admin",), "", ""),
}


def peer(scope: str, patterns: Patterns = ANYTHING) -> Peer:
    role = Role.AGENT if scope == "agent" else Role.CLIENT
    permit = Permit({scope}, patterns, role, "a-1" if scope == "agent" else "")
    return Peer("default", f"{role.value}:a-1", role, "a-1", "i", "s", 0, permit, lambda _: None)


class Known:
    """Runs and schedules whose queues are known."""

    async def queue_of(self, log: LogName) -> str:
        return QUEUES[log.name.partition(".")[0]]

    async def read_listed(self, place: Any) -> Any:
        return SimpleNamespace(asked=SimpleNamespace(queue=place.name.removeprefix("s-")))


async def permitted(who: Peer, method: str, **params: str) -> bool:
    known = Known()
    permitting = Permitting(cast(Reading, known), cast(Schedules, known))
    try:
        await permitting.check(who, method, METHODS[method].params.model_construct(None, **params))
    except RequestError as fault:
        if fault.code != "forbidden":
            raise
        return False
    return True


def lists(**changed: tuple[str, ...]) -> Patterns:
    return Patterns.parse({name: list(words) for name, words in (LISTS | changed).items()})


def test_every_method_has_its_rule_and_its_row() -> None:
    assert set(TABLE) == set(RULES) == set(METHODS)


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize("method", TABLE)
async def test_a_method_is_permitted_to_whom_the_table_says(method: str, scope: str) -> None:
    scopes, by, of = TABLE[method]
    may = scope in scopes
    inside, outside = NAMES[of] if of else ("", "")
    about, beside = ({of: inside}, {of: outside}) if of else ({}, {})
    assert await permitted(peer(scope), method, **about) is may
    assert await permitted(peer(scope), method, **beside) is may
    assert await permitted(peer(scope, lists()), method, **about) is may
    assert await permitted(peer(scope, lists()), method, **beside) is (may and not by)
    if by:
        nothing = lists(**{by: (), "serve": ()})
        assert not await permitted(peer(scope, nothing), method, **about)
        others = lists(**{name: () for name in LISTS if name not in {by, "serve"}})
        assert await permitted(peer(scope, others), method, **about) is may


@pytest.mark.parametrize("method", TABLE)
async def test_a_token_without_scopes_or_with_unknown_ones_may_nothing(method: str) -> None:
    of = TABLE[method][2]
    about = {of: NAMES[of][0]} if of else {}
    assert not await permitted(peer("nonsense"), method, **about)


async def test_a_method_without_a_rule_is_permitted_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(RULES, "run.list")
    assert not await permitted(peer("admin"), "run.list")


async def test_to_wait_for_what_one_submits_takes_reading_it() -> None:
    operator = peer("operator", lists(read=()))
    assert await permitted(operator, "run.submit", queue=INSIDE)
    assert not await permitted(operator, "run.submit", queue=INSIDE, wait_ms="1")


async def test_a_run_can_be_named_itself() -> None:
    one = peer("operator", Patterns.parse({"control": [f"run/{run_id(OUTSIDE)}"]}))
    assert await permitted(one, "run.cancel", run=run_id(OUTSIDE))
    assert not await permitted(one, "run.cancel", run=run_id(INSIDE))


# Logs


def log(path: str) -> LogName:
    return LogName.parse(path)


RUN, ARTIFACT = log(f"run/{run_id(INSIDE)}"), log(f"artifact/{run_id(INSIDE)}.1.1")
LOGS = (RUN, ARTIFACT, log("agent/a-1"), log("agent/a-2"), log("topic/news.eu"), log("topic/other"), log("topic/audit"))

# scope: (logs that it publishes to, logs that it reads), of those above, in their order
BY_SCOPE = {
    "agent": ("yy--yy-", "yyy-yy-"),
    "operator": ("--yyyy-", "yyyyyy-"),
    "viewer": ("-------", "yyyyyy-"),
    "admin": ("--yyyy-", "yyyyyyy"),
    "nonsense": ("-------", "-------"),
}


@pytest.mark.parametrize("scope", BY_SCOPE)
def test_logs_are_published_to_and_read_by_whom_the_table_says(scope: str) -> None:
    permit = peer(scope).permit
    for _ in range(2):  # decided, and remembered
        assert "".join("y" if permit.publish(each) else "-" for each in LOGS) == BY_SCOPE[scope][0]
        assert "".join("y" if permit.read(each) else "-" for each in LOGS) == BY_SCOPE[scope][1]


# the same with the patterns of LISTS; `q`: as the queue of the run says
BY_PATTERN = {
    "agent": ("yy--y--", "qqy-y--"),
    "operator": ("--yyy--", "qq" + "--y--"),
    "viewer": ("-------", "qq" + "--y--"),
    "admin": ("--yyy--", "qq" + "--y-y"),
}


@pytest.mark.parametrize("scope", BY_PATTERN)
def test_patterns_narrow_what_is_published_to_and_read(scope: str) -> None:
    patterns = lists(read=("queue/cod*", "topic/news.*"))
    permit, words = peer(scope, patterns).permit, {True: "y", False: "-", None: "q"}
    assert "".join(words[permit.publish(each)] for each in LOGS) == BY_PATTERN[scope][0]
    assert "".join(words[permit.read(each)] for each in LOGS) == BY_PATTERN[scope][1]
    assert permit.on_queue(Action.READ, INSIDE) is True
    assert permit.on_queue(Action.READ, OUTSIDE) is False


def test_only_the_scopes_of_the_role_count() -> None:
    agent = Permit({"agent", "operator", "admin"}, role=Role.AGENT, agent="a-1")
    assert not any(agent.may(action) for action in (Action.CONTROL, Action.SUBMIT, Action.ADMIN))
    assert agent.read(log("agent/a-2")) is False
    client = Permit({"agent", "viewer"})
    assert not any(client.may(action) for action in (Action.WORK, Action.PUBLISH, Action.SERVE))
    assert not client.publish(log("topic/news"))


def test_roles_need_their_scopes() -> None:
    opens = {scope: [role.value for role in Role if may_open({scope}, role)] for scope in Scope}
    assert opens == {"agent": ["agent"], "operator": ["client"], "viewer": ["client"], "admin": ["client"]}


def test_what_an_agent_serves_and_where_its_children_go_is_in_patterns_too() -> None:
    free, bound = peer("agent").permit, peer("agent", lists()).permit
    assert [free.on_queue(Action.SERVE, queue) for queue in (INSIDE, OUTSIDE)] == [True, True]
    assert [bound.on_queue(Action.SERVE, queue) for queue in (INSIDE, OUTSIDE)] == [True, False]
    assert [free.child_on(queue) for queue in (INSIDE, OUTSIDE)] == [True, True]
    assert [bound.child_on(queue) for queue in (INSIDE, OUTSIDE)] == [True, False]


def test_decisions_at_hand_are_bounded() -> None:
    permit = peer("operator").permit
    for number in range(DECIDED_MAX + 1):
        permit.publish(LogName("default", LogKind.TOPIC, f"t{number}"))
    assert len(permit._publish) == 1


@pytest.mark.parametrize(
    ("wider", "narrower", "covers"),
    [
        (Permit({"admin"}), Permit({"operator"}), True),
        (Permit({"viewer"}), Permit({"operator"}), False),
        (Permit({"viewer"}), Permit({"viewer"}, lists()), True),
        (Permit({"viewer"}, lists()), Permit({"viewer"}), False),
        (Permit({"viewer"}, lists(submit=("a", "b"))), Permit({"viewer"}, lists(submit=("a",))), True),
        (Permit({"viewer"}, lists(submit=("a",))), Permit({"viewer"}, lists(submit=("b",))), False),
        (Permit({"viewer"}, lists()), Permit({"viewer"}, lists()), True),
    ],
)
def test_whether_one_permits_all_that_another_does(wider: Permit, narrower: Permit, covers: bool) -> None:
    assert wider.covers(narrower) is covers


# Patterns


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("topic/news", ["topic/news"], ["topic/news.eu", "topic/new", "agent/news", ""]),
        ("topic/news.*", ["topic/news.", "topic/news.eu"], ["topic/news", "topic/xnews.eu"]),
        ("topic/*.eu", ["topic/.eu", "topic/a.b.eu"], ["topic/eu", "topic/a.eu.x", "agent/a.eu"]),
        ("topic/a*a", ["topic/aa", "topic/aba"], ["topic/a", "topic/ab"]),
        ("topic/*a*b*", ["topic/xaxbx", "topic/ab"], ["topic/ba", "topic/a"]),
        ("*", ["topic/a", "agent/b", ""], []),
        ("topic/a.c", ["topic/a.c"], ["topic/abc"]),
    ],
)
def test_a_pattern_fits_what_it_says(pattern: str, fits: list[str], does_not: list[str]) -> None:
    assert [text for text in fits if not matches(pattern, text)] == []
    assert [text for text in does_not if matches(pattern, text)] == []


def test_patterns_fit_as_a_plain_search_says() -> None:
    texts = ["".join(each) for size in range(5) for each in itertools.product("ab", repeat=size)]
    patterns = ["".join(each) for size in range(1, 5) for each in itertools.product("ab*", repeat=size)]

    def plain(pattern: str, text: str) -> bool:
        if not pattern:
            return not text
        if pattern[0] == "*":
            return plain(pattern[1:], text) or bool(text and plain(pattern, text[1:]))
        return bool(text) and text[0] == pattern[0] and plain(pattern[1:], text[1:])

    assert [pair for pair in itertools.product(patterns, texts) if matches(*pair) is not plain(*pair)] == []


@pytest.mark.parametrize(
    "claim",
    [
        [],
        "read",
        {"write": []},
        {"read": "topic/a"},
        {"read": [1]},
        {"read": ["a"]},
        {"read": ["topic/"]},
        {"read": ["topic/a/b"]},
        {"read": ["topic/A"]},
        {"read": ["topic/a b"]},
        {"read": ["topic/.a"]},
        {"read": ["topic/a*b*c*d*e*"]},
        {"read": ["topic/" + "a" * 160]},
        {"read": ["topic/a"] * (PATTERNS_MAX + 1)},
        {"publish": ["queue/a"]},
        {"submit": ["topic/a"]},
        {"serve": ["-"]},
        {"control": ["topic/a"]},
    ],
    ids=str,
)
def test_what_is_no_pattern_is_refused_whole(claim: object) -> None:
    with pytest.raises(InvalidPattern):
        Patterns.parse(claim)


def test_patterns_are_written_as_they_are_read() -> None:
    said = Patterns.said(
        {"read": ["topic/a", "*"], "submit": ["b", "a*"], "serve": ["-"], "control": None, "publish": ()}
    )
    lists = {"read": ["*", "topic/a"], "submit": ["queue/a*", "queue/b"], "serve": [], "control": [], "publish": []}
    assert said.claim() == lists
    assert Patterns.said({"read": None, "publish": ()}) == ANYTHING
    assert Patterns.parse(said.claim()) == said
    assert Patterns.parse({}) == ANYTHING
