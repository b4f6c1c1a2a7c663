"""What a peer says of itself."""

from __future__ import annotations

import pytest

from agent.peer import Peer
from agent.sinks import NOBODY
from agent.subscriptions import Subscription
from protocol.codec import encode
from protocol.entry import Position
from protocol.frames import Assign, HandlerSpec, Hello, Identify, Recover, Role, Start
from protocol.limits import DEFAULT_LIMITS, UNIDENTIFIED_BYTES_MAX
from protocol.version import VERSION

HELLO = Hello(
    versions=(1,), hub="h", nonce=b"", heartbeat_ms=1000, limits=DEFAULT_LIMITS, durability="memory", store_ms=0
)


def assigned(number: int) -> Assign:
    return Assign(
        run=f"01-{number:011x}-0000000000000001",
        queue="q",
        handler="h",
        attempt=1,
        fence=2**62,
        input=b"",
        lease_ms=1000,
        position=Position("e", 1, "0" * 16),
        recover=Recover.RESTART,
    )


@pytest.mark.parametrize("handlers", [0, 100, 300])
def test_an_agent_with_much_to_say_of_itself_is_heard_and_says_the_rest_later(handlers: int) -> None:
    specs = tuple(HandlerSpec(name=f"{number}-{'x' * 100}") for number in range(handlers))
    peer = Peer(Identify(version=VERSION, role=Role.AGENT, id="a", instance="i", slots=1000, handlers=specs))
    for number in range(1000):
        peer.on_frame(assigned(number), 0)
        kinds = tuple(f"{kind}-{'y' * 150}" for kind in range(64 if number % 2 else 1))
        peer.subscriptions.add(Subscription(f"topic/{number}", Start.EARLIEST, NOBODY, kinds=kinds))
    said = peer.identify(HELLO)
    assert len(encode(said)) <= UNIDENTIFIED_BYTES_MAX
    assert said.attempts
    later = peer.subscriptions.take(0)
    assert len(said.subscriptions) + len(later) == 1000
