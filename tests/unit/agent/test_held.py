"""What an agent tells the hub of the attempts that it holds, and what the hub may tell it."""

from __future__ import annotations

import pytest

from agent.errors import LinkClosed
from agent.held import Assigned, Attempts, DrainAsked, Event, Stopped
from agent.outbox import Outbox
from agent.peer import Peer
from agent.threads import Channel
from protocol.codes import ErrorCode
from protocol.entry import Position
from protocol.frames import Assign, HeldAttempt, Identify, Nack, Ready, Recover, Release, ReleaseReason, Role
from protocol.limits import Limits
from protocol.version import VERSION

RUN = "01-00000000001-0000000000000001"


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Limits())


@pytest.fixture
def events() -> Channel[Event]:
    return Channel()


@pytest.fixture
def attempts(outbox: Outbox, events: Channel[Event]) -> Attempts:
    made = Attempts(outbox, events)
    made.on_assign(assigned())
    return made


def assigned(attempt: int = 3, fence: int = 7, seq: int = 0) -> Assign:
    return Assign(
        run=RUN,
        queue="q",
        handler="h",
        attempt=attempt,
        fence=fence,
        input=b"",
        lease_ms=1_000,
        position=Position("e" * 16, 2, "f" * 16),
        recover=Recover.RESTART,
        seq=seq,
    )


def ready_agent() -> Peer:
    """Return an agent whose session is open."""
    peer = Peer(Identify(version=VERSION, role=Role.AGENT, id="a", instance="i", slots=2))
    ready = Ready(session="s", fence=1, resumed=False, principal="agent:a", namespace="default", scopes=("agent",))
    peer.on_frame(ready, 0)
    return peer


def test_heartbeats_say_the_number_of_each_attempt(attempts: Attempts) -> None:
    assert attempts.heartbeat() == (HeldAttempt(run=RUN, fence=7, attempt=3),)


def test_an_attempt_that_the_hub_does_not_know_ends_when_it_says_so(attempts: Attempts, outbox: Outbox) -> None:
    log, producer = f"run/{RUN}", "attempt/3"
    told = Nack(log=log, producer=producer, seq=0, code=ErrorCode.FENCED, message="it is over")
    dead = outbox.on_nack(told, 0)
    assert dead is not None
    attempts.on_dead(log, producer, dead)
    assert attempts.count == 0


async def test_the_next_attempt_begins_while_the_last_one_is_still_stopping(
    attempts: Attempts, outbox: Outbox, events: Channel[Event]
) -> None:
    (first,) = attempts
    assert attempts.on_assign(assigned(attempt=4, fence=9))
    (second,) = attempts
    told = [await events.get() for _ in range(len(events))]
    assert [type(event) for event in told] == [Assigned, Stopped, Assigned]
    assert [event.held for event in told if not isinstance(event, DrainAsked)] == [first, first, second]
    attempts.drop(first, LinkClosed())  # its handler has ended at last
    assert attempts.heartbeat() == (HeldAttempt(run=RUN, fence=9, attempt=4),)
    assert second.stream.offer("k", b"") == 1
    assert [(frame.producer, frame.fence) for frame in outbox.take(0, 1 << 20)] == [("attempt/4", 9)]


def test_an_attempt_that_was_let_go_is_handed_back_and_not_begun_again() -> None:
    peer = ready_agent()
    peer.on_frame(assigned(), 0)
    (held,) = peer.attempts
    peer.attempts.drop(held)  # it ended here; the store lost that, and has its first four entries
    peer.on_frame(assigned(seq=4), 0)
    assert peer.outgoing(0) == [Release(run=RUN, fence=7, reason=ReleaseReason.REFUSED)]
    assert peer.attempts.count == 0
    assert len(peer.events) == 1, "it was begun once"


def test_an_attempt_of_which_the_log_has_nothing_is_begun_whoever_held_it_before() -> None:
    peer = ready_agent()
    peer.on_frame(assigned(), 0)
    (held,) = peer.attempts
    peer.attempts.drop(held)
    peer.on_frame(assigned(), 0)
    assert peer.outgoing(0) == []
    assert (peer.attempts.count, len(peer.events)) == (1, 2)
