"""The session machine: every (phase, side, frame), both ends paired, silence and deadlines."""

from __future__ import annotations

from itertools import product

import pytest

from protocol.codec import encode
from protocol.codes import CloseCode
from protocol.effects import Deliver, Fail, SendHeartbeat
from protocol.errors import LocalProtocolError
from protocol.frames import FRAMES, Ack, Bye, Error, Frame, Goaway, Heartbeat
from protocol.limits import DEFAULT_HANDSHAKE_MS, DEFAULT_LIMITS, UNIDENTIFIED_BYTES_MAX
from protocol.session import STEPS, Phase, Session, Side
from tests.support.samples import SAMPLES

HEARTBEAT_MS = 1000
FRAME_OF: dict[str, Frame] = {frame.t: frame for frame in SAMPLES.values()}
TRIPLES = list(product(Phase, Side, FRAMES))


def session(side: Side, phase: Phase = Phase.OPENED, *, now_ms: int = 0, steady: bool = False) -> Session:
    made = Session(side, now_ms, heartbeat_ms=HEARTBEAT_MS, steady=steady)
    made.phase = phase
    made.bytes_max = DEFAULT_LIMITS.message_bytes_max
    return made


def pair(now_ms: int = 0) -> tuple[Session, Session]:
    """A hub and a peer that have talked as far as READY."""
    hub, peer = session(Side.HUB, now_ms=now_ms), session(Side.PEER, now_ms=now_ms)
    for says, hears, kind in ((hub, peer, "hello"), (peer, hub, "identify"), (hub, peer, "ready")):
        message = says.send([FRAME_OF[kind]], now_ms)
        assert hears.receive(message, now_ms) == [Deliver(FRAME_OF[kind])]
    return hub, peer


def other(side: Side) -> Side:
    return Side.PEER if side is Side.HUB else Side.HUB


@pytest.mark.parametrize(("phase", "side", "kind"), TRIPLES, ids=lambda part: getattr(part, "value", part))
def test_a_step_is_taken_by_both_ends_or_by_none(phase: Phase, side: Side, kind: str) -> None:
    says, hears = session(side, phase), session(other(side), phase)
    after = STEPS.get((phase, side, kind))
    if after is None:
        with pytest.raises(LocalProtocolError) as raised:
            says.send([FRAME_OF[kind]], 0)
        assert raised.value.code is CloseCode.INTERNAL_ERROR
        assert says.phase is phase
        effects = hears.receive(encode(FRAME_OF[kind]), 0)
        assert hears.phase is Phase.ENDED
        if phase is Phase.ENDED:
            assert effects == []
        else:
            (fail,) = effects
            assert isinstance(fail, Fail)
            assert fail.code is CloseCode.UNEXPECTED_FRAME
    else:
        assert hears.receive(says.send([FRAME_OF[kind]], 0), 0) == [Deliver(FRAME_OF[kind])]
        assert says.phase is hears.phase is after
    says.validate()
    hears.validate()


def test_the_steps_are_those_of_the_specification() -> None:
    hub_talk = {"heartbeat", "refreshed", "subscribed", "entries", "reset", "probe"}
    hub_talk |= {"puback", "nack", "response", "assign", "query"}
    peer_talk = {"heartbeat", "refresh", "subscribe", "tags", "ack", "unsubscribe", "publish", "request"}
    peer_talk |= {"release", "reply"}
    for phase in (Phase.READY, Phase.LEAVING):
        for side, talk in ((Side.HUB, hub_talk), (Side.PEER, peer_talk)):
            kept = {kind for (at, who, kind), after in STEPS.items() if (at, who) == (phase, side) and after is phase}
            assert kept == talk
    moving = {key: after for key, after in STEPS.items() if key[0] is not after and after is not Phase.ENDED}
    assert moving == {
        (Phase.OPENED, Side.HUB, "hello"): Phase.GREETED,
        (Phase.GREETED, Side.PEER, "identify"): Phase.IDENTIFIED,
        (Phase.IDENTIFIED, Side.HUB, "ready"): Phase.READY,
        (Phase.READY, Side.HUB, "goaway"): Phase.LEAVING,
    }


def test_nothing_can_be_said_after_the_end() -> None:
    assert not [key for key in STEPS if key[0] is Phase.ENDED]


def test_frames_before_a_fault_take_effect() -> None:
    hub, _ = pair()
    ack = FRAME_OF["ack"]
    effects = hub.receive(encode(ack) + encode(ack) + b"\xc1" + encode(ack), 0)
    assert effects[:2] == [Deliver(ack), Deliver(ack)]
    assert len(effects) == 3
    assert isinstance(effects[2], Fail)
    assert effects[2].code is CloseCode.MALFORMED


