"""The tables of control kinds, methods and codes."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from protocol.codec import pack_value
from protocol.codes import TERMINAL_FROM, CloseCode, ErrorCode, explain, is_terminal
from protocol.control import COMMANDS, CONTROL, Kind, Progress, Submitted, Writer, is_control, read_control
from protocol.errors import LocalProtocolError, RemoteProtocolError, RequestError
from protocol.frames import FRAMES
from protocol.ids import LogKind
from protocol.limits import DEFAULT_LIMITS, Limits
from protocol.requests import METHODS
from protocol.run import TRANSITIONS

ATTEMPTS_WRITE = {
    *("$progress", "$call", "$marker", "$checkpoint", "$received", "$steered", "$asked", "$attached"),
    *("$spawn", "$child_cancel", "$continue", "$suspended", "$errored", "$succeeded", "$cancelled"),
}
AGENT_KINDS = {
    "$connected",
    "$disconnected",
    "$superseded",
    "$cordoned",
    "$uncordoned",
    "$draining",
    "$drained",
    "$refused",
}


def test_every_kind_has_its_row() -> None:
    assert list(CONTROL) == list(Kind)
    assert all(is_control(kind) for kind in CONTROL)
    assert not is_control("progress")


def test_who_writes_what_and_where() -> None:
    assert {kind for kind, row in CONTROL.items() if row.writer is Writer.ATTEMPT} == ATTEMPTS_WRITE
    assert {kind for kind, row in CONTROL.items() if row.log is LogKind.AGENT} == AGENT_KINDS
    assert not [kind for kind, row in CONTROL.items() if row.log is LogKind.TOPIC]


def test_every_kind_of_a_run_moves_it_somewhere() -> None:
    assert {kind for _, kind in TRANSITIONS} == {kind for kind, row in CONTROL.items() if row.log is LogKind.RUN}


def test_commands_are_control_kinds_that_do_not_end_a_run() -> None:
    assert all(not CONTROL[kind].terminal for kind in COMMANDS)


def test_a_body_is_read_as_its_model() -> None:
    assert read_control(Progress, pack_value({"current": 1.5, "later": [1]})) == Progress(current=1.5)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xc1", b"\x01", b"\x91" * 900 + b"\xc0", b"\xdd\x7f\xff\xff\xff"),
        *(pack_value(value) for value in ({}, [1], {"current": "1"}, {"current": None}, {"current": True})),
    ],
    ids=repr,
)
def test_a_body_that_does_not_fit_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"current|not one|valid|dict"):
        read_control(Progress, body)


def test_a_priority_is_one_digit() -> None:
    body = pack_value({"queue": "q", "handler": "h", "input": b"", "priority": 10})
    with pytest.raises(ValueError, match="priority"):
        read_control(Submitted, body)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_methods_take_and_give_models(method: object) -> None:
    row = METHODS[next(name for name, each in METHODS.items() if each is method)]
    assert issubclass(row.params, BaseModel)
    assert issubclass(row.result, BaseModel)


def test_methods_that_change_something() -> None:
    assert {name for name, method in METHODS.items() if method.needs_op} == {
        "run.cancel",
        "run.retry",
        "run.steer",
        "run.answer",
        "schedule.add",
        "schedule.set",
        "schedule.remove",
        "producer.open",
        "agent.send",
        "agent.cordon",
        "agent.uncordon",
        "agent.drain",
    }


@pytest.mark.parametrize("code", CloseCode)
def test_close_codes_say_whether_to_come_back(code: CloseCode) -> None:
    assert is_terminal(code) is (code >= TERMINAL_FROM)
    assert ("reconnect" in explain(code)) is not is_terminal(code)


@pytest.mark.parametrize(
    ("code", "terminal"), [(1000, False), (1006, False), (1011, False), (4499, False), (4999, True), (5000, False)]
)
def test_codes_that_are_not_ours_have_the_meaning_of_their_range(code: int, *, terminal: bool) -> None:
    assert is_terminal(code) is terminal
    assert explain(code).startswith("terminal" if terminal else "the connection broke")


def test_errors_carry_their_code() -> None:
    assert RemoteProtocolError(CloseCode.MALFORMED, "x").code is CloseCode.MALFORMED
    assert LocalProtocolError(CloseCode.INTERNAL_ERROR, "x").code is CloseCode.INTERNAL_ERROR
    refused = RequestError(ErrorCode.KEY_CONFLICT, "taken", retry_ms=5, data={"run": "r"})
    assert (refused.code, refused.message, refused.retry_ms, refused.data) == (
        "key_conflict",
        "taken",
        5,
        {"run": "r"},
    )
    assert type(refused.code) is str
    assert RequestError("other", "x").data == {}


def test_limits_are_announced_as_they_are_and_have_a_floor() -> None:
    assert Limits.model_validate({"message_bytes_max": 10**6, "later": 1}).message_bytes_max == 10**6
    for name in Limits.model_fields:
        with pytest.raises(ValidationError):
            Limits.model_validate({name: -1 if "_per_" in name else 0})  # a rate of 0 is none
    assert DEFAULT_LIMITS.body_bytes_max < DEFAULT_LIMITS.message_bytes_max


def test_frames_stand_under_their_type() -> None:
    assert {kind: model.model_fields["t"].default for kind, model in FRAMES.items()} == {kind: kind for kind in FRAMES}
