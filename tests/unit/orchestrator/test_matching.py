"""Which agent is given a run: the least loaded one that has not refused it lately."""

from __future__ import annotations

import pytest

from orchestrator.core.matching import (
    FORGOTTEN_AFTER_MS,
    REFUSALS_MAX,
    REFUSED_CAP_MS,
    REFUSED_FIRST_MS,
    Refusals,
    free_part,
)
from orchestrator.core.queues import Queue
from orchestrator.dispatch import Dispatch, Waiting
from orchestrator.peers import Held, Peer, Peers
from orchestrator.store.memory import MemoryServer
from tests.unit.orchestrator.parts import NOW_MS, agent_peer, line_to

AGENT = ("default", "a")
OTHER = ("default", "b")


@pytest.mark.parametrize(
    ("used", "slots", "load", "free"),
    [
        (0, 4, 0.0, 1.0),
        (1, 4, 0.0, 0.75),
        (2, 4, 0.5, 0.25),
        (4, 4, 0.0, 0.0),
        (5, 4, 0.0, 0.0),
        (0, 4, 1.0, 0.0),
        (0, 4, 1.5, 0.0),
        (0, 0, 0.0, 0.0),
    ],
)
def test_what_is_free_is_the_free_slots_share_of_what_the_machine_has_left(
    used: int, slots: int, load: float, free: float
) -> None:
    assert free_part(used, slots, load) == free


def test_a_refusal_holds_for_that_agent_and_that_run_and_twice_as_long_each_time_up_to_a_cap() -> None:
    refusals, now_ms, waits = Refusals(), 0, []
    for _ in range(12):
        waits.append(refusals.note(AGENT, "r1", now_ms))
        assert refusals.holds(AGENT, "r1", now_ms)
        assert not refusals.holds(OTHER, "r1", now_ms)
        assert not refusals.holds(AGENT, "r2", now_ms)
        now_ms += waits[-1]
        assert not refusals.holds(AGENT, "r1", now_ms)
    assert waits[:4] == [REFUSED_FIRST_MS, 2 * REFUSED_FIRST_MS, 4 * REFUSED_FIRST_MS, 8 * REFUSED_FIRST_MS]
    assert waits[-1] == REFUSED_CAP_MS


def test_refusals_are_counted_while_they_hold_and_the_oldest_are_forgotten() -> None:
    refusals = Refusals()
    assert not refusals
    for number in range(REFUSALS_MAX + 5):
        refusals.note(AGENT, f"r{number}", number)
    assert refusals.count(AGENT, REFUSED_FIRST_MS - 1) == REFUSALS_MAX
    assert not refusals.holds(AGENT, "r0", 0)
    assert refusals.count(AGENT, REFUSED_FIRST_MS + REFUSALS_MAX + 5) == 0


def test_an_agent_that_has_long_not_refused_begins_anew() -> None:
    refusals = Refusals()
    refusals.note(AGENT, "r1", 0)
    later_ms = REFUSED_FIRST_MS + FORGOTTEN_AFTER_MS + 1
    assert refusals.note(AGENT, "r1", later_ms) == REFUSED_FIRST_MS
    refusals.note(OTHER, "r1", later_ms + REFUSED_FIRST_MS + FORGOTTEN_AFTER_MS + 1)
    assert refusals.count(AGENT, 0) == 0


def peer_of(name: str, slots: int, load: float | None = None, used: int = 0) -> Peer:
    peer = agent_peer(lambda _: None, slots=slots)
    peer.id, peer.load = name, load
    peer.held.update({f"old-{number}": Held(1, 1, "q") for number in range(used)})
    return peer


async def given(peers: list[Peer], runs: int, dispatch: Dispatch | None = None) -> list[str]:
    """Return who is given so many runs, in order."""
    dispatch = dispatch or await dispatch_of()
    waiting = [Waiting((0, 0, number), f"r{number}", "0/client:c/h") for number in range(runs)]
    return [peer.id for _, peer, _ in dispatch._match(Queue("default", "q"), waiting, peers)]


async def dispatch_of() -> Dispatch:
    return Dispatch(await line_to(MemoryServer(lambda: NOW_MS)), Peers(1_000), 1_000)


async def test_agents_with_different_slots_fill_in_step() -> None:
    peers = [peer_of("small", 1), peer_of("large", 4), peer_of("middle", 2)]
    assert await given(peers, 3) == ["large", "middle", "small"]
    assert {peer.id: len(peer.held) for peer in peers} == {"small": 1, "large": 1, "middle": 1}
    peers = [peer_of("half", 2, used=1), peer_of("quarter", 4, used=1)]
    assert await given(peers, 4) == ["quarter", "quarter", "half", "quarter"]


async def test_what_an_agent_says_of_its_load_counts_and_at_1_it_is_given_nothing() -> None:
    assert await given([peer_of("busy", 4, 0.9), peer_of("idle", 4, 0.0)], 3) == ["idle"] * 3
    assert await given([peer_of("busy", 4, 0.5), peer_of("silent", 4, None, used=3)], 2) == ["busy", "busy"]
    assert await given([peer_of("full", 4, 1.0)], 2) == []


async def test_a_run_that_one_agent_refused_goes_to_another_and_the_next_run_to_it() -> None:
    dispatch = await dispatch_of()
    first, second = peer_of("first", 4), peer_of("second", 1, 0.9)
    dispatch.refused(first, "r0")
    assert await given([first, second], 2, dispatch) == ["second", "first"]
