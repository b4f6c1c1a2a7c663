"""Whatever fits a schema comes back as it was; whatever does not is the other side's fault, and nothing worse."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from protocol.codec import (
    decode,
    encode,
    encode_entries,
    pack_record,
    pack_value,
    unpack_record,
    unpack_value,
)
from protocol.control import CONTROL, read_control
from protocol.effects import Deliver, Fail
from protocol.entry import Entry
from protocol.errors import RemoteProtocolError
from protocol.frames import FRAMES, Entries, Frame, Part
from protocol.limits import DEFAULT_LIMITS
from protocol.run import BrokenLog, RunState, RunView, apply
from protocol.session import STEPS, Phase, Session, Side
from tests.support.samples import SAMPLES
from tests.support.strategies import frames, values

BYTES_MAX = DEFAULT_LIMITS.message_bytes_max
TALK = {
    side: [frame for frame in SAMPLES.values() if STEPS.get((Phase.READY, side, frame.t)) is Phase.READY]
    for side in Side
}
VALID = [encode(frame) for frame in SAMPLES.values()]


@settings(max_examples=50)
@given(frame=frames(Entries))
def test_entries_made_without_a_frame_are_the_bytes_of_the_frame(frame: Entries) -> None:
    parts = {name: value for name, value in dict(frame).items() if name != "t"}
    assert encode_entries(**parts) == encode(frame)


@pytest.mark.parametrize("kind", FRAMES)
@settings(max_examples=50)
@given(data=st.data())
def test_frames_come_back_as_they_were(kind: str, data: st.DataObject) -> None:
    frame = data.draw(frames(FRAMES[kind]))
    assert isinstance(frame, Part)
    message = encode(frame)
    assert list(decode(message, len(message))) == [frame]


@given(st.lists(st.sampled_from(list(SAMPLES.values())), max_size=5))
def test_messages_come_back_as_their_frames(said: list[Frame]) -> None:
    assert list(decode(b"".join(map(encode, said)), BYTES_MAX)) == said


@pytest.mark.parametrize("kind", CONTROL)
@settings(max_examples=30)
@given(data=st.data())
def test_bodies_come_back_as_they_were(kind: str, data: st.DataObject) -> None:
    model: type[BaseModel] = CONTROL[kind].body
    body = data.draw(frames(model))
    assert read_control(CONTROL[kind].body, pack_value(body)) == body


def listed(value: Any) -> Any:
    """A value with its arrays as lists, as bodies have them."""
    if isinstance(value, tuple):
        return [listed(item) for item in value]
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return value


@given(values(30))
def test_values_come_back_as_they_were(value: Any) -> None:
    assert unpack_value(pack_value(value)) == listed(value)


UINT_OR_NONE = st.one_of(st.none(), st.integers(0, 2**63 - 1))


@given(st.text(max_size=20), st.text(max_size=20), st.binary(max_size=50), st.tuples(*[UINT_OR_NONE] * 4))
def test_records_come_back_as_they_were(kind: str, src: str, body: bytes, numbers: tuple[int | None, ...]) -> None:
    attempt, seq, index, cause = numbers
    record = unpack_record(pack_record(kind, src, body, attempt=attempt, seq=seq, index=index, cause=cause))
    assert (record.kind, record.src, record.body) == (kind, src, body)
    assert (record.attempt, record.seq, record.index, record.cause) == numbers


def mutate(message: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """Replace so many bytes at a place by others, for each change."""
    for place, length, other in changes:
        at = place % (len(message) + 1)
        message = message[:at] + other + message[at + length :]
    return message


CHANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 4), st.binary(max_size=6)), min_size=1, max_size=4)
MUTATED = st.builds(mutate, st.sampled_from(VALID), CHANGES)
REPLACED = st.builds(
    lambda frame, key, value: msgpack.packb({**msgpack.unpackb(frame), key: value}),
    st.sampled_from(VALID),
    st.sampled_from(["t", "log", "seq", "entries", "from", "offset", "params", "at", "limits", "subscriptions", "x"]),
    values(),
)
RUBBISH = st.one_of(st.binary(max_size=200), MUTATED, REPLACED)


@given(RUBBISH)
def test_only_the_other_sides_fault_leaves_the_codec(message: bytes) -> None:
    with suppress(RemoteProtocolError):
        for frame in decode(message, BYTES_MAX):
            again = encode(frame)
            assert encode(next(decode(again, BYTES_MAX))) == again


@given(RUBBISH, st.sampled_from(Phase), st.sampled_from(Side))
def test_a_session_survives_any_bytes(message: bytes, phase: Phase, side: Side) -> None:
    one = Session(side, 0, heartbeat_ms=1000)
    one.phase = phase
    effects = one.receive(message, 1)
    assert all(isinstance(effect, Deliver) for effect in effects[:-1])
    if effects and isinstance(effects[-1], Fail):
        assert one.phase is Phase.ENDED
    one.validate()


@given(RUBBISH)
def test_bodies_and_records_of_any_bytes_are_values_or_value_errors(body: bytes) -> None:
    for read in (unpack_value, unpack_record, *(bind(row.body) for row in CONTROL.values())):
        with suppress(ValueError):
            read(body)


def bind(model: type[Part]) -> Any:
    return lambda body: read_control(model, body)


@given(st.sampled_from([None, *RunState]), st.sampled_from([*CONTROL, "said", "$x"]), RUBBISH, st.booleans())
def test_a_fold_of_any_entry_moves_or_is_broken(
    state: RunState | None,
    kind: str,
    body: bytes,
    is_record: bool,
) -> None:
    packed = pack_record(kind, "hub:one", body, attempt=1) if is_record else body
    view = RunView(state=state, attempt=1, head=6)
    with suppress(BrokenLog):
        assert apply(view, Entry(7, 0, packed)).head == 7


@given(st.lists(st.tuples(st.sampled_from(Side), st.lists(st.integers(0, 100), min_size=1, max_size=4)), max_size=20))
def test_two_ends_agree_over_any_legal_talk(turns: list[tuple[Side, list[int]]]) -> None:
    ends = {side: Session(side, 0, heartbeat_ms=1000) for side in Side}
    for side, name in ((Side.HUB, "hello"), (Side.PEER, "identify: a client"), (Side.HUB, "ready: new")):
        exchange(ends, side, [SAMPLES[name]], 0)
    for now_ms, (side, picks) in enumerate(turns, 1):
        exchange(ends, side, [TALK[side][pick % len(TALK[side])] for pick in picks], now_ms)
        assert ends[Side.HUB].phase is ends[Side.PEER].phase is Phase.READY


def exchange(ends: dict[Side, Session], side: Side, said: list[Frame], now_ms: int) -> None:
    """One side says something, the other hears exactly that."""
    other = Side.PEER if side is Side.HUB else Side.HUB
    heard = ends[other].receive(ends[side].send(said, now_ms), now_ms)
    assert heard == [Deliver(frame) for frame in said]
    for end in ends.values():
        end.validate()