def test_frames_after_a_bye_in_the_same_message_are_a_fault() -> None:
    hub, peer = pair()
    message = encode(Bye(reason="done")) + encode(Ack(log="topic/news", offset=1))
    bye, fail = hub.receive(message, 0)
    assert isinstance(bye, Deliver)
    assert isinstance(fail, Fail)
    assert fail.code is CloseCode.UNEXPECTED_FRAME
    peer.end()
    assert peer.phase is Phase.ENDED


def test_several_frames_go_out_as_one_message() -> None:
    hub, peer = pair()
    frames: list[Frame] = [Heartbeat(store_ms=1), Goaway(after_ms=0, reason="drain"), Heartbeat()]
    assert peer.receive(hub.send(frames, 0), 0) == [Deliver(frame) for frame in frames]
    assert peer.phase is Phase.LEAVING


def test_leaving_goes_on_until_somebody_says_bye() -> None:
    hub, peer = pair()
    peer.receive(hub.send([Goaway(after_ms=0, reason="drain")], 0), 0)
    hub.receive(peer.send([Ack(log="topic/news", offset=1)], 0), 0)
    hub.receive(peer.send([Bye(reason="done")], 0), 0)
    assert hub.phase is peer.phase is Phase.ENDED


def test_an_error_ends_both_ends() -> None:
    hub, peer = pair()
    effects = peer.receive(hub.send([Error(code=4510, message="too much")], 0), 0)
    assert len(effects) == 1
    assert hub.phase is peer.phase is Phase.ENDED


def test_an_unidentified_peer_gets_little_room() -> None:
    hub = Session(Side.HUB, 0, heartbeat_ms=HEARTBEAT_MS)
    (fail,) = hub.receive(b"\x00" * (UNIDENTIFIED_BYTES_MAX + 1), 0)
    assert isinstance(fail, Fail)
    assert fail.code is CloseCode.TOO_LARGE


@pytest.mark.parametrize("phase", [Phase.OPENED, Phase.GREETED, Phase.IDENTIFIED])
@pytest.mark.parametrize("side", Side)
def test_the_handshake_has_one_deadline(side: Side, phase: Phase) -> None:
    one = session(side, phase)
    assert one.due_ms() == DEFAULT_HANDSHAKE_MS
    assert one.tick(DEFAULT_HANDSHAKE_MS - 1) is None
    fail = one.tick(DEFAULT_HANDSHAKE_MS)
    assert isinstance(fail, Fail)
    assert fail.code is CloseCode.HANDSHAKE_TIMEOUT
    assert one.tick(DEFAULT_HANDSHAKE_MS) is None


def test_a_side_that_said_nothing_for_an_interval_says_it_is_there() -> None:
    hub, _ = pair()
    assert hub.due_ms() == HEARTBEAT_MS
    assert hub.tick(HEARTBEAT_MS - 1) is None
    assert hub.tick(HEARTBEAT_MS) == SendHeartbeat()
    assert hub.tick(HEARTBEAT_MS) is None
    hub.send([Heartbeat()], HEARTBEAT_MS + 1)
    hub.receive(encode(Heartbeat()), HEARTBEAT_MS + 1)
    assert hub.due_ms() == 2 * HEARTBEAT_MS + 1


def test_other_talk_puts_a_heartbeat_off_unless_they_are_steady() -> None:
    for steady, due in ((False, SendHeartbeat()), (True, None)):
        peer = session(Side.PEER, Phase.READY, steady=steady)
        assert peer.tick(HEARTBEAT_MS) == SendHeartbeat()
        peer.receive(encode(Heartbeat()), HEARTBEAT_MS)
        peer.send([Ack(log="topic/news", offset=1)], HEARTBEAT_MS + 500)
        put_off = peer.tick(2 * HEARTBEAT_MS) is None
        assert put_off is (due is not None)


def test_two_silent_intervals_end_the_session() -> None:
    _, peer = pair()
    peer.send([Heartbeat()], HEARTBEAT_MS)
    assert peer.due_ms() == 2 * HEARTBEAT_MS
    fail = peer.tick(2 * HEARTBEAT_MS)
    assert isinstance(fail, Fail)
    assert fail.code is CloseCode.HEARTBEAT_TIMEOUT
    assert peer.phase is Phase.ENDED


def test_a_hub_that_opened_slowly_does_not_blame_the_peer_for_its_silence() -> None:
    hub, peer = session(Side.HUB), session(Side.PEER)
    peer.receive(hub.send([FRAME_OF["hello"]], 0), 0)
    hub.receive(peer.send([FRAME_OF["identify"]], 0), 0)
    late = 5 * HEARTBEAT_MS
    peer.receive(hub.send([FRAME_OF["ready"]], late), late)
    assert not isinstance(hub.tick(late), Fail)
    assert not isinstance(peer.tick(late), Fail)


def test_after_the_end_everything_is_ignored() -> None:
    hub, _ = pair()
    hub.end()
    assert hub.receive(b"\xc1", 0) == []
    assert hub.tick(10**9) is None
