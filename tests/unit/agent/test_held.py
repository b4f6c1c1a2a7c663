"""What an agent tells the hub of the attempts that it holds, and what the hub may tell it."""

from __future__ import annotations

import pytest

from agent.held import Attempts, Event
from agent.outbox import Outbox
from agent.threads import Channel
from protocol.codes import ErrorCode
from protocol.entry import Position
from protocol.frames import Assign, HeldAttempt, Nack, Recover
from protocol.limits import Limits

RUN = "01-00000000001-0000000000000001"


@pytest.fixture
def outbox() -> Outbox:
    return Outbox(Limits())


@pytest.fixture
def attempts(outbox: Outbox) -> Attempts:
    events: Channel[Event] = Channel()
    made = Attempts(outbox, events)
    made.on_assign(
        Assign(
            run=RUN,
            queue="q",
            handler="h",
            attempt=3,
            fence=7,
            input=b"",
            lease_ms=1_000,
            position=Position("e" * 16, 2, "f" * 16),
            recover=Recover.RESTART,
        )
    )
    return made


def test_heartbeats_say_the_number_of_each_attempt(attempts: Attempts) -> None:
    assert attempts.heartbeat() == (HeldAttempt(run=RUN, fence=7, attempt=3),)


def test_an_attempt_that_the_hub_does_not_know_ends_when_it_says_so(attempts: Attempts, outbox: Outbox) -> None:
    log, producer = f"run/{RUN}", "attempt/3"
    told = Nack(log=log, producer=producer, seq=0, code=ErrorCode.FENCED, message="it is over")
    dead = outbox.on_nack(told, 0)
    assert dead is not None
    attempts.on_dead(log, producer, dead)
    assert attempts.count == 0
