"""A lane of commits over a connection that a test plays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.store import redis_commit
from orchestrator.store.base import StoreError, StoreUnavailable
from orchestrator.store.commits import Outcome, Refusal, Refused
from orchestrator.store.redis_commit import Lane
from orchestrator.store.redis_line import ServerRefused
from protocol.codec import pack_script_arguments
from protocol.ids import partition_of
from tests.support.commits import append, commit, topic

LOG = topic()
Future = asyncio.Future[list[Any]]


class Wire:
    """Keeps what was sent; a test answers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.futures: list[Future] = []

    def send(self, packed: bytes) -> Future:
        self.sent.append(packed)
        self.futures.append(asyncio.get_running_loop().create_future())
        return self.futures[-1]

    def answer(self, *outcomes: object) -> None:
        self.futures[-1].set_result([pack_script_arguments((7, outcomes))])


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def lane(wire: Wire) -> Lane:
    return Lane(partition_of(LOG), "hub-a", wire.send)


def start(lane: Lane, number: int) -> list[asyncio.Task[Outcome | Refused]]:
    """Ask for commits."""
    return [asyncio.ensure_future(lane.commit(commit(append(LOG, b"x")))) for _ in range(number)]


async def turns() -> None:
    """Let everything that is ready run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_call_is_under_way_at_a_time(lane: Lane, wire: Wire) -> None:
    first = start(lane, 2)
    await turns()
    second = start(lane, 3)
    await turns()
    assert len(wire.sent) == 1

    wire.answer([0], [2, 1, 0, 0, "actual", False, False])
    await turns()

    assert len(wire.sent) == 2
    assert [task.result() for task in first] == [Outcome((), 7), Refused(Refusal.GUARD, actual="actual")]
    wire.answer([0], [1], [0])
    outcomes = await asyncio.gather(*second)
    assert [isinstance(outcome, Outcome) and outcome.repeated for outcome in outcomes] == [False, True, False]
    assert len(wire.sent) == 2


async def test_an_unknown_script_is_sent_whole_with_the_same_commits(lane: Lane, wire: Wire) -> None:
    tasks = start(lane, 1)
    await turns()
    wire.futures[-1].set_result([ServerRefused("NOSCRIPT", "No matching script")])
    await turns()

    assert b"EVALSHA" in wire.sent[0]
    assert b"EVALSHA" not in wire.sent[1]
    assert wire.sent[0].rsplit(b"\r\n", 2)[1] == wire.sent[1].rsplit(b"\r\n", 2)[1]
    wire.answer([0])
    assert await tasks[0] == Outcome((), 7)


@pytest.mark.parametrize(
    ("code", "kind", "is_full"),
    [
        ("OOM", StoreUnavailable, True),
        ("MISCONF", StoreUnavailable, True),
        ("READONLY", StoreUnavailable, False),
        ("LOADING", StoreUnavailable, False),
        ("NOREPLICAS", StoreUnavailable, False),
        ("WRONGTYPE", StoreError, False),
    ],
)
async def test_error_replies(lane: Lane, wire: Wire, code: str, kind: type[StoreError], is_full: bool) -> None:
    tasks = start(lane, 2)
    await turns()
    wire.futures[-1].set_result([ServerRefused(code, "no")])
    faults = await asyncio.gather(*tasks, return_exceptions=True)

    assert [type(fault) for fault in faults] == [kind, kind]
    for fault in faults:
        if isinstance(fault, StoreUnavailable):
            assert (fault.full, fault.unknown) == (is_full, False)
    start(lane, 1)[0].cancel()


async def test_a_broken_connection_fails_the_call_and_the_next_goes_on(lane: Lane, wire: Wire) -> None:
    lost = start(lane, 2)
    await turns()
    later = start(lane, 1)
    await turns()
    wire.futures[-1].set_exception(StoreUnavailable("broken", unknown=True))

    faults = await asyncio.gather(*lost, return_exceptions=True)

    assert all(isinstance(fault, StoreUnavailable) and fault.unknown for fault in faults)
    assert faults[0] is not faults[1]
    await turns()
    wire.answer([0])
    assert await later[0] == Outcome((), 7)


async def test_too_many_that_wait_are_pushed_back(lane: Lane, wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_commit, "WAITING_COMMITS_MAX", 2)
    tasks = start(lane, 1)
    await turns()
    tasks += start(lane, 2)
    await turns()

    with pytest.raises(StoreUnavailable, match="wait already"):
        await lane.commit(commit(append(LOG, b"x")))

    wire.answer([0])
    await turns()
    wire.answer([0], [0])
    await asyncio.gather(*tasks)
