"""A table of attacks on logs: reading and publishing on each kind of log without the scope, and names that are tricks.

Who gets in is in test_attack_table.py, what an agent of ill will does in test_attack_table_work.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.permissions import RULES, Action
from protocol.artifacts import CHUNK
from protocol.codec import pack_value
from protocol.codes import ErrorCode
from protocol.frames import Entries, Identify, Publish, Resumption, Role, Start
from protocol.ids import LogKind
from tests.support.attackers import code_of, held_in, nack_of, scene
from tests.support.hub_peer import identify, publish, subscribe
from tests.support.hub_work import submit
from tests.support.hub_world import World

Fields = dict[str, Any]

LOGS = {
    "a topic": "topic/other",
    "the audit": "topic/audit",
    "an agent's log": "agent/a1",
    "a run's log": "run/RUN",
    "an artifact": "artifact/RUN.1.1",
}
MINE = ["topic/mine"]

PEERS: dict[str, tuple[Identify, Fields]] = {
    "a viewer": (identify("eve"), {"scopes": ["viewer"]}),
    "a viewer of other names": (identify("eve"), {"scopes": ["viewer"], "may": {"read": MINE}}),
    "an operator of other names": (
        identify("eve"),
        {"scopes": ["operator"], "may": {"read": MINE, "publish": MINE}},
    ),
    "an agent": (identify("eve", Role.AGENT), {"scopes": ["agent"], "agents": ("eve",)}),
    "an agent of other names": (
        identify("eve", Role.AGENT),
        {"scopes": ["agent"], "agents": ("eve",), "may": {"read": MINE, "publish": MINE, "serve": ["mine"]}},
    ),
}
"""Who attacks: what it says of itself, and its token."""

READ: dict[tuple[str, str], str] = {
    **{(peer, log): "forbidden" for peer in PEERS for log in LOGS if "other names" in peer},
    ("a viewer", "the audit"): "forbidden",
    ("an agent", "the audit"): "forbidden",
    ("an agent", "an agent's log"): "forbidden",
}
"""What whoever reads is told. What is not here, they may read."""

PUBLISHED: dict[tuple[str, str], tuple[str, str]] = {
    **{(peer, log): ("forbidden", "forbidden") for peer in PEERS for log in LOGS},
    **{(peer, "a run's log"): ("forbidden", "superseded") for peer in PEERS if "agent" in peer},
    **{(peer, "an artifact"): ("forbidden", "superseded") for peer in PEERS if "agent" in peer},
}
"""What whoever opens a producer, and publishes, is told."""
del PUBLISHED["an agent", "a topic"]  # which it may


def token_of(world: World, peer: str) -> str:
    fields = PEERS[peer][1]
    return world.issue(*fields["scopes"], **{name: value for name, value in fields.items() if name != "scopes"})


def test_each_kind_of_log_is_tried() -> None:
    kinds = {log.partition("/")[0] for log in LOGS.values()}
    assert kinds == {kind.value for kind in LogKind}
    assert {LOGS[log].partition("/")[0] for _, log in READ} == kinds
    assert {LOGS[log].partition("/")[0] for _, log in PUBLISHED} == kinds


@pytest.mark.parametrize(("peer", "log"), READ, ids=[f"{log} by {peer}" for peer, log in READ])
async def test_subscribing_and_reading_without_the_scope_show_nothing(calm: World, peer: str, log: str) -> None:
    frame, code = PEERS[peer][0], READ[peer, log]
    async with scene(calm) as on, calm.peer(token_of(calm, peer)) as eve:
        name = on.named(LOGS[log])
        ready = await eve.identify(frame.model_copy(update={"subscriptions": (subscribe(name, Start.EARLIEST),)}))
        for verdict in (ready.subscriptions[0], (await eve.follow(name, durable="d")).subscription):
            assert (verdict.verdict, verdict.code) == (Resumption.REFUSED, code)
        assert await code_of(eve, "log.read", log=name) == code
        assert await code_of(eve, "log.get", log=name) == code
        assert name not in {each["log"] for each in (await eve.result("log.list"))["logs"]}
        assert not [each for each in eve.frames if isinstance(each, Entries)]


@pytest.mark.parametrize(("peer", "log"), PUBLISHED, ids=[f"{log} by {peer}" for peer, log in PUBLISHED])
async def test_publishing_without_the_scope_writes_nothing(calm: World, peer: str, log: str) -> None:
    opened, published = PUBLISHED[peer, log]
    async with scene(calm) as on, calm.peer(token_of(calm, peer)) as eve:
        name = on.named(LOGS[log])
        await eve.identify(PEERS[peer][0])
        assert await code_of(eve, "producer.open", log=name, producer="p") == opened
        if name.startswith(("run/", "artifact/")):
            stolen = ((CHUNK if "artifact" in name else "x", pack_value(b" stolen"), None, None),)
            frame = Publish(log=name, producer="attempt/1", seq=2, fence=on.given.fence, entries=stolen)
        else:
            frame = publish(name, 1, 1, b"stolen")
        assert await nack_of(eve, frame) == published
        assert b"stolen" not in await held_in(calm, name)


TRIED: dict[str, Fields] = {"log.read": {}, "log.get": {}, "producer.open": {"producer": "p"}}
TRICKS = {
    "up": "topic/../run/RUN",
    "up, in a run": "run/../topic/mine",
    "a path": "topic/mine/x",
    "a dot": "topic/.",
    "two dots": "topic/..",
    "a zero": "topic/mine\0",
    "an escape": "topic/%2e%2e",
    "a backslash": "topic/..\\mine",
    "from right to left": "topic/\u202emine",
    "in capitals": "topic/MINE",
    "a name that looks alike": "topic/min\u0435",
    "with a space": "topic/mine ",
    "a line more": "topic/mine\n",
    "no name": "topic/",
    "a kind alone": "topic",
    "no kind": "/mine",
    "another kind": "store/mine",
    "a key of the store": "topic/{00}:mine",
    "another namespace's": "other/topic/mine",
    "a run of no partition": "run/64-00000000000-0000000000000000",
    "an artifact of a run that is none": "artifact/mine.1.1",
    "an artifact's number with a path": "artifact/RUN.1.1/..",
    "much too long": "topic/" + "m" * 129,
    "nothing": "",
}


@pytest.mark.parametrize("log", TRICKS.values(), ids=TRICKS)
async def test_path_tricks_in_names_reach_nothing(calm: World, log: str) -> None:
    """Also with the token that permits everything here."""
    async with scene(calm) as on:
        name, peer = on.named(log), on.client
        before = set(calm.server.data.streams)
        for method, params in TRIED.items():
            assert await code_of(peer, method, log=name, **params) == ErrorCode.INVALID_PARAMS, method
        assert (await peer.follow(name)).subscription.code == ErrorCode.NOT_FOUND
        assert await nack_of(peer, publish(name, 1, 1, b"x")) == ErrorCode.NOT_FOUND
        assert set(calm.server.data.streams) == before


MUTATING: dict[str, Fields] = {
    "run.submit": {"queue": "q", "handler": "h", "input": b"", "key": "eve"},
    "run.retry": {"run": "RUN"},
    "run.cancel": {"run": "RUN"},
    "run.steer": {"run": "RUN", "body": b"\xc0"},
    "run.answer": {"run": "RUN", "answer": b"\xc3"},
    "queue.set": {"queue": "q", "paused": True},
    "queue.purge": {"queue": "q"},
    "queue.retry": {"queue": "q"},
    "schedule.add": {"schedule": "s", "cron": "0 0 1 1 *", "queue": "q", "handler": "h", "input": b""},
    "schedule.set": {"schedule": "s", "paused": True},
    "schedule.remove": {"schedule": "s"},
    "artifact.open": {"run": "RUN", "attempt": 1, "number": 1, "fence": 1, "name": "f", "size": 1},
    "producer.open": {"log": "topic/a", "producer": "p"},
    "agent.send": {"agent": "a1", "kind": "note", "body": b""},
    "agent.cordon": {"agent": "a1"},
    "agent.uncordon": {"agent": "a1"},
    "agent.drain": {"agent": "a1"},
    "token.revoke": {"name": "tester"},
    "token.unrevoke": {"name": "tester"},
    "token.revoked": {},
    "key.accept": {"name": "agent/m1"},
    "key.reject": {"name": "agent/m1"},
    "key.revoke": {"name": "agent/m1"},
}


def test_every_method_that_changes_something_is_tried() -> None:
    reading = {method for method, rules in RULES.items() if rules[0].action is Action.READ}
    assert set(MUTATING) == set(RULES) - reading


@pytest.mark.parametrize("method", MUTATING)
async def test_a_viewer_changes_nothing(calm: World, method: str) -> None:
    async with calm.peer() as client, calm.peer(calm.issue("viewer", name="eve")) as eve:
        await client.identify(identify())
        log = await submit(client)
        await client.result("schedule.add", **MUTATING["schedule.add"])
        await eve.identify(identify("eve"))
        before = await calm.kinds(log), await client.result("schedule.get", schedule="s")
        named = {name: log.name if value == "RUN" else value for name, value in MUTATING[method].items()}
        assert await code_of(eve, method, **named) == ErrorCode.FORBIDDEN
        assert (await calm.kinds(log), await client.result("schedule.get", schedule="s")) == before
