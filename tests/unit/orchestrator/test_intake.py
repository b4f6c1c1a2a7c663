"""What one session asks while it is under way."""

from __future__ import annotations

from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest

from orchestrator.intake import Intake
from orchestrator.peers import Held, Peer
from orchestrator.services import Services
from orchestrator.store import keys
from orchestrator.store.commits import Append, Commit, HashSet
from orchestrator.store.memory import MemoryServer
from orchestrator.store.producer import ProducerRecord
from orchestrator.telemetry import Counters
from protocol.codec import pack_record
from protocol.frames import HeldAttempt, Part, Puback, Publish, Role
from protocol.ids import LogKind, LogName, partition_of
from protocol.limits import Limits
from tests.support.permits import agent_permit, client_permit
from tests.unit.orchestrator.parts import NOW_MS, line_to

TOPIC = LogName("default", LogKind.TOPIC, "a")

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


class Answers(Port):
    """A connection that keeps what it is to say."""

    def __init__(self) -> None:
        super().__init__(congested=False)
        self.pubacks: list[Puback] = []

    def send_puback(self, puback: Puback) -> None:
        self.pubacks.append(puback)

    def wake(self) -> None:
        """There is room again."""


async def publish(intake: Intake, port: Answers, seq: int, count: int) -> tuple[int, int]:
    """Publish entries, and return what the answer names."""
    entries = tuple(("said", b"%d" % number, None, None) for number in range(seq, seq + count))
    intake.publish(Publish(log=TOPIC.path, producer="p", seq=seq, fence=3, entries=entries))
    await port.spawned.pop()
    return port.pubacks[-1].seq, port.pubacks[-1].offset


async def test_a_puback_never_gives_an_entry_the_offset_of_another() -> None:
    line = await line_to(MemoryServer(lambda: NOW_MS))
    record = HashSet(keys.producers(TOPIC), {"client:c/p": ProducerRecord(3, ts_ms=NOW_MS).encode()})
    others = Append(TOPIC, (pack_record("said", "client:d", b"first"),), "e")
    await line.commit(Commit(line.new_commit_id(), partition_of(TOPIC), appends=(others,), ops=(record,)))
    port, hub = Answers(), SimpleNamespace(settings=SimpleNamespace(limits=Limits()), line=line, counters=Counters())
    peer = Peer("default", "client:c", Role.CLIENT, "c", "i", "s", 0, client_permit(), port.send)
    intake = Intake(cast(Services, hub), port, peer)
    assert await publish(intake, port, 1, 2) == (2, 3)
    assert await publish(intake, port, 3, 2) == (4, 5)
    assert await publish(intake, port, 1, 2) == (4, 5), "entry 2 is at offset 3, which the log does not remember"
    assert await publish(intake, port, 3, 2) == (4, 5)
    assert await publish(intake, port, 4, 2) == (5, 6)


@pytest.mark.parametrize(("congested", "renewed"), [(False, (KNOWN, UNKNOWN)), (True, (KNOWN,))])
async def test_a_peer_that_does_not_read_is_not_told_of_what_it_does_not_hold(
    congested: bool, renewed: tuple[HeldAttempt, ...]
) -> None:
    asked: list[tuple[HeldAttempt, ...]] = []

    async def renew(_: Peer, attempts: tuple[HeldAttempt, ...]) -> None:
        asked.append(attempts)

    port = Port(congested=congested)
    peer = Peer(
        "default", "agent:a", Role.AGENT, "a", "i", "s", 1, agent_permit(), port.send, held={"r1": Held(1, 1, "q")}
    )
    hub = SimpleNamespace(settings=SimpleNamespace(limits=Limits()), work=SimpleNamespace(renew=renew))
    intake = Intake(cast(Services, hub), port, peer)
    for _ in range(2):
        intake.renew((KNOWN, UNKNOWN))
    assert len(port.spawned) == 1
    await port.spawned[0]
    assert asked == [renewed]
