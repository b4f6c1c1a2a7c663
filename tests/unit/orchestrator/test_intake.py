"""What one session asks while it is under way."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.intake import Intake
from orchestrator.peers import Held, Peer
from orchestrator.services import Services
from protocol.frames import HeldAttempt, Part, Puback, Role
from protocol.limits import Limits

KNOWN, UNKNOWN = HeldAttempt(run="r1", fence=1, attempt=1), HeldAttempt(run="r2", fence=1, attempt=1)


class Port:
    """A connection that keeps what it is to run."""

    def __init__(self, *, congested: bool) -> None:
        self.congested = congested
        self.spawned: list[Coroutine[Any, Any, None]] = []

    def send(self, frame: Part) -> None:
        raise AssertionError(frame)

    def send_puback(self, puback: Puback) -> None:
        raise AssertionError(puback)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.spawned.append(work)

    def wake(self) -> None:
        raise AssertionError


@pytest.mark.parametrize(("congested", "renewed"), [(False, (KNOWN, UNKNOWN)), (True, (KNOWN,))])
async def test_a_peer_that_does_not_read_is_not_told_of_what_it_does_not_hold(
    congested: bool, renewed: tuple[HeldAttempt, ...]
) -> None:
    asked: list[tuple[HeldAttempt, ...]] = []

    async def renew(_: Peer, attempts: tuple[HeldAttempt, ...]) -> None:
        asked.append(attempts)

    port = Port(congested=congested)
    peer = Peer("default", "agent:a", Role.AGENT, "a", "i", "s", 1, frozenset(), port.send, held={"r1": Held(1, 1)})
    hub = SimpleNamespace(settings=SimpleNamespace(limits=Limits()), work=SimpleNamespace(renew=renew))
    intake = Intake(cast(Services, hub), port, peer)
    for _ in range(2):
        intake.renew((KNOWN, UNKNOWN))
    assert len(port.spawned) == 1
    await port.spawned[0]
    assert asked == [renewed]
